"""Keras ``Normalization``: mean and *variance* (not std) of raw pixels, channels last, per channel or per position."""

from typing import TYPE_CHECKING, Any

import numpy as np

from firstlight._extras import require
from firstlight.recipe.export.common import refused, standardization

if TYPE_CHECKING:
    from firstlight.recipe.recipe import Recipe


def export(recipe: "Recipe") -> Any:
    """A ``keras.layers.Normalization`` for N×H×W×C raw pixels (0…255 for uint8).

    Raises:
        FirstlightError: slugs ``cannot-export`` and ``missing-extra``.
    """
    found = standardization(recipe, "keras", images=True)
    if (found.std <= 0).any():
        raise refused("keras", "stores a variance, which cannot turn the sign of a channel")
    keras = require("keras", extra="export")
    full = recipe.input.full_scale
    mean, variance = np.broadcast_arrays(found.mean * full, (found.std * full) ** 2)
    if mean.ndim == 1:
        return keras.layers.Normalization(axis=-1, mean=mean.tolist(), variance=variance.tolist())
    return keras.layers.Normalization(axis=(1, 2, 3), mean=mean, variance=variance)
