"""From a source of images to the statistics that whitening over patches and pixels needs."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.errors import FirstlightError
from firstlight.sources import Policy, Stream, Transform, Unreadable, decode, open_source
from firstlight.statistics.sketch import LowRank, LowRankSketch
from firstlight.statistics.vectors import Vectors, pixel_kind

_BATCH_BYTES = 2**25
"""Pixels that are held at a time."""


def fit(
    source: Any,
    *,
    over: str = "pixels",
    size: int = 5,
    rank: int | None = None,
    passes: int = 3,
    seed: int = 0,
    resize: int | tuple[int, int] | None = None,
    crop: int | tuple[int, int] | None = None,
    resample: str = "bilinear",
) -> Vectors | LowRank:
    """Covariance of patches or of whole images, for `Recipe.pca` and `Recipe.zca`.

    Args:
        source: anything `open_source` opens. Images that cannot be read are left out.
        over: "patches" (size×size, images of any size) or "pixels" (whole images of one size).
        size: side of a patch.
        rank: over pixels, fit only this many components, without any D×D matrix.
        passes: over the source, with a rank: each further one brings the components nearer to the best there are.
            A stream, which comes only once, gets one.
        seed: of the random start, with a rank.
        resize: as in `scan`.
        crop: as in `scan`.
        resample: as in `scan`.

    Returns:
        `Vectors`, exact for integers and with `+`; with a rank, `LowRank`, which states its error.

    Raises:
        FirstlightError: slugs ``bad-over``, ``no-images``, ``sizes-differ``, ``bad-patch``, ``bad-rank`` and
            ``too-many-components``.
    """
    if over not in ("patches", "pixels"):
        raise FirstlightError(
            f"there is nothing to fit over {over!r}",
            'choose "patches" or "pixels"; for channels, fl.scan(source) is all it takes',
            slug="bad-over",
            call="fit(source, over=...)",
        )
    transform = Transform(resize, crop, resample)
    opened = open_source(source)

    def batches() -> Iterator[NDArray[Any]]:
        return _batches(opened.blocks(64), transform)

    found: Vectors | LowRank | None
    if rank is not None and over == "pixels":
        found = _low_rank(batches, rank, 1 if isinstance(opened, Stream) else max(1, passes), seed)
    else:
        found = None
        for batch in batches():
            part = Vectors.of_pixels(batch) if over == "pixels" else Vectors.of_patches(batch, size)
            found = part if found is None else found + part
    opened.close()
    if found is None:
        raise FirstlightError(
            "the source holds no image that can be read", "point at one that does", slug="no-images", call="fit"
        )
    order = {1: "gray", 3: "RGB"}.get(found.channels, "bands as stored")
    return replace(found, order=order, transform=str(transform))


def _low_rank(batches: Callable[[], Iterator[NDArray[Any]]], rank: int, passes: int, seed: int) -> LowRank | None:
    sketch = None
    for _ in range(passes):
        sketch = sketch.again() if sketch is not None else None
        for batch in batches():
            if sketch is None:
                height, width, channels = batch.shape[1:]
                sketch = LowRankSketch.empty(pixel_kind(batch), (height, width, channels), rank, seed=seed)
            sketch = sketch.add(batch)
    return None if sketch is None else sketch.components()


def _batches(blocks: Any, transform: Transform) -> Iterator[NDArray[Any]]:
    """Decoded and transformed images in batches of one size, kind and number of channels."""
    pending: list[NDArray[Any]] = []
    held = 0
    for block in blocks:
        for sample in block.samples:
            try:
                picture = transform(decode(sample, Policy(alpha="drop")))
            except (Unreadable, OSError):
                continue
            pixels = picture.pixels
            new = pending and (pixels.shape, pixels.dtype) != (pending[0].shape, pending[0].dtype)
            if new or held >= _BATCH_BYTES:
                yield np.stack(pending)
                pending, held = [], 0
            pending.append(pixels)
            held += pixels.nbytes
    if pending:
        yield np.stack(pending)
