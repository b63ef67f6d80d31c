"""Signals of uneven size: real data are bright here and flat there, so one channel is a mixture of Gaussians.

Given the data, random weights make a Gaussian of every element, but its variance differs between samples and sites: it
is the channel's second moment times a `profile` of mean one (Lee et al., 2018: the kernel of an input with itself). A
mean over elements is then a mean over that profile, which a few bins of equal weight stand for. Two elements at
different places have different variances, so their product is a product of averages: with Hermite coefficients
``a_k(v)`` and correlation ``c``, ``E f f' = Σ_k E a_k(v) E a_k(v') c^k``, within a sample or between two.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from firstlight._typing import Floats
from firstlight.theory.axes import main_kind
from firstlight.theory.elementwise import Elementwise, moments, sum_series
from firstlight.theory.runs import classes, full, runs
from firstlight.theory.signal import Near, Signal

_BINS = 8
_RUNS, _MANY = 8, 4096  # shorter dimensions and smaller maps are not looked through for equal places


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
class Mixed:
    """Moments of ``f(z)`` for each place of the maps of `base`, averaged over its profile; arrays of shape [U].

    Attributes:
        shape: of the maps; `pair_shape` that of those between sites, which may differ between samples.
        mean, second, fourth, slope, follows, stretch, chi, chi_fourth, chi_place, chi_value, chi_both: as in `Moments`.
        skew, steepest: likewise, of all places.
        far, other: E f f' between sites of one sample and between samples.
        echo: E (f f')² over E f².
        slope_far: E f' f'' between sites, and `tilt`: (E f'(z) ẑ)(E f'(z') ẑ').
        near: closeness of sites after the function.
        profile: how uneven ``f(z)²`` is, and `steep`: how uneven ``f'(z)²``.
        kinds: along each dimension where places are equal, which of those in the arrays each index has.
    """

    shape: tuple[int, ...]
    pair_shape: tuple[int, ...]
    mean: Floats
    second: Floats
    fourth: Floats
    slope: Floats
    follows: Floats
    stretch: Floats
    chi: Floats
    chi_fourth: Floats
    chi_place: Floats
    chi_value: Floats
    chi_both: Floats
    echo: Floats
    far: Floats
    other: Floats
    across: Floats | None
    slope_far: Floats
    tilt: Floats
    near: Near | None
    profile: Tensor | None
    steep: Tensor | None
    skew: float
    steepest: float
    kinds: "tuple[Tensor | None, ...]" = ()

    def leaning(self, lean: float) -> tuple[float, float]:
        """For a gradient that leans towards large values (`Gradient.lean`): by how much ``E f'²`` grows, and its own.

        ``E (g²|f) = E g² (1 + lean f̂)``, as far as a line says it; `f'²` is nowhere above its largest value.
        """
        chi, place, value, both = (self.mean_of(v) for v in (self.chi, self.chi_place, self.chi_value, self.chi_both))
        if chi <= 0:
            return 1.0, 0.0
        factor = min(max(1 + lean * value / chi, 0.0), self.steepest / chi)
        return factor, (place + lean * both) / (chi * factor) if factor > 0 else 0.0

    def map(self, values: Floats) -> Tensor:
        """One of these arrays as a map."""
        shape = self.shape if values.size == math.prod(self.shape) else self.pair_shape
        found = torch.from_numpy(np.ascontiguousarray(values)).view(shape)
        varied = [d for d, kind in enumerate(self.kinds) if kind is not None and shape[d] > 1]
        for d in reversed(varied):
            kind = self.kinds[d]
            if kind is not None:
                found = runs(found, kind, d) if d == varied[0] else found.index_select(d, kind)
        return found

    def mean_of(self, values: Floats) -> float:
        """One of these arrays on average."""
        return float(self.map(values).mean())


def mixed(base: Signal, f: Elementwise, weight: Tensor | None = None) -> Mixed:
    """All that is needed of ``f(base)``, forward and backward.

    Args:
        base: the Gaussian signal.
        f: the function.
        weight: how much each sample and site counts, as a gradient that is uneven itself meets ``f'²``; all alike when
            not given.
    """
    maps: dict[str, Tensor] = {
        name: m for name in ("mean", "second", "far", "other", "across") if (m := getattr(base, name)) is not None
    }
    rank = base.second.dim()
    rows: list[Rows] = [None] * rank
    many = max(m.numel() for m in maps.values()) >= _MANY
    for find in (classes, _different) if many else (classes,):
        for d in range(rank):
            rows[d] = rows[d] or find(list(maps.values()), d)
            maps = {name: _taken(m, d, rows[d]) for name, m in maps.items()}
    few: dict[str, Any] = {name: full(m) for name, m in maps.items()}
    if all(found is None for found in rows):
        return _mixed(replace(base, **few), f, weight)
    counts = [None if found is None else torch.bincount(found[1]).double() for found in rows]
    found = _mixed(replace(base, **few), f, weight, counts)
    return replace(found, kinds=tuple(None if row is None else row[1] for row in rows))


Rows: TypeAlias = tuple[Tensor, Tensor] | None
"""Along one dimension, the first of each kind of equal slices, and the kind that each index is of."""


def _different(maps: Sequence[Tensor], dim: int) -> Rows:
    """Where maps change along `dim`, if seldom: a border, or segments of channels."""
    maps = [m for m in maps if m.shape[dim] > 1]
    n = max((m.shape[dim] for m in maps), default=1)
    if dim == 0 or n < _RUNS:
        return None
    changes = torch.zeros(n - 1, dtype=torch.bool)
    for m in maps:
        changes |= (m.narrow(dim, 1, n - 1) != m.narrow(dim, 0, n - 1)).movedim(dim, 0).flatten(1).any(1)
    kinds = torch.cat([torch.zeros(1, dtype=torch.long), changes.cumsum(0)])
    if int(kinds[-1]) + 1 > n // 2:
        return None
    return torch.cat([torch.zeros(1, dtype=torch.long), changes.nonzero().flatten() + 1]), kinds


def _taken(values: Tensor, dim: int, rows: Rows) -> Tensor:
    few = rows is not None and values.shape[dim] == len(rows[1])
    return values.index_select(dim, rows[0]) if few and rows is not None else values


def _mixed(base: Signal, f: Elementwise, weight: Tensor | None, counts: "list[Tensor | None] | None" = None) -> Mixed:
    """The same without looking for places that are equal; `counts` of them stand for one along each dimension."""
    maps = torch.broadcast_tensors(base.mean, base.second, base.other)
    mean, second, other = (np.ascontiguousarray(m.numpy()).reshape(-1) for m in maps)
    parts = bins(base.profile)
    heavy, roots = _weighed(parts, weight)
    places, levels = len(mean), len(parts.levels)
    means = mean[:, None] * sized(parts)
    variance = np.maximum(second[:, None] * parts.levels - means**2, 0.0)
    found = moments(f, means.reshape(-1), variance.reshape(-1), base.skew, base.law)

    def weigh(values: Floats) -> Floats:
        shape = maps[0].shape if len(values) == places else pair_shape
        return np.average(values, axis=0, weights=_weights(shape, counts))

    def average(values: Floats) -> Floats:
        return np.asarray(values.reshape(places, levels) @ heavy)

    pair_shape = tuple(np.broadcast_shapes(maps[0].shape, base.far.shape))
    pairs = _Pairs.of(base, maps[0].shape, pair_shape, parts.shares, counts)
    far = np.ascontiguousarray(base.far.expand(pair_shape).numpy()).reshape(-1)
    deviation, centre = (_by_sample(m[..., None], parts.shares) for m in (np.sqrt(variance), means))
    behind = _itself if base.law is None else base.law.behind
    apart_alike = _ratio(far - pairs.within(centre)[:, 0], pairs.within(deviation)[:, 0])
    near_alike = behind(apart_alike)
    other_alike = behind(_ratio(other - pairs.across(centre)[:, 0], pairs.across(deviation)[:, 0]))
    values = _by_sample(found.coefficients.reshape(places, levels, -1), parts.shares)
    slopes = pairs.within(_by_sample(found.slope_coefficients.reshape(places, levels, -1), roots))
    tilts = pairs.within(_by_sample(found.tilt.reshape(places, levels, 1), roots))
    whole, whole_chi = average(found.second), average(found.chi)
    same = np.asarray((found.coefficients.reshape(places, levels, -1) ** 2).mean(1))
    rest = np.maximum(whole - same.sum(1), 0.0)  # powers beyond the series
    series, between = pairs.within(values), pairs.across(values)
    at_far = sum_series(series, series.sum(1) + rest[pairs.place], near_alike)
    at_other = sum_series(between, between.sum(1) + rest, other_alike)
    chi_rest = np.maximum(whole_chi - average((found.slope_coefficients**2).sum(1)), 0.0)
    across = None
    if base.across is not None:
        k = base.across.expand(maps[0].shape).numpy().reshape(-1)
        across = sum_series(same, whole, behind(_ratio(k - mean**2, average(variance.reshape(-1)))))
    return Mixed(
        tuple(maps[0].shape), pair_shape, average(found.mean), whole, average(found.fourth), average(found.slope),
        average(found.follows),
        average(found.stretch), whole_chi, average(found.chi_fourth),
        average(found.chi_place), average(found.chi_value), average(found.chi_both),
        average(found.echo) / np.where(whole > 0, whole, 1.0), at_far, at_other, across,
        sum_series(slopes, slopes.sum(1) + chi_rest[pairs.place], near_alike), tilts[:, 0],
        _near(base.near, weigh(same), weigh(series), float(weigh(rest)), float(weigh(apart_alike)), behind),
        _after(parts, weigh(found.second.reshape(places, levels))),
        _after(parts, weigh(found.chi.reshape(places, levels))),
        float(found.skew.mean()), float(found.steepest.max(initial=0.0)),
    )  # fmt: skip


def _itself(correlation: Floats) -> Floats:
    return correlation


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


def _weights(shape: Sequence[int], counts: "list[Tensor | None] | None") -> Floats | None:
    """How many places each place of a map stands for, [U]."""
    if counts is None:
        return None
    out = torch.ones(tuple(shape), dtype=torch.float64)
    for dim, n in enumerate(counts):
        if n is not None and shape[dim] > 1:
            out = out * n.view([-1 if d == dim else 1 for d in range(len(shape))])
    return out.reshape(-1).numpy()


def _ratio(covariance: Floats, variance: Floats) -> Floats:
    return np.clip(covariance / np.where(variance > 0, variance, 1.0), -1.0, 1.0)


def _by_sample(values: Floats, shares: Floats) -> Floats:
    """Averages over each sample, from [U, K, T] to [U, N, T]."""
    return np.asarray(np.einsum("ukt,nk->unt", values, shares))


class _Pairs(NamedTuple):
    """Of each element [V] of a map between sites: its place [V] in the other maps, and its sample if they differ.

    Such a map is an average over the second site, so that is what the second factor of a product is: `sites` are the
    dimensions to average over of a map of this `shape`, whose places stand for as many as `counts` says.
    """

    place: Any
    sample: Any
    shape: torch.Size
    sites: tuple[int, ...]
    counts: Floats | None

    @classmethod
    def of(
        cls, base: Signal, shape: torch.Size, pair_shape: tuple[int, ...], shares: Floats,
        counts: "list[Tensor | None] | None",
    ) -> "_Pairs":  # fmt: skip
        sites = tuple(d for d, axis in enumerate(base.axes) if shape[d] > 1 and main_kind(axis) == "s")
        place = torch.arange(math.prod(shape)).view(shape).expand(pair_shape).reshape(-1).numpy()
        weights = _weights(shape, counts)
        if not pair_shape or pair_shape[0] != len(shares) or len(shares) == 1:
            return cls(place, None, shape, sites, weights)
        return cls(place, np.repeat(np.arange(len(shares)), len(place) // len(shares)), shape, sites, weights)

    def within(self, samples: Floats) -> Floats:
        """Products of averages over the same sample, from [U, N, T] to [V, T]."""
        product = samples * self._partner(samples)
        if self.sample is None:
            return np.asarray(product.mean(1)[self.place])
        return np.asarray(product[self.place, self.sample])

    def across(self, samples: Floats) -> Floats:
        """Products of averages over two samples, from [U, N, T] to [U, T]."""
        n, partner = samples.shape[1], self._partner(samples)
        own = (samples * partner).sum(1)
        return np.asarray(own if n == 1 else (samples.sum(1) * partner.sum(1) - own) / (n * (n - 1)))

    def _partner(self, samples: Floats) -> Floats:
        if not self.sites:
            return samples
        full = samples.reshape(*self.shape, *samples.shape[1:])
        weights = np.ones(self.shape) if self.counts is None else self.counts.reshape(self.shape)
        total = (full * weights[..., None, None]).sum(self.sites, keepdims=True)
        mean = total / weights.sum(self.sites, keepdims=True)[..., None, None]
        return np.broadcast_to(mean, full.shape).reshape(samples.shape)


def _near(
    near: Near | None, same: Floats, apart: Floats, rest: float, alike: float, behind: Callable[[Floats], Floats]
) -> Near | None:
    """Closeness after the function: K at each lag, where close sites also have the same size."""
    if near is None:
        return None
    r = near.reshape(-1)
    correlation = behind(alike + r * (1 - alike))
    series = apart + r[:, None] * (same - apart)
    lags = sum_series(series, series.sum(1) + rest, correlation)
    floor = float(sum_series(apart[None], apart.sum(keepdims=True) + rest, behind(np.array([alike])))[0])
    span = float(same.sum()) + rest - floor
    return ((lags - floor) / span).reshape(near.shape) if span > 0 else None


def _after(parts: Bins, second: Floats) -> Tensor | None:
    if parts.place is None or not second.mean() > 0:
        return None
    return torch.from_numpy(second / second.mean())[parts.place]


def fitting(profile: Tensor | None, shape: tuple[int, ...]) -> Tensor | None:
    """The profile, if it spreads over a tensor of this shape."""
    if profile is None or profile.dim() != len(shape):
        return None
    return profile if all(p in (1, n) for p, n in zip(profile.shape, shape, strict=True)) else None


def fitted(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A map, if it spreads over a tensor of this shape; its mean where it does not, as one over windows of samples."""
    found = fitting(values, shape)
    return values.mean().reshape((1,) * len(shape)) if found is None else found


def even(profile: Tensor) -> Tensor:
    """Scaled to mean one."""
    return profile / profile.mean().clamp_min(1e-300)


def times(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """The profile of a product of two signals that are uneven independently of each other."""
    if one is None or other is None:
        return other if one is None else one
    return even(one * other)


def summed(parts: list[tuple[Tensor | None, float]], crossed: float = 0.0) -> Tensor | None:
    """The profile of a sum of signals with these second moments; `crossed` is what their products add."""
    if all(p is None for p, _ in parts):
        return None
    one = torch.ones((), dtype=torch.float64)
    out = sum(((one if p is None else p) * q for p, q in parts), torch.zeros((), dtype=torch.float64))
    if crossed > 0:
        roots = [(one if p is None else p).clamp_min(0).sqrt() for p, _ in parts]
        out = out + crossed * torch.stack(torch.broadcast_tensors(*roots)).prod(0)
    return even(out.clamp_min(0))


def about_mean(profile: Tensor | None, second: float, level: float) -> Tensor | None:
    """The profile once a mean is subtracted whose square is `level`: ``q p - 2 K̄ √p/E√p + K̄``, as K grows with √p."""
    if profile is None:
        return None
    root = profile.sqrt()
    return even((second * profile - 2 * level * root / root.mean() + level).clamp_min(0))
