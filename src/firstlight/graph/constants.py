"""Values of what depends on neither an input nor a weight: grids of positions, their sines, masks.

On the meta device nothing has a value, but the operations that made a constant are known, and are run once more on the
CPU, one by one as they are traced; a view shares the memory of what it views there too.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor

from firstlight.graph.ir import Node

_LARGEST = 1 << 22  # elements


class Constants:
    """What is known so far, by the name of the node."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._versions: dict[str, int] = {}

    def cover(self, names: Iterable[str]) -> bool:
        """Whether all of these are known."""
        return all(name in self._values for name in names)

    def value(self, name: str) -> Tensor | None:
        """What the memory of one node holds now, ``None`` where that is not known."""
        found = self._values.get(name)
        return found if isinstance(found, Tensor) else None

    def final(self, node: Node) -> Tensor | None:
        """The value of a node, ``None`` where its memory was written to since, or never."""
        found = self.value(node.name)
        empty = node.function.startswith(("empty", "new_empty"))
        return None if found is None or empty or found._version != self._versions[node.name] else found

    def keep(self, name: str, value: object) -> None:
        """Note what a node is, unless that has no values itself, or too many."""
        if not isinstance(value, Tensor) or value.is_meta or isinstance(value, FakeTensor) or value.is_inference():
            return
        if value.numel() <= _LARGEST:
            self._values[name], self._versions[name] = value.detach(), value._version

    def part(self, name: str, whole: str, index: int) -> None:
        """Note one of several results."""
        found = self._values.get(whole)
        if isinstance(found, list | tuple):
            self.keep(name, found[index])

    def follow(
        self, node: Node, op: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], result: object
    ) -> None:
        """Note the result of an operation on what is known, and carry it out where it has only been traced.

        Args:
            node: of the operation.
            op: the operation.
            args, kwargs: with tensors; one of which only the shape is asked may be on the meta device.
            result: as it was traced.
        """
        if math.prod(node.shape or (1,)) > _LARGEST:
            return
        self.keep(node.name, result)
        if node.name in self._values:
            return
        cpu = torch.device("cpu")
        settings = {key: cpu if key == "device" else value for key, value in kwargs.items()}
        if any(isinstance(arg, Tensor) and arg.is_meta for arg in args):  # zeros like a signal
            settings["device"] = cpu
        try:
            with torch.no_grad():
                found = op(*(cpu if isinstance(arg, torch.device) else arg for arg in args), **settings)
        except (RuntimeError, TypeError, ValueError, IndexError):
            return  # a constant whose value stays unknown
        if isinstance(found, list | tuple):
            self._values[node.name] = found
        self.keep(node.name, found)
