"""Albumentations ``Normalize``: mean and std of pixels / max_pixel_value, which must be said for anything but uint8."""

from typing import TYPE_CHECKING, Any

from firstlight._extras import require
from firstlight.recipe.export.common import listed, standardization

if TYPE_CHECKING:
    from firstlight.recipe.recipe import Recipe


def export(recipe: "Recipe") -> Any:
    """An ``albumentations.Normalize`` for H×W×C images.

    Raises:
        FirstlightError: slugs ``cannot-export`` and ``missing-extra``.
    """
    found = standardization(recipe, "albumentations")
    albumentations = require("albumentations", extra="export")
    return albumentations.Normalize(
        mean=tuple(listed(found.mean)),
        std=tuple(listed(found.std)),
        max_pixel_value=float(recipe.input.full_scale),
        p=1.0,
    )
