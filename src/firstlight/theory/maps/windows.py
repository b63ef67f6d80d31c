"""Sliding windows as one small matrix per spatial dimension.

A convolution with independent zero-mean weights of variance s² maps second moments linearly: an output sums, for each
tap inside the image, the second moment of the input under that tap, and products of different taps vanish. For a
rectangular kernel the sum over taps factors into one banded 0/1 matrix ``A: [out, in]`` per dimension, so zero padding
is the field ``A_h q A_wᵀ`` rather than a number. The backward pass is the transpose, and a transposed convolution is
the same matrix the other way round, which shows its output phases.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from firstlight.theory.mixture import even
from firstlight.theory.runs import Runs


@lru_cache(maxsize=1024)
def _matrices(n: int, out: int, kernel: int, stride: int, before: int, dilation: int, spread: bool) -> Tensor:
    """``A[o, i] = 1`` where a tap of output `o` reads input `i`; see `window` for `spread`."""
    matrix = torch.zeros(out, n, dtype=torch.float64)
    for tap in range(kernel):
        places = torch.arange(out) * stride + tap * dilation - before
        inside = (places >= 0) & (places < n)
        share = float(inside.double().mean()) if spread else 1.0
        matrix[torch.arange(out)[inside], places[inside]] += share
    return matrix


class Window:
    """The taps of a convolution or a pooling over the last dimensions of a map.

    Args:
        sizes: input sites per dimension.
        outs: output sites per dimension.
        kernel: taps per dimension.
        stride: per dimension.
        before: padding before the first site, per dimension.
        dilation: per dimension.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        outs: Sequence[int],
        kernel: Sequence[int],
        stride: Sequence[int],
        before: Sequence[int],
        dilation: Sequence[int],
    ) -> None:
        settings = list(zip(sizes, outs, kernel, stride, before, dilation, strict=True))
        self.same = [_matrices(*setting, False) for setting in settings]
        self.pairs = [_matrices(*setting, True) for setting in settings]
        self.settings = settings
        self.kernel = tuple(kernel)
        self.stride = tuple(stride)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the taps inside; `values` has the spatial dimensions last, each full or 1."""
        return _along(values, self.same, adjoint=False)

    def pair_sum(self, values: Tensor) -> Tensor:
        """The same for the product of two sites, averaged over the second: both must have the tap inside.

        A map of such averages is ``f_i = a_i E a_j`` for a product ``a_i a_j``. The ``j`` that a tap leaves out lie at
        a border, where ``a`` is not what it is on average: each counts by the sum of `values` along its dimension.
        """
        first = values.dim() - len(self.pairs)
        return _along(values, [self._shared(values, k, first + k) for k in range(len(self.pairs))], adjoint=False)

    def _shared(self, values: Tensor, k: int, dim: int) -> Tensor:
        if values.shape[dim] == 1:
            return self.pairs[k]
        sums = values.mean([d for d in range(values.dim()) if d != dim])
        if float(sums.min()) <= 0:  # what has no sign of its own is no product of sizes
            return self.pairs[k]
        n, out, kernel, stride, before, dilation = self.settings[k]
        matrix, sizes = torch.zeros(out, n, dtype=torch.float64), sums / sums.mean()
        for tap in range(kernel):
            places = torch.arange(out) * stride + tap * dilation - before
            inside = (places >= 0) & (places < n)
            matrix[torch.arange(out)[inside], places[inside]] += float(sizes[places[inside]].sum()) / out
        return matrix

    def scatter(self, values: Tensor) -> Tensor:
        """The transpose of `sum`: each input collects from the outputs that read it."""
        return _along(values, self.same, adjoint=True)

    def pair_scatter(self, values: Tensor) -> Tensor:
        """The transpose of `sum` for products of two inputs, averaged over the second.

        Two inputs are read through the same tap only when both lie on that tap's comb, a site for each output.
        """
        thin = math.prod(out / n for n, out, *_ in self.settings)
        return _along(values, self.pairs, adjoint=True) * thin


def scattered(profile: Tensor | None, window: Window) -> Tensor | None:
    """A gradient's profile at the inputs of a window, which collect from those that read them.

    How many read an input is no part of it: where none does, as between the taps of a stride, the nearest stands.
    """
    if profile is None:
        return None
    reads = window.scatter(torch.ones_like(profile))
    found = window.scatter(profile)
    nearest = torch.nn.functional.interpolate(profile, size=tuple(found.shape[2:]), mode="nearest")
    return even(torch.where(reads > 0, found / reads.clamp_min(1e-9), nearest))


def _along(values: Tensor, matrices: list[Tensor], *, adjoint: bool) -> Tensor:
    first = values.dim() - len(matrices)
    for k, matrix in enumerate(matrices):
        values = _one(values, first + k, matrix.T if adjoint else matrix)
    return values


def _one(values: Tensor, dim: int, matrix: Tensor) -> Tensor:
    if isinstance(values, Runs) and values.along != dim:
        return values.over(lambda slices: _one(slices, dim, matrix))
    if values.shape[dim] == 1:
        sums = matrix.sum(1)
        if bool((sums == sums[0]).all()):
            return values * sums[0]
        shape = [1] * values.dim()
        shape[dim] = len(sums)
        return values * sums.view(shape)
    return torch.movedim(torch.tensordot(matrix, values, dims=([1], [dim])), 0, dim)


def each(value: Any, dimensions: int) -> tuple[int, ...]:
    """A setting for each dimension; ATen also takes one number for all, or none for the default."""
    if isinstance(value, int):
        return (value,) * dimensions
    numbers = tuple(int(v) for v in value)
    return numbers if len(numbers) == dimensions else numbers * dimensions


def leading_padding(padding: Any, kernel: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    """Sites of zero padding in front; "same" puts the smaller half there, as PyTorch does."""
    if padding == "valid":
        return (0,) * len(kernel)
    if padding == "same":
        return tuple(d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True))
    return each(padding, len(kernel))
