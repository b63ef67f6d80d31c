"""Statistics whose unit is the image, not the pixel.

Pixels of one image are alike, so a million of them from ten images know the dataset's mean about as well
as ten numbers do. The confidence interval of the pooled mean therefore treats the image as the unit:
R = ΣS_i / Σn_i is a ratio estimator over images with sums S_i and pixel counts n_i, with

    Var(R) ≈ N/(N−1) · Σ(S_i − R·n_i)² / (Σn_i)²          (Cochran, *Sampling Techniques*, 1977, eq. 6.13)

and for images of one size it is the familiar variance of the image means over N.

The mean of per-image standard deviations lives here too. It is what 0.229/0.224/0.225 (ImageNet) and
0.2023/0.1994/0.2010 (CIFAR-10) are, and it is *not* the standard deviation of the pixels: the spread
between images is missing from it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from firstlight.statistics.exact import Exact, Packed, exact_sum, to_float

Floats = NDArray[np.float64]

# Standard deviations are irrational, so each is rounded to a multiple of 2⁻⁴⁴ raw units before it is added.
# Added as integers they give the same total in any order; the rounding is 3e-14 of a gray level at most.
_STD_BITS = 44

_INTEGER_FIELDS = ("images", "n", "nn", "s", "ss", "ns", "stds")
_FLOAT_FIELDS = ("images", "n", "nn", "mean", "m2", "stds")


@dataclass(frozen=True, eq=False)
class IntegerPerImage(Packed):
    """Exact sums over images, per channel: C Python integers each, raw units.

    Attributes:
        images: images with at least one valid pixel in the channel.
        n, nn: Σn_i and Σn_i² of valid pixels.
        s, ss, ns: ΣS_i, ΣS_i² and Σn_iS_i of per-image sums.
        stds: Σ of per-image standard deviations, in units of 2⁻⁴⁴.
    """

    images: Exact
    n: Exact
    nn: Exact
    s: Exact
    ss: Exact
    ns: Exact
    stds: Exact

    @classmethod
    def observe(
        cls, pixels: NDArray[np.int64], sums: NDArray[np.int64], squares: NDArray[np.int64]
    ) -> "IntegerPerImage":
        """From N×C pixel counts, sums and sums of squares of N images."""
        # n·q bounds every product below; int64 where it fits and Python integers where not give the same values.
        fits = int(pixels.max()) * int(squares.max()) < 2**62
        n, s, q = (values if fits else values.astype(object) for values in (pixels, sums, squares))
        spread = (n * q - s * s).astype(np.float64)  # n² times the image's variance
        stds = np.sqrt(spread) / np.maximum(pixels, 1)
        fixed = np.rint(stds * 2.0**_STD_BITS).astype(np.int64)
        seen = (pixels > 0).astype(np.int64)
        return cls(*(exact_sum(rows) for rows in (seen, n, n * n, s, s * s, n * s, fixed)))

    def __add__(self, other: "IntegerPerImage") -> "IntegerPerImage":
        return IntegerPerImage(*(getattr(self, f) + getattr(other, f) for f in _INTEGER_FIELDS))

    @property
    def std(self) -> Floats:
        """Mean of the images' own standard deviations, raw units."""
        return to_float(self.stds, self.images * (1 << _STD_BITS))

    @property
    def between(self) -> Floats:
        """Between-image variance: N·Var(R), raw units squared; nan for fewer than two images.

        Σ(S_i − R·n_i)² with R = ΣS/Σn, times (Σn)² to stay in integers.
        """
        residual = self.ss * self.n**2 - 2 * self.s * self.n * self.ns + self.s**2 * self.nn
        enough = np.where(self.images > 1, self.images - 1, 0)
        return to_float(residual * self.images**2, self.n**4 * enough)

    def repeated(self, channels: int) -> "IntegerPerImage":
        """One channel as `channels` equal ones."""
        return IntegerPerImage(*(np.repeat(getattr(self, f), channels) for f in _INTEGER_FIELDS))

    def widened(self) -> "IntegerPerImage":
        """8-bit values as 16-bit: x becomes 257·x."""
        return IntegerPerImage(
            self.images, self.n, self.nn, self.s * 257, self.ss * 257**2, self.ns * 257, self.stds * 257
        )


@dataclass(frozen=True, eq=False)
class FloatPerImage(Packed):
    """The same for float pixels, C float64 each; image means are merged with weights n_i² (Chan et al.).

    Attributes:
        images, n, nn: as for integers.
        mean: Σn_i²m_i / Σn_i² of image means m_i.
        m2: Σn_i²(m_i − mean)².
        stds: Σ of per-image standard deviations.
    """

    images: Floats
    n: Floats
    nn: Floats
    mean: Floats
    m2: Floats
    stds: Floats

    @classmethod
    def observe(cls, pixels: NDArray[np.int64], means: Floats, m2: Floats) -> "FloatPerImage":
        """From N×C pixel counts, means and Σ(x−m)² of N images."""
        n = pixels.astype(np.float64)
        weights = n**2
        total = weights.sum(axis=0)
        centre = (weights * means).sum(axis=0) / np.maximum(total, 1)
        scatter = (weights * (means - centre) ** 2).sum(axis=0)
        stds = np.sqrt(m2 / np.maximum(n, 1)).sum(axis=0)
        return cls((n > 0).sum(axis=0).astype(np.float64), n.sum(axis=0), total, centre, scatter, stds)

    def __add__(self, other: "FloatPerImage") -> "FloatPerImage":
        total = self.nn + other.nn
        share = other.nn / np.maximum(total, 1)
        shift = other.mean - self.mean
        return FloatPerImage(
            self.images + other.images,
            self.n + other.n,
            total,
            self.mean + shift * share,
            self.m2 + other.m2 + shift**2 * (self.nn * share),
            self.stds + other.stds,
        )

    @property
    def std(self) -> Floats:
        """Mean of the images' own standard deviations."""
        return np.where(self.images > 0, self.stds / np.maximum(self.images, 1), np.nan)

    def between(self, pooled_mean: Floats) -> Floats:
        """Between-image variance N·Var(R): Σn²(m−R)² = m2 + Σn²·(mean−R)²."""
        residual = self.m2 + self.nn * (self.mean - pooled_mean) ** 2
        denominator = self.n**2 * (self.images - 1)
        return np.where(self.images > 1, residual * self.images**2 / np.maximum(denominator, 1), np.nan)

    def repeated(self, channels: int) -> "FloatPerImage":
        """One channel as `channels` equal ones."""
        return FloatPerImage(*(np.repeat(getattr(self, f), channels) for f in _FLOAT_FIELDS))
