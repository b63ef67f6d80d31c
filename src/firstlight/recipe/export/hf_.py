"""Hugging Face ``preprocessor_config.json``: rescale by a factor, then mean and std *after* that, per channel.

The format has no key for the order of channels, for where the numbers come from, or for a mean image.
"""

from typing import TYPE_CHECKING, Any

from firstlight.recipe.export.common import listed, refused, sizes, standardization

if TYPE_CHECKING:
    from firstlight.recipe.recipe import Recipe

RESAMPLE = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
"""Pillow's numbers of its filters, which the file stores."""


def export(recipe: "Recipe") -> dict[str, Any]:
    """The file's content, for ``CLIPImageProcessor``, which can say resize, crop, rescale and normalize.

    Raises:
        FirstlightError: slug ``cannot-export``.
    """
    found = standardization(recipe, "hf")
    if recipe.input.kind == "uint16":
        raise refused("hf", "has image processors for 8-bit images and floats, and none for 16-bit integers")
    if recipe.input.channels not in (1, 3):
        raise refused("hf", f"has image processors for 1 or 3 channels, and none for {recipe.input.channels}")
    wanted = sizes(recipe.input.transform)
    config: dict[str, Any] = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": wanted.resize is not None,
        "do_center_crop": wanted.crop is not None,
        "do_convert_rgb": recipe.input.channels == 3,
        "do_rescale": recipe.input.kind != "float",
        "rescale_factor": 1 / recipe.input.full_scale,
        "do_normalize": True,
        "image_mean": listed(found.mean),
        "image_std": listed(found.std),
    }
    if wanted.resize is not None:
        side = wanted.resize
        config["size"] = {"shortest_edge": side} if isinstance(side, int) else {"height": side[0], "width": side[1]}
        config["resample"] = RESAMPLE[wanted.resample]
    if wanted.crop is not None:
        config["crop_size"] = {"height": wanted.crop[0], "width": wanted.crop[1]}
    return config
