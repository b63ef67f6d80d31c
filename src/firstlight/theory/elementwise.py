"""Functions of one number, as values that compose, and their moments under a Gaussian.

For ``z ~ N(m, v)``: ``E f(z)``, ``E f(z)²``, ``E f(z)⁴``, the mean slope ``E f'`` (Stein: ``Cov[f(z), z] = v E f'``),
the backward factor ``χ = E f'(z)²`` (Poole et al., "Exponential expressivity", 2016; Schoenholz et al., "Deep
Information Propagation", 2017) and, for two elements with covariance ``k``, ``E f(z) f(z')`` and ``E f'(z) f'(z')``.

A sum of what a ReLU has made and a normalized branch is skewed. With a third cumulant ``κ`` of ``ẑ = (z-m)/√v`` its
density is that of the Gaussian times ``1 + κ/6 He₃(ẑ)`` (Gram-Charlier), which every mean over one element is taken
with. For two elements ``E ẑ² ẑ' = κ c`` where one depends linearly on the other; then the first power of ``c`` has
``(E f ẑ)²``, and the higher ones get what is left of the whole in the Gaussian's proportions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property, lru_cache
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from firstlight._typing import Floats
from firstlight.theory.gaussian import find_kinks, grid, projections
from firstlight.theory.law import Law

_TERMS = 24
_DISTINCT = 96  # more different (mean, variance) pairs than this are rounded, to a part in a thousand or a hundred
_SOME = 2048  # pairs that are looked at before all are: when these differ too much, so do all


@dataclass(frozen=True)
class Elementwise:
    """A function of one number.

    Attributes:
        key: says which function it is; two with one key are the same function.
        call: applies it to a float64 tensor.
    """

    key: str
    call: Callable[[Tensor], Tensor] = field(compare=False)

    def after(self, inner: "Elementwise | None") -> "Elementwise":
        """The composition: first `inner`, then this."""
        if inner is None:
            return self
        outer_call, inner_call = self.call, inner.call
        return Elementwise(f"{self.key}∘{inner.key}", lambda z: outer_call(inner_call(z)))


IDENTITY = Elementwise("z", lambda z: z)
_kinks: dict[str, tuple[float, ...]] = {}


def kinks(f: Elementwise) -> tuple[float, ...]:
    """Corners and jumps of `f`, searched for once."""
    if f.key not in _kinks:
        _kinks[f.key] = find_kinks(f.call)
    return _kinks[f.key]


Series: TypeAlias = tuple[Floats, Floats]
"""Of a function and of its slope, [U, terms] each."""


@dataclass(frozen=True)
class Moments:
    """Moments of ``f(z)`` for several Gaussians at once; arrays of shape [U] and, for the series, [U, terms].

    Attributes:
        expand: gives the series, which take longer than all the others, to those who ask for them.
        mean: E f.
        second: E f².
        skew: third cumulant of ``f`` over its variance to 3/2.
        fourth: E f⁴.
        slope: E f'.
        follows: covariance of ``f`` with ``z`` over the variance of ``z``; of a Gaussian, `slope` (Stein).
        tilt: E f' ẑ.
        stretch: E z f'(z), what E f changes by when z grows by a factor.
        chi: E f'².
        chi_fourth: E f'⁴.
        chi_place, chi_value, chi_both: E f'² ẑ, E f'² f̂ and E f'² ẑ f̂, with f̂ the standardized value.
        steepest: the largest f'².
        echo: E (f f')².
    """

    expand: Callable[[], Series] = field(repr=False, compare=False)
    mean: Floats
    second: Floats
    skew: Floats
    fourth: Floats
    slope: Floats
    follows: Floats
    tilt: Floats
    stretch: Floats
    chi: Floats
    chi_fourth: Floats
    chi_place: Floats
    chi_value: Floats
    chi_both: Floats
    steepest: Floats
    echo: Floats

    @cached_property
    def _series(self) -> Series:
        return self.expand()

    @property
    def coefficients(self) -> Floats:
        """``a_k = E f(z) he_k(ẑ)``; their squares are Mehler's series."""
        return self._series[0]

    @property
    def slope_coefficients(self) -> Floats:
        """The same for ``f'``."""
        return self._series[1]

    def at(self, places: Any) -> "Moments":
        """Those of some Gaussians, chosen by their places in [U], as often as they are named."""
        values = {each.name: getattr(self, each.name)[places] for each in fields(self) if each.name != "expand"}
        return Moments(lambda: (self.coefficients[places], self.slope_coefficients[places]), **values)

    def pair(self, correlation: Floats) -> Floats:
        """E f(z) f(z') for two elements whose Gaussians have this correlation, shape [U]."""
        return sum_series(self.coefficients**2, self.second, correlation)

    def slope_pair(self, correlation: Floats) -> Floats:
        """E f'(z) f'(z')."""
        return sum_series(self.slope_coefficients**2, self.chi, correlation)


def sum_series(squares: Floats, total: Floats, correlation: Floats) -> Floats:
    """``Σ a_k² c^k``; what the cut series lacks of its value at c = 1 is given to the first power that was left out."""
    return powers(squares, np.maximum(total - squares.sum(1), 0.0), correlation)


def powers(series: Floats, rest: Floats, correlation: Floats, row: Any = slice(None)) -> Floats:
    """``Σ_k s_k c^k`` of the `row` [U] of `series` [R, T] at each correlation [U], and `rest` [U] of the power T."""
    c = np.clip(correlation, -1.0, 1.0)
    found = np.array(rest)
    for column in np.ascontiguousarray(series.T)[::-1]:  # Horner
        found *= c
        found += column[row]
    return found


def moments(f: Elementwise, mean: Floats, variance: Floats, skew: float = 0.0, law: Law | None = None) -> Moments:
    """All moments of ``f(z)`` for ``z ~ N(mean, variance)``; both [U], equal pairs computed once; see `table`."""
    found, places = table(f, mean, variance, skew, law)
    return found if len(found.mean) == 1 == len(mean) else found.at(places)


def table(
    f: Elementwise, mean: Floats, variance: Floats, skew: float = 0.0, law: Law | None = None
) -> tuple[Moments, Any]:
    """The moments of the different Gaussians among some, and which of these each of all is, [U].

    Args:
        f: the function.
        mean, variance: of ``z``, [U].
        skew: its third cumulant over ``variance`` to 3/2. Beyond 3 the density above is negative within ``|ẑ| < √3``,
            where it has its weight, so that is the most.
        law: its whole distribution, where that is known; the third cumulant is then of no use.
    """
    same = _few(*_rounded(mean, variance, 12))
    if same is not None:  # as they are: what differs by less is the same number, computed in another order
        first, back = first_places(same[1]), same[1]
        unique = mean[first] + 1j * variance[first]
    else:
        unique, back = _few(*_rounded(mean, variance, 3)) or distinct(*_rounded(mean, variance, 2))
    skew = 0.0 if law is not None else min(max(round(skew, 3), -3.0), 3.0)
    return _integrated(f, unique.tobytes(), skew, law), back


@lru_cache(maxsize=512)
def _integrated(f: Elementwise, pairs: bytes, skew: float, law: Law | None) -> Moments:
    """For different pairs, as complex numbers: the way back asks for those of the way there; a hundred take 50 kB."""
    unique = np.frombuffer(pairs, dtype=complex)
    mean, std = unique.real, np.sqrt(unique.imag)
    return Moments(lambda: _Nodes(f, mean, std, skew, law).series(), *_Nodes(f, mean, std, skew, law).moments())


def _few(mean: Floats, variance: Floats) -> tuple[Any, Any] | None:
    """`distinct`, unless there are more of them than `_DISTINCT`."""
    if len(np.unique(variance[:_SOME])) > _DISTINCT:
        return None
    found = distinct(mean, variance)
    return found if len(found[0]) <= _DISTINCT else None


def distinct(one: Floats, other: Floats) -> tuple[Any, Any]:
    """Different pairs of two numbers, as complex numbers in order, and which of them each pair is.

    By the places of both among their own, as integers: complex numbers take several times as long to sort.
    """
    first, left = np.unique(one, return_inverse=True)
    second, right = np.unique(other, return_inverse=True)
    code, back = np.unique(left * len(second) + right, return_inverse=True)
    return first[code // len(second)] + 1j * second[code % len(second)], back


def first_places(kinds: Any) -> Any:
    """The first place of each kind, when all from zero on occur."""
    place = np.empty(kinds.max() + 1, dtype=int)
    place[kinds[::-1]] = np.arange(len(kinds))[::-1]
    return place


def _rounded(mean: Floats, variance: Floats, digits: int) -> tuple[Floats, Floats]:
    """Means to decimals of the largest standard deviation, variances to decimals of their logarithm."""
    scale = np.sqrt(variance.max()) or 1.0
    return np.round(mean / scale, digits) * scale, np.exp(np.round(np.log(np.maximum(variance, 1e-300)), digits))


class _Nodes:
    """A function and its slope at the nodes of a quadrature, [U, nodes]; only what is made of them is kept."""

    def __init__(self, f: Elementwise, mean: Floats, std: Floats, skew: float, law: Law | None) -> None:
        self.g, self.weights = grid(mean, std, kinks(f), None if law is None else law.normal)
        self.place = self.g if law is None else law.at(self.g)
        self.std, self.law = std, law
        z = torch.from_numpy(mean[:, None] + std[:, None] * self.place).requires_grad_()
        with torch.enable_grad():
            y = f.call(z)
            slope = derivative(y, z)
        self.z, self.values, self.slopes = z.detach().numpy(), y.detach().numpy(), slope.numpy()
        self.skew = skew
        g = self.g
        self.density = self.weights * (1 + skew / 6 * (g * g * g - 3 * g)) if skew else self.weights

    def average(self, x: Floats) -> Floats:
        """E x, [U]."""
        return np.einsum("un,un->u", self.density, x)

    def moments(self) -> tuple[Floats, ...]:
        """The numbers of `Moments`, in its order."""
        average, place, values, slopes = self.average, self.place, self.values, self.slopes
        squares, steep = values * values, slopes * slopes
        first, second = average(values), np.maximum(average(squares), 0)
        deviation = np.sqrt(np.maximum(second - first**2, 0.0))[:, None]
        standard = np.divide(values - first[:, None], deviation, out=np.zeros_like(values), where=deviation > 1e-150)
        slope = average(slopes)
        follows = slope if self.law is None else average(values * place) / np.maximum(self.std, 1e-150)
        return (
            first, second, average(standard * standard * standard), np.maximum(average(squares * squares), 0),
            slope, follows, average(slopes * place), average(slopes * self.z), np.maximum(average(steep), 0),
            np.maximum(average(steep * steep), 0), average(steep * place), average(steep * standard),
            average(steep * standard * place), steep.max(1), np.maximum(average(squares * steep), 0),
        )  # fmt: skip

    def series(self) -> Series:
        """Of the function and of its slope."""
        weights, values, slopes = self.weights, self.values, self.slopes
        series, slope_series = projections(self.g, (weights * values, weights * slopes), _TERMS)
        if not self.skew:
            return series, slope_series
        squares, steep = values * values, slopes * slopes
        lowest = np.stack([self.average(values), self.average(values * self.g)], 1)
        whole, gaussian = (np.maximum(self.average(squares), 0), (weights * squares).sum(1))
        slope = self.average(slopes)[:, None]
        return (
            _completed(series, lowest, gaussian, whole),
            _completed(slope_series, slope, (weights * steep).sum(1), np.maximum(self.average(steep), 0)),
        )


def _completed(series: Floats, lowest: Floats, gaussian: Floats, whole: Floats) -> Floats:
    """With other `lowest` coefficients [U, n]; the rest is scaled from a `gaussian` sum of squares to the `whole`."""
    n = lowest.shape[1]
    left = np.maximum(whole - (lowest**2).sum(1), 0.0)
    had = gaussian - (series[:, :n] ** 2).sum(1)
    factor = np.sqrt(np.divide(left, had, out=np.zeros_like(left), where=had > 1e-12 * np.maximum(gaussian, 1e-290)))
    return np.concatenate([lowest, series[:, n:] * factor[:, None]], 1)


def derivative(y: Tensor, z: Tensor) -> Tensor:
    """``dy/dz`` of an elementwise function, zero where it has none."""
    if not y.requires_grad:
        return torch.zeros_like(z)
    (slope,) = torch.autograd.grad(y.sum(), z, allow_unused=True)
    return torch.zeros_like(z) if slope is None else torch.nan_to_num(slope)


def aten(function: str, arguments: Mapping[str, Any], slope: float | None = None) -> Elementwise:
    """The elementwise operation `function` of ATen with its settings.

    Args:
        function: ATen name without the in-place mark.
        arguments: its settings.
        slope: of the negative half, for ``prelu``.
    """
    if function == "prelu":
        return Elementwise(f"prelu({slope})", lambda z: torch.nn.functional.leaky_relu(z, slope or 0.0))
    settings = {key: value for key, value in arguments.items() if key not in ("dtype", "training")}
    if function == "rrelu":
        middle = (settings["lower"] + settings["upper"]) / 2
        return Elementwise(f"rrelu({middle})", lambda z: torch.nn.functional.leaky_relu(z, middle))
    call = getattr(torch.ops.aten, function)
    text = ",".join(f"{key}={value}" for key, value in settings.items())
    return Elementwise(f"{function}({text})", lambda z: call(z, **settings))
