"""The classical preprocessings as steps, from statistics."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from firstlight._typing import Floats
from firstlight.errors import FirstlightError
from firstlight.recipe.steps import Channels, Divide, Step, Subtract

if TYPE_CHECKING:
    from firstlight.statistics import Statistics

Steps = tuple[Step, ...]

CHANNEL_EPSILON = 1e-5
"""Default ε for channels: three eigenvalues, known to many digits, need hardly any."""


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


def pca(
    stats: "Statistics",
    *,
    whiten: bool = False,
    components: int | None = None,
    variance: float | None = None,
    epsilon: float | None = None,
) -> Steps:
    """Rotate the channels of every pixel to the principal axes, largest first; divided by √(λ+ε·λ̄) if `whiten`."""
    values, vectors = stats.eigen
    keep = kept(values, components, variance)
    factor = whitening(values, CHANNEL_EPSILON if epsilon is None else epsilon) if whiten else np.ones_like(values)
    return (Subtract(stats.mean), Channels((vectors * factor).T[:keep]))


def zca(stats: "Statistics", *, epsilon: float | None = None) -> Steps:
    """Whiten the channels of every pixel and rotate back: V diag(1/√(λ+ε·λ̄)) Vᵀ, the symmetric whitening."""
    values, vectors = stats.eigen
    factor = whitening(values, CHANNEL_EPSILON if epsilon is None else epsilon)
    matrix = (vectors * factor) @ vectors.T
    return (Subtract(stats.mean), Channels((matrix + matrix.T) / 2))


def whitening(values: Floats, epsilon: float, mean: float | None = None) -> Floats:
    """1/√(λ + ε·λ̄) for eigenvalues λ with mean λ̄.

    ε is relative: ε = 0.01 means a hundredth of the average variance, whatever the units of the pixels. A
    whitened direction has the variance λ/(λ + ε·λ̄), so ε is the share of the average variance that is
    treated as noise. (Kornia and scikit-learn take an absolute ε, Keras adds it to the singular value.)

    Args:
        values: eigenvalues, not negative.
        epsilon: at least 0.
        mean: λ̄, where `values` are not all of them.

    Raises:
        FirstlightError: slug ``singular-covariance``, when a direction without variance would be divided by 0.
    """
    if not epsilon >= 0:
        raise FirstlightError(f"epsilon={epsilon} is negative", "give 0 or a small number", slug="bad-epsilon")
    average = float(np.mean(values)) if mean is None else mean
    padded = values + epsilon * average
    if not (padded > average * 1e-14).all():
        raise FirstlightError(
            "the covariance is singular: some direction has no variance to divide by",
            "give epsilon a small positive number, such as 1e-3",
            slug="singular-covariance",
            call=f"whiten with epsilon={epsilon:g}",
        )
    return np.asarray(1 / np.sqrt(padded))


def kept(values: Floats, components: int | None, variance: float | None, total: float | None = None) -> int:
    """How many components to keep: a number, or as few as hold a share of the variance.

    Args:
        values: eigenvalues, falling.
        components: a number of them.
        variance: a share, 0…1.
        total: the sum of all eigenvalues, where `values` are not all of them.

    Raises:
        FirstlightError: slug ``bad-components``.
    """
    if components is not None and variance is not None:
        raise FirstlightError(
            "both components= and variance= are given", "give one of the two", slug="bad-components", call="Recipe.pca"
        )
    if components is not None and not 1 <= components <= len(values):
        raise FirstlightError(
            f"{components} of {len(values)} components cannot be kept",
            f"give a number from 1 to {len(values)}",
            slug="bad-components",
            call="Recipe.pca",
        )
    if variance is None:
        return len(values) if components is None else components
    share = np.cumsum(values) / (float(np.sum(values)) if total is None else total)
    if not 0 < variance <= 1 or share[-1] < min(variance, 1 - 1e-12):
        raise FirstlightError(
            f"variance={variance:g} is no share of the variance that {len(values)} components hold: {share[-1]:.4f}",
            "give a number above 0 and up to that, or fit a higher rank",
            slug="bad-components",
            call="Recipe.pca",
        )
    return int(np.searchsorted(share, min(variance, share[-1]))) + 1
