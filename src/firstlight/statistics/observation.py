"""From arrays to a Joint: pixels are counted as they come, while they are still in the cache."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from firstlight.statistics import kernels
from firstlight.statistics.comoments import FloatComoments, IntegerComoments, Moments
from firstlight.statistics.exact import exact_sum
from firstlight.statistics.histogram import BINS, Histogram, float_keys
from firstlight.statistics.joint import FloatJoint, IntegerJoint, Joint
from firstlight.statistics.mean_image import LARGEST, FloatMeanImage, RunningMeanImage
from firstlight.statistics.per_image import FloatPerImage, IntegerPerImage

Images: TypeAlias = Sequence[NDArray[Any]] | NDArray[Any]
Masks: TypeAlias = Sequence[NDArray[np.bool_] | None] | NDArray[np.bool_] | None
Valid: TypeAlias = NDArray[np.bool_] | None


class IntegerObservation:
    """A Joint in the making, of uint8 or uint16 pixels. Sums are Python integers only once, at the end."""

    def __init__(self, kind: str, channels: int) -> None:
        self._kind = kind
        self._counts = np.zeros((channels, BINS[kind]), np.int64)
        self._rows: list[tuple[NDArray[np.int64], ...]] = []
        self._mean_image = RunningMeanImage()

    def add(self, images: NDArray[Any], valid: Valid = None) -> None:
        """Count N×H×W×C pixels of one size, and which of them take part."""
        n, h, w, c = images.shape
        flat = np.ascontiguousarray(images).reshape(n, h * w, c)
        self._mean_image.add(images, valid)
        if valid is None:
            sums, products = kernels.count(flat, self._counts)
            pixels = np.full((n, c), h * w, np.int64)
            self._rows.append((pixels[:, 0], pixels, sums, np.einsum("ncc->nc", products), sums, products))
            return
        flat_valid = np.ascontiguousarray(valid).reshape(n, h * w, c)
        pixels, sums, squares, joint_sums = np.zeros((4, n, c), np.int64)
        products = np.zeros((n, c, c), np.int64)
        complete = np.zeros(n, np.int64)
        kernels.observe_masked(flat, flat_valid, self._counts, complete, pixels, sums, squares, joint_sums, products)
        self._rows.append((complete, pixels, sums, squares, joint_sums, products))

    def joint(self) -> IntegerJoint:
        """What was counted."""
        complete, pixels, sums, squares, joint_sums, products = map(np.concatenate, zip(*self._rows, strict=True))
        return IntegerJoint(
            len(pixels),
            Histogram(self._kind, self._counts),
            IntegerComoments(int(complete.sum()), exact_sum(joint_sums), exact_sum(products)),
            IntegerPerImage.observe(pixels, sums, squares),
            self._mean_image.value(),
        )


class FloatObservation:
    """A Joint in the making, of floats; each array that is added is merged at once."""

    def __init__(self) -> None:
        self._joint: FloatJoint | None = None

    def add(self, images: NDArray[Any], valid: Valid = None) -> None:
        """Count N×H×W×C real numbers of one size, and which of them take part."""
        fresh = _float_joint(images, valid)
        self._joint = fresh if self._joint is None else self._joint + fresh

    def joint(self) -> FloatJoint:
        """What was counted."""
        assert self._joint is not None, "nothing was added"
        return self._joint


def observation(images: NDArray[Any]) -> IntegerObservation | FloatObservation:
    """An empty observation for images like these (…×C); the dtype decides how they are counted."""
    if images.dtype in (np.uint8, np.uint16):
        return IntegerObservation(images.dtype.name, images.shape[-1])
    return FloatObservation()


def observe(images: Images, valid: Masks = None) -> Joint:
    """The statistics of images H×W×C of one dtype and channel count.

    Args:
        images: a sequence of H×W×C arrays of any sizes, or one N×H×W×C array.
        valid: boolean arrays of the same shapes, False where a value takes no part; None when all do.
    """
    running = observation(images[0])
    for run, run_valid in runs(images, valid):
        running.add(run, run_valid)
    return running.joint()


def runs(images: Images, valid: Masks = None) -> Iterator[tuple[NDArray[Any], Valid]]:
    """Neighbours of equal size as one N×H×W×C array, with their validity."""
    if isinstance(images, np.ndarray):
        yield images, valid if valid is None else np.asarray(valid)
        return
    masks = [None] * len(images) if valid is None else valid
    for _, group in groupby(zip(images, masks, strict=True), key=lambda pair: pair[0].shape):
        run, run_valid = zip(*group, strict=True)
        if all(mask is None for mask in run_valid):
            yield _stacked(run), None
        else:
            every = np.ones(run[0].shape, bool)
            yield _stacked(run), _stacked([every if mask is None else mask for mask in run_valid])


def _stacked(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return arrays[0][None] if len(arrays) == 1 else np.stack(arrays)


def _float_joint(images: NDArray[Any], valid: Valid) -> FloatJoint:
    """The statistics of one N×H×W×C run of floats."""
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
    return FloatJoint(
        n,
        Histogram("float", counts),
        sum(comoments[1:], start=comoments[0]),
        FloatPerImage.observe(pixels, mean, m2),
        FloatMeanImage.observe(images, valid) if h * w * c <= LARGEST else None,
        sum(moments[1:], start=moments[0]),
    )
