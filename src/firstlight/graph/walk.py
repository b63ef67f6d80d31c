"""Questions about paths: where a weight comes from, where a value goes, which nonlinearity it meets."""

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from firstlight.graph.ir import Graph, Node
from firstlight.graph.vocabulary import ACTIVATION, DROPOUT, JOIN, NORMALIZATION, POOLING, SHAPE

# What is done to parameters before they meet the signal: parts put together, positions resized to the image.
_PREPARATION = JOIN | {name for name in POOLING if name.startswith("upsample")}


@dataclass(frozen=True, slots=True)
class Activation:
    """A nonlinearity as the network applies it: a function of one number.

    Attributes:
        function: ATen name (``"leaky_relu"``).
        arguments: its settings (``{"negative_slope": 0.1}``).
        gated: true when the network multiplies the argument by the function, as in ``x * sigmoid(x)``.
        node: name of the node that applies it.
    """

    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)
    gated: bool = False
    node: str = ""

    def __call__(self, x: Tensor) -> Tensor:
        """Apply it elementwise; random slopes take their mean, learned ones the value He et al. (2015) start with."""
        if self.function == "prelu":
            y = torch.nn.functional.leaky_relu(x, 0.25)
        elif self.function == "glu":
            y = x.sigmoid()  # the gate; the other half has second moment one and is independent of it
        else:
            settings = dict(self.arguments) | ({"training": False} if self.function == "rrelu" else {})
            y = getattr(torch.ops.aten, self.function)(x, **settings)
        return x * y if self.gated else y

    def __str__(self) -> str:
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
        for user in graph.users(name):
            if _is_activation(user, name):
                return Activation(user.function, user.arguments, _gates_itself(graph, user), user.name)
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


def _gates_itself(graph: Graph, activation: Node) -> bool:
    pair = {activation.name, activation.inputs[0]}
    return any(user.function == "mul" and set(user.inputs) == pair for user in graph.users(activation.name))


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
