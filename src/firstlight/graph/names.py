"""One name for each module, parameter and buffer, however many names the model has for it."""

from pathlib import Path

import torch
from torch import nn

# Where PyTorch's own source is; lines in it say nothing about the user's model.
TORCH = Path(torch.__file__).parent


class Names:
    """The first name of everything in a model: a tied weight or a shared module keeps the one it is met under first."""

    def __init__(self, model: nn.Module) -> None:
        self._modules = _first(model.named_modules(remove_duplicate=False))
        self._parameters = _first(model.named_parameters(remove_duplicate=False))
        self._buffers = _first(model.named_buffers(remove_duplicate=False))

    def module(self, path: str) -> str:
        """First name of the module found at `path`."""
        return self._modules.get(path, path)

    def parameter(self, name: str) -> str:
        """First name of the parameter also called `name`."""
        return self._parameters.get(name, name)

    def buffer(self, name: str) -> str:
        """First name of the buffer also called `name`."""
        return self._buffers.get(name, name)


def _first(named: object) -> dict[str, str]:
    first: dict[int, str] = {}
    return {name: first.setdefault(id(thing), name) for name, thing in named}  # type: ignore[attr-defined]
