"""Recipes from the configurations of other tools. What a format does not say is declared as its tool assumes it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from firstlight.errors import FirstlightError
from firstlight.recipe.inputs import Input
from firstlight.recipe.steps import Divide, Step, Subtract


def from_config(config: Mapping[str, Any]) -> tuple[str, Input, tuple[Step, ...]]:
    """Name, input and steps of a Hugging Face or timm configuration.

    Raises:
        FirstlightError: slug ``not-a-recipe``.
    """
    timm = config.get("pretrained_cfg", config)
    if any(key in config for key in ("image_mean", "do_normalize", "image_processor_type", "feature_extractor_type")):
        return _from_hf(config)
    if isinstance(timm, Mapping) and "mean" in timm and "std" in timm:
        return _from_timm(timm)
    raise unreadable("this is neither a recipe of firstlight nor a Hugging Face or timm configuration")


def unreadable(cause: str) -> FirstlightError:
    """The error to raise when a configuration does not make a recipe."""
    return FirstlightError(
        cause,
        "give a file of Recipe.save, a preprocessor_config.json, a timm config, or a torchvision transform",
        slug="not-a-recipe",
        call="Recipe.load",
    )


def _from_hf(config: Mapping[str, Any]) -> tuple[str, Input, tuple[Step, ...]]:
    """y = (x·f − mean)/std with f the rescale factor, or 1; x = 255·u, so mean and std are divided by 255·f."""
    if config.get("rescale_offset") or config.get("offset"):
        raise unreadable("the rescale offset of this image processor is not understood")
    factor = float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0
    kind = "uint16" if np.isclose(factor, 1 / 65535, rtol=1e-3) else "uint8"
    unit = factor * {"uint8": 255, "uint16": 65535}[kind]
    unit = 1.0 if abs(unit - 1) < 1e-12 else unit
    if config.get("do_normalize", True):
        if "image_mean" not in config or "image_std" not in config:
            raise unreadable("this image processor normalizes, but its file has no image_mean and image_std")
        mean, std = _numbers(config["image_mean"]), _numbers(config["image_std"])
    else:
        mean, std = np.zeros(3), np.ones(3)
    parts = []
    size, crop = config.get("size"), config.get("crop_size")
    names = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
    if config.get("do_resize") and size:
        parts.append(f"resize {_side(size)} {names.get(config.get('resample', 2), 'bilinear')}")
    if config.get("do_center_crop") and crop:
        parts.append(f"center crop {_crop(crop)}")
    declared = Input(kind, len(mean), {1: "gray", 3: "RGB"}.get(len(mean), "bands as stored"), ", ".join(parts))
    steps = (Subtract(mean / unit), Divide(std / unit))
    return str(config.get("image_processor_type", "hugging face")), declared, steps


def _from_timm(config: Mapping[str, Any]) -> tuple[str, Input, tuple[Step, ...]]:
    mean, std = _numbers(config["mean"]), _numbers(config["std"])
    size = config.get("input_size")
    channels = len(mean)
    if size is not None and size[0] != channels:
        if channels != 1:
            raise unreadable(f"this configuration has an input of {size[0]} channels and a mean of {channels}")
        mean, std = np.repeat(mean, size[0]), np.repeat(std, size[0])
    parts = []
    if size is not None:
        share = float(config.get("crop_pct") or 1.0)
        parts.append(f"resize {int(np.floor(size[1] / share))} {config.get('interpolation', 'bicubic')}")
        parts.append(f"center crop {_crop(list(size[1:]))}")
    order = {1: "gray", 3: "RGB"}.get(len(mean), "bands as stored")
    name = str(config.get("architecture") or config.get("hf_hub_id") or "timm")
    return name, Input("uint8", len(mean), order, ", ".join(parts)), (Subtract(mean), Divide(std))


def from_torchvision(transform: Any) -> tuple[str, Input, tuple[Step, ...]]:
    """Name, input and steps of a torchvision transform: v1 or v2, a preset of its weights, or one ``Normalize``.

    Raises:
        FirstlightError: slug ``not-a-recipe``, when it does anything to the values besides scaling and normalizing.
    """
    if type(transform).__module__.endswith("_presets") and hasattr(transform, "mean"):
        parts = [
            f"resize {_side(transform.resize_size)} {transform.interpolation.value}",
            f"center crop {_crop(transform.crop_size)}",
        ]
        mean, std = _numbers(transform.mean), _numbers(transform.std)
        return "torchvision", Input("uint8", len(mean), "RGB", ", ".join(parts)), (Subtract(mean), Divide(std))
    steps: list[Step] = []
    parts = []
    for step in _flattened(transform):
        name = type(step).__name__
        if name == "Normalize":
            steps += [Subtract(_numbers(step.mean)), Divide(_numbers(step.std))]
        elif name == "Resize":
            parts.append(f"resize {_side(step.size)} {step.interpolation.value}")
        elif name == "CenterCrop":
            parts.append(f"center crop {_crop(step.size)}")
        elif name not in _HARMLESS or (name == "ToDtype" and not step.scale and not steps):
            raise unreadable(f"torchvision's {name} has no counterpart in a recipe")
    channels = len(steps[0].value) if steps and isinstance(steps[0], Subtract) else 3
    order = {1: "gray", 3: "RGB"}.get(channels, "bands as stored")
    return "torchvision", Input("uint8", channels, order, ", ".join(parts)), tuple(steps)


_HARMLESS = {"ToTensor", "PILToTensor", "ToImage", "ConvertImageDtype", "ToDtype", "ToPureTensor", "Identity"}


def _flattened(transform: Any) -> list[Any]:
    inner = getattr(transform, "transforms", None)
    if inner is None and type(transform).__name__ == "Sequential":
        inner = list(transform)
    return [transform] if inner is None else [step for part in inner for step in _flattened(part)]


def _numbers(value: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.atleast_1d(np.asarray(value, np.float64))


def _side(size: Any) -> str:
    if isinstance(size, Mapping):
        size = size["shortest_edge"] if "shortest_edge" in size else [size["height"], size["width"]]
    if isinstance(size, Sequence) and not isinstance(size, str):
        size = list(size)
        return str(size[0]) if len(size) == 1 else f"{size[0]}×{size[1]}"
    return str(size)


def _crop(size: Any) -> str:
    """A square is written as its side."""
    height, _, width = _side(size).partition("×")
    return height if width in ("", height) else f"{height}×{width}"
