"""Look at a model, even run and differentiate it, and leave no trace."""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Put `model` and every random generator back exactly as they were, whatever happens inside, errors included.

    Covers the values of parameters and buffers (a copy is held meanwhile), which tensors they are, gradients,
    ``requires_grad``, train and eval modes, hooks, submodules, plain attributes of modules, and the random states of
    PyTorch (CPU, and CUDA once it is in use), NumPy and Python.
    """
    modules = [(module, _attributes(module)) for module in model.modules()]
    tensors = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    saved = [_Saved(tensor) for tensor in tensors.values()]
    with kept_random():
        try:
            yield
        finally:
            for module, attributes in modules:
                _restore(module, attributes)
            for state in saved:
                state.restore()


@contextlib.contextmanager
def kept_random() -> Iterator[None]:
    """Put the random generators of PyTorch, NumPy and Python back afterwards."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    cpu, python, numpy = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        torch.set_rng_state(cpu)
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


class _Saved:
    """One parameter or buffer as it was: its memory, its values and its gradient."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.memory = tensor.data
        self.values = tensor.detach().clone()
        self.requires_grad = tensor.requires_grad
        self.grad = tensor.grad
        self.grad_values = None if tensor.grad is None else tensor.grad.detach().clone()
        self.hooks = dict(tensor._backward_hooks or {})

    def restore(self) -> None:
        with torch.no_grad():
            self.tensor.data = self.memory
            if not self.tensor.is_meta and not _identical(self.memory, self.values):
                self.tensor.data.copy_(self.values)
            self.tensor.grad = self.grad
            if self.grad is not None and self.grad_values is not None:
                self.grad.copy_(self.grad_values)
        if self.tensor.requires_grad != self.requires_grad:
            self.tensor.requires_grad_(self.requires_grad)
        if self.tensor._backward_hooks is not None:
            for handle in set(self.tensor._backward_hooks) - set(self.hooks):
                del self.tensor._backward_hooks[handle]


def _identical(one: Tensor, other: Tensor) -> bool:
    """Equal bit for bit: a copy is then needless, and would count as a change to whoever watches the tensor."""
    return torch.equal(one, other)


def _attributes(module: nn.Module) -> dict[str, Any]:
    """A module's own state; its registries (parameters, hooks, submodules) are copied, what they hold is not."""
    return {key: _copied(value) for key, value in module.__dict__.items()}


def _copied(value: Any) -> Any:
    return value.copy() if isinstance(value, dict | list | set) else value


def _restore(module: nn.Module, attributes: dict[str, Any]) -> None:
    current = module.__dict__
    for key in current.keys() - attributes.keys():
        del current[key]
    for key, value in attributes.items():
        if isinstance(value, dict | set) and type(current.get(key)) is type(value):
            # the same registry object, so that handles that know it still work
            current[key].clear()
            current[key].update(value)
        else:
            current[key] = value
