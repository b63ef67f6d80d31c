"""Functions of one number, as values that compose, and their moments under a Gaussian.

For ``z ~ N(m, v)``: ``E f(z)``, ``E f(z)²``, ``E f(z)⁴``, the mean slope ``E f'`` (Stein: ``Cov[f(z), z] = v E f'``),
the backward factor ``χ = E f'(z)²`` (Poole et al., "Exponential expressivity", 2016; Schoenholz et al., "Deep
Information Propagation", 2017) and, for two elements with covariance ``k``, ``E f(z) f(z')`` and ``E f'(z) f'(z')``.
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
        fourth: E f⁴.
        slope: E f'.
        stretch: E z f'(z), what E f changes by when z grows by a factor.
        chi: E f'².
        chi_fourth: E f'⁴.
        echo: E (f f')².
        coefficients: ``a_k = E f(z) he_k(ẑ)``; their squares are Mehler's series.
        slope_coefficients: the same for ``f'``.
    """

    mean: Floats
    second: Floats
    fourth: Floats
    slope: Floats
    stretch: Floats
    chi: Floats
    chi_fourth: Floats
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


def moments(f: Elementwise, mean: Floats, variance: Floats) -> Moments:
    """All moments of ``f(z)`` for ``z ~ N(mean, variance)``; both [U], equal pairs computed once."""
    pairs = np.stack([mean, variance], 1)
    unique, back = distinct(pairs)
    for digits in (3, 2):
        if len(unique) > _DISTINCT:
            unique, back = distinct(_rounded(pairs, digits))
    found = _integrated(f, unique.tobytes())
    return found if len(unique) == 1 == len(mean) else found.at(back.reshape(-1))


@lru_cache(maxsize=4096)
def _integrated(f: Elementwise, pairs: bytes) -> Moments:
    """For different pairs, as complex numbers: few, so that keeping them takes no memory."""
    unique = np.frombuffer(pairs, dtype=complex)
    return Moments(*_integrate(f, unique.real, unique.imag))


def distinct(pairs: Floats) -> tuple[Any, Any]:
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


def _integrate(f: Elementwise, mean: Floats, variance: Floats) -> tuple[Floats, ...]:
    std = np.sqrt(variance)
    g, w = grid(mean, std, kinks(f))
    z = torch.from_numpy(mean[:, None] + std[:, None] * g).requires_grad_()
    with torch.enable_grad():
        y = f.call(z)
        slope = derivative(y, z)
    values, slopes = y.detach().numpy(), slope.numpy()
    both = w * values, w * slopes
    series = [[np.einsum("un,un->u", one, h) for one in both] for h in polynomials(g, _TERMS)]
    coefficients, slope_coefficients = (np.stack(column, 1) for column in zip(*series, strict=True))

    def average(x: Floats) -> Floats:
        return np.asarray((w * x).sum(1))

    return (
        average(values), average(values**2), average(values**4),
        average(slopes), average(slopes * z.detach().numpy()), average(slopes**2), average(slopes**4),
        average((values * slopes) ** 2),
        coefficients, slope_coefficients,
    )  # fmt: skip


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
