"""What most formats can say: a mean and a std per channel; and how to refuse the rest."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from firstlight._typing import Floats
from firstlight.errors import FirstlightError
from firstlight.recipe.apply import fuse

if TYPE_CHECKING:
    from firstlight.recipe.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Standardization:
    """y_c = (x[order[c]] − mean_c) / std_c.

    Attributes:
        order: input channel of every output channel.
        mean, std: C, or H×W×C where a mean image was asked for; full scale; in the order of the output.
    """

    order: tuple[int, ...]
    mean: Floats
    std: Floats

    @property
    def swapped(self) -> bool:
        """Whether three channels are turned around, as RGB and BGR are."""
        return self.order == (2, 1, 0)


def standardization(recipe: "Recipe", target: str, *, images: bool = False, orders: bool = False) -> Standardization:
    """The recipe as mean and std.

    Args:
        recipe: what to express.
        target: name of the format, for the error.
        images: whether the format has a mean image.
        orders: whether it can turn three channels around.

    Raises:
        FirstlightError: slug ``cannot-export``, where the format cannot say it.
    """
    affine = fuse(recipe.steps, recipe.input.channels)
    if affine is None or affine.order is None:
        raise refused(target, "has a mean and a std per channel, and no matrix that mixes channels or pixels")
    if affine.positional and not images:
        raise refused(target, "has one mean per channel, and no mean image")
    natural = tuple(range(recipe.input.channels))
    if affine.order != natural and not (orders and affine.order == (2, 1, 0)):
        raise refused(target, "cannot reorder channels this way")
    return Standardization(affine.order, -affine.shift / affine.factor, 1 / affine.factor)


def refused(target: str, reason: str) -> FirstlightError:
    """The error to raise when `target` cannot say it."""
    return FirstlightError(
        f"{target} {reason}",
        'export to "onnx" or "json", which say everything, or put recipe.module() in front of the network',
        slug="cannot-export",
        call=f"recipe.export({target!r})",
    )


@dataclass(frozen=True)
class Sizes:
    """What provenance says about resize and crop.

    Attributes:
        resize: shorter side, or (height, width), or None.
        resample: "bilinear", "bicubic", …
        crop: (height, width) of the center crop, or None.
    """

    resize: int | tuple[int, int] | None
    resample: str
    crop: tuple[int, int] | None


def sizes(transform: str) -> Sizes:
    """Read `sources.Transform`'s text, "resize 256 bilinear, center crop 224"; nothing where it says nothing."""
    resize = re.search(r"resize (\d+)(?:×(\d+))? (\w+)", transform)
    crop = re.search(r"center crop (\d+)(?:×(\d+))?", transform)
    return Sizes(
        None if resize is None else (int(resize[1]), int(resize[2])) if resize[2] else int(resize[1]),
        "bilinear" if resize is None else resize[3],
        None if crop is None else (int(crop[1]), int(crop[2] or crop[1])),
    )


def listed(value: Floats) -> list[float]:
    """Plain floats."""
    return [float(v) for v in np.asarray(value).ravel()]
