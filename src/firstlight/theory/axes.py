"""What the dimensions of a tensor mean, kept through views, permutations and reshapes.

The statistics of a network at initialization depend on three kinds of index: the **batch** (``b``; other samples), the
**channel** (``c``; other rows of a fresh weight, so independent given the mean) and the **site** (``s``; other pixels
or tokens of the same sample, which share their weights and are correlated). A reshape may merge kinds into one
dimension (windows of several images) and split them again, so a dimension is a product of factors.
"""

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from firstlight._typing import Floats

Factor: TypeAlias = tuple[str, int]
Axis: TypeAlias = tuple[Factor, ...]
Axes: TypeAlias = tuple[Axis, ...]


def label(shape: Sequence[int], kinds: str) -> Axes:
    """Axes of one kind each: ``label((2, 3, 8, 8), "bcss")``."""
    return tuple(((kind, size),) for kind, size in zip(kinds, shape, strict=True))


def guess(shape: Sequence[int], batch: int) -> Axes:
    """Axes of a tensor of unknown origin: images and sequences lead with the batch; channels come second in
    [N, C, *sites], last otherwise."""
    kinds = ["b" if k == 0 and size == batch else "s" for k, size in enumerate(shape)]
    channel = 1 if len(shape) >= 4 else len(shape) - 1
    if shape and (channel > 0 or kinds[0] != "b"):
        kinds[channel] = "c"
    return label(shape, "".join(kinds))


def size(axes: Axes, kind: str, dims: Sequence[int] | None = None) -> int:
    """Number of different indices of `kind` along `dims` (all dimensions by default)."""
    chosen = axes if dims is None else [axes[d] for d in dims]
    return math.prod(n for axis in chosen for k, n in axis if k == kind)


def main_kind(axis: Axis) -> str:
    """The kind that a dimension mostly is: the largest factor's."""
    return max(axis, key=lambda factor: factor[1])[0] if axis else "s"


def permute(axes: Axes, order: Sequence[int]) -> Axes:
    """Axes after ``permute(order)``."""
    return tuple(axes[d] for d in order)


def reshape(axes: Axes, shape: Sequence[int]) -> Axes:
    """Axes after ``reshape(shape)``: the flat list of factors, cut again where the new dimensions end.

    A cut that no factor allows (it would need a fraction of an index) gives the rest of the dimension the kind of the
    factor at hand.
    """
    waiting = [factor for axis in axes for factor in axis if factor[1] != 1]
    out: list[Axis] = []
    for wanted in shape:
        taken: list[Factor] = []
        left = wanted
        while left > 1 and waiting:
            kind, n = waiting.pop(0)
            use = math.gcd(n, left) if n > left or left % n else n
            if use == 1:
                taken.append((kind, left))
                left = 1
                break
            taken.append((kind, use))
            left //= use
            if n > use:
                waiting.insert(0, (kind, n // use))
        out.append(tuple(taken) or (("s", 1),))
    return tuple(out)


def resized(axes: Axes, shape: Sequence[int]) -> Axes:
    """The same dimensions with other sizes (after a slice, a join, a pooling)."""
    return tuple(
        axis if math.prod(n for _, n in axis) == n_new else ((main_kind(axis), n_new),)
        for axis, n_new in zip(axes, shape, strict=True)
    )


def lag_weights(sizes: Sequence[int], lags: Sequence[int]) -> Floats:
    """The share of all pairs of sites, each with itself too, that lie at each lag; `lags` are counted per dimension."""
    weights = np.ones(())
    for n, most in zip(sizes, lags, strict=True):
        weights = np.multiply.outer(
            weights, np.array([(1 if k == 0 else 2) * max(n - k, 0) / n**2 for k in range(most)])
        )
    return weights
