"""torchvision v2: ``ToDtype(scale=True)`` and ``Normalize``, or ``LinearTransformation`` for whole images."""

from typing import TYPE_CHECKING, Any

import numpy as np

from firstlight._extras import require
from firstlight.recipe.export.common import listed, refused, standardization
from firstlight.recipe.linear import Pixels
from firstlight.recipe.steps import Subtract

if TYPE_CHECKING:
    from firstlight.recipe.recipe import Recipe

_LARGEST = 4096
"""Values per image up to which a D×D matrix is made."""


def export(recipe: "Recipe") -> Any:
    """A ``v2.Compose`` for tensors C×H×W or N×C×H×W (put ``v2.ToImage()`` in front for Pillow images).

    Raises:
        FirstlightError: slugs ``cannot-export`` and ``missing-extra``.
    """
    v2 = require("torchvision.transforms.v2", extra="zoo")
    import torch

    scale = [v2.ToDtype(torch.float32, scale=recipe.input.kind != "float")]
    steps = recipe.steps
    if len(steps) == 2 and isinstance(steps[0], Subtract) and isinstance(steps[1], Pixels):
        return v2.Compose([*scale, _linear(v2, steps[0], steps[1])])
    found = standardization(recipe, "torchvision")
    return v2.Compose([*scale, v2.Normalize(listed(found.mean), listed(found.std))])


def _linear(v2: Any, mean: Subtract, step: Pixels) -> Any:
    """Whitening of whole images as its full matrix, on vectors in the order C, H, W."""
    import torch

    height, width, channels = step.image
    size = height * width * channels
    if size > _LARGEST:
        raise refused(
            "torchvision", f"would need a matrix of {size:,}×{size:,}; its LinearTransformation has no low rank"
        )
    matrix = step.apply(np.eye(size).reshape(size, *step.image))
    matrix = np.moveaxis(matrix.reshape(size, *step.image), -1, 1).reshape(size, size)
    rows = np.arange(size).reshape(step.image).transpose(2, 0, 1).ravel()
    image = np.broadcast_to(mean.value, step.image).transpose(2, 0, 1).ravel()
    return v2.LinearTransformation(torch.from_numpy(matrix[rows]).float(), torch.from_numpy(image.copy()).float())
