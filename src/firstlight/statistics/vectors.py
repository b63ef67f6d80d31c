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
from collections.abc import Iterator, Sequence
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
from firstlight.statistics.provenance import Provenance

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
        order, transform: what the channels mean and what was done to the images, as in `Provenance`.
        quarantine: (name, reason) of every image that was not used, in canonical order.
        provenance: where the images come from; None for arrays that were given by hand.
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
    quarantine: tuple[tuple[str, str], ...] = ()
    provenance: Provenance | None = None

    @classmethod
    def empty(cls, over: str, kind: str, shape: tuple[int, int, int]) -> "Vectors":
        """Nothing seen yet.

        Args:
            over: "patches" or "pixels".
            kind: "uint8", "uint16" or "float".
            shape: height, width and channels of a vector.

        Raises:
            FirstlightError: slug ``too-many-components``.
        """
        d = int(np.prod(shape))
        if d > LARGEST:
            raise FirstlightError(
                f"a covariance of {d:,} components would need {d * d * 8 / 1e9:,.0f} GB",
                "fit a low rank (rank=), or whiten over patches or channels",
                slug="too-many-components",
            )
        number = np.float64 if kind == "float" else np.int64
        return cls(over, kind, shape, 0, 0, np.zeros(d, number), np.zeros((d, d), number), np.inf, -np.inf)

    @classmethod
    def of_patches(cls, images: Sequence[NDArray[Any]] | NDArray[Any], size: int) -> "Vectors":
        """All size×size patches, at every position, of N×H×W×C images or a list of H×W×C ones.

        Raises:
            FirstlightError: slugs ``bad-patch`` (larger than an image), ``too-many-components``, ``not-pixels``.
        """
        batches = _batches(images)
        found = cls.empty("patches", pixel_kind(batches[0]), (size, size, batches[0].shape[3]))
        for batch in batches:
            found = found.add(batch)
        return found

    @classmethod
    def of_pixels(cls, images: Sequence[NDArray[Any]] | NDArray[Any]) -> "Vectors":
        """Whole images of one size, N×H×W×C or a list of H×W×C, as vectors.

        Raises:
            FirstlightError: slugs ``sizes-differ``, ``too-many-components``, ``not-pixels``.
        """
        batches = _batches(images)
        found = cls.empty("pixels", pixel_kind(batches[0]), batches[0].shape[1:])
        for batch in batches:
            found = found.add(batch)
        return found

    def add(self, images: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> "Vectors":
        """These and the vectors of more images. Its own arrays are reused: the old value must not be used again.

        Args:
            images: N×H×W×C.
            valid: N×H×W×C, False where a value is missing: a vector that holds such a value is left out whole,
                for a covariance of vectors with holes need not be one.

        Raises:
            FirstlightError: slugs ``bad-patch`` (larger than an image), ``sizes-differ``, ``not-pixels`` and
                ``do-not-belong-together``, for another kind or number of channels.
        """
        kind = pixel_kind(images)
        if (kind, images.shape[3]) != (self.kind, self.channels):
            raise _strangers("pixels", f"{self.kind} × {self.channels}", f"{kind} × {images.shape[3]}")
        self._check_size(images.shape[1:])
        height, width, _ = self.shape
        whole = None if valid is None else np.asarray(_windows(valid, height, width).all(axis=(3, 4, 5)))
        found = self
        for rows in self._rows(images, whole):
            found = found._with_rows(rows)
        used = len(images) if whole is None else int(whole.any(axis=(1, 2)).sum())
        return replace(found, images=self.images + used)

    def _check_size(self, size: tuple[int, ...]) -> None:
        height, width, _ = self.shape
        if self.over == "pixels":
            if size != self.shape:
                raise FirstlightError(
                    f"images of {size} among images of {self.shape}",
                    "resize and crop to one size, or whiten over patches, which takes any",
                    slug="sizes-differ",
                )
        elif not 1 <= height <= min(size[:2]):
            raise FirstlightError(
                f"patches of {height}×{width} do not fit into images of {size[0]}×{size[1]}",
                "give a smaller patch",
                slug="bad-patch",
            )

    def _rows(self, images: NDArray[Any], whole: NDArray[np.bool_] | None) -> Iterator[NDArray[Any]]:
        """The vectors of the images, n×D about four million values at a time, without those that are not whole."""
        height, width, channels = self.shape
        windows = _windows(images, height, width)
        _, down, across = windows.shape[:3]
        step = max(1, _HELD // (down * across * self.dimensions))
        deep = max(1, _HELD // (across * self.dimensions))  # a large photograph is taken in bands
        for first in range(0, len(images), step):
            for top in range(0, down, deep):
                part = np.s_[first : first + step, top : top + deep]
                rows = windows[part].reshape(-1, height * width * channels)
                if whole is not None:
                    rows = rows[whole[part].reshape(-1)]
                if len(rows):
                    yield rows

    def _with_rows(self, rows: NDArray[Any]) -> "Vectors":
        """These and n×D raw vectors more, in the same arrays."""
        scale = FULL_SCALE[self.kind]
        low, high = float(rows.min()) / scale, float(rows.max()) / scale
        low, high = min(self.low, low), max(self.high, high)
        grown = replace(self, count=self.count + len(rows), low=low, high=high)
        if self.kind == "float":
            mean = rows.mean(axis=0, dtype=np.float64)
            centred = rows - mean
            self._merge(self.count, mean, centred.T @ centred, len(rows))
            return grown
        wide = self.kind == "uint8" and self.dimensions > _BLOCK
        lane, block = (np.dtype(np.float32), 1024) if wide else (np.dtype(np.float64), 1 << 17)
        for start in range(0, len(rows), block):
            part = rows[start : start + block].astype(lane)
            np.subtract(part, _middle(self.kind), out=part)
            self.sums[...] += part.sum(axis=0, dtype=np.float64).astype(np.int64)
            _add_products(part, self.products)
        return grown

    def _merge(self, count: int, mean: Floats, products: Floats, more: int) -> None:
        """Chan, Golub & LeVeque (1979), 2.1, for `more` vectors into the own arrays, which hold `count`."""
        if not more:
            return
        step = mean - self.sums
        total = count + more
        self.sums[...] += step * (more / total)
        for start in range(0, len(step), _BLOCK):  # by bands, so that no further D×D matrix is needed
            band = slice(start, start + _BLOCK)
            self.products[band] += products[band]
            self.products[band] += np.outer(step[band], step) * (count / total * more)

    def __add__(self, other: "Vectors") -> "Vectors":
        """Statistics of both.

        Raises:
            FirstlightError: slug ``do-not-belong-together``, when shapes, kinds or origins differ.
        """
        for name in ("over", "kind", "shape", "order", "transform"):
            if getattr(self, name) != getattr(other, name):
                raise _strangers(name, getattr(self, name), getattr(other, name))
        provenance = self.provenance or other.provenance
        if self.provenance and other.provenance:
            conflicts = self.provenance.conflicts(other.provenance)
            if conflicts:
                raise _strangers("; ".join(conflicts))
            provenance = self.provenance + other.provenance
        whole = replace(self, sums=self.sums.copy(), products=self.products.copy())
        if self.kind == "float":
            whole._merge(self.count, other.sums, other.products, other.count)
        else:
            whole.sums[...] += other.sums
            whole.products[...] += other.products
        return replace(
            whole,
            count=self.count + other.count,
            images=self.images + other.images,
            low=min(self.low, other.low),
            high=max(self.high, other.high),
            quarantine=self.quarantine + other.quarantine,
            provenance=provenance,
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

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        origin = None if self.provenance is None else self.provenance.to_dict()
        return {**super().to_dict(), "provenance": origin}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "Vectors":
        """The inverse of `to_dict`."""
        origin = value.get("provenance")
        found = super().from_dict({**value, "provenance": None})
        height, width, channels = found.shape
        return replace(
            found,
            shape=(height, width, channels),
            quarantine=tuple((name, reason) for name, reason in found.quarantine),
            provenance=None if origin is None else Provenance.from_dict(origin),
        )

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
            return cls.from_dict(value)
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


def _strangers(name: str, a: Any = None, b: Any = None) -> FirstlightError:
    return FirstlightError(
        f"these statistics do not belong together: {name}" + ("" if a is None else f" {a} against {b}"),
        "fit both on images of one size, kind and transform, with the same options",
        slug="do-not-belong-together",
        call="vectors + vectors",
    )


def _windows(batch: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """N×H×W×C → N×H′×W′×h×w×C: every window at every position, without copying a pixel."""
    return np.moveaxis(np.lib.stride_tricks.sliding_window_view(batch, (height, width), (1, 2)), 3, 5)


def _add_products(part: NDArray[Any], products: NDArray[np.int64]) -> None:
    """Add partᵀ·part: the upper triangle a band of rows at a time, and each band again below the diagonal."""
    for start in range(0, part.shape[1], _BLOCK):
        end = start + _BLOCK
        band = (part[:, start:end].T @ part[:, start:]).astype(np.int64)
        products[start:end, start:] += band
        products[end:, start:end] += band[:, _BLOCK:].T


def _middle(kind: str) -> int:
    return {"uint8": 128, "uint16": 32768, "float": 0}[kind]
