"""Expectations of functions of Gaussian variables, to about ten digits.

Gauss-Hermite quadrature is not used: a corner of the function costs it most of its digits (64 nodes are off by 6 % for
``tanh`` at variance 100 and by 3 % for ``relu6``). Instead the axis is cut at the corners of the function, at zero and
at fixed distances on the function's scale (±1, ±3, ±9) and on the Gaussian's (±3σ, ±9σ), and every piece is done with
Gauss-Legendre nodes; between two cuts the integrand is smooth on the scale of the piece, so the error falls
geometrically with the number of nodes. Beyond 12σ lies less than 1e-32 of the mass.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from firstlight._typing import Floats

Function = Callable[[Tensor], Tensor]

_ORDER = 40
_ABSOLUTE = (-9.0, -3.0, -1.0, 0.0, 1.0, 3.0, 9.0)
_RELATIVE = (-12.0, -9.0, -3.0, 3.0, 9.0, 12.0)
_EDGE = 12.0
_SCAN_EDGE, _SCAN_STEP = 16.0, 1 / 64


@lru_cache(maxsize=1)
def _legendre() -> tuple[Floats, Floats]:
    nodes, weights = np.polynomial.legendre.leggauss(_ORDER)
    return nodes, weights


def grid(
    mean: Floats, std: Floats, kinks: Sequence[float] = (), normal: Callable[[Floats], Floats] | None = None
) -> tuple[Floats, Floats]:
    """Quadrature nodes for ``E f(mean + std·g)`` with standard normal ``g``, cut for a function with these `kinks`.

    Args:
        mean: means, shape [U].
        std: standard deviations, shape [U]; zero is allowed and gives ``f(mean)``.
        kinks: where ``f`` or its first derivative jumps.
        normal: from ``T(g)`` to ``g``, for ``E f(mean + std·T(g))``.

    Returns:
        ``g`` and its weights, both [U, nodes]; the weights of each row sum to one up to 1e-15.
    """
    wide = np.maximum(std, 1e-300)[:, None]
    absolute = (np.array([*_ABSOLUTE, *kinks])[None] - mean[:, None]) / wide
    absolute = absolute if normal is None else normal(absolute)
    relative = np.broadcast_to(np.array(_RELATIVE), (len(mean), len(_RELATIVE)))
    cuts = np.sort(np.clip(np.concatenate([absolute, relative], 1), -_EDGE, _EDGE), axis=1)
    nodes, weights = _legendre()
    width = np.diff(cuts, axis=1)[:, :, None]
    g = (cuts[:, :-1, None] + width * (nodes + 1) / 2).reshape(len(mean), -1)
    w = (width / 2 * weights).reshape(len(mean), -1) * np.exp(-g * g / 2) / math.sqrt(2 * math.pi)
    return g, w


def expect(f: Function, mean: float = 0.0, variance: float = 1.0, kinks: Sequence[float] | None = None) -> float:
    """``E f(z)`` for ``z ~ N(mean, variance)``.

    Args:
        f: any elementwise function of a float64 tensor.
        mean: of ``z``.
        variance: of ``z``.
        kinks: where ``f`` has corners or jumps; searched for by `find_kinks` when not given.
    """
    corners = find_kinks(f) if kinks is None else kinks
    m, s = np.array([mean]), np.array([math.sqrt(variance)])
    g, w = grid(m, s, corners)
    values = f(torch.from_numpy(m[:, None] + s[:, None] * g)).numpy()
    return float((w * values).sum())


def hermite(g: Floats, terms: int) -> Floats:
    """Orthonormal Hermite polynomials ``He_k(g) / sqrt(k!)`` for k below `terms`; shape [*g.shape, terms].

    They turn a two-point expectation into a power series (Mehler's formula): with ``a_k = E f(g) he_k(g)``, and ``u``,
    ``v`` standard normal with correlation ``c``, ``E f(u) f(v) = Σ a_k² c^k``.
    """
    found = [np.ones_like(g), g]
    for k in range(1, terms - 1):
        found.append((g * found[k] - math.sqrt(k) * found[k - 1]) / math.sqrt(k + 1))
    return np.stack(found[:terms], -1)


def projections(g: Floats, weighted: Sequence[Floats], terms: int) -> list[Floats]:
    """``Σ_n y(g_n) he_k(g_n)`` of each `weighted` function ``y``, at nodes `g` [U, nodes]; of shape [U, terms] each.

    By the unnormalized polynomials ``He_{k+1} = g He_k - k He_{k-1}``, in place, and what is found is divided by √k!.
    """
    before, now, spare = np.zeros_like(g), np.ones_like(g), np.empty_like(g)
    found = [np.empty((len(g), terms)) for _ in weighted]
    for k in range(terms):
        for out, y in zip(found, weighted, strict=True):
            np.einsum("un,un->u", y, now, out=out[:, k])
        before *= k
        np.multiply(g, now, out=spare)
        spare -= before
        before, now, spare = now, spare, before
    norm = np.sqrt(np.array([math.factorial(k) for k in range(terms)], dtype=float))
    return [out / norm for out in found]


def find_kinks(f: Function) -> tuple[float, ...]:
    """Where an unknown elementwise function has a corner or a jump, between -16 and 16.

    The second difference of a smooth function shrinks as the square of the step, that of a corner as the step, that of
    a jump not at all. Places where it is large for a step of 1/64 are magnified until the step is 2⁻²⁶; what is still
    proportional to the step there is a corner.
    """
    x = torch.arange(-_SCAN_EDGE, _SCAN_EDGE + _SCAN_STEP, _SCAN_STEP, dtype=torch.float64)
    bend = _second_difference(f, x)
    scale = 1e-9 + bend.median()
    high = (bend > 3 * scale) & (bend >= torch.roll(bend, 1)) & (bend >= torch.roll(bend, -1)) & (bend > 1e-5)
    found: list[float] = []
    for start in x[1:-1][high].tolist():
        place = _magnify(f, start)
        if place is not None and all(abs(place - other) > 1e-6 for other in found):
            found.append(place)
    return tuple(sorted(found))


def _second_difference(f: Function, x: Tensor) -> Tensor:
    y = torch.nan_to_num(f(x).detach(), nan=0.0, posinf=0.0, neginf=0.0)
    return (y[2:] - 2 * y[1:-1] + y[:-2]).abs()


def _magnify(f: Function, place: float) -> float | None:
    """The corner within one scan step of `place`, or ``None`` when the function is smooth there."""
    step, jump = _SCAN_STEP, 0.0
    while step > 2.0**-26:
        fine = step / 16
        # Centred between grid points, so that a corner on a dyadic number does not fall on the window's edge.
        x = place + fine * torch.arange(-32, 33, dtype=torch.float64)
        bend = _second_difference(f, x)
        best = int(bend.argmax())
        place, jump, step = float(x[best + 1]), float(bend[best]) / fine, fine
    nearest = round(place * 1024) / 1024
    if abs(place) >= _SCAN_EDGE or jump < 1e-4:
        return None
    return nearest if abs(nearest - place) < 1e-6 else place
