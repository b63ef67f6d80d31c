"""Residual branches: where a sum joins what went through weights with what went past them."""

from collections.abc import Iterator
from dataclasses import dataclass

from firstlight.graph import Fan, Graph, Node, fans
from firstlight.graph.vocabulary import NORMALIZATION, PRODUCT
from firstlight.graph.walk import origin

_GATES = frozenset({"sigmoid", "hardsigmoid", "softmax", "tanh"})


@dataclass(frozen=True, slots=True)
class End:
    """What sets the size of a branch's result, the last thing on the way to the sum.

    Attributes:
        parameter: its name.
        function: what it does there: ``"batch_norm"`` or another normalization, whose scale it is; ``"mul"``, for a
            scale by itself (LayerScale); or the operation whose weight it is (``"conv2d"``).
    """

    parameter: str
    function: str

    @property
    def is_weight(self) -> bool:
        """Whether it is the weight of a sum."""
        return self.function not in NORMALIZATION and self.function != "mul"


@dataclass(frozen=True, slots=True)
class Branch:
    """One residual branch.

    Attributes:
        add: name of the node that joins it with the shortcut.
        weights: parameters of the sums in it, in the order of use, each once.
        ends: what sets the size of its result; several, where it ends in a sum or a concatenation.
    """

    add: str
    weights: tuple[str, ...]
    ends: tuple[End, ...]


def branches(graph: Graph) -> tuple[Branch, ...]:
    """The residual branches in the order in which they end.

    At a sum of two signals, weights that lead to one operand and not to the other are that operand's own. Where only
    one has any, it is the branch and the other the shortcut; where both have (a projection on the shortcut), the branch
    is the one with more; where they have as many, the sum joins equals and nothing is residual.
    """
    weighted = {fan.node: fan for fan in reversed(fans(graph)) if not fan.op.startswith("embedding")}
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
        start = operands[0] if own[1] == one & ~two else operands[1]
        within = {name for name, mask in behind.items() if mask & own[1]}
        ends = dict.fromkeys(_ends(graph, start, {name: weighted[name] for name in inside}, within))
        found.append(Branch(node.name, tuple(dict.fromkeys(weighted[name].parameter for name in inside)), tuple(ends)))
    return tuple(found)


def _ends(graph: Graph, result: str, inside: dict[str, Fan], within: set[str]) -> Iterator[End]:
    """Go back from a branch's result to what sets its size, on each way that leads to weights of the branch."""
    waiting, seen = [result], {result}
    while waiting:
        node = graph[waiting.pop()]
        found = _end(graph, node, inside)
        if found is not None:
            yield found
            continue
        for name in _carriers(graph, node):
            if name in within and name not in seen:
                seen.add(name)
                waiting.append(name)


def _end(graph: Graph, node: Node, inside: dict[str, Fan]) -> End | None:
    if node.name in inside:
        return End(inside[node.name].parameter, inside[node.name].op)
    if node.function not in NORMALIZATION and node.function != "mul":
        return None
    scales = [name for name in node.inputs if name not in graph.signal]
    role = node.input_for("weight") if node.function != "mul" else (scales[0] if scales else None)
    parameter = None if role is None else origin(graph, role)
    return None if parameter is None else End(parameter.name, node.function)


def _carriers(graph: Graph, node: Node) -> list[str]:
    """The signals that make up the result; a gate only scales it."""
    read = [name for name in node.inputs if name in graph.signal]
    if len(read) < 2:
        return read
    if node.function == "mul":
        return [name for name in read if not _is_gate(graph, name)] or read[:1]
    values = node.input_for(
        "value" if node.function == "scaled_dot_product_attention" else PRODUCT.get(node.function, "")
    )
    return read if values is None else [values]


def _is_gate(graph: Graph, name: str) -> bool:
    """Whether the signal is the result of a function between zero and one, whatever its shape has been made since."""
    node = graph[name]
    while node.function in ("expand", "expand_as", "view", "reshape", "unsqueeze", "permute", "transpose"):
        node = graph[node.inputs[0]]
    return node.function in _GATES
