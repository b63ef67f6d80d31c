"""Fan-in and fan-out of every weight, derived from the operation that uses it.

`torch.nn.init` derives them from the weight's shape, which cannot know groups, strides, transposition or packing:

* convolution, ``W: [Cout, Cin/g, *k]``, stride ``s``. One output sums one number per input channel of its group and per
  tap: ``fan_in = Cin/g · ∏k``. One input is read by the ``Cout/g`` outputs of its group, at the positions whose window
  covers it; a window starts every ``s`` pixels, so on average ``∏k/s`` of them do: ``fan_out = Cout/g · ∏k/s``.
  Dilation spreads the taps and changes neither.
* transposed convolution, ``W: [Cin, Cout/g, *k]``. It is the adjoint: one input writes to ``∏k`` places in ``Cout/g``
  channels, ``fan_out = Cout/g · ∏k``; outputs of different phase receive different numbers of taps, ``∏k/s`` on
  average: ``fan_in = Cin/g · ∏k/s``.
* a matrix that holds several (the query, key and value projections of attention; a gate beside its value): each output
  still sums all inputs, and each part has its own outputs: ``fan_out = rows/parts``.
* an embedding selects one row and sums nothing: ``fan_in = 1``.

Borders are left out: padding makes both smaller near the edge, by a field that depends on the position.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from firstlight.graph.ir import Graph, Node
from firstlight.graph.packed import parts
from firstlight.graph.vocabulary import CONVOLUTION, LEFT_OPERAND, PRODUCT, RECURRENT, TRANSPOSED
from firstlight.graph.walk import Activation, next_activation, origin


@dataclass(frozen=True, slots=True)
class Fan:
    """How many numbers a weight sums, and into how many sums each of its inputs goes.

    Attributes:
        parameter: name of the parameter that is, or becomes, the weight.
        node: name of the operation that uses it.
        op: that operation's function (``"conv2d"``).
        fan_in: inputs of one output, averaged over outputs.
        fan_out: outputs of one input, averaged over inputs, within one part.
        parts: how many matrices are packed into the parameter.
        activation: the nonlinearity that its result meets first; ``None`` when the next weight comes before one.
        derivation: how `fan_in` came about, in words and numbers.
    """

    parameter: str
    node: str
    op: str
    fan_in: float
    fan_out: float
    parts: int
    activation: Activation | None
    derivation: str


@dataclass(frozen=True, slots=True)
class _Count:
    role: str  # the argument that holds the weight
    fan_in: float
    fan_out: float
    axis: int  # the axis of the result that holds the outputs
    derivation: str


def fans(graph: Graph) -> tuple[Fan, ...]:
    """The fans of every weight in the order of use; a tied or reused weight once for each use."""
    return tuple(fan for node in graph.operations for fan in _of(graph, node))


def _of(graph: Graph, node: Node) -> Iterator[Fan]:
    if node.function in RECURRENT:
        yield from _recurrent(graph, node)
        return
    for weight, count in _counts(graph, node):
        parameter = origin(graph, weight)
        if parameter is None:
            continue
        held = math.prod(parameter.shape or ()) // max(1, math.prod(graph[weight].shape or ()))
        cut = parts(graph, node, count.axis)
        text = count.derivation + (f"; {held * cut} matrices packed in one" if held * cut > 1 else "")
        yield Fan(
            parameter.name, node.name, node.function, count.fan_in, count.fan_out / cut, held * cut,
            next_activation(graph, node), text,
        )  # fmt: skip


def _counts(graph: Graph, node: Node) -> Iterator[tuple[str, _Count]]:
    """Each operand of `node` that may be a weight, with what it counts."""
    function = node.function
    if function == "einsum":
        yield from _einsum(graph, node)
        return
    for role, count in (
        ("weight", _convolution if function in CONVOLUTION else _transposed if function in TRANSPOSED else None),
        ("weight", {"linear": _linear, "embedding": _embedding, "embedding_bag": _embedding}.get(function)),
        (PRODUCT.get(function, ""), _right if function in PRODUCT else None),
        (LEFT_OPERAND.get(function, ""), _left if function in LEFT_OPERAND else None),
    ):
        weight = node.input_for(role)
        if count is not None and weight is not None and len(graph[weight].shape or ()) > 1:
            yield weight, count(node, graph[weight].shape or ())


def _convolution(node: Node, shape: tuple[int, ...]) -> _Count:
    (outputs, inputs, *kernel), groups = shape, node.arguments["groups"]
    taps = math.prod(kernel)
    stride = math.prod(_each(node.arguments["stride"], len(kernel)))
    text = f"{inputs} input channels{_grouped(groups)} × {_times(kernel)} taps"
    return _Count("weight", inputs * taps, outputs / groups * taps / stride, 1, text)


def _transposed(node: Node, shape: tuple[int, ...]) -> _Count:
    (inputs, outputs, *kernel), groups = shape, node.arguments["groups"]
    stride = _each(node.arguments["stride"], len(kernel))
    taps = math.prod(kernel)
    text = (
        f"{inputs // groups} input channels{_grouped(groups)} × {_times(kernel)} taps "
        f"spread over {_times(stride)} output phases"
    )
    return _Count("weight", inputs / groups * taps / math.prod(stride), outputs * taps, 1, text)


def _linear(node: Node, shape: tuple[int, ...]) -> _Count:
    return _Count("weight", shape[1], shape[0], -1, f"{shape[1]} inputs")


def _embedding(node: Node, shape: tuple[int, ...]) -> _Count:
    return _Count("weight", 1, shape[1], -1, "one row is selected, nothing is summed")


def _right(node: Node, shape: tuple[int, ...]) -> _Count:
    return _Count("other", shape[-2], shape[-1], -1, f"{shape[-2]} rows of the right-hand matrix")


def _left(node: Node, shape: tuple[int, ...]) -> _Count:
    return _Count("self", shape[-1], shape[-2], -2, f"{shape[-1]} columns of the left-hand matrix")


def _einsum(graph: Graph, node: Node) -> Iterator[tuple[str, _Count]]:
    """Letters of the weight that the result lacks are summed; letters that only the weight brings are outputs."""
    equation = str(node.arguments["equation"]).replace(" ", "").replace("...", "")
    left, _, right = equation.partition("->")
    terms = left.split(",")
    for i, (name, letters) in enumerate(zip(node.inputs, terms, strict=False)):
        shape = graph[name].shape or ()
        if len(shape) != len(letters):
            continue
        size = dict(zip(letters, shape, strict=True))
        others = set("".join(terms[:i] + terms[i + 1 :]))
        summed = [size[letter] for letter in letters if letter not in right]
        made = [letter for letter in letters if letter in right and letter not in others]
        axis = right.index(made[-1]) - len(right) if made else -1
        fan_out = math.prod(size[letter] for letter in made)
        yield name, _Count("tensors", math.prod(summed), fan_out, axis, f"{_times(summed or [1])} summed in {equation}")


def _recurrent(graph: Graph, node: Node) -> Iterator[Fan]:
    gates = RECURRENT[node.function]
    for role, name in zip(node.roles, node.inputs, strict=True):
        parameter, shape = graph[name], graph[name].shape or ()
        if role == "params" and parameter.kind == "parameter" and len(shape) == 2:
            packed = f"; {gates} gates packed in one" if gates > 1 else ""
            yield Fan(
                name, node.name, node.function, shape[1], shape[0] / gates, gates, None, f"{shape[1]} inputs{packed}"
            )


def _each(value: int | tuple[int, ...], dimensions: int) -> tuple[int, ...]:
    """A setting for each dimension; ATen also takes one number for all of them."""
    numbers = (value,) if isinstance(value, int) else tuple(value)
    return numbers if len(numbers) == dimensions else numbers * dimensions


def _grouped(groups: int) -> str:
    return f" of one of {groups} groups" if groups > 1 else ""


def _times(sizes: list[int] | tuple[int, ...]) -> str:
    return "×".join(str(size) for size in sizes)
