"""One channel at a time: what a norm makes of channels that have not been mixed since a function was applied to them.

A depthwise convolution reads a function ``f(z)`` of one Gaussian field. How large that is at each place varies from
channel to channel: where a sample lies above zero in this channel, ``silu(z)`` is large there, and it is the whole
channel's size that a batch norm after the convolution divides by. So the places that make a channel large count for
less after it: with ``e_i`` the square at place ``i`` and ``S`` its mean over places, by ``E (e_i/S)/(E e_i/E S)``, over
fields that have themselves been normalized. The integral goes over all places at once; quasi-random points take it
(Caflisch, "Monte Carlo and quasi-Monte Carlo methods", 1998), the same in every run.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from firstlight.theory.anchors import GRID, POINTS, Anchors, coarser

_FIELDS, _NODES = 512, 5


@lru_cache(maxsize=8)
def _normal(places: int) -> Tensor:
    points = torch.quasirandom.SobolEngine(places, scramble=True, seed=0).draw(_FIELDS, dtype=torch.float64)
    return torch.special.ndtri(points.clamp(1e-9, 1 - 1e-9))


def evened(x: Anchors, sites: Sequence[int]) -> Tensor | None:
    """The factor above for each block of `x`, [M]; ``None`` where channels are mixed.

    Args:
        x: after a function, and a convolution within channels.
        sites: of `x`.
    """
    if x.lone is None:
        return None
    base, mean, f = x.lone
    base = coarser(base, sites)
    if base.own.shape != x.own.shape:
        return None
    fine = max(base.grid) > GRID
    few = base.blocks() if fine else base
    factor = of_field(few.values - mean**2, few.own - mean**2, lambda z: f.call(z + mean)).view(-1, *few.grid)
    for d in range(len(few.grid) if fine else 0):
        factor = factor.repeat_interleave(POINTS, 1 + d)
    return factor.reshape(-1)


def of_field(values: Tensor, own: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
    """The same for a function of a field.

    Args:
        values: E z z' between two places of two blocks of a field of mean zero, [M, M].
        own: E z² in each block, [M]; what single places have of their own is averaged over them.
        f: an elementwise function.
    """
    eigenvalues, vectors = torch.linalg.eigh(values)
    root = vectors * eigenvalues.clamp_min(0).sqrt()
    z = _normal(len(values)) @ root.T
    rest = (own - root.square().sum(1)).clamp_min(0)
    z = z - z.mean(1, keepdim=True)
    sizes = (z.square() + rest).mean(1, keepdim=True)
    scale = (sizes.mean() / sizes.clamp_min(1e-300)).sqrt()
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    first, square = torch.zeros_like(z), torch.zeros_like(z)
    for node, weight in zip(nodes, weights / weights.sum(), strict=True):
        y = f((z + float(node) * rest.sqrt()) * scale)
        first += float(weight) * y
        square += float(weight) * y**2
    level = first.mean(1, keepdim=True)
    squares = (square - 2 * level * first + level**2).clamp_min(0)
    whole = squares.mean(1, keepdim=True).clamp_min(1e-300)
    return (squares / whole).mean(0) / (squares.mean(0) / whole.mean()).clamp_min(1e-300)
