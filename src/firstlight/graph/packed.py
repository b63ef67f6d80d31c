"""How many matrices one matrix holds, found by following its outputs to where the network cuts them apart."""

from typing import Any

import torch
from torch import Tensor

from firstlight.graph.ir import Graph, Node
from firstlight.graph.vocabulary import SHAPE, SPLIT

# Conversions, which would damage the numbers that mark the outputs, and move nothing.
_CONVERSION = frozenset({"to", "type_as", "detach", "clone", "contiguous"})


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
            return _compare(node, axis, path, cuts)
        if len(users) != 1 or users[0].function not in SHAPE or len(users[0].inputs) != 1:
            return 1
        value = users[0]
        path.append(value)


def _compare(node: Node, axis: int, path: list[Node], cuts: list[Node]) -> int:
    shape = node.shape or ()
    outputs = shape[axis]
    along = [1] * len(shape)
    along[axis] = outputs
    marked = torch.arange(outputs, dtype=torch.int32).view(along).expand(shape)
    for step in path:
        marked = _apply(step, marked)
    pieces: list[Tensor] = []
    for cut in cuts:
        piece = _apply(cut, marked)
        pieces.extend(piece if isinstance(piece, list | tuple) else [piece])
    groups = [set(piece.unique().tolist()) for piece in pieces]
    disjoint = sum(map(len, groups)) == len(set().union(*groups)) == outputs
    return len(groups) if disjoint and len({len(group) for group in groups}) == 1 else 1


def _apply(step: Node, value: Tensor) -> Any:
    if step.function in _CONVERSION:
        return value
    return getattr(torch.ops.aten, step.function)(value, **step.arguments)
