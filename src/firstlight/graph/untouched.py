"""Look at a model, even run and differentiate it, and leave no trace."""

import contextlib
import random
from collections.abc import Iterator

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
    modules = [_Attributes(module) for module in model.modules()]
    held = [tensor for module in modules for tensor in module.tensors()]
    tensors = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers(), *held]}
    saved = [_Saved(tensor) for tensor in tensors.values()]
    with kept_random():
        try:
            yield
        finally:
            for module in modules:
                module.restore()
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


class _Attributes:
    """A module's own state: its attributes, and what is in those that are plain containers (hooks, submodules)."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.values = dict(module.__dict__)
        self.contents = {
            key: value.copy() for key, value in self.values.items() if isinstance(value, dict | list | set)
        }

    def tensors(self) -> list[Tensor]:
        """Tensors that the module holds without having registered them."""
        return [value for value in self.values.values() if isinstance(value, Tensor)]

    def restore(self) -> None:
        self.module.__dict__.clear()
        self.module.__dict__.update(self.values)
        for key, content in self.contents.items():
            # Into the container that was there, so that a hook's handle, or a list held elsewhere, still works.
            container = self.values[key]
            container.clear()
            container.extend(content) if isinstance(container, list) else container.update(content)
