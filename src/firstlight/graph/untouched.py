"""Look at a model, even run and differentiate it, and leave no trace."""

import contextlib
import random
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Put `model` and every random generator back exactly as they were, whatever happens inside, errors included.

    Covers the values of parameters and buffers (a copy is held meanwhile), which tensors they are, gradients,
    ``requires_grad``, train and eval modes, hooks, submodules, plain attributes of modules (with what is in their
    lists, dicts, sets, tensors and arrays), and the random states of PyTorch (CPU, and CUDA once it is in use), NumPy
    and Python.
    """
    modules = [_Attributes(module) for module in model.modules()]
    held = [tensor for module in modules for tensor in module.tensors]
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
        self.hooks = [set(registry) for registry in self._registries()]

    def _registries(self) -> list[dict[int, Any]]:
        """Hooks on the gradient, before and after it is accumulated."""
        after = getattr(self.tensor, "_post_accumulate_grad_hooks", None)
        return [self.tensor._backward_hooks or {}, after or {}]

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
        for registry, before in zip(self._registries(), self.hooks, strict=True):
            for handle in set(registry) - before:
                del registry[handle]


def _identical(one: Tensor, other: Tensor) -> bool:
    """Equal bit for bit: a copy is then needless, and would count as a change to whoever watches the tensor."""
    bits = _BITS.get(one.element_size()) if one.layout == torch.strided and not one.is_quantized else None
    # As numbers, 0 and -0 would be equal, and NaN would not be equal to itself.
    return torch.equal(one, other) if bits is None else torch.equal(one.view(bits), other.view(bits))


class _Attributes:
    """A module's own state: its attributes, and what is in those that can change (hooks, submodules, lists, arrays)."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.values = dict(module.__dict__)
        self.tensors: list[Tensor] = []
        self._contents: dict[int, tuple[Any, Any]] = {}  # by identity: a container, and a copy of it
        for value in self.values.values():
            self._keep(value)

    def _keep(self, value: Any) -> None:
        if isinstance(value, Tensor):
            self.tensors.append(value)
        elif isinstance(value, dict | list | set | deque | np.ndarray) and id(value) not in self._contents:
            self._contents[id(value)] = value, value.copy()
        elif not isinstance(value, tuple):
            return
        if isinstance(value, dict | list | tuple | deque):
            for part in value.values() if isinstance(value, dict) else value:
                self._keep(part)

    def restore(self) -> None:
        self.module.__dict__.clear()
        self.module.__dict__.update(self.values)
        for container, content in self._contents.values():
            # Into the container that was there, so that a hook's handle, or a list held elsewhere, still works.
            if isinstance(container, np.ndarray):
                if container.flags.writeable:
                    container[...] = content
                continue
            container.clear()
            container.extend(content) if isinstance(container, list | deque) else container.update(content)
