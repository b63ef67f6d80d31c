"""A recipe in the form that other tools read: one file per target, each refusing what its format cannot say."""

import importlib
from typing import TYPE_CHECKING, Any

from firstlight.errors import FirstlightError

if TYPE_CHECKING:
    from firstlight.recipe.recipe import Recipe

TARGETS = {
    "hf": "the content of a Hugging Face preprocessor_config.json",
    "timm": "a timm data config, as in pretrained_cfg",
    "torchvision": "a torchvision v2 transform",
    "keras": "a Keras Normalization layer",
    "mmengine": "an mmengine data_preprocessor config",
    "albumentations": "an Albumentations Normalize",
    "onnx": "an ONNX model, alone or in front of another",
    "openvino": "an OpenVINO model, alone or in front of another",
    "json": "firstlight's own file as plain values",
}
"""Every target and what it gives."""


def export(recipe: "Recipe", target: str, **options: Any) -> Any:
    """The recipe for `target`; see `Recipe.export`."""
    if target not in TARGETS:
        raise FirstlightError(
            f"there is no export to {target!r}", f"choose one of {', '.join(TARGETS)}", slug="unknown-target"
        )
    module = importlib.import_module(f"firstlight.recipe.export.{target}_")
    return module.export(recipe, **options)
