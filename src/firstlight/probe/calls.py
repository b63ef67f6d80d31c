"""Which of PyTorch's loss functions a loss calls, and what it does to the model's output before."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from firstlight.graph.vocabulary import SHAPE
from firstlight.probe.run import LossCall


def _is_loss(function: Any) -> bool:
    if not inspect.isfunction(function):
        return False
    names = list(inspect.signature(function).parameters)
    return names[:2] == ["input", "target"]


_LOSSES = {function: name for name, function in vars(torch.nn.functional).items() if _is_loss(function)}

# What changes how a tensor is stored, read or differentiated, and not its numbers.
_SAME_NUMBERS = SHAPE | frozenset(
    {"__getitem__", "__get__", "float", "double", "half", "bfloat16", "cpu", "cuda", "requires_grad_", "data"}
)


class Listener(TorchFunctionMode):
    """While it is on, it notes calls of PyTorch's loss functions.

    Args:
        output: what the model returned.
        nodes: names of the graph's nodes for its tensors, in their order.
    """

    def __init__(self, output: Any, nodes: Sequence[str]) -> None:
        super().__init__()
        self.calls: list[LossCall] = []
        self._path = WeakTensorKeyDictionary()  # tensor -> (node, functions applied since)
        tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        for tensor, node in zip(tensors, nodes, strict=True):
            self._path[tensor] = (node, ())

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _LOSSES:
            self._note(func, args, kwargs)
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) and result not in self._path:
            known = (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf in self._path)
            source = next(known, None)
            if source is not None:
                node, between = self._path[source]
                name = func.__name__
                self._path[result] = (node, between if name in _SAME_NUMBERS else (*between, name))
        return result

    def _note(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            given = dict(inspect.signature(func).bind(*args, **kwargs).arguments)
        except TypeError:
            return  # the call itself will say so
        first, target = given.pop("input"), given.pop("target")
        node, between = self._path.get(first, (None, ()))
        arguments = {key: value for key, value in given.items() if value is not None}
        self.calls.append(
            LossCall(_LOSSES[func], first.detach(), target.detach(), arguments, None if between else node, between)
        )
