"""The classical preprocessings that leave the axes alone, as steps, from statistics. PCA and ZCA: `whitening`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from firstlight.errors import FirstlightError
from firstlight.recipe.steps import Divide, Step, Subtract

if TYPE_CHECKING:
    from firstlight.statistics import Statistics

Steps = tuple[Step, ...]


def alexnet(stats: "Statistics") -> Steps:
    """Subtract the mean image, H×W×C (Krizhevsky, Sutskever & Hinton 2012, §2)."""
    image = stats.mean_image
    if image is None:
        raise FirstlightError(
            "these images differ in size (or are very large), so they have no mean image",
            "scan with resize= and crop=, so that all images have one size, or use Recipe.vgg",
            slug="no-mean-image",
            call="Recipe.alexnet(stats)",
        )
    return (Subtract(image),)


def vgg(stats: "Statistics") -> Steps:
    """Subtract the mean of every channel (Simonyan & Zisserman 2015, §2.1)."""
    return (Subtract(stats.mean),)


def resnet(stats: "Statistics", std: str = "pooled") -> Steps:
    """Subtract the mean and divide by the std of every channel (as in Torch's ResNet training code)."""
    choices = {"pooled": stats.std, "per-image": stats.per_image_std}
    if std not in choices:
        raise FirstlightError(
            f"there is no std {std!r}",
            'choose "pooled" (of all pixels) or "per-image" (averaged over images, as in 0.229 0.224 0.225)',
            slug="bad-std",
            call="Recipe.resnet(stats, std=...)",
        )
    return (Subtract(stats.mean), Divide(choices[std]))


def scale(stats: "Statistics", to: Sequence[float]) -> Steps:
    """Map the range of the pixels to `to`, all channels alike.

    For integers the range is what they can store, 0…full scale; for floats it is the smallest and the
    largest value of all channels. With x in [l, h] and y in [a, b]: y = (x − m)/s, s = (h−l)/(b−a), m = l − a·s.
    """
    a, b = (float(edge) for edge in to)
    low, high = (0.0, 1.0) if stats.kind != "float" else (float(np.min(stats.min)), float(np.max(stats.max)))
    if not a < b or not low < high:
        raise FirstlightError(
            f"a range of [{low:g}, {high:g}] cannot be mapped to [{a:g}, {b:g}]",
            "give two rising numbers, as in to=(-1, 1), and images that are not one flat value",
            slug="bad-range",
            call=f"Recipe.scale(stats, to=({a:g}, {b:g}))",
        )
    step = (high - low) / (b - a)
    mean = low - a * step
    channels = np.ones(stats.channels)
    return (Subtract(mean * channels), Divide(step * channels))
