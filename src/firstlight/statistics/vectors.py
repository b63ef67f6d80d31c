"""Mean and covariance of whole patches (k×k×C) or whole images (H×W×C) taken as vectors: a value with `+`.

Integers: n, Σx and Σxxᵀ about the middle of the range, exactly. With |x| ≤ 128 a product is at most 2¹⁴, so
1,024 of them add up to at most 2²⁴ and float32 holds every partial sum of a matrix product exactly, in whatever
order the library adds; with float64 the same is true of 2³⁹ vectors, and of 2²³ where |x| ≤ 32768. Blocks of so
many go through a matrix product and are added up as int64, which holds 2⁴⁹ (8-bit) or 2³³ (16-bit) vectors.
Float32 is twice as fast, but short blocks pay only where D is large.

Floats: n, mean and Σ(x−m)(x−m)ᵀ in float64, merged as Chan, Golub & LeVeque (1979), equation 2.1.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight._files import write_atomically
from firstlight.errors import FirstlightError
from firstlight.statistics.exact import Packed
from firstlight.statistics.histogram import FULL_SCALE

Floats = NDArray[np.float64]

FORMAT = "firstlight.vectors/1"

LARGEST = 16_384
"""Components above which no covariance matrix is kept: it would need more than 2 GB."""

_HELD = 1 << 22
"""Values of patches that are held at a time."""

_BLOCK = 512


@dataclass(frozen=True, eq=False)
class Vectors(Packed):
    """Second-order statistics of vectors of one length D.

    Attributes:
        over: "patches" or "pixels": what a vector is.
        kind: "uint8", "uint16" or "float".
        shape: height, width and channels of a vector; D is their product, in this order.
        count: vectors.
        images: images they came from.
        sums: Σ(x − middle), D int64 raw units; for floats the mean, D float64.
        products: Σ(x − middle)(x − middle)ᵀ, D×D int64; for floats Σ(x−m)(x−m)ᵀ, D×D float64.
        low, high: smallest and largest value, full scale.
        order, transform: as in `Provenance`: what the channels mean and what was done to the images.
    """

    over: str
    kind: str
    shape: tuple[int, int, int]
    count: int
    images: int
    sums: NDArray[Any]
    products: NDArray[Any]
    low: float
    high: float
    order: str = "RGB"
    transform: str = ""

    @classmethod
    def of_patches(cls, images: Sequence[NDArray[Any]] | NDArray[Any], size: int) -> "Vectors":
        """All size×size patches, at every position, of N×H×W×C images or a list of H×W×C ones.

        Raises:
            FirstlightError: slugs ``bad-patch`` (larger than an image), ``too-many-components``, ``not-pixels``.
        """
        parts = []
        for batch in _batches(images):
            height, width = batch.shape[1:3]
            if not 1 <= size <= min(height, width):
                raise FirstlightError(
                    f"patches of {size}×{size} do not fit into images of {height}×{width}",
                    "give a smaller patch",
                    slug="bad-patch",
                )
            channels = batch.shape[3]
            per_image = (height - size + 1) * (width - size + 1)
            windows = np.lib.stride_tricks.sliding_window_view(batch, (size, size), (1, 2))
            windows = np.moveaxis(windows, 3, 5)  # N×H'×W'×k×k×C
            step = max(1, _HELD // (per_image * size * size * channels))
            for start in range(0, len(batch), step):
                some = windows[start : start + step]
                rows = some.reshape(len(some) * per_image, size * size * channels)
                parts.append(_observed("patches", (size, size, channels), rows, len(some)))
        return _total(parts)

    @classmethod
    def of_pixels(cls, images: Sequence[NDArray[Any]] | NDArray[Any]) -> "Vectors":
        """Whole images of one size, N×H×W×C or a list of H×W×C, as vectors.

        Raises:
            FirstlightError: slugs ``sizes-differ``, ``too-many-components``, ``not-pixels``.
        """
        parts = [
            _observed("pixels", batch.shape[1:], batch.reshape(len(batch), -1), len(batch))
            for batch in _batches(images)
        ]
        return _total(parts)

    def __add__(self, other: "Vectors") -> "Vectors":
        """Statistics of both.

        Raises:
            FirstlightError: slug ``do-not-belong-together``, when shapes, kinds or origins differ.
        """
        for name in ("over", "kind", "shape", "order", "transform"):
            a, b = getattr(self, name), getattr(other, name)
            if a != b:
                raise FirstlightError(
                    f"these statistics do not belong together: {name} {a} against {b}",
                    "fit both on images of one size, kind and transform",
                    slug="do-not-belong-together",
                    call="vectors + vectors",
                )
        count = self.count + other.count
        if self.kind == "float":
            step = other.sums - self.sums
            sums = self.sums + step * (other.count / count)
            cross = np.outer(step, step) * (self.count / count * other.count)
            products = self.products + other.products + cross
        else:
            sums, products = self.sums + other.sums, self.products + other.products
        return replace(
            self,
            count=count,
            images=self.images + other.images,
            sums=sums,
            products=products,
            low=min(self.low, other.low),
            high=max(self.high, other.high),
        )

    @property
    def channels(self) -> int:
        """C."""
        return self.shape[2]

    @property
    def dimensions(self) -> int:
        """D."""
        return len(self.sums)

    @cached_property
    def mean(self) -> Floats:
        """h×w×C, full scale."""
        if self.kind == "float":
            return np.asarray(self.sums.reshape(self.shape), np.float64)
        mean = (self.sums / self.count + _middle(self.kind)) / FULL_SCALE[self.kind]
        return np.asarray(mean.reshape(self.shape), np.float64)

    @cached_property
    def covariance(self) -> Floats:
        """Population covariance, D×D, full scale squared. The sums are exact; only the last divisions round."""
        if self.kind == "float":
            return np.asarray(self.products / self.count)
        mean = self.sums / self.count
        centred = self.products / self.count - np.outer(mean, mean)
        return np.asarray(centred / FULL_SCALE[self.kind] ** 2)

    @cached_property
    def eigen(self) -> tuple[Floats, Floats]:
        """Eigenvalues (D, falling, not negative) and eigenvectors (D×D, columns, largest entry positive)."""
        values, vectors = np.linalg.eigh(self.covariance)
        values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
        signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(len(values))])
        return values, vectors * signs

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one JSON file; `load` goes on from it."""
        write_atomically(path, json.dumps({"format": FORMAT, **self.to_dict()}) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Vectors":
        """Read what `save` wrote.

        Raises:
            FirstlightError: slugs ``no-such-file`` and ``not-statistics``.
        """
        try:
            value = json.loads(Path(path).read_text(encoding="utf-8"))
            if value.pop("format") != FORMAT:
                raise ValueError
            return cls.from_dict({**value, "shape": tuple(value["shape"])})
        except OSError as error:
            raise FirstlightError(
                f"cannot read {str(path)!r}: {error.strerror}", "name a file that save wrote", slug="no-such-file"
            ) from None
        except (KeyError, TypeError, ValueError, AttributeError):
            raise FirstlightError(
                f"{str(path)!r} does not hold statistics of patches or pixels",
                "name a file that Vectors.save wrote",
                slug="not-statistics",
            ) from None


def pixel_kind(images: NDArray[Any]) -> str:
    """ "uint8", "uint16" or "float".

    Raises:
        FirstlightError: slug ``not-pixels``, for anything else or another number of axes.
    """
    kind = "float" if images.dtype.kind == "f" else str(images.dtype)
    if kind not in FULL_SCALE or images.ndim != 4:
        raise FirstlightError(
            f"{images.dtype} values of shape {images.shape} are no batch of images",
            "give uint8, uint16 or floats, N×H×W×C",
            slug="not-pixels",
        )
    return kind


def _batches(images: Sequence[NDArray[Any]] | NDArray[Any]) -> list[NDArray[Any]]:
    batches = [images] if isinstance(images, np.ndarray) else [np.asarray(image)[None] for image in images]
    for batch in batches:
        pixel_kind(batch)
    if not batches or not batches[0].size:
        raise FirstlightError("there are no images", "give one or more", slug="no-images")
    return batches


def _observed(over: str, shape: tuple[int, int, int], rows: NDArray[Any], images: int) -> Vectors:
    """Statistics of n×D raw vectors."""
    kind = "float" if rows.dtype.kind == "f" else str(rows.dtype)
    n, d = rows.shape
    if d > LARGEST:
        raise FirstlightError(
            f"a covariance of {d:,} components would need {d * d * 8 / 1e9:,.0f} GB",
            "fit a low rank (LowRankSketch), or whiten over patches or channels",
            slug="too-many-components",
        )
    scale = FULL_SCALE[kind]
    low, high = float(rows.min()) / scale, float(rows.max()) / scale
    if kind == "float":
        mean = rows.mean(axis=0, dtype=np.float64)
        centred = rows - mean
        return Vectors(over, kind, shape, n, images, mean, centred.T @ centred, low, high)
    lane, block = (np.dtype(np.float32), 1024) if kind == "uint8" and d > _BLOCK else (np.dtype(np.float64), 1 << 17)
    sums, products = np.zeros(d, np.int64), np.zeros((d, d), np.int64)
    for start in range(0, n, block):
        part = rows[start : start + block].astype(lane)
        np.subtract(part, _middle(kind), out=part)
        sums += part.sum(axis=0, dtype=np.float64).astype(np.int64)
        _add_products(part, products)
    below = np.tril_indices(d, -1)
    products[below] = products.T[below]
    return Vectors(over, kind, shape, n, images, sums, products, low, high)


def _add_products(part: NDArray[Any], products: NDArray[np.int64]) -> None:
    """Add partᵀ·part to the upper triangle, a band of rows at a time."""
    for start in range(0, part.shape[1], _BLOCK):
        band = part[:, start : start + _BLOCK].T @ part[:, start:]
        products[start : start + _BLOCK, start:] += band.astype(np.int64)


def _total(parts: Sequence[Vectors]) -> Vectors:
    first, *rest = parts
    for part in rest:
        if part.shape != first.shape:
            raise FirstlightError(
                f"images of {part.shape} among images of {first.shape}",
                "resize and crop to one size, or whiten over patches, which takes any",
                slug="sizes-differ",
            )
        first = first + part
    return first


def _middle(kind: str) -> int:
    return {"uint8": 128, "uint16": 32768, "float": 0}[kind]
