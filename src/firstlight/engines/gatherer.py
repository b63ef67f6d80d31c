"""From a block of samples to the vectors that a fit counts: read, decode, transform, bring into one form."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.engines.observer import Observer
from firstlight.sources import Block, Picture, Unreadable
from firstlight.statistics.vectors import Vectors, pixel_kind

Image = tuple[NDArray[Any], NDArray[np.bool_] | None]
"""H×W×C, and which of its values are there, H×W×C; None when all are."""

Batch = tuple[NDArray[Any], NDArray[np.bool_] | None]
"""The same for N×H×W×C."""

_BATCH_BYTES = 2**24


@dataclass(frozen=True, eq=False)
class Gathered:
    """What a block gives to a fit.

    Attributes:
        vectors: what it counted, if its vectors are short; else None, and `batches` are counted by who merges,
            into one matrix: as many matrices as there are blocks under way would not fit into memory.
        batches: images that are still to be counted.
        quarantine: (name, reason) of every sample that takes no part, in order.
    """

    vectors: Vectors | None
    batches: tuple[Batch, ...]
    quarantine: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Gatherer:
    """Turns a block into `Gathered`; the answer depends on the block alone.

    Gray images become three equal channels and 8 bits 16, exactly, where the form asks for it. Values that are left
    out (transparent, nodata, not finite) take their patch with them: a covariance of vectors with holes need not be
    one. An image as one vector is left out whole.

    Attributes:
        observer: reads and transforms.
        over: "patches" or "pixels".
        size: side of a patch.
        kind, channels: the form: "uint8", "uint16" or "float", and C.
        counts: whether to count here.
    """

    observer: Observer
    over: str
    size: int
    kind: str
    channels: int
    counts: bool

    def __call__(self, block: Block) -> Gathered:
        """Gather a block. Never raises for a sample: a bad one becomes an entry of the quarantine list."""
        quarantine: list[tuple[str, str]] = []
        batches = _batches(self._images(block, quarantine))
        if not self.counts:
            return Gathered(None, tuple(batches), tuple(quarantine))
        vectors = Vectors.empty(self.over, self.kind, (self.size, self.size, self.channels))
        for images, valid in batches:
            vectors = vectors.add(images, valid)
        return Gathered(vectors, (), tuple(quarantine))

    def _images(self, block: Block, quarantine: list[tuple[str, str]]) -> Iterator[Image]:
        for k, name in enumerate(block.names):
            try:
                yield self._image(self.observer.picture(name, block.samples[k]))
            except Unreadable as reason:
                quarantine.append((name, str(reason)))
            except OSError as error:
                quarantine.append((name, f"cannot be read: {error.strerror or error}"))

    def _image(self, picture: Picture) -> Image:
        """H×W×C in the form of the fit, and which values are there.

        Raises:
            Unreadable: why it holds no vector.
        """
        pixels, valid = self._conformed(picture.pixels), picture.valid
        if pixels.dtype.kind == "f":
            finite = np.isfinite(pixels)
            valid = finite if valid is None else valid & finite
        if valid is not None and valid.all():
            valid = None
        if valid is not None:
            valid = np.broadcast_to(valid, pixels.shape)
        if self.over == "pixels":
            if valid is not None:
                raise Unreadable(
                    f"{int((~valid).sum()):,} of its values are left out (transparent, nodata or not finite), "
                    "and a whole image as one vector needs them all"
                )
            return pixels, None
        if min(pixels.shape[:2]) < self.size:
            raise Unreadable(f"{pixels.shape[0]}×{pixels.shape[1]} is smaller than a patch of {self.size}×{self.size}")
        if valid is not None:
            windows = np.lib.stride_tricks.sliding_window_view(valid.all(axis=2), (self.size, self.size))
            if not windows.all(axis=(2, 3)).any():
                raise Unreadable(f"no {self.size}×{self.size} patch of it is without values that are left out")
        return pixels, valid

    def _conformed(self, pixels: NDArray[Any]) -> NDArray[Any]:
        kind, channels = pixel_kind(pixels[None]), pixels.shape[2]
        if kind == "uint8" and self.kind == "uint16":
            pixels, kind = pixels.astype(np.uint16) * np.uint16(257), "uint16"
        if channels == 1 and self.channels == 3 and kind != "float":
            pixels, channels = np.repeat(pixels, 3, axis=2), 3
        if (kind, channels) != (self.kind, self.channels):
            raise Unreadable(
                f"{kind} pixels of {channels} channels, where the first images of the source have {self.kind} pixels "
                f"of {self.channels}"
            )
        return pixels


def _batches(images: Iterator[Image]) -> Iterator[Batch]:
    """Neighbours of one size and type together, about `_BATCH_BYTES` at a time."""
    pending: list[Image] = []
    held = 0
    for image in images:
        if pending and (_form(image) != _form(pending[0]) or held >= _BATCH_BYTES):
            yield _stacked(pending)
            pending, held = [], 0
        pending.append(image)
        held += image[0].nbytes
    if pending:
        yield _stacked(pending)


def _form(image: Image) -> tuple[Any, ...]:
    return image[0].shape, image[0].dtype, image[1] is None


def _stacked(images: list[Image]) -> Batch:
    masks = [valid for _, valid in images if valid is not None]
    return np.stack([pixels for pixels, _ in images]), np.stack(masks) if masks else None
