"""Long short-term memory with fresh weights, of many units (Gilboa et al., "Dynamical Isometry and a Mean Field Theory
of LSTMs and GRUs", 2019).

    z = W x_t + U h_{t-1} + b,    c_t = σ(z_f) c_{t-1} + σ(z_i) tanh(z_g),    h_t = σ(z_o) tanh(c_t)

Units are independent, and so are the four gates of one: each is a Gaussian process over time. Its variance ``V_t`` sums
products of weights with the input and with the state; a part ``S`` of it is the same at all times. Given that part
``a``, a gate's values at different times are independent. With ``F₁ = E[σ(z_f)|a]`` and ``F₂ = E[σ(z_f)²|a]``

    E[c_t²|a] = F₂ E[c_{t-1}²|a] + 2 F₁ u_{t-1} P + Q,     u_t = F₁ u_{t-1} + 1,

where ``Q = E σ(z_i)² E tanh(z_g)²`` is one step's contribution with itself and ``P`` that with another step's; two far
times have ``E c c' = E u² P``, and at a lag of ``l`` there is ``F₁ˡ`` of ``E c²`` instead. Steps count for each other
as long as the forget gate remembers, so ``S`` is the covariance at lags weighted by ``2⁻ˡ``, which for the state itself
replaces ``F₁ˡ`` by ``F₁/(2 - F₁)``. The gradient by the state obeys the same recursion backward in time.

Two sequences share less than two times of one. Then ``a`` and ``a'`` are Gaussians of some correlation, and the mean of
a product of functions of them is Mehler's series.
"""

import math
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

from firstlight._typing import Floats
from firstlight.theory.elementwise import powers
from firstlight.theory.gaussian import grid, hermite

# Functions of the shared part have been averaged over a Gaussian, so they are smooth, and few nodes do for them.
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(32)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
_SERIES = hermite(_NODES, 16)
REMEMBERED = 0.5  # what a forget gate at zero keeps of the state from one time to the next
_SIZES = np.geomspace(1e-8, 1e6, 800)


@dataclass(frozen=True)
class Cell:
    """Sizes and weights of one layer in one direction.

    Attributes:
        inputs, units: how many.
        weight, recurrent: E w² of ``W`` and ``U``, whose mean is taken as zero.
        mean, variance: of the bias, both biases together.
    """

    inputs: int
    units: int
    weight: float
    recurrent: float
    mean: float
    variance: float


@dataclass(frozen=True)
class Course:
    """Moments of one channel of a sequence.

    Attributes:
        second: E x_t² at each time, [T].
        pairs: E x x' of two times, near ones most (`REMEMBERED`), of two sequences of one sample, of two samples, [3].
        distant: E x x' of two distant times.
        fourth: mean over time of E x⁴.
    """

    second: Floats
    pairs: Floats
    distant: float = 0.0
    fourth: float = 0.0


@dataclass(frozen=True)
class _Gate:
    """``E[f|a]``, ``E[f²|a]``, ``E[f⁴|a]`` and the same of ``f'`` and ``f'²``, at the nodes of ``a``."""

    value: Floats
    square: Floats
    fourth: Floats
    slope: Floats
    steep: Floats


@dataclass(frozen=True)
class Instant:
    """One time: its gates, and ``E[c c'|a]`` after it and before it.

    That is of this time with itself, with near and with distant times, [3, nodes].
    """

    gate: _Gate
    inner: _Gate
    squashed: _Gate
    after: Floats
    before: Floats


@lru_cache(maxsize=512)
def _gate(function: str, mean: float, own: float, shared: float) -> _Gate:
    """Of ``f(mean + √shared a + √own b)``."""
    centre = mean + math.sqrt(shared) * _NODES
    std = np.full_like(centre, math.sqrt(own))
    g, w = grid(centre, std)
    return _averages(function, centre[:, None] + std[:, None] * g, w)


@cache
def _squashes() -> _Gate:
    """Of ``tanh(c)`` for centred Gaussians of all `_SIZES`."""
    std = np.sqrt(_SIZES)
    g, w = grid(np.zeros_like(std), std)
    return _averages("tanh", std[:, None] * g, w)


def _averages(function: str, z: Floats, w: Floats) -> _Gate:
    if function == "tanh":
        value = np.tanh(z)
        slope = 1 - value**2
    else:
        value = 0.5 * (1 + np.tanh(z / 2))
        slope = value * (1 - value)
    return _Gate(*((w * x).sum(1) for x in (value, value**2, value**4, slope, slope**2)))


def _squashed(variance: Floats) -> _Gate:
    """``tanh`` of a centred Gaussian; between the sizes of the table, powers are taken to be linear."""
    table, v = _squashes(), np.clip(variance, _SIZES[0], _SIZES[-1])
    at = np.log(v)

    def read(values: Floats, power: int) -> Floats:
        scale = (_SIZES / (1 + _SIZES)) ** power
        return np.asarray(np.interp(at, np.log(_SIZES), values / scale) * (v / (1 + v)) ** power)

    return _Gate(np.zeros_like(v), read(table.square, 1), read(table.fourth, 2), read(table.slope, 0),
                 read(table.steep, 0))  # fmt: skip


def _mean(values: Floats) -> float:
    return float(_WEIGHTS @ values)


def _pairs(values: Floats, alike: Floats) -> Floats:
    """``E f(a) f(a')`` for each correlation."""
    squares = (_SERIES.T @ (_WEIGHTS * values)) ** 2
    rest = max(_mean(values**2) - float(squares.sum()), 0.0)
    return powers(squares[None], np.full(len(alike), rest), alike, 0)


def _tanh_pairs(squashed: _Gate, variance: float, covariances: Floats) -> Floats:
    """``E tanh(c) tanh(c')``: the line ``(E tanh')² k``, and what it lacks of ``E tanh²`` to the third power."""
    linear = _mean(squashed.slope) ** 2 * variance
    alike = np.clip(covariances / max(variance, 1e-300), -1, 1)
    return np.asarray(linear * alike + (_mean(squashed.square) - linear) * alike**3)


def forward(cell: Cell, x: Course) -> tuple[Course, list[Instant]]:
    """What a layer makes of a sequence, from a state of zero.

    Args:
        cell: the layer.
        x: its input.

    Returns:
        The course of ``h``, and each time for the way back.
    """
    hidden, unit, state = np.zeros(4), np.zeros_like(_NODES), np.zeros((3, len(_NODES)))
    found, distant, fourths, instants = [], [], [], []
    for square in x.second:
        variance, *covariances = _products(cell, np.array([square, *x.pairs]), hidden)
        shared = float(np.clip(covariances[0], 0.0, variance))
        alike = np.clip(np.array(covariances) / max(shared, 1e-300), -1.0, 1.0)
        settings = (cell.mean, round(float(variance) - shared, 6), round(shared, 6))
        gate, inner = _gate("sigmoid", *settings), _gate("tanh", *settings)
        outer = _pairs(gate.value, alike)
        step = outer * _pairs(inner.value, alike)
        own = gate.square * state[0] + 2 * gate.value * unit * step[0] + _mean(gate.square) * _mean(inner.square)
        unit = gate.value * unit + 1
        before, state = state, _near(own, unit**2 * step[0], gate)
        squashed = _squashed(own)
        between = np.array([_mean(state[1]), *(_pairs(unit, alike) * step)[1:], _mean(state[2])])
        pairs = np.array([*outer, outer[0]]) * _tanh_pairs(squashed, _mean(own), between)
        hidden = np.array([_mean(gate.square) * _mean(squashed.square), *pairs[:3]])
        instants.append(Instant(gate, inner, squashed, state, before))
        found.append(hidden)
        distant.append(pairs[3])
        fourths.append(_mean(gate.fourth) * _mean(squashed.fourth))
    second, near, *apart = np.array(found).T
    *apart, far = (_of_two_times(pairs) for pairs in (*apart, np.array(distant)))
    return Course(second, np.array([near.mean(), *apart]), far, float(np.mean(fourths))), instants


def _near(own: Floats, distant: Floats, gate: _Gate) -> Floats:
    """Of one time, of near and of distant ones, [3, nodes]."""
    kept = REMEMBERED * gate.value
    return np.stack([own, distant + kept / (1 - kept) * (1 - REMEMBERED) / REMEMBERED * (own - distant), distant])


def _of_two_times(pairs: Floats) -> float:
    """Mean over any two times of what grows with both, from what it is when they are one."""
    return float(np.sign(pairs.mean()) * np.sqrt(np.abs(pairs)).mean() ** 2)


def _products(cell: Cell, x: Floats, h: Floats) -> Floats:
    """E z z' from that of the input and of the state."""
    return cell.inputs * cell.weight * x + cell.units * cell.recurrent * h + cell.variance


def backward(cell: Cell, instants: list[Instant], arriving: Floats) -> Floats:
    """The gradient by the input, through time.

    With ``δ`` for the gradient by what follows it: ``δz_i = δc tanh(z_g) σ'``, ``δz_g = δc σ(z_i) tanh'``,
    ``δz_f = δc c_{t-1} σ'``, ``δz_o = δh tanh(c) σ'``, ``δc_t = δh σ(z_o) tanh'(c) + σ(z_f) δc_{t+1}``, and ``δh`` is
    what arrives and ``Uᵀδz`` of the next time.

    Args:
        cell: the layer.
        instants: of the way there, in order of time.
        arriving: E g g' of the gradient by ``h`` at each time, with itself, near and distant times, [T, 3].

    Returns:
        The same of the gradient by the input, [T, 3].
    """
    found = np.zeros_like(arriving)
    own, unit, back = np.zeros_like(_NODES), np.zeros_like(_NODES), np.zeros(3)
    later: _Gate | None = None
    for t in reversed(range(len(arriving))):
        now = instants[t]
        by_state = arriving[t] + cell.units * cell.recurrent * back
        gate, out = now.gate, now.squashed
        near, distant = by_state[1:] * _mean(gate.value**2) * _mean(out.slope) ** 2
        fresh = by_state[0] * _mean(gate.square) * out.steep
        if later is not None:
            fresh = fresh + later.square * own + 2 * later.value * unit * near
            unit = later.value * unit
        own, unit, later = fresh, unit + 1, gate
        back = _by_gates(now, _near(own, unit**2 * distant, gate), by_state)
        found[t] = cell.units * cell.weight * back
    return found


def _by_gates(now: Instant, by_cell: Floats, by_state: Floats) -> Floats:
    """Sum over the gates of ``E δz δz'``, of one time, of near and of distant ones, [3]."""
    gate, inner, out = now.gate, now.inner, now.squashed
    value, slope = (np.stack([a, b**2, b**2]) @ _WEIGHTS for a, b in _both(gate))
    inner_value, inner_slope = (np.stack([a, b**2, b**2]) @ _WEIGHTS for a, b in _both(inner))
    steep = np.stack([gate.steep, gate.slope**2, gate.slope**2])
    squashed = _tanh_pairs(out, _mean(now.after[0]), now.after @ _WEIGHTS)
    through_cell = by_cell @ _WEIGHTS * (inner_value * slope + value * inner_slope)
    return np.asarray(through_cell + (by_cell * now.before * steep) @ _WEIGHTS + by_state * squashed * slope)


def _both(gate: _Gate) -> list[tuple[Floats, Floats]]:
    return [(gate.square, gate.value), (gate.steep, gate.slope)]
