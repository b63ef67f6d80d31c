"""A recipe as a transform of single images, for datasets and torchvision's v2."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from firstlight.recipe.augment import ColourShift
    from firstlight.recipe.recipe import Recipe


class RecipeTransform(nn.Module):
    """Applies a recipe to the image of a sample, and leaves everything else in it alone.

    Attributes:
        recipe: what is applied.
    """

    def __init__(self, recipe: "Recipe") -> None:
        super().__init__()
        self.recipe = recipe

    def forward(self, *sample: Any) -> Any:
        """One image, or a sample: a tuple, list or dict in which the images are prepared.

        As in torchvision's v2, Pillow images and ``tv_tensors.Image`` are images, and of plain tensors and arrays
        only the first of the sample, unless it holds one of those.
        """
        given = sample[0] if len(sample) == 1 else sample
        if _is_image(given) or _is_plain(given):
            return self._prepared(given)
        return self._walk(given, [not _holds_image(given)])

    def _walk(self, value: Any, plain_counts: list[bool]) -> Any:
        if _is_image(value):
            return self._prepared(value)
        if _is_plain(value) and plain_counts[0]:
            plain_counts[0] = False
            return self._prepared(value)
        if isinstance(value, dict):
            return {key: self._walk(item, plain_counts) for key, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self._walk(item, plain_counts) for item in value)
        return value

    def _prepared(self, image: Any) -> Tensor:
        if not isinstance(image, Tensor):
            array = np.asarray(image)
            array = array[..., None] if array.ndim == 2 and not isinstance(image, np.ndarray) else array
            return torch.from_numpy(np.ascontiguousarray(np.moveaxis(self.recipe(array), -1, -3)))
        result: Tensor = self.recipe(image.as_subclass(Tensor))
        return result

    def extra_repr(self) -> str:
        """The recipe's steps."""
        return str(self.recipe)


def _is_image(value: Any) -> bool:
    """A Pillow image, or torchvision's ``Image`` or ``Video``, recognised without importing either library."""
    names = {f"{kind.__module__.split('.')[0]}.{kind.__name__}" for kind in type(value).__mro__}
    return bool(names & {"PIL.Image", "torchvision.Image", "torchvision.Video"})


def _is_plain(value: Any) -> bool:
    return type(value) is Tensor or (type(value) is np.ndarray and value.ndim >= 3)


def _holds_image(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_holds_image(item) for item in value.values())
    if type(value) in (list, tuple):
        return any(_holds_image(item) for item in value)
    return _is_image(value)


class ShiftTransform(RecipeTransform):
    """Applies a `ColourShift` to the image of a sample, with the next colour of its seed.

    Attributes:
        seed: where the colours begin; each worker of a ``DataLoader`` has its own sequence.
    """

    def __init__(self, shift: "ColourShift", seed: int) -> None:
        nn.Module.__init__(self)
        self.shift = shift
        self.seed = seed
        self._random: tuple[int, np.random.Generator] | None = None

    def _prepared(self, image: Any) -> Tensor:
        info = torch.utils.data.get_worker_info()
        worker = 0 if info is None else info.id + 1
        if self._random is None or self._random[0] != worker:
            self._random = (worker, np.random.default_rng([self.seed, worker]))
        if not isinstance(image, Tensor):
            array = np.array(image)
            array = array[..., None] if array.ndim == 2 else array
            image = torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, -3)))
        result: Tensor = self.shift(image.as_subclass(Tensor), self._random[1])
        return result

    def extra_repr(self) -> str:
        """Strength and seed."""
        return f"std={self.shift.std}, seed={self.seed}"
