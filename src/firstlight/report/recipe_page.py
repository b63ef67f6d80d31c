"""What the recipes do to these very images: strips, the classical clouds, the spectrum and the filters."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.report.document import Block, Clouds, Gallery, Lines, Section, Text
from firstlight.report.pictures import thumbnail

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RecipeViews:
    """Everything the section shows, computed.

    Attributes:
        strips: (recipe, images as uint8 H×W×C to show), the same images in each.
        clouds: (step, points N×2), the same pixels in each.
        colours: N×3 in 0…1, the pixels' own.
        axes: what the two coordinates are.
        eigenvalues: of the covariance of patches, falling.
        filters: (what, uint8 k×k×C) whitening filters and principal patches.
        patch: side k of the patches.
        missing: recipes that do not apply here, with the reason.
    """

    strips: tuple[tuple[str, tuple[NDArray[Any], ...]], ...]
    clouds: tuple[tuple[str, Floats], ...]
    colours: Floats
    axes: tuple[str, str]
    eigenvalues: Floats
    filters: tuple[tuple[str, NDArray[Any]], ...]
    patch: int
    missing: tuple[str, ...]


def recipe_section(views: RecipeViews) -> Section:
    """The section of a scan page."""
    blocks: list[Block] = [
        Text(
            "Each row shows the same images after one recipe, on one scale. Gray is zero; three times the root mean "
            "square of the row is black or white."
        )
    ]
    for name, images in views.strips:
        blocks += [Text(name), Gallery(tuple(thumbnail(image, "", 144) for image in images), 72)]
    blocks += [Text(reason) for reason in views.missing]
    if views.clouds:
        panels = tuple((name, tuple(map(tuple, points.tolist()))) for name, points in views.clouds)
        blocks.append(
            Clouds(
                panels,
                tuple(map(tuple, views.colours.tolist())),
                f"{len(views.colours)} pixels of these images, each in its own colour: {views.axes[0]} across, "
                f"{views.axes[1]} up, later the first two principal axes. All but the first are centred on zero.",
            )
        )
    if len(views.eigenvalues):
        labels = tuple(f"component {k + 1}" for k in range(len(views.eigenvalues)))
        series = (("variance", "violet", tuple(float(v) for v in views.eigenvalues)),)
        side = f"{views.patch}×{views.patch}"
        caption = f"Spectrum of {side} patches of the images shown: few directions hold most of the variance."
        blocks.append(Lines(labels, series, "eigenvalue", caption, "components"))
        blocks.append(Gallery(tuple(thumbnail(image, what) for what, image in views.filters), 64))
        blocks.append(
            Text(f"Above: how ZCA whitens the middle pixel of a {side} patch, and the patches of largest variance.")
        )
    return Section("Through every recipe", tuple(blocks))
