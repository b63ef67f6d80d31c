"""An operation that arranges or selects elements, carried out on a map of moments, and its adjoint.

A map is a tensor's own shape only where it varies, so an operation is given no more of it than it looks at.
"""

import itertools
import math
import operator
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from firstlight.graph import Node
from firstlight.graph.vocabulary import SPLIT
from firstlight.theory.maps.registry import shape_of
from firstlight.theory.runs import full
from firstlight.theory.signal import Signal, compress

PERMUTING = frozenset(
    {"permute", "transpose", "t", "numpy_T", "mT", "matrix_H", "movedim", "moveaxis", "swapaxes", "swapdims"}
)
RESHAPING = frozenset(
    {"view", "reshape", "unflatten", "flatten", "squeeze", "unsqueeze", "view_as", "reshape_as", "_unsafe_view"}
)
_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19)


def carried_out(node: Node, value: Tensor) -> Any:
    """Carry the node's operation out on `value`."""
    if node.function in ("view", "reshape", "view_as", "reshape_as", "_unsafe_view", "unsafe_view"):
        return value.reshape(shape_of(node))
    if node.function in ("expand", "expand_as", "broadcast_to"):
        return value.expand(shape_of(node))
    if node.function.startswith("upsample_nearest"):
        return torch.nn.functional.interpolate(value, size=shape_of(node)[2:], mode="nearest")
    settings = {k: v for k, v in node.arguments.items() if k != "dtype"}
    if isinstance(settings.get("value"), float) and math.isinf(settings["value"]):
        settings["value"] = float(value.detach().mean())  # what a maximum never sees is like the rest
    return getattr(torch.ops.aten, node.function)(value, **settings)


def mapped(node: Node, x: Signal, values: Tensor, index: int | None, zero_fill: bool) -> Tensor:
    """A map over `x` as one over the result; over its part `index`, where it has several."""
    rank = len(shape_of(node) if index is None else ())
    if values.numel() == 1 and not zero_fill and index is None:
        return values.reshape((1,) * rank)
    if _reshapes(node, x):
        return compress(regrouped(values, x.shape, shape_of(node)))
    alike = [d for d in _untouched(node, len(x.shape)) if values.shape[d] == 1]
    result = carried_out(node, values.expand([1 if d in alike else n for d, n in enumerate(x.shape)]))
    return compress(result if index is None else result[index])


def _reshapes(node: Node, x: Signal) -> bool:
    return node.function in RESHAPING and math.prod(shape_of(node)) == math.prod(x.shape)


def _untouched(node: Node, rank: int) -> dict[int, int]:
    """Dimensions along which the operation treats all indices alike, so that one is enough of a map that does not vary
    there; and which of the result's each of them is."""
    if node.function in PERMUTING:
        return {d: k for k, d in enumerate(order(node, rank))}
    if node.function in ("constant_pad_nd", "pad"):
        return {d: d for d in range(rank - len(node.arguments["pad"]) // 2)}
    if node.function in ("roll", "flip") and node.arguments.get("dims"):
        return {d: d for d in set(range(rank)) - {int(moved) % rank for moved in node.arguments["dims"]}}
    if node.function in SPLIT:
        dim, lost = int(node.arguments.get("dim", 0)) % rank, node.function in ("select", "unbind")
        return {d: d - (lost and d > dim) for d in range(rank) if d != dim}
    return {}


def regrouped(values: Tensor, old: Sequence[int], new: Sequence[int]) -> Tensor:
    """A map over a tensor of shape `old` as one over the same numbers in shape `new`, not wider than it has to be.

    Where the first dimensions of both shapes have as many elements, both can be cut; a map that does not vary along the
    dimensions between two cuts does not after them.
    """
    ends = [list(itertools.accumulate(shape, operator.mul)) for shape in (old, new)]
    cuts = sorted(set(ends[0]) & set(ends[1]))
    before, after = ([bisect_left(cuts, end) for end in of] for of in ends)
    varied = {part for part, n in zip(before, values.shape, strict=True) if n > 1}
    seen, wanted = (
        [n if part in varied else 1 for part, n in zip(parts, shape, strict=True)]
        for parts, shape in ((before, old), (after, new))
    )
    return values.expand(seen).reshape(wanted)


def order(node: Node, rank: int) -> list[int]:
    """Which dimension each of the result's was."""
    marked = carried_out(node, torch.empty(_PRIMES[:rank], device="meta"))
    return [_PRIMES.index(n) for n in marked.shape]


def adjoint(node: Node, x: Signal, values: Tensor, index: int | None) -> Tensor:
    """A map over the result, or its part `index`, as one over `x`: what is read several times is summed."""
    if _reshapes(node, x):
        return compress(regrouped(values, shape_of(node), x.shape))
    alike = [d for d, after in _untouched(node, len(x.shape)).items() if values.shape[after] == 1]
    with torch.enable_grad():
        shape = [1 if d in alike else n for d, n in enumerate(x.shape)]
        start = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
        result = carried_out(node, start)
        part = result if index is None else result[index]
        (back,) = torch.autograd.grad(part, start, full(values).expand(part.shape))
    return compress(back)
