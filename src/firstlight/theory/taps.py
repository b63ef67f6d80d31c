"""How the size of one output channel depends on its own weights, when what they read is correlated.

The variance of a channel is ``wᵀ S w``, with ``S`` the covariance of the inputs under its weights. Neighbouring pixels
under the taps of a kernel resemble each other, so ``S`` has a few large eigenvalues, and with normal weights

    E 1/(wᵀ S w) = ∫ Π (1 + 2tλ)^(-1/2) dt,    E wᵀ G w/(wᵀ S w) = ∫ Σ γ/(1 + 2tλ) · Π (1 + 2tλ)^(-1/2) dt

over ``t > 0`` (from ``1/s = ∫ e^{-ts} dt``), where ``γ`` is the diagonal of ``G`` in the eigenvectors of ``S``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from scipy.signal import fftconvolve
from scipy.special import ndtri

from firstlight._typing import Floats
from firstlight.theory.signal import Near, Signal

_LOG_T = np.linspace(-14.0, 9.0, 700)
_LAGS = 12  # sites along one side up to which it matters which tap reads what
_MANY = 8  # copies of each tap from which on channels are alike in what they see
_LEAST = 2.5  # fewer free weights than this have no mean of 1/σ²


@dataclass(frozen=True)
class Taps:
    """The weights of one output channel.

    Attributes:
        eigenvalues: of the correlation of the inputs under the taps of one input channel, mean one.
        flat: squared components of the constant vector along the eigenvectors, sum one.
        copies: independent normal weights there are for each tap.
        seen: ``v_kᵀ R(lag) v_k`` for each eigenvector and each lag of the output's `near`, with ``R(lag)`` the
            covariance of the inputs under the taps of two outputs that far apart; ``None`` when it is not known.
        square: mean squared correlation of the inputs under two taps, one with itself too.
        steady: whether every channel that they read has the same size over the data.
        vectors: the eigenvectors, where the covariance is that of the pixels of all channels.
        broad: eigenvalues as they are measured on finite data, more spread than what is expected, with `drawn_from`
            copies. Fewer copies and more spread are the same to second order; ``E 1/σ²`` depends on the smallest σ,
            which fewer copies give, and what comes back to the inputs on how unlike the eigenvalues are.
        drawn: variance of the kernel of the result that is owed to the inputs it sums being few, over its square.
    """

    eigenvalues: tuple[float, ...]
    flat: tuple[float, ...]
    copies: float
    seen: Floats | None = field(default=None, compare=False)
    square: float = 1.0
    drawn: float = 0.0
    steady: bool = False
    vectors: Floats | None = field(default=None, compare=False)
    broad: tuple[float, ...] = ()
    drawn_from: float = 0.0

    @property
    def fan(self) -> float:
        """As many independent weights as make the size vary as much: ``(tr S)²/tr S²``."""
        squares = np.square(self.eigenvalues)
        return float(self.copies * len(squares) ** 2 / squares.sum())

    @property
    def unevenness(self) -> float:
        """How many times fewer directions the inputs under the taps spread along than there are taps."""
        return float(np.mean(np.square(self.eigenvalues)))

    @cached_property
    def inverse(self) -> float:
        """``E 1/σ² · E σ²``."""
        total = self.copies * len(self.eigenvalues)
        if max(self.eigenvalues) - min(self.eigenvalues) < 1e-9:
            return total / (total - 2) if total > _LEAST else _LEAST / (_LEAST - 2)
        return float(total * np.trapezoid(self._decay, np.exp(_LOG_T)))

    def returned(self, alike: float) -> float:
        """``E |∂L/∂x|² σ²`` over what independent weights would give; `alike`: correlation of the gradient's sites."""
        if self.broad:
            return replace(self, eigenvalues=self.broad, broad=(), copies=self.drawn_from).returned(alike)
        values, flat = np.array(self.eigenvalues), np.array(self.flat)
        flat = flat if len(flat) == len(values) else np.full(len(values), 1 / len(values))
        towards = self.copies * (1 - alike + alike * len(values) * flat)
        t = np.exp(_LOG_T)
        return float(np.trapezoid((towards / (1 + 2 * t[:, None] * values)).sum(1) * self._decay, t))

    def equalized(self, values: Floats) -> Floats:
        """``E wᵀ G w/(wᵀ S w)``, ``G`` with these components along the eigenvectors, of shape [taps, ...].

        A norm of each channel makes all channels equally large. Those that see what is smooth were the large ones, so
        what distant elements share, which is smooth, counts for less than before.
        """
        t = np.exp(_LOG_T)
        share = self.copies / (1 + 2 * t[:, None] * np.array(self.eigenvalues)) * self._decay[:, None]
        return np.tensordot(np.trapezoid(share, t, axis=0), values, 1)

    @cached_property
    def channels(self) -> Floats | None:
        """``E w wᵀ/(wᵀ S w)``: the weights' covariance once all channels are equally large."""
        if self.vectors is None:
            return None
        return np.asarray((self.vectors * self.equalized(np.eye(len(self.eigenvalues)))) @ self.vectors.T)

    @cached_property
    def apart(self) -> float:
        """The same for two elements far apart, of which all taps share as much: over what it was before."""
        return float(self.equalized(len(self.flat) * np.array(self.flat)))

    @cached_property
    def _decay(self) -> Floats:
        t = np.exp(_LOG_T)[:, None]
        log = np.log1p(2 * t * np.maximum(np.array(self.eigenvalues), 1e-9)).sum(1)
        return np.asarray(np.exp(-0.5 * self.copies * log))


def independent(weights: float) -> Taps:
    """Weights whose inputs are uncorrelated."""
    return Taps((1.0,), (1.0,), weights)


def of_pixels(
    x: Signal, spectrum: tuple[Floats, Floats], kernel: Sequence[int], dilation: Sequence[int], stride: Sequence[int],
    copies: float,
) -> Taps:  # fmt: skip
    """Of a first convolution, which reads pixels whose covariance is known.

    Args:
        x: the images.
        spectrum: eigenvalues of mean one, and eigenvectors, over channels and taps.
        kernel, dilation, stride: of the convolution.
        copies: independent normal weights for each of its own.
    """
    values, vectors = spectrum
    flat = vectors.sum(0) ** 2 / len(vectors)
    seen = None
    if x.near is not None and x.near.ndim == len(kernel):
        # Colours resemble each other so much that lags are those of their sum.
        grey = vectors.reshape(-1, math.prod(kernel), len(vectors)).sum(0)
        seen = _seen(x.near, kernel, dilation, stride, grey)
        first = seen.reshape(len(seen), -1)[:, :1]
        seen = seen * (values / np.maximum(first[:, 0], 1e-9)).reshape(-1, *[1] * len(kernel))
        seen = np.where((first > 1e-3 * first.max()).reshape(-1, *[1] * len(kernel)), seen, 0.0)
    return Taps(tuple(values), tuple(flat), copies, seen, vectors=vectors)


def taps(
    x: Signal, kernel: Sequence[int], dilation: Sequence[int], stride: Sequence[int], copies: float,
    alike: float = 0.0, *, steady: bool = False,
) -> Taps:  # fmt: skip
    """Of a kernel over `x`, whose sites are correlated by their distance.

    The covariance ``S`` of one channel's taps is measured on finite data, and its entries vary about what is expected
    of them, squared by `alike`, the mean squared correlation of two elements: ``tr S² = Σ r² + alike``. That leaves
    fewer independent weights. When a norm has given every channel its size, ``S`` is a matrix of correlations, which
    vary by ``(1 - r²)² alike`` (Fisher, 1915).

    Args:
        x: the input.
        kernel, dilation, stride: of the convolution.
        copies: independent normal weights there are for each tap.
        alike: mean squared correlation of two elements of one channel of `x`.
        steady: whether every channel of `x` has the same size over the data.
    """
    count = math.prod(kernel)
    if x.near is None or x.near.ndim != len(kernel) or count == 1:
        alike *= 1 - 1 / count if steady else 1 + 1 / count
        found = replace(independent(copies * count / (1 + count * alike)), square=1 / count, steady=steady)
        if copies < _MANY and count > 1:
            found = replace(found, broad=tuple(_broader(np.ones(count), 1 / count + alike)), drawn_from=copies)
        return found
    _, second, far, other = x.scalars()
    shared = float(np.clip((far - other) / max(second - other, 1e-300), 0.0, 1.0))  # what batch norm leaves of `far`
    steps = _steps(kernel, dilation)
    r = shared + _closeness(x.near, np.abs(steps)) * (1 - shared)
    values, vectors = np.linalg.eigh(r)
    alike *= float(((1 - r**2) ** 2 if steady else 1 + r**2).mean())
    values = np.maximum(values, 1e-6)
    flat = vectors.sum(0) ** 2 / count
    values = values * count / values.sum()
    square = float((values**2).mean()) / count
    seen = _seen(x.near, kernel, dilation, stride, vectors) if copies < _MANY else None
    found = Taps(tuple(values), tuple(flat), copies * square / (square + alike), seen, square, steady=steady)
    if copies < _MANY:
        found = replace(found, broad=tuple(_broader(values, square + alike)), drawn_from=copies)
    return found


def _broader(values: Floats, square: float) -> Floats:
    """Eigenvalues [T], ascending, spread until ``Σ λ²/T²`` is `square`: those of a measured covariance are."""
    count = len(values)
    away = ndtri((np.arange(count) + 0.5) / count)
    low, high = 0.0, 6.0
    found = values
    for _ in range(30):
        middle = (low + high) / 2
        found = values * np.exp(middle * away)
        found = found * count / found.sum()
        low, high = (middle, high) if float((found**2).mean()) / count < square else (low, middle)
    return np.asarray(found)


def _seen(near: Near, kernel: Sequence[int], dilation: Sequence[int], stride: Sequence[int], vectors: Floats) -> Floats:
    """``v_kᵀ r(lag + t - t') v_k`` for each lag of the output up to some; from there on all taps see the same.

    ``r`` depends on ``t - t'`` only, so of ``v v'`` its sums over each difference are enough.
    """
    sizes = [min((n + s - 1) // s, _LAGS) for n, s in zip(near.shape, stride, strict=True)]
    images, dims = vectors.T.reshape(-1, *kernel), tuple(range(1, len(kernel) + 1))
    sums = fftconvolve(images, np.flip(images, dims), axes=dims).reshape(len(images), -1)
    apart, lags = (
        np.stack(np.meshgrid(*along, indexing="ij"), -1).reshape(-1, len(kernel))
        for along in (
            [np.arange(1 - k, k) * d for k, d in zip(kernel, dilation, strict=True)],
            [np.arange(n) * s for n, s in zip(sizes, stride, strict=True)],
        )
    )
    return np.asarray(sums @ _closeness(near, np.abs(apart[:, None] + lags))).reshape(-1, *sizes)


def _pairs(near: Near, steps: Floats, stride: Sequence[int], sizes: Sequence[int]) -> Floats:
    """``r(lag + t - t')`` for each lag of the output and each two taps, [lags, taps²]."""
    lags = np.stack(np.meshgrid(*(np.arange(n) * s for n, s in zip(sizes, stride, strict=True)), indexing="ij"), -1)
    r = _closeness(near, np.abs(lags.reshape(-1, 1, 1, len(stride)) + steps))
    return r.reshape(len(r), -1)


def _steps(kernel: Sequence[int], dilation: Sequence[int]) -> Floats:
    """From each tap to each other one, [taps, taps, dimensions]."""
    along = [np.arange(k) * d for k, d in zip(kernel, dilation, strict=True)]
    places = np.stack(np.meshgrid(*along, indexing="ij"), -1).reshape(-1, 1, len(kernel))
    return np.asarray(places - places.reshape(1, -1, len(kernel)))


def closeness(x: Signal, kernel: Sequence[int], dilation: int = 1) -> float:
    """Mean of ``r`` over different sites of one window; 0 when closeness plays no part."""
    if x.near is None or x.near.ndim != len(kernel) or math.prod(kernel) == 1:
        return 0.0
    padded = np.zeros([max(k * dilation, n) for k, n in zip(kernel, x.near.shape, strict=True)])
    padded[tuple(slice(0, n) for n in x.near.shape)] = x.near
    weights = np.ones(())
    for k in kernel:
        weights = np.multiply.outer(weights, np.array([(1 if lag == 0 else 2) * (k - lag) for lag in range(k)]))
    lags = padded[tuple(slice(0, k * dilation, dilation) for k in kernel)]
    n = math.prod(kernel)
    return float(((weights * lags).sum() - n) / (n * (n - 1)))


def to_middle(x: Signal, kernel: Sequence[int]) -> float:
    """Mean of ``r`` between the middle of a window and its other sites."""
    count = math.prod(kernel)
    if x.near is None or x.near.ndim != len(kernel) or count == 1:
        return 0.0
    lags = np.abs(_steps(kernel, [1] * len(kernel))[count // 2])
    return float((_closeness(x.near, lags).sum() - 1) / (count - 1))


def averaged(near: Near, kernel: Sequence[int], stride: Sequence[int]) -> Near | None:
    """Closeness of the averages over two windows."""
    sizes = [(n + s - 1) // s for n, s in zip(near.shape, stride, strict=True)]
    found = np.ones(sizes) * near[tuple(slice(None, None, s) for s in stride)]
    close = [min(n, _LAGS) for n in sizes]
    part = tuple(slice(0, n) for n in close)
    found[part] = _pairs(near, _steps(kernel, [1] * len(kernel)), stride, close).mean(1).reshape(close)
    return found / found.flat[0] if found.size > 1 and found.flat[0] > 0 else None


def _closeness(near: Near, lags: Floats) -> Floats:
    inside = (lags < np.array(near.shape)).all(-1)
    index = tuple(np.where(inside, lags[..., d], 0).astype(int) for d in range(near.ndim))
    return np.asarray(np.where(inside, near[index], 0.0))
