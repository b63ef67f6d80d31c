"""What one channel makes of its own past: the random filter that depthwise layers are, seen from where they began.

A depthwise convolution, a batch norm and a sum of such branches leave every channel to itself: it is one filter ``f``
of the same channel of a *base* (the last signal that mixed channels). ``x + norm(w ∗ x)`` is ``(δ + w/|w|) ∗ x``: where
neighbours resemble each other it doubles some channels and extinguishes others, and a norm then divides by sizes that
are anything but alike. With the covariance ``S`` of the base between the taps,

    σ² = fᵀ S f,    E 1/σ²,    ∂L/∂x = Σ f g/σ

all depend on the one filter, so `COUNT` filters are drawn once, and each of these is a mean over them. The gradient is
followed the same way from the norm where it enters (its *base*) to where the channels were mixed: ``|f|²/σ²`` for a
gradient that differs from site to site, ``(Σ f)²/σ²`` for one that is the same everywhere, which no small ``σ`` makes
large, as the filter that made ``σ`` small meets the gradient on its way back.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.signal import fftconvolve

from firstlight._typing import Floats
from firstlight.theory.signal import Signal

COUNT = 512
_WIDEST = 15
_LAGS = 12
_NOTHING = 1e-12


@dataclass(frozen=True)
class Filters:
    """Filters of typical channels over one base.

    Attributes:
        base: name of the signal, or of the node whose gradient it is.
        taps: [K, height, width], odd sizes, the middle one at the site itself; K is `COUNT`, or 1 for all alike.
        drawn: random layers in it; the sizes of channels differ from the first on.
    """

    base: str
    taps: Floats
    drawn: int = 0

    @classmethod
    def identity(cls, base: str) -> "Filters":
        """What a signal is of itself."""
        return cls(base, np.ones((1, 1, 1)))

    def scaled(self, sizes: "float | Floats") -> "Filters":
        """Every filter multiplied by its number."""
        return replace(self, taps=self.taps * np.reshape(sizes, (-1, 1, 1)))

    def then(self, weights: Floats, drawn: int = 0) -> "Filters | None":
        """Followed by other filters [K, height, width]; ``None`` when that reaches too far to be worth it."""
        taps = fftconvolve(self.taps, weights, axes=(1, 2)) if weights[0].size > 1 else self.taps * weights
        return None if max(taps.shape[1:]) > _WIDEST else Filters(self.base, taps, self.drawn + drawn)

    def plus(self, other: "Filters") -> "Filters":
        """The sum of two of one base."""
        shape = [max(a, b) for a, b in zip(self.taps.shape, other.taps.shape, strict=True)]
        return Filters(self.base, _within(self.taps, shape) + _within(other.taps, shape), max(self.drawn, other.drawn))

    @cached_property
    def steps(self) -> Floats:
        """Place of each tap from the middle, [T, 2]."""
        sides = [np.arange(n) - n // 2 for n in self.taps.shape[1:]]
        return np.stack(np.meshgrid(*sides, indexing="ij"), -1).reshape(-1, 2)

    @cached_property
    def flat(self) -> Floats:
        """[K, T]."""
        return self.taps.reshape(len(self.taps), -1)

    def inside(self, sites: Sequence[int]) -> Floats:
        """The share of sites at which two taps both lie inside an image with zeros around it, [T, T]."""
        share = np.ones((len(self.steps), len(self.steps)))
        for d, n in enumerate(sites):
            t = self.steps[:, d]
            first, last = np.minimum(t[:, None], t), np.maximum(t[:, None], t)
            share *= np.maximum(n - np.maximum(last, 0) + np.minimum(first, 0), 0) / n
        return share

    def sums(self, sites: Sequence[int]) -> Floats:
        """``Σ f`` of each, every tap by the share of sites that have it inside, [K]."""
        return self.flat @ self.inside(sites).diagonal()

    def squares(self, covariance: Floats) -> Floats:
        """``fᵀ S f`` of each filter, [K]."""
        return np.maximum(((self.flat @ covariance) * self.flat).sum(1), _NOTHING)


def _within(taps: Floats, shape: Sequence[int]) -> Floats:
    out = np.zeros([len(taps), *shape[1:]])
    corner = [(n - m) // 2 for n, m in zip(shape[1:], taps.shape[1:], strict=True)]
    out[:, corner[0] : corner[0] + taps.shape[1], corner[1] : corner[1] + taps.shape[2]] = taps
    return np.broadcast_to(out, (max(len(out), shape[0]), *out.shape[1:]))


def drawn(name: str, kernel: Sequence[int], dilation: Sequence[int], mean: float, second: float) -> Floats:
    """Weights of a depthwise convolution for each filter, [COUNT, height, width]; the same for the same name."""
    rows = np.random.default_rng(zlib.crc32(name.encode())).standard_normal((COUNT, int(np.prod(kernel))))
    # Taps that are uncorrelated exactly: means of quadratic forms are then those of infinitely many draws.
    normal = (np.linalg.qr(rows)[0] * np.sqrt(COUNT)) if rows.shape[1] < COUNT else rows
    weights = np.zeros([COUNT, *((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))])
    weights[:, :: dilation[0], :: dilation[1]] = mean + np.sqrt(max(second - mean**2, 0.0)) * normal.reshape(
        COUNT, *kernel
    )
    return weights


@dataclass(frozen=True)
class Covariance:
    """Of a base about the mean that a norm of each channel subtracts, between two sites of one sample.

    Attributes:
        own: of a site with itself.
        far: of distant ones.
        other: of two samples.
        close: by lag, how far nearness raises it from `far` to `own`; one number when nearness plays no part.
        sites: of one sample.
    """

    own: float
    far: float
    other: float
    close: Floats
    sites: tuple[int, ...]

    @classmethod
    def of(cls, x: Signal, sites: Sequence[int], samples: int) -> "Covariance":
        """Of all samples and sites of a channel together."""
        _, second, far, other = x.scalars()
        level = x.level(samples)
        close = x.near if x.near is not None and x.near.ndim == 2 else np.ones((1, 1))
        return cls(max(second - level, 0.0), far - level, other - level, close, tuple(sites) or (1, 1))

    def at(self, lags: Floats) -> Floats:
        """At these lags, [..., 2]."""
        lags = np.abs(lags)
        known = (lags < np.array(self.close.shape)).all(-1)
        r = np.where(known, self.close[tuple(np.where(known, lags[..., d], 0) for d in (0, 1))], 0.0)
        return self.far + r * (self.own - self.far)

    def sizes(self, filters: Filters) -> Floats:
        """``σ²`` of each filter, [K]."""
        steps = filters.steps
        return filters.squares(self.at(steps[:, None] - steps) * filters.inside(self.sites))

    def skewed(self, filters: Filters, skew: float) -> float:
        """Third cumulant of a filtered base of this `skew`, over its variance to 3/2, on average over channels."""
        third, variance = self.cumulants(filters, skew)
        return float(np.mean(third)) / max(float(np.mean(variance)), _NOTHING) ** 1.5

    def cumulants(self, filters: Filters, skew: float) -> tuple[Floats, Floats]:
        """Third cumulant and variance of each filter of a base of variance one and this `skew`, [K] and [K].

        Three sites of a quadratic function of a Gaussian field have ``κ (c₁₂ c₁₃ + c₂₁ c₂₃ + c₃₁ c₃₂)/3`` in common,
        with its correlations ``c``, which summed over three taps is ``κ Σ f (S f)²``.
        """
        steps = filters.steps
        seen = filters.flat @ self.at(steps[:, None] - steps) / max(self.own, _NOTHING)
        return skew * (filters.flat * seen**2).sum(1), (filters.flat * seen).sum(1)

    def shared(self, filters: Filters) -> Floats:
        """``(Σ f)²`` of each, of the taps inside: what distant sites share is multiplied by it, [K]."""
        return filters.sums(self.sites) ** 2 + _NOTHING

    def pooled(self, filters: Filters) -> Floats:
        """Variance over samples of the mean of all sites, of each filter, [K].

        A tap is outside for some sites, so the mean is ``Σ f_t m_t`` of means ``m_t`` over the part that it sees.
        """
        steps, sites = filters.steps, self.sites
        lags = [np.arange(1 - min(n, m), min(n, m)) for n, m in zip(sites, self.close.shape, strict=True)]
        raised = self.at(np.stack(np.meshgrid(*lags, indexing="ij"), -1)) - self.far
        rows, columns = (_pairs(k, n, at) for k, n, at in zip(filters.taps.shape[1:], sites, lags, strict=True))
        within = np.einsum("ab,aij,bkl->ikjl", raised, rows, columns, optimize=True)
        total = within.reshape(len(steps), len(steps))
        seen = np.prod([np.maximum(n - np.abs(steps[:, d]), 0) for d, n in enumerate(sites)], axis=0)
        total += (self.far - self.other) * seen[:, None] * seen
        return filters.squares(total / np.prod(sites) ** 2)

    def closeness(self, filters: Filters, sizes: Floats) -> Floats | None:
        """By lag, of the filtered signal once each channel is divided by its size; ``None`` when nothing is near."""
        flipped = filters.taps[:, ::-1, ::-1]
        pairs = np.mean(fftconvolve(filters.taps, flipped, axes=(1, 2)) / sizes[:, None, None], 0)
        apart = np.stack(np.meshgrid(*(np.arange(n) - n // 2 for n in pairs.shape), indexing="ij"), -1)
        lags = np.stack(np.meshgrid(*(np.arange(min(_LAGS, n)) for n in self.sites), indexing="ij"), -1)
        found = ((self.at(lags[:, :, None, None] + apart) - self.far) * pairs).sum((2, 3))
        return found / found[0, 0] if found[0, 0] > 0 and found.size > 1 else None


@dataclass(frozen=True)
class Response:
    """How a gradient goes back through the filters it has met since a norm divided by the sizes they gave.

    Attributes:
        filters: over the gradient at that norm, its base.
        unit: E g² there for a filter of size one.
        alike: correlation of two sites of it.
        sites: of one sample, here.
    """

    filters: Filters
    unit: float
    alike: float
    sites: tuple[int, ...]

    @cached_property
    def second(self) -> float:
        """E g² of what comes this way."""
        inside = self.filters.inside(self.sites)
        own = float(np.mean(self.filters.flat**2 @ inside.diagonal()))
        common = float(np.mean(self.filters.squares(inside)))
        return self.unit * ((1 - self.alike) * own + self.alike * common)

    @cached_property
    def far(self) -> float:
        """E g g' between two sites."""
        return self.unit * self.alike * float(np.mean(self.filters.sums(self.sites) ** 2))

    def plus(self, other: "Response") -> "Response":
        """The sum of two ways from one base."""
        same = other.filters.scaled(float(np.sqrt(other.unit / max(self.unit, 1e-300))))
        return replace(self, filters=self.filters.plus(same))


def _pairs(taps: int, n: int, lags: Floats) -> Floats:
    """How many pairs of `n` places, seen through two of so many taps in a row, lie at each lag, [lags, taps, taps]."""
    steps = np.arange(taps) - taps // 2
    first, end = np.maximum(steps, 0), n + np.minimum(steps, 0)
    lag = lags[:, None, None]
    return np.maximum(np.minimum(end[:, None], end + lag) - np.maximum(first[:, None], first + lag), 0)
