"""Means and covariance of channels, over the pixels that are valid in every channel.

Integer pixels: n, Σx and Σxxᵀ as integers. The textbook warning against sums of squares is about
rounding, and integers do not round; the one division comes at the very end.

Floats: n, mean and Σ(x−m)(x−m)ᵀ, merged by the pairwise update of Chan, Golub & LeVeque, *Updating
Formulae and a Pairwise Algorithm for Computing Sample Variances* (1979), equation 2.1, in float64.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from firstlight.statistics.exact import Exact, Packed, to_float

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class IntegerComoments(Packed):
    """Exact second-order statistics of integer pixels.

    Attributes:
        pixels: pixels seen.
        sums: Σx, C Python integers, raw units.
        products: Σxxᵀ, C×C Python integers.
    """

    pixels: int
    sums: Exact
    products: Exact

    def __add__(self, other: "IntegerComoments") -> "IntegerComoments":
        return IntegerComoments(self.pixels + other.pixels, self.sums + other.sums, self.products + other.products)

    @property
    def mean(self) -> Floats:
        """C, raw units."""
        return to_float(self.sums, np.array(self.pixels, object))

    @property
    def covariance(self) -> Floats:
        """Population covariance C×C, raw units squared: (n·Σxxᵀ − ΣxΣxᵀ) / n²."""
        scatter = self.pixels * self.products - np.multiply.outer(self.sums, self.sums)
        return to_float(scatter, np.array(self.pixels**2, object))

    def repeated(self, channels: int) -> "IntegerComoments":
        """One channel as `channels` equal ones."""
        ones = np.ones((channels, channels), object)
        return IntegerComoments(self.pixels, self.sums[0] * ones[0], self.products[0, 0] * ones)

    def widened(self) -> "IntegerComoments":
        """8-bit values as 16-bit: x becomes 257·x."""
        return IntegerComoments(self.pixels, self.sums * 257, self.products * 257**2)


@dataclass(frozen=True, eq=False)
class FloatComoments(Packed):
    """Second-order statistics of float pixels.

    Attributes:
        pixels: pixels seen.
        mean: C float64.
        scatter: Σ(x−m)(x−m)ᵀ, C×C float64.
    """

    pixels: int
    mean: Floats
    scatter: Floats

    def __add__(self, other: "FloatComoments") -> "FloatComoments":
        total = self.pixels + other.pixels
        if other.pixels == 0:
            return self
        if self.pixels == 0:
            return other
        shift = other.mean - self.mean
        cross = np.outer(shift, shift) * (self.pixels / total * other.pixels)
        return FloatComoments(total, self.mean + shift * (other.pixels / total), self.scatter + other.scatter + cross)

    @property
    def covariance(self) -> Floats:
        """Population covariance C×C; nan when nothing was seen."""
        return self.scatter / self.pixels if self.pixels else np.full_like(self.scatter, np.nan)

    def repeated(self, channels: int) -> "FloatComoments":
        """One channel as `channels` equal ones."""
        return FloatComoments(
            self.pixels, np.repeat(self.mean, channels), np.full((channels, channels), self.scatter[0, 0])
        )


@dataclass(frozen=True, eq=False)
class Moments(Packed):
    """Mean and variance of float channels, each over its own valid pixels (Chan et al., as above).

    Attributes:
        pixels: C int64, valid values per channel.
        mean: C float64.
        m2: C float64, Σ(x−m)².
        low, high: C float64, smallest and largest value (±inf when nothing was seen).
    """

    pixels: NDArray[np.int64]
    mean: Floats
    m2: Floats
    low: Floats
    high: Floats

    def __add__(self, other: "Moments") -> "Moments":
        total = self.pixels + other.pixels
        share = other.pixels / np.maximum(total, 1)
        shift = other.mean - self.mean
        return Moments(
            total,
            self.mean + shift * share,
            self.m2 + other.m2 + shift**2 * (self.pixels * share),
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
        )

    @property
    def variance(self) -> Floats:
        """Population variance; nan for a channel without a valid value."""
        return np.where(self.pixels > 0, self.m2 / np.maximum(self.pixels, 1), np.nan)

    def repeated(self, channels: int) -> "Moments":
        """One channel as `channels` equal ones."""
        fields = (self.pixels, self.mean, self.m2, self.low, self.high)
        return Moments(*(np.repeat(field, channels) for field in fields))  # type: ignore[arg-type]
