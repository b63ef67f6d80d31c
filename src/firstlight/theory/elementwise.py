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
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from firstlight._typing import Floats
from firstlight.theory.gaussian import find_kinks, grid, polynomials
from firstlight.theory.law import Law

_TERMS = 24
_DISTINCT = 96  # more different (mean, variance) pairs than this are rounded, to a part in a thousand or a hundred


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


@dataclass(frozen=True, slots=True)
class Moments:
    """Moments of ``f(z)`` for several Gaussians at once; arrays of shape [U] and, for the series, [U, terms].

    Attributes:
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
        coefficients: ``a_k = E f(z) he_k(ẑ)``; their squares are Mehler's series.
        slope_coefficients: the same for ``f'``.
    """

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
    coefficients: Floats
    slope_coefficients: Floats

    def at(self, places: Any) -> "Moments":
        """Those of some Gaussians, chosen by their places in [U], as often as they are named."""
        return Moments(*(getattr(self, each.name)[places] for each in fields(self)))

    def pair(self, correlation: Floats) -> Floats:
        """E f(z) f(z') for two elements whose Gaussians have this correlation, shape [U]."""
        return sum_series(self.coefficients**2, self.second, correlation)

    def slope_pair(self, correlation: Floats) -> Floats:
        """E f'(z) f'(z')."""
        return sum_series(self.slope_coefficients**2, self.chi, correlation)


def sum_series(squares: Floats, total: Floats, correlation: Floats) -> Floats:
    """``Σ a_k² c^k``; what the cut series lacks of its value at c = 1 is given to the first power that was left out."""
    c = np.clip(correlation, -1.0, 1.0)
    found = np.maximum(total - squares.sum(1), 0.0)
    for column in squares.T[::-1]:  # Horner
        found = found * c + column
    return np.asarray(found)


def moments(f: Elementwise, mean: Floats, variance: Floats, skew: float = 0.0, law: Law | None = None) -> Moments:
    """All moments of ``f(z)`` for ``z ~ N(mean, variance)``; both [U], equal pairs computed once.

    Args:
        f: the function.
        mean, variance: of ``z``.
        skew: its third cumulant over ``variance`` to 3/2. Beyond 3 the density above is negative within ``|ẑ| < √3``,
            where it has its weight, so that is the most.
    """
    pairs = np.stack([mean, variance], 1)
    unique, back = _distinct(pairs)
    for digits in (3, 2):
        if len(unique) > _DISTINCT:
            unique, back = _distinct(_rounded(pairs, digits))
    skew = 0.0 if law is not None else min(max(round(skew, 3), -3.0), 3.0)
    found = _integrated(f, unique.tobytes(), skew, law)
    return found if len(unique) == 1 == len(mean) else found.at(back.reshape(-1))


@lru_cache(maxsize=512)
def _integrated(f: Elementwise, pairs: bytes, skew: float, law: Law | None) -> Moments:
    """For different pairs, as complex numbers: the way back asks for those of the way there; a hundred take 50 kB."""
    unique = np.frombuffer(pairs, dtype=complex)
    return Moments(*_integrate(f, unique.real, unique.imag, skew, law))


def _distinct(pairs: Floats) -> tuple[Any, Any]:
    """Different rows as complex numbers, which sort faster than rows, and which of them each row is."""
    unique, back = np.unique(pairs[:, 0] + 1j * pairs[:, 1], return_inverse=True)
    return unique, back


def _rounded(values: Floats, digits: int) -> Floats:
    """Means to decimals of the largest standard deviation, variances to decimals of their logarithm."""
    out = values.copy()
    scale = np.sqrt(values[:, 1].max()) or 1.0
    out[:, 0] = np.round(values[:, 0] / scale, digits) * scale
    out[:, 1] = np.exp(np.round(np.log(np.maximum(values[:, 1], 1e-300)), digits))
    return out


def _integrate(f: Elementwise, mean: Floats, variance: Floats, skew: float, law: Law | None) -> tuple[Floats, ...]:
    std = np.sqrt(variance)
    g, w = grid(mean, std, kinks(f), None if law is None else law.normal)
    place = g if law is None else law.at(g)
    z = torch.from_numpy(mean[:, None] + std[:, None] * place).requires_grad_()
    with torch.enable_grad():
        y = f.call(z)
        slope = derivative(y, z)
    values, slopes = y.detach().numpy(), slope.numpy()
    both = w * values, w * slopes
    series = [[np.einsum("un,un->u", one, h) for one in both] for h in polynomials(g, _TERMS)]
    coefficients, slope_coefficients = (np.stack(column, 1) for column in zip(*series, strict=True))

    density = w * (1 + skew / 6 * (g**3 - 3 * g))

    def average(x: Floats) -> Floats:
        return np.asarray((density * x).sum(1))

    first, square, slope_square = average(values), np.maximum(average(values**2), 0), np.maximum(average(slopes**2), 0)
    deviation = np.sqrt(np.maximum(square - first**2, 0.0))[:, None]
    standard = np.divide(values - first[:, None], deviation, out=np.zeros_like(values), where=deviation > 1e-150)
    if skew:
        lowest = np.stack([first, average(values * g)], 1)
        coefficients = _completed(coefficients, lowest, (w * values**2).sum(1), square)
        lowest = average(slopes)[:, None]
        slope_coefficients = _completed(slope_coefficients, lowest, (w * slopes**2).sum(1), slope_square)
    return (
        first, square, average(standard**3), np.maximum(average(values**4), 0),
        average(slopes), average(slopes) if law is None else average(values * place) / np.maximum(std, 1e-150),
        slope_coefficients[:, 1] if law is None else average(slopes * place), average(slopes * z.detach().numpy()),
        slope_square, np.maximum(average(slopes**4), 0), average(slopes**2 * place), average(slopes**2 * standard),
        average(slopes**2 * standard * place), (slopes**2).max(1),
        np.maximum(average((values * slopes) ** 2), 0),
        coefficients, slope_coefficients,
    )  # fmt: skip


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
