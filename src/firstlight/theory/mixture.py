"""Signals of uneven size: real data are bright here and flat there, so one channel is a mixture of Gaussians.

Given the data, random weights make a Gaussian of every element, but its variance differs between samples and sites: it
is the channel's second moment times a `profile` of mean one (Lee et al., 2018: the kernel of an input with itself). A
mean over elements is then a mean over that profile, which a few bins of equal weight stand for. Two elements at
different places have different variances, so their product is a product of averages: with Hermite coefficients
``a_k(v)`` and correlation ``c``, ``E f f' = Σ_k E a_k(v) E a_k(v') c^k``, within a sample or between two.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from firstlight._typing import Floats
from firstlight.theory.elementwise import Elementwise
from firstlight.theory.places import Places, mean_weights
from firstlight.theory.runs import classes, full, runs
from firstlight.theory.signal import Near, Signal

_RUNS, _MANY = 8, 4096  # shorter dimensions and smaller maps are not looked through for equal places


@dataclass(frozen=True)
class Mixed:
    """Moments of ``f(z)`` for each place of the maps of `base`, averaged over its profile; arrays of shape [U].

    Attributes:
        shape: of the maps; `pair_shape` that of those between sites, which may differ between samples.
        mean, second, fourth, slope, follows, stretch, chi, chi_fourth, chi_place, chi_value, chi_both: as in `Moments`.
        skew, steepest: likewise, of all places.
        echo: E (f f')² over E f².
        places: what the others are made of when they are asked for.
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
    skew: float
    steepest: float
    places: "Places"
    kinds: "tuple[Tensor | None, ...]" = ()

    @property
    def far(self) -> Floats:
        """E f f' between sites of one sample."""
        return self.places.far

    @property
    def other(self) -> Floats:
        """E f f' between samples."""
        return self.places.other

    @property
    def across(self) -> Floats | None:
        """E f f' between channels; ``None`` where that is (E f)²."""
        return self.places.across

    @property
    def slope_far(self) -> Floats:
        """E f' f'' between sites."""
        return self.places.slope_far

    @property
    def tilt(self) -> Floats:
        """(E f'(z) ẑ)(E f'(z') ẑ')."""
        return self.places.tilt

    @property
    def near(self) -> Near | None:
        """Closeness of sites after the function."""
        return self.places.near

    @property
    def profile(self) -> Tensor | None:
        """How uneven ``f(z)²`` is."""
        return self.places.after(self.places.table.second)

    @property
    def steep(self) -> Tensor | None:
        """How uneven ``f'(z)²`` is."""
        return self.places.after(self.places.table.chi)

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
    places = Places.of(base, f, weight, counts)
    table, rows = places.table, places.rows
    numbers = np.stack([getattr(table, name) for name in _AVERAGED], 1)[rows]  # [R, K, ·]
    averages = dict(zip(_AVERAGED, np.einsum("rkn,k->nr", numbers, places.heavy)[:, places.row], strict=True))
    averages["echo"] /= np.where(averages["second"] > 0, averages["second"], 1.0)
    skew = float(mean_weights(places.row, places.weights) @ table.skew[rows].mean(1))
    steepest = float(table.steepest.max(initial=0.0))
    return Mixed(places.shape, places.pair_shape, **averages, skew=skew, steepest=steepest, places=places)


_AVERAGED = (
    "mean", "second", "fourth", "slope", "follows", "stretch", "chi", "chi_fourth", "chi_place", "chi_value",
    "chi_both", "echo",
)  # fmt: skip


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
