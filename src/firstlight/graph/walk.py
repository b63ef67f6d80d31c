"""Questions about paths: where a weight comes from, where a value goes, which nonlinearity it meets."""

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from firstlight.graph.ir import Graph, Node
from firstlight.graph.vocabulary import ACTIVATION, DROPOUT, JOIN, NORMALIZATION, POOLING, SHAPE

# Functions of one number; of several, when these are all functions of one.
_SCALAR = frozenset({"add", "sub", "rsub", "mul", "div", "neg"})
_POINTWISE = (ACTIVATION - {"glu", "prelu", "rrelu"}) | _SCALAR | {"pow", "exp", "log1p", "expm1"}

# What is done to parameters before they meet the signal: parts put together, positions resized to the image.
_PREPARATION = (
    JOIN
    | {name for name in POOLING if name.startswith("upsample")}
    | {"tile", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"}
)


@dataclass(frozen=True, slots=True)
class Activation:
    """A nonlinearity as the network applies it: a function of one number.

    Attributes:
        function: ATen name (``"leaky_relu"``).
        arguments: its settings (``{"negative_slope": 0.1}``).
        gated: true when the network goes on to another function of the same argument, as in ``x * sigmoid(x)``.
        node: name of the node that applies it.
        steps: then, the operations that make up the whole, in order; empty for ``x * function(x)``.
    """

    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)
    gated: bool = False
    node: str = ""
    steps: tuple[Node, ...] = ()

    def __call__(self, x: Tensor) -> Tensor:
        """Apply it elementwise; random slopes take their mean, learned ones the value He et al. (2015) start with."""
        if self.steps:
            return self._written_out(x)
        if self.function == "prelu":
            y = torch.nn.functional.leaky_relu(x, 0.25)
        elif self.function == "glu":
            y = x.sigmoid()  # the gate; the other half has second moment one and is independent of it
        else:
            settings = dict(self.arguments) | ({"training": False} if self.function == "rrelu" else {})
            y = getattr(torch.ops.aten, self.function)(x, **settings)
        return x * y if self.gated else y

    def _written_out(self, x: Tensor) -> Tensor:
        made: dict[str, Tensor] = {}
        for step in self.steps:
            read = {role: made.get(name, x) for role, name in zip(step.roles, step.inputs, strict=True)}
            made[step.name] = getattr(torch.ops.aten, step.function)(**read, **step.arguments)
        return made[self.steps[-1].name]

    def __str__(self) -> str:
        if self.steps:
            return ", ".join(step.function for step in self.steps)
        shown = ", ".join(f"{key}={value:g}" for key, value in self.arguments.items() if isinstance(value, float))
        return ("x·" if self.gated else "") + self.function + (f"({shown})" if shown else "")


def next_activation(graph: Graph, start: Node) -> Activation | None:
    """The first nonlinearity that the result of `start` meets.

    The walk passes through what keeps a signal's kind: shape operations, normalization, pooling, dropout, sums, joins,
    and products with something that is no signal (a learned scale, a random mask). The next weight ends it.
    """
    waiting, seen = [(graph.turn(start.name), start.name)], {start.name}
    while waiting:
        _, name = heapq.heappop(waiting)
        if (found := _function_of(graph, name)) is not None:
            return found
        for user in graph.users(name):
            if _is_activation(user, name):
                return Activation(user.function, user.arguments, node=user.name)
            if user.name not in seen and _passes(user, name, graph.signal):
                seen.add(user.name)
                heapq.heappush(waiting, (graph.turn(user.name), user.name))
    return None


def _is_activation(user: Node, name: str) -> bool:
    """Whether `user` is a function of `name` alone; a clamp between tensors, say, is not."""
    alone = len(user.inputs) == 1 or user.function == "prelu"
    return user.function in ACTIVATION and alone and user.inputs[0] == name


def _passes(user: Node, name: str, signal: frozenset[str]) -> bool:
    if user.function in NORMALIZATION or user.function in DROPOUT or user.function == "clamp":
        return user.inputs[0] == name
    if user.function in ("mul", "div"):
        return not any(other in signal for other in user.inputs if other != name)
    return user.function in SHAPE or user.function in POOLING or user.function in JOIN


def _function_of(graph: Graph, start: str) -> Activation | None:
    """The function of one number that the network applies to `start`, from all the operations it writes it in.

    ``x * tanh(softplus(x))`` is one function, and so are ``x * relu6(x + 3) / 6`` and ``relu(x) ** 2``: it goes on from
    its first nonlinearity as long as nothing else reads its result and nothing else comes in.
    """
    inside = _pointwise(graph, start)
    first = next((graph[name] for name in inside if graph[name].function in ACTIVATION), None)
    if first is None:
        return None
    last = first
    while len(graph.users(last.name)) == 1 and graph.users(last.name)[0].name in inside:
        last = graph.users(last.name)[0]
    needed, waiting = set(), [last.name]
    while waiting:
        name = waiting.pop()
        if name not in needed and name != start:
            needed.add(name)
            waiting += graph[name].inputs
    steps = tuple(graph[name] for name in inside if name in needed)
    gates = [s.function for s in steps] == [first.function, "mul"] and set(last.inputs) == {start, first.name}
    return Activation(
        first.function, first.arguments, len(steps) > 1, first.name, () if gates or len(steps) == 1 else steps
    )


def _pointwise(graph: Graph, start: str) -> list[str]:
    """What is computed from each element of `start` alone, in order."""
    inside, waiting = {start: None}, [(graph.turn(user.name), user.name) for user in graph.users(start)]
    heapq.heapify(waiting)
    while waiting:
        _, name = heapq.heappop(waiting)
        if name not in inside and graph[name].function in _POINTWISE and inside.keys() >= set(graph[name].inputs):
            inside[name] = None
            for user in graph.users(name):
                heapq.heappush(waiting, (graph.turn(user.name), user.name))
    return list(inside)[1:]


def origin(graph: Graph, name: str) -> Node | None:
    """The parameter that the weight `name` is a view or a part of, or is computed from.

    A computed weight (weight norm, spectral norm, standardized convolution) comes from the one parameter with as many
    elements as it has itself; ``None`` when there is no such parameter.
    """
    node = graph[name]
    while node.function in SHAPE and node.inputs:
        node = graph[node.inputs[0]]
    if node.kind == "parameter":
        return node
    size = _elements(graph[name])
    ancestors, waiting = set(), [name]
    while waiting:
        for parent in graph[waiting.pop()].inputs:
            if parent not in ancestors:
                ancestors.add(parent)
                waiting.append(parent)
    found = [node for node in graph.parameters if node.name in ancestors and _elements(node) == size]
    return found[0] if len(found) == 1 and name not in graph.signal else None


def uses(graph: Graph, parameter: str) -> Iterator[tuple[Node, str, tuple[Node, ...]]]:
    """Where a parameter takes effect: each operation that reads it, past any change of its shape and
    size and any joining with other parameters.

    Yields:
        The operation, the role the parameter plays there, and the operations on the way.
    """
    waiting: list[tuple[str, tuple[Node, ...]]] = [(parameter, ())]
    seen = {parameter}
    while waiting:
        name, path = waiting.pop(0)
        for user in graph.users(name):
            for played, source in zip(user.roles, user.inputs, strict=True):
                if source != name:
                    continue
                arranged = user.function in SHAPE and source == user.inputs[0]
                prepared = user.function in _PREPARATION and graph.signal.isdisjoint(user.inputs)
                if arranged or prepared:
                    if user.name not in seen:
                        seen.add(user.name)
                        waiting.append((user.name, (*path, user)))
                else:
                    yield user, played, path


def _elements(node: Node) -> int:
    return torch.Size(node.shape or ()).numel()
