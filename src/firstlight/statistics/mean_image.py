"""The mean image H×W×C of Krizhevsky et al. (AlexNet, 2012) and the std of every position.

It exists only where all images share one size; of images of different sizes there is none, and "none"
absorbs whatever is added to it. Integer pixels keep exact integer sums, floats mean and Σ(x−m)².
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.statistics import kernels
from firstlight.statistics.exact import Packed

Floats = NDArray[np.float64]

LARGEST = 2**24
"""Positions (H·W·C) above which no mean image is kept: it would need 16 bytes each per running block."""

_WAITING_BYTES = 8 * 2**20
_LANE_IMAGES = 66_051  # 2³² / 255²: squares of 8-bit values that a 32-bit lane can add without overflow


@dataclass(frozen=True, eq=False)
class IntegerMeanImage(Packed):
    """Exact sums per position.

    Attributes:
        count: images (or valid values) per position: int64, shape () or H×W×C.
        sums, squares: Σx and Σx², H×W×C int64, raw units. Σx² of 16-bit pixels fits for 2³¹ images.
    """

    count: NDArray[np.int64]
    sums: NDArray[np.int64]
    squares: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        """H, W, C."""
        return self.sums.shape

    def __add__(self, other: "IntegerMeanImage") -> "IntegerMeanImage":
        count = np.asarray(self.count + other.count)  # NumPy adds two arrays of shape () to a scalar
        return IntegerMeanImage(count, self.sums + other.sums, self.squares + other.squares)

    def mean_and_std(self) -> tuple[Floats, Floats]:
        """Both H×W×C, raw units; nan where no value was valid.

        Σx² − m·Σx cancels, so it is formed with the 64-bit mantissa of extended precision.
        """
        count = np.broadcast_to(self.count, self.shape).astype(np.longdouble)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = self.sums.astype(np.longdouble) / count
            variance = (self.squares.astype(np.longdouble) - mean * self.sums.astype(np.longdouble)) / count
        return mean.astype(np.float64), np.sqrt(np.maximum(variance, 0)).astype(np.float64)

    def repeated(self, channels: int) -> "IntegerMeanImage":
        """One channel as `channels` equal ones."""
        count = np.repeat(self.count, channels, axis=2) if self.count.ndim else self.count
        return IntegerMeanImage(
            count, np.repeat(self.sums, channels, axis=2), np.repeat(self.squares, channels, axis=2)
        )

    def widened(self) -> "IntegerMeanImage":
        """8-bit values as 16-bit: x becomes 257·x."""
        return IntegerMeanImage(self.count, self.sums * 257, self.squares * 257**2)


class RunningMeanImage:
    """Sums of integer images in the making. A second size, or too large a one, ends it for good.

    Images wait until a few megabytes have come: where sizes differ that shows before anything was summed.
    """

    def __init__(self) -> None:
        self._count: NDArray[np.int64] = np.array(0, np.int64)
        self._sums: NDArray[np.int64] | None = None
        self._squares: NDArray[np.int64] | None = None
        self._shape: tuple[int, ...] | None = None
        self._given_up = False
        self._waiting: list[tuple[NDArray[Any], NDArray[np.bool_] | None]] = []
        self._bytes = 0

    def add(self, images: NDArray[Any], valid: NDArray[np.bool_] | None) -> None:
        """Add N×H×W×C pixels and their validity; the arrays must not change afterwards."""
        self._shape = self._shape or images.shape[1:]
        if self._given_up or images.shape[1:] != self._shape or images[0].size > LARGEST:
            self._given_up, self._sums, self._squares = True, None, None
            self._waiting.clear()
            return
        self._waiting.append((images, valid))
        self._bytes += images.nbytes
        if self._bytes > _WAITING_BYTES:
            self._sum()

    def value(self) -> IntegerMeanImage | None:
        """The sums so far; None when the images differ in size or are too large."""
        self._sum()
        if self._sums is None or self._squares is None or self._shape is None:
            return None
        return IntegerMeanImage(self._count, self._sums.reshape(self._shape), self._squares.reshape(self._shape))

    def _sum(self) -> None:
        for images, valid in self._waiting:
            n = len(images)
            if self._sums is None or self._squares is None:
                self._sums, self._squares = np.zeros((2, images[0].size), np.int64)
            if valid is not None:
                images = np.where(valid, images, 0).astype(images.dtype)
            self._count = np.asarray(self._count + (n if valid is None else valid.sum(axis=0, dtype=np.int64)))
            lane = np.empty(0, np.uint32 if images.dtype == np.uint8 else np.uint64)
            rows = images.reshape(n, -1)
            for start in range(0, n, _LANE_IMAGES):
                kernels.add_to_mean_image(rows[start : start + _LANE_IMAGES], self._sums, self._squares, lane)
        self._waiting.clear()
        self._bytes = 0


@dataclass(frozen=True, eq=False)
class FloatMeanImage(Packed):
    """Mean and Σ(x−m)² per position, merged pairwise (Chan et al., 1979).

    Attributes:
        count: valid values per position, H×W×C int64.
        mean, m2: H×W×C float64.
    """

    count: NDArray[np.int64]
    mean: Floats
    m2: Floats

    @classmethod
    def observe(cls, images: Floats, valid: NDArray[np.bool_]) -> "FloatMeanImage":
        """From N×H×W×C float64 pixels and their validity."""
        count = valid.sum(axis=0, dtype=np.int64)
        present = np.where(valid, images, 0.0)
        mean = present.sum(axis=0) / np.maximum(count, 1)
        m2 = (np.where(valid, images - mean, 0.0) ** 2).sum(axis=0)
        return cls(count, mean, m2)

    @property
    def shape(self) -> tuple[int, ...]:
        """H, W, C."""
        return self.mean.shape

    def __add__(self, other: "FloatMeanImage") -> "FloatMeanImage":
        total = self.count + other.count
        share = other.count / np.maximum(total, 1)
        shift = other.mean - self.mean
        return FloatMeanImage(total, self.mean + shift * share, self.m2 + other.m2 + shift**2 * (self.count * share))

    def mean_and_std(self) -> tuple[Floats, Floats]:
        """Both H×W×C; nan where no value was valid."""
        seen = self.count > 0
        std = np.sqrt(self.m2 / np.maximum(self.count, 1))
        return np.where(seen, self.mean, np.nan), np.where(seen, std, np.nan)

    def repeated(self, channels: int) -> "FloatMeanImage":
        """One channel as `channels` equal ones."""
        count, mean, m2 = (np.repeat(field, channels, axis=2) for field in (self.count, self.mean, self.m2))
        return FloatMeanImage(count, mean, m2)  # type: ignore[arg-type]
