"""The graph itself: plain frozen values that know nothing of how they were found."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from torch import Tensor

from firstlight._text import table

Kind = Literal["input", "parameter", "buffer", "constant", "op", "opaque"]


@dataclass(frozen=True, slots=True)
class Node:
    """One value in the network: something that goes in, a weight, or the result of one operation.

    Attributes:
        name: unique; a weight's dotted name, or ``module@call:op#repeat`` (``layer1.0.relu@1:relu_``), where ``@call``
            appears from the second call of the module on and ``#repeat`` from the second such operation in that call.
        kind: ``"op"`` for an ATen operation, ``"opaque"`` for one whose meaning ATen does not define, ``"constant"``
            for what depends on neither an input nor a weight (a mask, a grid of positions).
        op: readable ATen name (``"conv2d"``, ``"relu_"`` in place), ``"getitem"`` for one part of a tuple, ``"write"``
            for a tensor of which an in-place operation changed a part.
        module: dotted path of the innermost module that ran it; empty for the model itself.
        call: how many times that module had been called before; 0 for the first call.
        inputs: names of the tensors it reads, in the order of the operation's arguments.
        roles: the argument each input is for (``"input"``, ``"weight"``, ``"other"``), parallel to `inputs`.
        parameters: ``(role, parameter name)`` for each parameter among the inputs.
        arguments: the other arguments by name, defaults filled in (``{"stride": (2, 2), "groups": 1}``).
        shape: shape of the result; ``None`` when the operation returns several tensors.
        dtype: element type of the result (``"float32"``); ``None`` when there are several.
        source: ``file:line`` of the innermost line outside PyTorch that the tracer saw; ``None`` when there is none.
            Two nodes that differ only here are equal: the ways of tracing see different depths.
        value: of a constant, where it is known and not too large; no part of what makes two nodes equal.
    """

    name: str
    kind: Kind
    op: str
    module: str = ""
    call: int = 0
    inputs: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    parameters: tuple[tuple[str, str], ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    source: str | None = field(default=None, compare=False)
    value: Tensor | None = field(default=None, compare=False, repr=False)

    @property
    def function(self) -> str:
        """The operation without PyTorch's mark for "in place": ``relu_`` and ``relu`` are the same function."""
        return self.op[:-1] if self.op.endswith("_") and not self.op.endswith("__") else self.op

    def input_for(self, role: str) -> str | None:
        """Name of the first input that plays `role`, or ``None``."""
        return next((name for name, played in zip(self.inputs, self.roles, strict=True) if played == role), None)


@dataclass(frozen=True)
class Graph:
    """A network's operations in the order they run.

    Attributes:
        nodes: inputs, then parameters and buffers in the model's order, then constants, then operations as they run.
        outputs: names of the nodes the model returns, in the order of the flattened result.
        how: which way the graph was found, and why not the better one.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    how: str

    def __str__(self) -> str:
        head = ("operation", "reads", "shape", "source")
        rows = [
            (node.name, ", ".join(node.inputs), "×".join(map(str, node.shape or ())), node.source or "")
            for node in self.operations
        ]
        return f"{len(rows)} operations, {self.how}\n{table(head, rows)}"

    @cached_property
    def _by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def _users(self) -> dict[str, tuple[Node, ...]]:
        users: dict[str, list[Node]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                users[name].append(node)
        return {name: tuple(found) for name, found in users.items()}

    @cached_property
    def _turns(self) -> dict[str, int]:
        return {node.name: turn for turn, node in enumerate(self.nodes)}

    def __getitem__(self, name: str) -> Node:
        return self._by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def users(self, name: str) -> tuple[Node, ...]:
        """The nodes that read `name`, in the order they run."""
        return self._users[name]

    def turn(self, name: str) -> int:
        """Position of `name` among the nodes: what runs later has a higher one."""
        return self._turns[name]

    @cached_property
    def signal(self) -> frozenset[str]:
        """Names of everything that depends on the model's inputs; what does not is weights, masks and constants."""
        reached: set[str] = set()
        for node in self.nodes:
            if node.kind == "input" or not reached.isdisjoint(node.inputs):
                reached.add(node.name)
        return frozenset(reached)

    @cached_property
    def operations(self) -> tuple[Node, ...]:
        """Everything that computes: operations and opaque nodes, in the order they run."""
        return tuple(node for node in self.nodes if node.kind in ("op", "opaque"))

    @cached_property
    def parameters(self) -> tuple[Node, ...]:
        """Every parameter of the model, reached or not, in the model's order; tied parameters once."""
        return tuple(node for node in self.nodes if node.kind == "parameter")

    @cached_property
    def opaque(self) -> tuple[Node, ...]:
        """Operations whose meaning is unknown: custom operators and control flow."""
        return tuple(node for node in self.nodes if node.kind == "opaque")

    @cached_property
    def unreached(self) -> tuple[str, ...]:
        """Parameters that no operation on the way to the outputs reads."""
        return tuple(node.name for node in self.parameters if not self.users(node.name))
