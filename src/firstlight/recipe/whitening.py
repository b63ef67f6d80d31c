"""PCA and ZCA as steps, over channels, patches or whole images."""

from typing import TYPE_CHECKING

import numpy as np

from firstlight._typing import Floats
from firstlight.errors import FirstlightError
from firstlight.recipe.linear import Components, Patches, Pixels
from firstlight.recipe.steps import Channels, Step, Subtract
from firstlight.statistics.sketch import LowRank
from firstlight.statistics.vectors import Vectors

if TYPE_CHECKING:
    from firstlight.statistics import Statistics

Steps = tuple[Step, ...]

EPSILON = {"channels": 1e-5, "patches": 1e-3, "pixels": 1e-3}
"""Default ε: three channels are known to many digits; the finest details of patches and images are mostly noise."""


def pca(
    stats: "Statistics | Vectors | LowRank",
    *,
    over: str | None = None,
    whiten: bool = False,
    components: int | None = None,
    variance: float | None = None,
    epsilon: float | None = None,
) -> Steps:
    """Rotate to the principal axes, largest first; divided by √(λ + ε·λ̄) if `whiten`."""
    over = domain(stats, over)
    values, vectors, average = _spectrum(stats)
    total = average * _dimensions(stats)
    keep = kept(values, components, variance, total)
    chosen = EPSILON[over] if epsilon is None else epsilon
    factor = whitening(values[:keep], chosen, average) if whiten else np.ones(keep)
    if over == "channels":
        return (Subtract(stats.mean), Channels((vectors[:, :keep] * factor).T))
    if isinstance(stats, Vectors) and over == "patches":
        return _patches(stats, (vectors[:, :keep] * factor).T, vectors[:, :keep] / factor)
    assert isinstance(stats, Vectors | LowRank), "domain() has seen to it"
    return (Subtract(stats.mean), Components(vectors[:, :keep], factor, stats.shape))


def zca(stats: "Statistics | Vectors | LowRank", *, over: str | None = None, epsilon: float | None = None) -> Steps:
    """V diag(1/√(λ + ε·λ̄)) Vᵀ: the whitening that is symmetric, and so stays nearest to the image.

    Over patches only the rows of the patch's middle pixel are kept: C filters, an image in and an image out.
    With a low rank the directions outside it are all taken to have their mean variance (`LowRank.rest`).
    """
    over = domain(stats, over)
    values, vectors, average = _spectrum(stats)
    chosen = EPSILON[over] if epsilon is None else epsilon
    factor = whitening(values, chosen, average)
    if over == "channels":
        matrix = (vectors * factor) @ vectors.T
        return (Subtract(stats.mean), Channels((matrix + matrix.T) / 2))
    if isinstance(stats, Vectors) and over == "patches":
        middle = _middle(stats)
        return _patches(stats, (vectors[middle] * factor) @ vectors.T, None)
    assert isinstance(stats, Vectors | LowRank), "domain() has seen to it"
    rest = 1.0
    if isinstance(stats, LowRank) and stats.rest > 0:
        rest = float(whitening(np.array([stats.rest]), chosen, average)[0])
    elif vectors.shape[1] < vectors.shape[0]:
        rest = float(whitening(np.zeros(1), chosen, average)[0])
    return (Subtract(stats.mean), Pixels(vectors, factor, stats.shape, rest))


def domain(stats: "Statistics | Vectors | LowRank", over: str | None) -> str:
    """ "channels", "patches" or "pixels": what `stats` can whiten, which `over` must not contradict.

    Raises:
        FirstlightError: slug ``other-statistics``, when it does.
    """
    has = stats.over if isinstance(stats, Vectors) else "pixels" if isinstance(stats, LowRank) else "channels"
    if over in (None, has):
        return has
    if over not in EPSILON:
        raise FirstlightError(f"there is no over={over!r}", f"choose one of {', '.join(EPSILON)}", slug="bad-over")
    ways = {
        "channels": "give what fl.scan returns",
        "patches": 'fit it: fl.fit(source, over="patches", size=5)',
        "pixels": 'fit it: fl.fit(source, over="pixels"), with rank= for large images',
    }
    raise FirstlightError(
        f"these are statistics of {has}, not of {over}", ways[over], slug="other-statistics", call=f"over={over!r}"
    )


def whitening(values: Floats, epsilon: float, average: float) -> Floats:
    """1/√(λ + ε·λ̄) for eigenvalues λ.

    ε is relative: ε = 0.01 means a hundredth of the average variance λ̄, whatever the units of the pixels. A
    whitened direction has the variance λ/(λ + ε·λ̄), so ε is the share of the average variance that is
    treated as noise. (Kornia and scikit-learn take an absolute ε, Keras adds it to the singular value.)

    Args:
        values: eigenvalues, not negative.
        epsilon: at least 0.
        average: λ̄, the mean of all eigenvalues: trace of the covariance / D.

    Raises:
        FirstlightError: slugs ``bad-epsilon`` and ``singular-covariance``, when a direction without variance
            would be divided by 0.
    """
    if not epsilon >= 0:
        raise FirstlightError(f"epsilon={epsilon} is negative", "give 0 or a small number", slug="bad-epsilon")
    padded = values + epsilon * average
    if not (padded > average * 1e-14).all():
        raise FirstlightError(
            "the covariance is singular: some direction has no variance to divide by",
            "give epsilon a small positive number, such as 1e-3",
            slug="singular-covariance",
            call=f"whiten with epsilon={epsilon:g}",
        )
    return np.asarray(1 / np.sqrt(padded))


def kept(values: Floats, components: int | None, variance: float | None, total: float) -> int:
    """How many components to keep: a number, or as few as hold a share of the variance.

    Args:
        values: eigenvalues, falling.
        components: a number of them.
        variance: a share, 0…1.
        total: the sum of all eigenvalues.

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
    share = np.cumsum(values) / total
    if not 0 < variance <= 1 or share[-1] < min(variance, 1 - 1e-12):
        raise FirstlightError(
            f"variance={variance:g} is no share of the variance that {len(values)} components hold: {share[-1]:.4f}",
            "give a number above 0 and up to that, or fit a higher rank",
            slug="bad-components",
            call="Recipe.pca",
        )
    return min(int(np.searchsorted(share, min(variance, share[-1]))) + 1, len(values))


def _spectrum(stats: "Statistics | Vectors | LowRank") -> tuple[Floats, Floats, float]:
    """Eigenvalues, eigenvectors in columns, and the mean of all eigenvalues."""
    if isinstance(stats, LowRank):
        return stats.values, stats.vectors, stats.total / len(stats.vectors)  # type: ignore[return-value]
    values, vectors = stats.eigen
    return values, vectors, float(np.mean(values))


def _dimensions(stats: "Statistics | Vectors | LowRank") -> int:
    return len(stats.vectors) if isinstance(stats, LowRank) else len(stats.eigen[0])


def _middle(stats: Vectors) -> slice:
    """Where the channels of a patch's middle pixel are in its vector."""
    height, width, channels = stats.shape
    first = ((height // 2) * width + width // 2) * channels
    return slice(first, first + channels)


def _patches(stats: Vectors, matrix: Floats, back: Floats | None) -> Steps:
    """Subtract the mean of every channel, then filters that give matrix·(patch − its mean).

    The mean patch m is nearly flat but not quite; with m̄ its mean per channel, W(x − m) = W(x − m̄) − W(m − m̄).
    """
    height, width, channels = stats.shape
    flat = stats.mean.mean(axis=(0, 1))
    uneven = (stats.mean - flat).reshape(-1)
    shift = -matrix @ uneven
    filters = matrix.reshape(-1, height, width, channels)
    center = None if back is None else back[_middle(stats)]
    exact = center is not None and len(matrix) == matrix.shape[1]
    return (Subtract(flat), Patches(filters, shift, center, exact))
