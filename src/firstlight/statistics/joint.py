"""All statistics of one kind of pixels, from one pass, as one value with `+`.

`IntegerJoint` holds nothing but integers, so `+` is exactly associative and commutative: any partition of
the images, in any order, gives the same bits. `FloatJoint` merges in float64; fixed blocks merged in
canonical order give the same bits for any number of workers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from firstlight.statistics import kernels
from firstlight.statistics.comoments import FloatComoments, IntegerComoments, Moments
from firstlight.statistics.exact import exact_sum
from firstlight.statistics.histogram import BINS, Histogram, float_keys
from firstlight.statistics.mean_image import LARGEST, FloatMeanImage, IntegerMeanImage
from firstlight.statistics.per_image import FloatPerImage, IntegerPerImage

Images: TypeAlias = Sequence[NDArray[Any]] | NDArray[Any]
Masks: TypeAlias = Sequence[NDArray[np.bool_] | None] | NDArray[np.bool_] | None
Run: TypeAlias = tuple[NDArray[Any], NDArray[np.bool_] | None]


@dataclass(frozen=True, eq=False)
class IntegerJoint:
    """uint8 or uint16 pixels.

    Attributes:
        count: images.
        mean_image: None once images of different sizes (or larger than `mean_image.LARGEST`) were seen.
    """

    count: int
    histogram: Histogram
    comoments: IntegerComoments
    per_image: IntegerPerImage
    mean_image: IntegerMeanImage | None

    @classmethod
    def observe(cls, images: Images, valid: Masks = None) -> "IntegerJoint":
        """The statistics of images H×W×C, all uint8 or all uint16, sizes free; `valid` says which values count."""
        runs = list(_runs(images, valid))
        kind, c = runs[0][0].dtype.name, runs[0][0].shape[3]
        counts = np.zeros((2, c, BINS[kind]), np.int64)
        rows = [_integer_rows(run, run_valid, counts) for run, run_valid in runs]
        complete, pixels, sums, squares, joint_sums, products = (
            np.concatenate([row[k] for row in rows]) for k in range(6)
        )
        return cls(
            len(pixels),
            Histogram(kind, counts.sum(axis=0)),
            IntegerComoments(int(complete.sum()), exact_sum(joint_sums), exact_sum(products)),
            IntegerPerImage.observe(pixels, sums, squares),
            IntegerMeanImage.observe(*runs[0]) if _one_small_size(runs) else None,
        )

    def __add__(self, other: "IntegerJoint") -> "IntegerJoint":
        return IntegerJoint(
            self.count + other.count,
            self.histogram + other.histogram,
            self.comoments + other.comoments,
            self.per_image + other.per_image,
            _add_mean_images(self.mean_image, other.mean_image),
        )

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.histogram.counts)

    def repeated(self, channels: int) -> "IntegerJoint":
        """One channel as `channels` equal ones: what gray images are to a network that takes RGB."""
        return IntegerJoint(
            self.count,
            self.histogram.repeated(channels),
            self.comoments.repeated(channels),
            self.per_image.repeated(channels),
            self.mean_image and self.mean_image.repeated(channels),
        )

    def widened(self) -> "IntegerJoint":
        """8-bit statistics as 16-bit ones, exactly."""
        return IntegerJoint(
            self.count,
            self.histogram.widened(),
            self.comoments.widened(),
            self.per_image.widened(),
            self.mean_image and self.mean_image.widened(),
        )


@dataclass(frozen=True, eq=False)
class FloatJoint:
    """Float pixels, as they are. Non-finite values never take part."""

    count: int
    histogram: Histogram
    comoments: FloatComoments
    per_image: FloatPerImage
    mean_image: FloatMeanImage | None
    moments: Moments

    @classmethod
    def observe(cls, images: Images, valid: Masks = None) -> "FloatJoint":
        """The statistics of images H×W×C of real numbers, sizes free; `valid` says which values count."""
        parts = [cls._observe_run(*run) for run in _runs(images, valid)]
        return sum(parts[1:], start=parts[0])

    @classmethod
    def _observe_run(cls, images: NDArray[Any], valid: NDArray[np.bool_] | None) -> "FloatJoint":
        """The statistics of one N×H×W×C run."""
        n, h, w, c = images.shape
        images = images.astype(np.float64)
        finite = np.isfinite(images)
        valid = finite if valid is None else finite & valid
        pixels = np.zeros((n, c), np.int64)
        mean, m2, joint_mean = np.zeros((3, n, c))
        comoment = np.zeros((n, c, c))
        complete = [
            kernels.float_moments(
                images[i].reshape(-1, c), valid[i].reshape(-1, c), pixels[i], mean[i], m2[i], joint_mean[i], comoment[i]
            )
            for i in range(n)
        ]
        keys = (float_keys(images[..., k][valid[..., k]]) for k in range(c))
        counts = np.stack([np.bincount(key, minlength=BINS["float"]) for key in keys])
        low = np.where(valid, images, np.inf).min(axis=(0, 1, 2))
        high = np.where(valid, images, -np.inf).max(axis=(0, 1, 2))
        moments = [Moments(pixels[i], mean[i], m2[i], low, high) for i in range(n)]
        comoments = [FloatComoments(complete[i], joint_mean[i], comoment[i]) for i in range(n)]
        return cls(
            n,
            Histogram("float", counts),
            sum(comoments[1:], start=comoments[0]),
            FloatPerImage.observe(pixels, mean, m2),
            FloatMeanImage.observe(images, valid) if h * w * c <= LARGEST else None,
            sum(moments[1:], start=moments[0]),
        )

    def __add__(self, other: "FloatJoint") -> "FloatJoint":
        return FloatJoint(
            self.count + other.count,
            self.histogram + other.histogram,
            self.comoments + other.comoments,
            self.per_image + other.per_image,
            _add_mean_images(self.mean_image, other.mean_image),
            self.moments + other.moments,
        )

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.histogram.counts)

    def repeated(self, channels: int) -> "FloatJoint":
        """One channel as `channels` equal ones."""
        return FloatJoint(
            self.count,
            self.histogram.repeated(channels),
            self.comoments.repeated(channels),
            self.per_image.repeated(channels),
            self.mean_image and self.mean_image.repeated(channels),
            self.moments.repeated(channels),
        )


Joint: TypeAlias = IntegerJoint | FloatJoint


def observe(images: Images, valid: Masks = None) -> Joint:
    """The statistics of images H×W×C of one dtype and channel count; the dtype decides how.

    Args:
        images: a sequence of H×W×C arrays of any sizes, or one N×H×W×C array.
        valid: boolean arrays of the same shapes, False where a value takes no part; None when all do.
    """
    kind = IntegerJoint if images[0].dtype in (np.uint8, np.uint16) else FloatJoint
    return kind.observe(images, valid)


def joint_to_dict(joint: Joint) -> dict[str, Any]:
    """Plain values for JSON."""
    parts = {name: part.to_dict() for name, part in vars(joint).items() if name != "count" and part is not None}
    return {"count": joint.count, **parts}


def joint_from_dict(value: dict[str, Any]) -> Joint:
    """The inverse of `joint_to_dict`."""
    histogram = Histogram.from_dict(value["histogram"])
    image = value.get("mean_image")
    if histogram.kind == "float":
        return FloatJoint(
            value["count"],
            histogram,
            FloatComoments.from_dict(value["comoments"]),
            FloatPerImage.from_dict(value["per_image"]),
            image and FloatMeanImage.from_dict(image),
            Moments.from_dict(value["moments"]),
        )
    return IntegerJoint(
        value["count"],
        histogram,
        IntegerComoments.from_dict(value["comoments"]),
        IntegerPerImage.from_dict(value["per_image"]),
        image and IntegerMeanImage.from_dict(image),
    )


def _runs(images: Images, valid: Masks) -> Iterator[Run]:
    """Neighbours of equal size as one N×H×W×C array, with their validity."""
    if isinstance(images, np.ndarray):
        yield images, valid if valid is None else np.asarray(valid)
        return
    masks = [None] * len(images) if valid is None else valid
    for _, group in groupby(zip(images, masks, strict=True), key=lambda pair: pair[0].shape):
        run, run_valid = zip(*group, strict=True)
        if all(mask is None for mask in run_valid):
            yield np.stack(run), None
        else:
            every = np.ones(run[0].shape, bool)
            yield np.stack(run), np.stack([every if mask is None else mask for mask in run_valid])


def _one_small_size(runs: list[Run]) -> bool:
    return len(runs) == 1 and runs[0][0][0].size <= LARGEST


def _integer_rows(images: NDArray[Any], valid: NDArray[np.bool_] | None, counts: NDArray[np.int64]) -> tuple[Any, ...]:
    """One row per image of an N×H×W×C run; every value is counted into `counts` (2×C×B) on the way.

    Returns:
        complete pixels N; valid pixels, their sums and squares N×C; sums N×C and products N×C×C of
        complete pixels: all int64.
    """
    n, h, w, c = images.shape
    flat = np.ascontiguousarray(images).reshape(n, h * w, c)
    if valid is None:
        kernels.count_values(flat, counts)
        sums, products = kernels.products_per_image(flat)
        pixels = np.full((n, c), h * w, np.int64)
        return pixels[:, 0], pixels, sums, np.einsum("ncc->nc", products), sums, products
    flat_valid = np.ascontiguousarray(valid).reshape(n, h * w, c)
    pixels, sums, squares, joint_sums = np.zeros((4, n, c), np.int64)
    products = np.zeros((n, c, c), np.int64)
    complete = np.zeros(n, np.int64)
    kernels.observe_masked(flat, flat_valid, counts, complete, pixels, sums, squares, joint_sums, products)
    return complete, pixels, sums, squares, joint_sums, products


def _add_mean_images(a: Any, b: Any) -> Any:
    """The sum of two mean images of one size; otherwise None, which absorbs everything."""
    return a + b if a is not None and b is not None and a.shape == b.shape else None
