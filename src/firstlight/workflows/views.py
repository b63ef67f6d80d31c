"""The same few images through every recipe, computed for the page."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.errors import FirstlightError
from firstlight.recipe import Recipe
from firstlight.report import RecipeViews, Sample
from firstlight.statistics import Statistics
from firstlight.statistics.vectors import Vectors
from firstlight.workflows.samples import batch_of

_STRIP = 6
_POINTS = 500
_PATCH = 5
_RECIPES: tuple[tuple[str, Callable[[Statistics], Recipe]], ...] = (
    ("minus the mean image (AlexNet)", Recipe.alexnet),
    ("minus the channel mean (VGG)", Recipe.vgg),
    ("minus the channel mean, divided by the channel std (ResNet)", Recipe.resnet),
    ("rotated to the principal axes of colour (PCA)", Recipe.pca),
    ("whitened colour (ZCA)", Recipe.zca),
)


def recipe_views(statistics: Statistics, samples: Sequence[Sample]) -> RecipeViews | None:
    """What `recipe_section` shows; None without samples, and for other than RGB integer images."""
    if not samples or statistics.channels != 3 or statistics.full_scale == 1:
        return None
    images = [batch_of([sample], 3, statistics.kind)[0] for sample in samples]
    strips = [("as they are", tuple(images[:_STRIP]))]
    missing = []
    for name, preset in _RECIPES:
        try:
            recipe = preset(statistics)
            strips.append((name, _shown([recipe(image) for image in images[:_STRIP]])))
        except FirstlightError as error:
            missing.append(f"Left out: {name}: {error.cause}.")
    pixels = _some_pixels(images) / statistics.full_scale
    eigenvalues, filters = _patches(images)
    return RecipeViews(
        tuple(strips),
        _clouds(statistics, pixels),
        pixels,
        ("red", "blue"),
        eigenvalues,
        filters,
        _PATCH,
        tuple(missing),
    )


def _shown(images: Sequence[NDArray[Any]]) -> tuple[NDArray[np.uint8], ...]:
    """Zero to the middle, three times the root mean square of all of them to the ends: one scale for the row."""
    squares = np.mean([np.square(image, dtype=np.float64).mean() for image in images])
    reach = 3 * float(np.sqrt(squares)) or 1.0
    return tuple(np.rint(np.clip(127.5 + 127.5 * image / reach, 0, 255)).astype(np.uint8) for image in images)


def _some_pixels(images: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    """A few hundred pixels, evenly spaced through all images."""
    flat = np.concatenate([image.reshape(-1, 3) for image in images])
    return flat[np.linspace(0, len(flat) - 1, min(_POINTS, len(flat))).astype(int)].astype(np.float64)


def _clouds(s: Statistics, pixels: NDArray[np.float64]) -> tuple[tuple[str, NDArray[np.float64]], ...]:
    """The five pictures of the lecture, in the plane of red and blue, then of the first two principal axes."""
    values, vectors = s.eigen
    centred = pixels - s.mean
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = np.nan_to_num(centred / s.std)
        rotated = centred @ vectors
        whitened = np.nan_to_num(rotated / np.sqrt(values))
    return (
        ("original", pixels[:, [0, 2]]),
        ("zero-centred", centred[:, [0, 2]]),
        ("normalized", scaled[:, [0, 2]]),
        ("decorrelated", rotated[:, :2]),
        ("whitened", whitened[:, :2]),
    )


def _patches(images: Sequence[NDArray[Any]]) -> tuple[NDArray[np.float64], tuple[tuple[str, NDArray[np.uint8]], ...]]:
    """Eigenvalues of the patches' covariance; the ZCA filters of the middle pixel and the first principal patches."""
    large = [image for image in images if min(image.shape[:2]) >= _PATCH]
    if not large:
        return np.zeros(0), ()
    values, vectors = Vectors.of_patches(large, _PATCH).eigen
    scale = 1 / np.sqrt(values + 1e-2 * values.mean() + 1e-300)
    zca = (vectors * scale) @ vectors.T
    middle = 3 * (_PATCH * _PATCH // 2)
    shown = [(f"ZCA, {name}", zca[middle + c]) for c, name in enumerate(("red", "green", "blue"))]
    shown += [(f"component {k + 1}", vectors[:, k]) for k in range(9)]
    return values, tuple((name, _filter(row)) for name, row in shown)


def _filter(row: NDArray[np.float64]) -> NDArray[np.uint8]:
    scaled = row / (np.abs(row).max() or 1.0)
    return np.rint(127.5 + 127.5 * scaled).astype(np.uint8).reshape(_PATCH, _PATCH, 3)
