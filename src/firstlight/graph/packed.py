"""How many matrices one matrix holds, found by following its outputs to where the network cuts them apart."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from firstlight.graph.ir import Graph, Node
from firstlight.graph.vocabulary import SHAPE, SPLIT

# Conversions, which would damage the numbers that mark the outputs, and move nothing.
_CONVERSION = frozenset({"to", "type_as", "detach", "clone", "contiguous"})

_Step = tuple[str, tuple[tuple[str, Any], ...]]  # an operation and its settings


def parts(graph: Graph, node: Node, axis: int) -> int:
    """Into how many equal, disjoint groups the network cuts the outputs of `node`, which lie along `axis`.

    The outputs are numbered, the numbers are sent through the very shape operations the network applies, and the pieces
    are compared: that reads every layout (rows stacked, heads interleaved, transposed) without knowing any.

    Returns:
        The number of groups; 1 when the outputs are not cut, or cut along another axis.
    """
    path: list[Node] = []
    value = node
    while True:
        users = graph.users(value.name)
        cuts = [user for user in users if user.function in SPLIT]
        if cuts:
            return _groups(node.shape or (), axis, tuple(map(_step, path)), tuple(map(_step, cuts)))
        if len(users) != 1 or users[0].function not in SHAPE or len(users[0].inputs) != 1:
            return 1
        value = users[0]
        path.append(value)


def _step(node: Node) -> _Step:
    return node.function, tuple(node.arguments.items())


@lru_cache(maxsize=256)
def _groups(shape: tuple[int, ...], axis: int, path: tuple[_Step, ...], cuts: tuple[_Step, ...]) -> int:
    """The comparison itself; a network repeats its blocks, so most answers are known already."""
    outputs = shape[axis]
    along = [1] * len(shape)
    along[axis] = outputs
    # On the CPU even where the model is built on the meta device, whose numbers cannot be compared.
    marked = torch.arange(outputs, device="cpu").view(along).expand(shape)
    for step in path:
        marked = _apply(step, marked)
    pieces: list[Tensor] = []
    for cut in cuts:
        piece = _apply(cut, marked)
        pieces.extend(piece if isinstance(piece, list | tuple) else [piece])
    held = torch.stack([torch.bincount(piece.flatten(), minlength=outputs) > 0 for piece in pieces])
    disjoint = bool((held.sum(0) == 1).all())
    return len(pieces) if disjoint and len(held.sum(1).unique()) == 1 else 1


def _apply(step: _Step, value: Tensor) -> Any:
    function, arguments = step
    if function in _CONVERSION:
        return value
    return getattr(torch.ops.aten, function)(value, **dict(arguments))
