"""timm's data config: mean and std of pixels / 255, with the size and crop of evaluation."""

from typing import TYPE_CHECKING, Any

from firstlight.recipe.export.common import listed, refused, sizes, standardization

if TYPE_CHECKING:
    from firstlight.recipe.recipe import Recipe


def export(recipe: "Recipe") -> dict[str, Any]:
    """``mean`` and ``std``; with ``input_size``, ``crop_pct``, ``crop_mode`` and ``interpolation`` where known.

    ``timm.data.create_transform(**config)`` takes it, and it goes into ``pretrained_cfg``.

    Raises:
        FirstlightError: slug ``cannot-export``.
    """
    found = standardization(recipe, "timm")
    if recipe.input.kind != "uint8":
        raise refused("timm", f"divides by 255, which is wrong for {recipe.input.kind} pixels")
    config: dict[str, Any] = {"mean": tuple(listed(found.mean)), "std": tuple(listed(found.std))}
    wanted = sizes(recipe.input.transform)
    if wanted.crop is not None:
        config["input_size"] = (recipe.input.channels, *wanted.crop)
    if wanted.resize is not None:
        config["interpolation"] = wanted.resample
        if wanted.crop is not None and isinstance(wanted.resize, int):
            config["crop_pct"] = wanted.crop[0] / wanted.resize
            config["crop_mode"] = "center"
    return config
