"""From operator calls to nodes: what both ways of tracing share, so that both give the same graph."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload

from firstlight.graph.constants import Constants
from firstlight.graph.ir import Graph, Kind, Node

# Calls that move a value without changing what it is; their result is the node of their argument.
BOOKKEEPING = frozenset({"lift_fresh", "lift_fresh_copy", "detach_", "alias", "requires_grad_"})

# Arguments that say where a tensor lives or which library computes it: no part of what is computed, and different
# between a meta and a real run.
_PLACEMENT = frozenset(
    {"device", "layout", "pin_memory", "memory_format", "generator", "cudnn_enable", "cudnn_enabled"}
)

# Operations that take the shape of their argument and nothing else of it.
_SHAPE_ONLY = frozenset(
    {"new_zeros", "new_ones", "new_full", "new_empty", "zeros_like", "ones_like", "full_like", "empty_like"}
)


@dataclass(frozen=True, slots=True)
class Ref:
    """Stands for a tensor among the arguments of a call: the name of its node."""

    name: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the model a call happened."""

    module: str
    call: int
    source: str | None


class Builder:
    """Collects nodes one call at a time and closes them into a `Graph`.

    The caller translates its tensors (or its traced values) to `Ref` and keeps what `add` returns.
    """

    def __init__(self, model: nn.Module) -> None:
        self._nodes: dict[str, Node] = {}
        self._inputs = 0
        self._viewed: dict[str, str] = {}  # a view's node -> the node whose memory it shares
        self._varying: set[str] = set()  # operations whose result differs from run to run: random, or unknown
        self._overwritten: dict[str, str] = {}  # a node -> the node that holds its memory's value now
        self._constants = Constants()
        self._parameters = {}
        for name, parameter in model.named_parameters():
            self._parameters[name] = Node(
                name, "parameter", "parameter", _owner(name), shape=tuple(parameter.shape), dtype=_dtype(parameter)
            )
        self._nodes.update(self._parameters)
        for name, buffer in model.named_buffers():
            self._leaf(name, "buffer", buffer)

    def input(self, tensor: Tensor) -> Ref:
        """Add the next tensor of the example."""
        return self._leaf(f"input.{self._inputs}", "input", tensor)

    def constant(self, tensor: Tensor) -> Ref:
        """Add a tensor that the model holds or makes outside of ATen."""
        ref = self._leaf(self._draft(), "constant", tensor)
        self._constants.keep(ref.name, tensor)
        return ref

    def _leaf(self, name: str, kind: Kind, tensor: Tensor) -> Ref:
        self._inputs += kind == "input"
        module = _owner(name) if kind == "buffer" else ""
        self._nodes[name] = Node(name, kind, kind, module, shape=tuple(tensor.shape), dtype=_dtype(tensor))
        return Ref(name)

    def add(self, op: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any, place: Place) -> Any:
        """Add one operator call.

        Args:
            op: the operator; anything that is not an ``aten`` overload becomes an opaque node.
            args: its positional arguments, with `Ref` for tensors.
            kwargs: its keyword arguments, likewise.
            result: what it returned: a tensor (real, meta or fake), or a tuple or list with tensors in it.
            place: where the call happened.

        Returns:
            `Ref` for the result, in the shape of `result`: one, or a tuple with ``None`` for what is no tensor.
        """
        bound = _bind(op, args, kwargs)
        read = [(role, self._now(ref.name)) for role, value in bound.items() for ref in _refs(value)]
        name = op_name(op)
        if name in BOOKKEEPING and read:
            return Ref(read[0][1])
        if name in _SHAPE_ONLY:
            read = []
        known = isinstance(op, OpOverload) and op.namespace == "aten"
        several = not isinstance(result, Tensor)
        node = self._node(name, "op" if known else "opaque", place, read, bound, None if several else result)
        if not known or torch.Tag.nondeterministic_seeded in op.tags:
            self._varying.add(node.name)
        elif isinstance(op, OpOverload) and self._constants.cover(node.inputs):
            settings = {key: self._valued(value) for key, value in kwargs.items()}
            self._constants.follow(node, op, [self._valued(arg) for arg in args], settings, result)
        if isinstance(op, OpOverload):
            self._follow_memory(op, node, bound, place)
        if not several:
            return Ref(node.name)
        return tuple(self.part(node, i, part) if isinstance(part, Tensor) else None for i, part in enumerate(result))

    def _valued(self, argument: Any) -> Any:
        """An argument with values in the place of constants, and shapes in that of other tensors."""
        if isinstance(argument, list | tuple):
            return [self._valued(item) for item in argument]
        if not isinstance(argument, Ref):
            return argument
        known = self._constants.value(self._now(argument.name))
        if known is not None:
            return known
        node = self._nodes[argument.name]
        return torch.empty(node.shape or (), dtype=getattr(torch, node.dtype or "float32"), device="meta")

    def part(self, whole: Node, index: int, tensor: Tensor) -> Ref:
        """Add (or find again) element `index` of what the node `whole` returned."""
        name = f"{whole.name}[{index}]"
        if name not in self._nodes:
            self._nodes[name] = Node(
                name, whole.kind, "getitem", whole.module, whole.call, (whole.name,), ("self",),
                arguments={"index": index},
                shape=tuple(tensor.shape), dtype=_dtype(tensor), source=whole.source,
            )  # fmt: skip
            self._constants.part(name, whole.name, index)
            if whole.name in self._viewed:
                self._viewed[name] = self._viewed[whole.name]
        return Ref(name)

    def _node(
        self,
        op: str,
        kind: Kind,
        place: Place,
        read: list[tuple[str, str]],
        bound: Mapping[str, Any],
        result: Tensor | None,
    ) -> Node:
        node = Node(
            name=self._draft(),
            kind=kind,
            op=op,
            module=place.module,
            call=place.call,
            inputs=tuple(name for _, name in read),
            roles=tuple(role for role, _ in read),
            parameters=tuple((role, name) for role, name in read if name in self._parameters),
            arguments={k: _plain(v) for k, v in bound.items() if _is_setting(k, v)},
            shape=None if result is None else tuple(result.shape),
            dtype=None if result is None else _dtype(result),
            source=place.source,
        )
        self._nodes[node.name] = node
        return node

    def _follow_memory(self, op: OpOverload, node: Node, bound: Mapping[str, Any], place: Place) -> None:
        """Note who shares whose memory, and pass an in-place change of a view on to the tensor that was viewed."""
        for argument in op._schema.arguments:
            value = bound.get(argument.name)
            if argument.alias_info is None or not isinstance(value, Ref):
                continue
            target = self._now(value.name)
            base = self._viewed.get(value.name)
            if not argument.alias_info.is_write:
                self._viewed[node.name] = base or value.name
                continue
            if base is None:
                self._overwritten[target] = node.name
                continue
            current = self._nodes[self._now(base)]
            read = [("self", current.name), ("src", node.name)]
            written = self._node("write", "op", place, read, {}, None)
            self._nodes[written.name] = replace(written, shape=current.shape, dtype=current.dtype)
            self._overwritten[current.name] = written.name
            if self._constants.cover([node.name]):  # what was written is in the memory that both share
                self._constants.keep(written.name, self._constants.value(current.name))

    def _now(self, name: str) -> str:
        while name in self._overwritten:
            name = self._overwritten[name]
        return name

    def node(self, name: str) -> Node:
        """The draft of the node `name`."""
        return self._nodes[name]

    def _draft(self) -> str:
        """A name for the time being: the final one depends on which nodes stay."""
        return f"%{len(self._nodes)}"

    def finish(self, outputs: Sequence[Ref], how: str) -> tuple[Graph, dict[str, str]]:
        """Close the graph: drop what no output depends on (a norm's step counter), fold constants, give names.

        Returns:
            The graph, and the final name of each node by the name it had while it was drafted.
        """
        returned = tuple(self._now(ref.name) for ref in outputs)
        nodes = _live(_folded(self._nodes.values(), self._varying, self._constants), returned)
        rank = {kind: place for place, kind in enumerate(("input", "parameter", "buffer", "constant"))}
        nodes.sort(key=lambda node: rank.get(node.kind, len(rank)))
        names = _final_names(nodes)
        final = tuple(
            replace(
                node,
                name=names[node.name],
                inputs=tuple(names[name] for name in node.inputs),
            )
            for node in nodes
        )
        return Graph(final, tuple(names[name] for name in returned), how), names


def _folded(nodes: Iterable[Node], varying: set[str], constants: Constants) -> list[Node]:
    """Make a constant of every operation that neither an input nor a weight nor chance reaches."""
    fixed: set[str] = set()
    folded = []
    for node in nodes:
        computed = node.kind in ("op", "opaque") and node.name not in varying
        if node.kind == "constant" or (computed and fixed.issuperset(node.inputs)):
            fixed.add(node.name)
            if node.shape is not None:
                value = constants.final(node)
                node = Node(node.name, "constant", "constant", shape=node.shape, dtype=node.dtype, value=value)
        folded.append(node)
    return folded


def _live(nodes: Sequence[Node], returned: Sequence[str]) -> list[Node]:
    live = set(returned)
    for node in reversed(nodes):
        if node.name in live:
            live.update(node.inputs)
    return [node for node in nodes if node.name in live or node.kind in ("input", "parameter")]


def _final_names(nodes: Iterable[Node]) -> dict[str, str]:
    """Readable names that depend only on the place of a node in the model and its turn there."""
    counts: Counter[tuple[str, int, str]] = Counter()
    names = {}
    for node in nodes:
        if node.kind in ("input", "parameter", "buffer"):
            names[node.name] = node.name
            continue
        if node.op == "getitem":
            names[node.name] = f"{names[node.inputs[0]]}[{node.arguments['index']}]"
            continue
        repeat = counts[node.module, node.call, node.op]
        counts[node.module, node.call, node.op] += 1
        where = node.module + (f"@{node.call}" if node.call else "")
        names[node.name] = (f"{where}:" if where else "") + node.op + (f"#{repeat}" if repeat else "")
    return names


def op_name(op: Any) -> str:
    """Readable name of an operator: ``conv2d`` for ``aten.conv2d.default``, ``torchvision::nms`` for a custom one."""
    if isinstance(op, OpOverload):
        name = op._schema.name
        return name.removeprefix("aten::")
    return str(getattr(op, "__name__", op))


def _bind(op: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Give every argument its name, and every omitted one its default, so that two spellings of a call are equal."""
    if not isinstance(op, OpOverload):
        return {**{f"arg{i}": arg for i, arg in enumerate(args)}, **kwargs}
    bound = {}
    for position, argument in enumerate(op._schema.arguments):
        if position < len(args):
            bound[argument.name] = args[position]
        elif argument.name in kwargs:
            bound[argument.name] = kwargs[argument.name]
        elif argument.has_default_value():
            bound[argument.name] = argument.default_value
    return bound


def _refs(value: Any) -> list[Ref]:
    if isinstance(value, Ref):
        return [value]
    if isinstance(value, list | tuple):
        return [ref for item in value for ref in _refs(item)]
    return []


def _is_setting(name: str, value: Any) -> bool:
    return name not in _PLACEMENT and value is not None and not isinstance(value, Ref) and not _refs(value)


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_plain(item) for item in value)
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    return value if isinstance(value, bool | int | float | str) else str(value)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _owner(name: str) -> str:
    return name.rpartition(".")[0]
