"""The first way to a graph: ``torch.export``, which runs the model on tensors that have shapes and no values."""

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind
from torch.utils._pytree import tree_map

from firstlight.graph.build import Builder, Place, Ref
from firstlight.graph.ir import Graph
from firstlight.graph.names import TORCH, Names


def export(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, how: str) -> Graph:
    """Trace `model` with ``torch.export`` (non-strict), silently.

    Raises:
        Exception: whatever ``torch.export`` raises on a model whose control flow depends on values.
    """
    with quiet():
        program = torch.export.export(model, args, dict(kwargs), strict=False)
    return _Reader(model, program).read(how)


def on_meta(model: nn.Module) -> nn.Module:
    """A copy of `model` whose parameters and buffers have shapes and no memory; tied ones stay tied."""
    memo: dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        twin: Tensor = tensor.detach().to("meta")
        memo[id(tensor)] = nn.Parameter(twin, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else twin
    return copy.deepcopy(model, memo)


def to_meta(value: Any) -> Any:
    """`value` with each tensor in it replaced by one of the same shape on the meta device."""
    return tree_map(lambda leaf: leaf.detach().to("meta") if isinstance(leaf, Tensor) else leaf, value)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence logs, warnings and standard error: a failed export writes megabytes to all three."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


class _Reader:
    """Turns an exported program into nodes."""

    def __init__(self, model: nn.Module, program: torch.export.ExportedProgram) -> None:
        self.program = program
        self.names = Names(model)
        self.builder = Builder(model)
        self.refs: dict[fx.Node, Any] = {}
        self.calls: dict[str, list[str]] = {}

    def read(self, how: str) -> Graph:
        placeholders = [node for node in self.program.graph.nodes if node.op == "placeholder"]
        specs = self.program.graph_signature.input_specs
        for node, spec in zip(placeholders, specs, strict=True):
            self.refs[node] = self._placeholder(node.meta.get("val"), spec)
        outputs = self._run(self.program.graph_module)
        user = len(self.program.graph_signature.user_outputs)
        returned = outputs[len(outputs) - user :] if user else ()
        return self.builder.finish([ref for ref in returned if isinstance(ref, Ref)], how)[0]

    def _placeholder(self, value: Any, spec: Any) -> Any:
        if not isinstance(value, Tensor):
            return None
        if spec.kind is InputKind.PARAMETER:
            return Ref(self.names.parameter(spec.target))
        if spec.kind is InputKind.BUFFER:
            return Ref(self.names.buffer(spec.target))
        if spec.kind is InputKind.USER_INPUT:
            return self.builder.input(value)
        return value  # a constant: it becomes a node when it is first read

    def _run(self, module: fx.GraphModule) -> tuple[Any, ...]:
        """Visit the calls of `module` in order; returns the refs of its outputs."""
        for node in module.graph.nodes:
            if node.op == "get_attr":
                self.refs[node] = getattr(module, str(node.target), None)
            elif node.op == "call_function":
                self.refs[node] = self._call(node)
            elif node.op == "output":
                returned = self._translate(node.args[0])
                return tuple(returned) if isinstance(returned, list | tuple) else (returned,)
        return ()

    def _call(self, node: fx.Node) -> Any:
        args, kwargs = self._translate(node.args), self._translate(node.kwargs)
        bodies = [arg for arg in args if isinstance(arg, fx.GraphModule)]
        if len(bodies) == 1:
            return self._inline(bodies[0], args)
        value = node.meta.get("val")
        if getattr(node.target, "__name__", "") == "getitem":
            return self._part(node, value)
        if not _holds_tensor(value):
            return None
        return self.builder.add(node.target, args, kwargs, value, self._place(node))

    def _inline(self, body: fx.GraphModule, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Read a region wrapped in a context (``no_grad``, ``autocast``) as if it were not wrapped."""
        operands = args[args.index(body) + 1 :]
        placeholders = [node for node in body.graph.nodes if node.op == "placeholder"]
        self.refs.update(zip(placeholders, operands, strict=True))
        return self._run(body)

    def _part(self, node: fx.Node, value: Any) -> Any:
        whole, index = self._translate(node.args)
        return whole[index] if isinstance(whole, tuple) else None

    def _translate(self, value: Any) -> Any:
        if isinstance(value, fx.Node):
            found = self.refs.get(value)
            if isinstance(found, Tensor):
                found = self.refs[value] = self.builder.constant(found)
            return found
        if isinstance(value, list | tuple):
            return (
                type(value)(self._translate(item) for item in value)
                if type(value) in (list, tuple)
                else tuple(self._translate(item) for item in value)
            )
        if isinstance(value, Mapping):
            return {key: self._translate(item) for key, item in value.items()}
        return value

    def _place(self, node: fx.Node) -> Place:
        stack = node.meta.get("nn_module_stack") or {"": ("", "")}
        key, (path, _) = list(stack.items())[-1]
        module = self.names.module(path)
        # Each call has its own key, made of the name the module was called by and how often it was called by it.
        keys = self.calls.setdefault(module, [])
        if key not in keys:
            keys.append(key)
        return Place(module, keys.index(key), _source(node.meta.get("stack_trace")))


def _holds_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, list | tuple) and any(isinstance(v, Tensor) for v in value))


def _source(trace: str | None) -> str | None:
    """The innermost line of a stack trace that is not PyTorch's own."""
    for line in reversed((trace or "").splitlines()):
        if line.lstrip().startswith('File "'):
            _, path, rest = line.split('"', 2)
            if TORCH not in Path(path).parents:
                return f"{path}:{rest.split('line ')[1].split(',')[0]}"
    return None
