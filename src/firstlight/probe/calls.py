"""Which of PyTorch's loss functions were called, and what was done to the model's output before."""

import inspect
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from firstlight.graph import Node
from firstlight.graph.record import Recording
from firstlight.graph.vocabulary import SHAPE
from firstlight.probe.run import LossCall


def _is_loss(function: Any) -> bool:
    return inspect.isfunction(function) and list(inspect.signature(function).parameters)[:2] == ["input", "target"]


_LOSSES = {function: name for name, function in vars(torch.nn.functional).items() if _is_loss(function)}
# The same losses where the recorder sees them inside a model: ATen names, and how ATen writes a reduction.
_ATEN = {name: name for name in _LOSSES.values()} | {"cross_entropy_loss": "cross_entropy", "nll_loss_nd": "nll_loss"}
_REDUCTIONS = ("none", "mean", "sum")

# What changes how a tensor is stored, read or differentiated, and not its numbers.
_SAME_NUMBERS = SHAPE | frozenset(
    {"getitem", "get", "float", "double", "half", "bfloat16", "cpu", "cuda", "requires_grad"}
)


class Listener(TorchFunctionMode):
    """While it is on, calls of PyTorch's loss functions are noted in `calls`."""

    def __init__(self, recording: Recording) -> None:
        super().__init__()
        self.calls: list[LossCall] = []
        tensors = [leaf for leaf in tree_leaves(recording.result) if isinstance(leaf, Tensor)]
        # Tensor -> the node it comes from, and what the loss has done to it since.
        self._path: Any = WeakTensorKeyDictionary()
        for tensor, node in zip(tensors, recording.graph.outputs, strict=True):
            self._path[tensor] = (node, ())

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _LOSSES:
            self._note(func, args, kwargs)
        known = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf in self._path]
        result = func(*args, **kwargs)
        if known:
            node, between = self._path[known[0]]
            name = func.__name__.strip("_")  # without the marks of operators and in-place functions
            path = (node, between if name in _SAME_NUMBERS else (*between, name))
            for leaf in tree_leaves(result):
                if isinstance(leaf, Tensor):
                    self._path[leaf] = path
        return result

    def _note(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            given = dict(inspect.signature(func).bind(*args, **kwargs).arguments)
            first, target = given.pop("input"), given.pop("target")
        except (TypeError, KeyError):
            return  # the call itself will say what is wrong with it
        if not (isinstance(first, Tensor) and isinstance(target, Tensor)):
            return
        node, between = self._path.get(first, (None, ()))
        arguments = {key: value for key, value in given.items() if value is not None}
        node = None if between else node
        self.calls.append(LossCall(_LOSSES[func], first.detach(), target.detach(), arguments, node, between))


class Inside:
    """An observer for `record`: notes the losses that the model computes itself.

    Args:
        inputs: tensors among the model's arguments, in their order.
    """

    def __init__(self, inputs: list[Tensor]) -> None:
        self._calls: list[LossCall] = []
        # Held weakly: a loss's arguments are alive while it is computed.
        self._tensors = {f"input.{i}": weakref.ref(tensor) for i, tensor in enumerate(inputs)}

    def __call__(self, node: Node, tensor: Tensor) -> None:
        """Note one result, and the call that made it when that is a loss."""
        self._tensors[node.name] = weakref.ref(tensor)
        if node.op not in _ATEN or len(node.inputs) < 2:
            return
        found = [self._tensors.get(name) for name in node.inputs[:2]]
        first, target = (None if reference is None else reference() for reference in found)
        if first is None or target is None:
            return
        arguments = dict(node.arguments)
        if "reduction" in arguments:
            arguments["reduction"] = _REDUCTIONS[arguments["reduction"]]
        self._calls.append(LossCall(_ATEN[node.op], first.detach(), target.detach(), arguments, node.inputs[0]))

    def calls(self, names: Mapping[str, str]) -> list[LossCall]:
        """What was noted, with the nodes' final names."""
        return [
            LossCall(call.function, call.input, call.target, call.arguments, names.get(call.node or ""))
            for call in self._calls
        ]
