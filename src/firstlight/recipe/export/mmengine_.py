"""mmengine's ``ImgDataPreprocessor``: mean and std of raw pixels, in the order *after* its channel conversion."""

from typing import TYPE_CHECKING, Any

from firstlight.recipe.export.common import listed, refused, standardization

if TYPE_CHECKING:
    from firstlight.recipe.recipe import Recipe


def export(recipe: "Recipe") -> dict[str, Any]:
    """The config of ``data_preprocessor``, for images as the recipe declares them.

    OpenMMLab reads images as BGR: declare that in the recipe's input, and turn the channels around as its first step.

    Raises:
        FirstlightError: slug ``cannot-export``; it takes 1 or 3 channels.
    """
    found = standardization(recipe, "mmengine", orders=True)
    if recipe.input.channels not in (1, 3):
        raise refused("mmengine", f"takes 1 or 3 channels, not {recipe.input.channels}")
    full = recipe.input.full_scale
    config: dict[str, Any] = {
        "type": "ImgDataPreprocessor",
        "mean": listed(found.mean * full),
        "std": listed(found.std * full),
    }
    if found.swapped:
        config["bgr_to_rgb" if recipe.input.order == "BGR" else "rgb_to_bgr"] = True
    return config
