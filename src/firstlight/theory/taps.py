"""How the size of one output channel depends on its own weights, when what they read is correlated.

The variance of a channel is ``wᵀ S w``, with ``S`` the covariance of the inputs under its weights. Neighbouring pixels
under the taps of a kernel resemble each other, so ``S`` has a few large eigenvalues, and with normal weights

    E 1/(wᵀ S w) = ∫ Π (1 + 2tλ)^(-1/2) dt,    E wᵀ G w/(wᵀ S w) = ∫ Σ γ/(1 + 2tλ) · Π (1 + 2tλ)^(-1/2) dt

over ``t > 0`` (from ``1/s = ∫ e^{-ts} dt``), where ``γ`` is the diagonal of ``G`` in the eigenvectors of ``S``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from firstlight._typing import Floats
from firstlight.theory.signal import Near, Signal

_LOG_T = np.linspace(-14.0, 9.0, 700)
_LEAST = 2.5  # fewer free weights than this have no mean of 1/σ²


@dataclass(frozen=True)
class Taps:
    """The weights of one output channel.

    Attributes:
        eigenvalues: of the correlation of the inputs under the taps of one input channel, mean one.
        flat: squared components of the constant vector along the eigenvectors, sum one.
        copies: independent normal weights there are for each tap.
    """

    eigenvalues: tuple[float, ...]
    flat: tuple[float, ...]
    copies: float

    @property
    def fan(self) -> float:
        """As many independent weights as make the size vary as much: ``(tr S)²/tr S²``."""
        squares = np.square(self.eigenvalues)
        return float(self.copies * len(squares) ** 2 / squares.sum())

    @cached_property
    def inverse(self) -> float:
        """``E 1/σ² · E σ²``."""
        total = self.copies * len(self.eigenvalues)
        if max(self.eigenvalues) - min(self.eigenvalues) < 1e-9:
            return total / (total - 2) if total > _LEAST else _LEAST / (_LEAST - 2)
        return float(total * np.trapezoid(self._decay, np.exp(_LOG_T)))

    def returned(self, alike: float) -> float:
        """``E |∂L/∂x|² σ²`` over what independent weights would give; `alike`: correlation of the gradient's sites."""
        values, flat = np.array(self.eigenvalues), np.array(self.flat)
        towards = self.copies * (1 - alike + alike * len(values) * flat)
        t = np.exp(_LOG_T)
        return float(np.trapezoid((towards / (1 + 2 * t[:, None] * values)).sum(1) * self._decay, t))

    @cached_property
    def _decay(self) -> Floats:
        t = np.exp(_LOG_T)[:, None]
        log = np.log1p(2 * t * np.maximum(np.array(self.eigenvalues), 1e-9)).sum(1)
        return np.asarray(np.exp(-0.5 * self.copies * log))


def independent(weights: float) -> Taps:
    """Weights whose inputs are uncorrelated."""
    return Taps((1.0,), (1.0,), weights)


def taps(x: Signal, kernel: Sequence[int], dilation: Sequence[int], copies: float) -> Taps:
    """Of a kernel over `x`, whose sites are correlated by their distance."""
    count = math.prod(kernel)
    if x.near is None or x.near.ndim != len(kernel) or count == 1:
        return independent(copies * count)
    _, second, far, other = x.scalars()
    shared = float(np.clip((far - other) / max(second - other, 1e-300), 0.0, 1.0))  # what batch norm leaves of `far`
    places = np.stack(
        np.meshgrid(*(np.arange(k) * d for k, d in zip(kernel, dilation, strict=True)), indexing="ij"), -1
    )
    lags = np.abs(places.reshape(count, 1, -1) - places.reshape(1, count, -1))
    r = _closeness(x.near, lags)
    values, vectors = np.linalg.eigh(shared + r * (1 - shared))
    values = np.maximum(values, 1e-6)
    flat = vectors.sum(0) ** 2 / count
    return Taps(tuple(values * count / values.sum()), tuple(flat), copies)


def _closeness(near: Near, lags: Floats) -> Floats:
    inside = (lags < np.array(near.shape)).all(-1)
    index = tuple(np.where(inside, lags[..., d], 0).astype(int) for d in range(near.ndim))
    return np.asarray(np.where(inside, near[index], 0.0))
