"""Places of a map of uneven size: what a function makes of their Gaussians, and of pairs of them, worked out if asked.

See `theory.mixture`, which says what for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from firstlight._typing import Floats
from firstlight.theory.elementwise import Elementwise, Moments, distinct, powers, table
from firstlight.theory.pairs import Pairs, Products, alike
from firstlight.theory.signal import Near, Signal

_BINS = 8


class Bins(NamedTuple):
    """A profile in a few levels: their sizes [K], their shares of each sample [N, K], and the level of each place."""

    levels: Floats
    shares: Floats
    place: Tensor | None


_EVEN = Bins(np.ones(1), np.ones((1, 1)), None)


def sized(parts: Bins) -> Floats:
    """The mean of each level over that of all: where a signal is large its mean is, as a ReLU makes it."""
    roots = np.sqrt(parts.levels)
    return np.asarray(roots / max(float(roots.mean()), 1e-300))


def bins(profile: Tensor | None) -> Bins:
    """Cut the places of a profile [N, ...] into bins of equally many."""
    if profile is None:
        return _EVEN
    flat = profile.reshape(-1)
    count = min(_BINS, len(flat))
    index = torch.empty_like(flat, dtype=torch.long)
    index[flat.round(decimals=9).argsort(stable=True)] = torch.arange(len(flat)) * count // len(flat)
    levels = torch.zeros(count, dtype=flat.dtype).scatter_reduce_(0, index, flat, "mean", include_self=False)
    by_sample = torch.nn.functional.one_hot(index.view(len(profile), -1), count).double().mean(1)
    return Bins(levels.numpy(), by_sample.numpy(), index.view(profile.shape))


@dataclass(frozen=True)
class Places:
    """What `Mixed` is made of: [U] places of a map, of which S have different Gaussians, and R different moments.

    Attributes:
        base: the signal, with maps of equal rank.
        parts, heavy, roots: levels of its profile, and what they count for (`_weighed`).
        means, deviations: of each level, [S, K].
        seen: which of these each place has, [U].
        table: moments of `f` for different Gaussians.
        rows: which of them each level has, [R, K].
        row: which of these each place has, [U].
        weights: how many places of the full map each stands for, [U].
    """

    base: Signal
    shape: tuple[int, ...]
    pair_shape: tuple[int, ...]
    parts: Bins
    heavy: Floats
    roots: Floats
    means: Floats
    deviations: Floats
    seen: Any
    table: Moments
    rows: Any
    row: Any
    counts: "list[Tensor | None] | None"

    @classmethod
    def of(cls, base: Signal, f: Elementwise, weight: Tensor | None, counts: "list[Tensor | None] | None") -> "Places":
        """Of ``f(base)``; see `_mixed`."""
        shape = np.broadcast_shapes(base.mean.shape, base.second.shape, base.other.shape)
        pairs, seen = distinct(*(m.expand(shape).reshape(-1).numpy() for m in (base.mean, base.second)))
        parts = bins(base.profile)
        means = pairs.real[:, None] * sized(parts)
        variance = np.maximum(pairs.imag[:, None] * parts.levels - means**2, 0.0)
        found, which = table(f, means.reshape(-1), variance.reshape(-1), base.skew, base.law)
        rows, row = alike(which.reshape(means.shape))
        return cls(
            base, shape, np.broadcast_shapes(shape, base.far.shape), parts, *_weighed(parts, weight), means,
            np.sqrt(variance), seen, found, rows, row[seen], counts,
        )  # fmt: skip

    @cached_property
    def weights(self) -> Floats:
        """How many places of the full map each stands for, [U]."""
        return _weights(self.shape, self.counts)

    @cached_property
    def pairs(self) -> Pairs:
        """Of sites."""
        return Pairs.of(self.base, self.shape, self.pair_shape, len(self.parts.shares), self.weights)

    def _map(self, name: str, shape: tuple[int, ...]) -> Floats:
        return np.asarray(getattr(self.base, name).expand(shape).reshape(-1).numpy())

    @cached_property
    def _gaussians(self) -> tuple[Products, Products]:
        """Products of means, and of standard deviations."""
        centre, deviation = (self.pairs.products((m @ self.parts.shares.T)[..., None], self.seen)
                             for m in (self.means, self.deviations))  # fmt: skip
        return centre, deviation

    @cached_property
    def alike(self) -> Floats:
        """Correlation of the Gaussians at two sites of one sample, [V]."""
        (centre, place), (deviation, _) = (self.pairs.within(p) for p in self._gaussians)
        return _ratio(self._map("far", self.pair_shape) - centre[place, 0], deviation[place, 0])

    def _behind(self, correlation: Floats) -> Floats:
        """The same of the normal numbers behind the elements (`Law`), which Mehler's series is in."""
        return correlation if self.base.law is None else self.base.law.behind(correlation)

    @cached_property
    def _values(self) -> Products:
        return self.pairs.products(_by_sample(self.table.coefficients[self.rows], self.parts.shares), self.row)

    @cached_property
    def _same(self) -> tuple[Floats, Floats]:
        """``E a_k²`` of each row, [R, T], and what powers beyond the series have, [R]."""
        same = (self.table.coefficients**2)[self.rows].mean(1)
        return same, np.maximum(self.table.second[self.rows] @ self.heavy - same.sum(1), 0.0)

    @cached_property
    def far(self) -> Floats:
        """See `Mixed`."""
        series, place = self.pairs.within(self._values)
        return powers(series, self._same[1][self.row[self.pairs.place]], self._behind(self.alike), place)

    @cached_property
    def other(self) -> Floats:
        """See `Mixed`."""
        centre, deviation = (p.across()[p.pair, 0] for p in self._gaussians)
        between = _ratio(self._map("other", self.shape) - centre, deviation)
        return powers(self._values.across(), self._same[1][self.row], self._behind(between), self._values.pair)

    @cached_property
    def across(self) -> Floats | None:
        """See `Mixed`."""
        if self.base.across is None:
            return None
        variance = (self.deviations**2 @ self.heavy)[self.seen]
        between = _ratio(self._map("across", self.shape) - self._map("mean", self.shape) ** 2, variance)
        same, rest = self._same
        return powers(same, rest[self.row], self._behind(between), self.row)

    @cached_property
    def _slopes(self) -> tuple[Floats, Any]:
        slopes = _by_sample(self.table.slope_coefficients[self.rows], self.roots)
        return self.pairs.within(self.pairs.products(slopes, self.row))

    @property
    def tilt(self) -> Floats:
        """See `Mixed`."""
        if self.base.law is None:
            slopes, place = self._slopes
            return np.asarray(slopes[place, 1])
        tilts = _by_sample(self.table.tilt[self.rows][..., None], self.roots)
        tilts, place = self.pairs.within(self.pairs.products(tilts, self.row))
        return np.asarray(tilts[place, 0])

    @cached_property
    def slope_far(self) -> Floats:
        """See `Mixed`."""
        slopes, place = self._slopes
        beyond = (self.table.chi[self.rows] - (self.table.slope_coefficients**2).sum(1)[self.rows]) @ self.heavy
        rest = np.maximum(beyond, 0.0)[self.row[self.pairs.place]]
        return powers(slopes, rest, self._behind(self.alike), place)

    @cached_property
    def near(self) -> Near | None:
        """See `Mixed`."""
        if self.base.near is None:
            return None
        (same, rest), rows = self._same, mean_weights(self.row, self.weights)
        series, place = self.pairs.within(self._values)
        weights = _weights(self.pair_shape, self.counts)
        apart = mean_weights(place, weights, len(series)) @ series
        alike = float(np.average(self.alike, weights=weights))
        correlations = self._behind(np.clip(alike + self.base.near * (1 - alike), -1.0, 1.0))
        least = float(self._behind(np.array([alike]))[0])
        return _near(self.base.near, rows @ same, apart, float(rows @ rest), correlations, least)

    def after(self, squares: Floats) -> Tensor | None:
        """How uneven the map is of which the moments in `table` have these `squares`."""
        return _after(self.parts, mean_weights(self.row, self.weights) @ squares[self.rows])


def mean_weights(index: Any, weights: Floats, count: int = 0) -> Floats:
    """What each of some kinds counts for in a mean, when element ``i`` of weight ``w_i`` is of kind ``index_i``."""
    return np.bincount(index, weights, count) / weights.sum()


def _weighed(parts: Bins, weight: Tensor | None) -> tuple[Floats, Floats]:
    """What each level counts for, [K], and of a product of two places the root of it in each sample, [N, K].

    A gradient whose second moment at place ``i`` is ``w_i`` times the mean has ``E g g' ~ √(w w')`` between two places.
    How large it is in one sample over others, a map of such products says itself: each sample's roots sum to one.
    """
    count = len(parts.levels)
    if weight is None or parts.place is None:
        return np.full(count, 1 / count), parts.shares
    inside = torch.nn.functional.one_hot(parts.place, count).double()  # [*places, K]
    for d, (n, m) in enumerate(zip(parts.place.shape, weight.shape, strict=True)):
        weight = weight.mean(d, keepdim=True) if n == 1 < m else weight
    own = (inside * weight[..., None]).flatten(0, -2).mean(0)
    roots = (inside * weight.clamp_min(0).sqrt()[..., None]).flatten(1, -2).mean(1)
    roots = roots / roots.sum(1, keepdim=True).clamp_min(1e-150)
    return (own / own.sum().clamp_min(1e-300)).numpy(), roots.numpy()


def _weights(shape: Sequence[int], counts: "list[Tensor | None] | None") -> Floats:
    """How many places each place of a map stands for, [U]."""
    out = np.ones(tuple(shape))
    for dim, n in enumerate(counts or ()):
        if n is not None and shape[dim] > 1:
            out *= n.view([-1 if d == dim else 1 for d in range(len(shape))]).numpy()
    return out.reshape(-1)


def _ratio(covariance: Floats, variance: Floats) -> Floats:
    return np.clip(covariance / np.where(variance > 0, variance, 1.0), -1.0, 1.0)


def _by_sample(values: Floats, shares: Floats) -> Floats:
    """Averages over each sample, from [R, K, T] to [R, N, T]."""
    return np.asarray(shares @ values)


def _near(near: Near, same: Floats, apart: Floats, rest: float, alike: Floats, least: float) -> Near | None:
    """Closeness after the function: K at each lag, where close sites also have the same size.

    `alike` is the correlation at each lag, and `least` that of distant sites.
    """
    lags = np.full_like(near, rest)
    for one, other in zip(same[::-1], apart[::-1], strict=True):
        lags = lags * alike + (other + near * (one - other))
    floor = float(powers(apart[None], np.array([rest]), np.array([least]))[0])
    span = float(same.sum()) + rest - floor
    return (lags - floor) / span if span > 0 else None


def _after(parts: Bins, second: Floats) -> Tensor | None:
    if parts.place is None or not second.mean() > 0:
        return None
    return torch.from_numpy(second / second.mean())[parts.place]
