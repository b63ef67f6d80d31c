"""Products of two places of uneven maps, taken once for all places that are alike.

Of a map of [U] places few have a series of their own: it is a mean over levels (`mixture.Bins`), and moments of many
Gaussians are rounded (`elementwise.table`). So what depends on the place is a *row* of a table [R, N, T], for N samples
and T powers, and so are the products of two rows. Between sites of one sample there is an element of [V] for each place
of a map that may differ from sample to sample.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from firstlight._typing import Floats
from firstlight.theory.axes import main_kind
from firstlight.theory.elementwise import first_places
from firstlight.theory.signal import Signal

_LARGEST = 2**62


@dataclass(frozen=True)
class Products:
    """Of the rows of a table, each with the mean over the places that the second site is one of.

    Attributes:
        each: in each sample, of Q different pairs, [Q, N, T].
        sums: of the sums over all samples, [Q, T].
        pair: which of them each place has, [U].
    """

    each: Floats
    sums: Floats
    pair: Any

    def across(self) -> Floats:
        """Between two samples on average, [Q, T]."""
        n = self.each.shape[1]
        return self.sums if n == 1 else (self.sums - self.each.sum(1)) / (n * (n - 1))


@dataclass(frozen=True)
class Pairs:
    """Of each element [V] of a map between sites: its place [U] in the other maps, and its sample if they differ.

    Such a map is an average over the second site, so the second factor of a product is one over all places of a group.

    Attributes:
        place, sample: of each element, [V]; `sample` is ``None`` where elements are averages over all.
        group: of places that differ by their site only, [U]; ``None`` where there is one site.
        weights: how many places of the full map each stands for, [U].
    """

    place: Any
    sample: Any
    group: Any
    weights: Floats

    @classmethod
    def of(
        cls, base: Signal, shape: tuple[int, ...], pair_shape: tuple[int, ...], samples: int, weights: Floats
    ) -> "Pairs":
        """Between places of `base`, whose maps have this `shape`, and those between sites `pair_shape`."""
        places = np.arange(math.prod(shape)).reshape(shape)
        place = np.broadcast_to(places, pair_shape).reshape(-1)
        differ = pair_shape and pair_shape[0] == samples > 1
        sample = np.repeat(np.arange(samples), len(place) // samples) if differ else None
        sites = tuple(d for d, axis in enumerate(base.axes) if shape[d] > 1 and main_kind(axis) == "s")
        if not sites:
            return cls(place, sample, None, weights)
        kept = [1 if d in sites else n for d, n in enumerate(shape)]
        group = np.broadcast_to(np.arange(math.prod(kept)).reshape(kept), shape).reshape(-1)
        return cls(place, sample, group, weights)

    def products(self, table: Floats, row: Any) -> Products:
        """Of the rows of `table` [R, N, T] that places have, `row` [U]."""
        if self.group is None:
            return Products(table * table, table.sum(1) ** 2, row)
        count, kinds = int(self.group[-1]) + 1, len(table)
        shares = csr_array((self.weights, (self.group, row)), shape=(count, kinds))
        means = (shares @ table.reshape(kinds, -1) / shares.sum(1)[:, None]).reshape(count, *table.shape[1:])
        used, pair = np.unique(self.group * kinds + row, return_inverse=True)
        one, other = used % kinds, used // kinds
        return Products(table[one] * means[other], table.sum(1)[one] * means.sum(1)[other], pair)

    def within(self, products: Products) -> tuple[Floats, Any]:
        """Products in the same sample, [·, T], and which of these each element has, [V]."""
        each, place = products.each, products.pair[self.place]
        if self.sample is None:
            return each.mean(1), place
        return each.reshape(-1, each.shape[2]), place * each.shape[1] + self.sample


def alike(columns: Any) -> tuple[Any, Any]:
    """The different rows of integers [S, K], and which of them each is."""
    size = int(columns.max()) + 1
    code, largest = columns[:, 0], size
    for column in columns.T[1:]:
        if largest > _LARGEST // size:
            found, code = np.unique(code, return_inverse=True)
            largest = len(found)
        code, largest = code * size + column, largest * size
    _, back = np.unique(code, return_inverse=True)
    return columns[first_places(back)], back
