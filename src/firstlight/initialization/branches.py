"""Residual branches: where a sum joins what went through weights with what went past them."""

from dataclasses import dataclass

from firstlight.graph import Graph, fans
from firstlight.graph.vocabulary import NORMALIZATION


@dataclass(frozen=True, slots=True)
class Branch:
    """One residual branch.

    Attributes:
        add: name of the node that joins it with the shortcut.
        weights: parameters of the sums in it, in the order of use, each once.
        norm: scale parameter of a normalization behind its last weight; ``None`` without one.
    """

    add: str
    weights: tuple[str, ...]
    norm: str | None


def branches(graph: Graph) -> tuple[Branch, ...]:
    """The residual branches in the order in which they end.

    At a sum of two signals, weights that lead to one operand and not to the other are that operand's own. Where only
    one has any, it is the branch and the other the shortcut; where both have (a projection on the shortcut), the branch
    is the one with more; where they have as many, the sum joins equals and nothing is residual.
    """
    weighted = {fan.node: fan.parameter for fan in reversed(fans(graph)) if not fan.op.startswith("embedding")}
    bits = {name: 1 << k for k, name in enumerate(weighted)}
    behind: dict[str, int] = {}
    found = []
    for node in graph.nodes:
        mask = bits.get(node.name, 0)
        for name in node.inputs:
            mask |= behind[name]
        behind[node.name] = mask
        operands = [name for name in node.inputs if name in graph.signal]
        if node.function != "add" or len(set(operands)) != 2:
            continue
        one, two = (behind[name] for name in operands)
        own = sorted((one & ~two, two & ~one), key=int.bit_count)
        if not own[1] or own[0].bit_count() == own[1].bit_count() or (not one & two and own[0]):
            continue
        inside = sorted((name for name, bit in bits.items() if own[1] & bit), key=graph.turn)
        ends = operands[0] if own[1] == one & ~two else operands[1]
        names = tuple(dict.fromkeys(weighted[name] for name in inside))
        found.append(Branch(node.name, names, _norm(graph, inside[-1], ends)))
    return tuple(found)


def _norm(graph: Graph, last: str, end: str) -> str | None:
    """Scale of the normalization on the way back from `end`, when there is one before the weight `last`."""
    name = end
    while name != last and graph[name].inputs:
        node = graph[name]
        if node.function in NORMALIZATION:
            return dict(node.parameters).get("weight")
        name = node.inputs[0]
    return None
