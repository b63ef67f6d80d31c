"""`Statistics`: what a user reads, saves, adds, and makes a recipe from."""

import json
import math
import os
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight._files import write_atomically
from firstlight._typing import Floats
from firstlight.errors import FirstlightError
from firstlight.statistics.exact import to_float
from firstlight.statistics.histogram import FULL_SCALE, bin_values
from firstlight.statistics.joint import FloatJoint, IntegerJoint, Joint
from firstlight.statistics.provenance import Provenance
from firstlight.statistics.tally import Tally

FORMAT = "firstlight.statistics/1"


@dataclass(frozen=True, eq=False)
class Statistics:
    """Statistics of a set of images, in units of full scale (uint8 / 255, uint16 / 65535, floats as they are).

    Statistics of different images add up: `a + b` is what one scan over both would have given.

    Attributes:
        tally: the sums everything here is computed from.
        provenance: which images, and what was done to them.

    Example:
        >>> import numpy as np, firstlight as fl
        >>> stats = fl.scan(np.array([[[[0, 0, 0]]], [[[255, 51, 0]]]], dtype=np.uint8))
        >>> stats.mean
        array([0.5, 0.1, 0. ])
        >>> stats.std
        array([0.5, 0.1, 0. ])
    """

    tally: Tally
    provenance: Provenance

    # ---- what was counted -------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """Images counted."""
        return self._joint.count

    @property
    def pixels(self) -> NDArray[np.int64]:
        """Values counted per channel, C."""
        return self._joint.histogram.counts.sum(axis=1)

    @property
    def channels(self) -> int:
        """C: number of channels."""
        return self._joint.channels

    @property
    def kind(self) -> str:
        """ "uint8", "uint16" or "float": the kind of the pixels."""
        return self._joint.histogram.kind

    @property
    def full_scale(self) -> int:
        """Raw value that is 1.0 here: 255, 65535, or 1 for floats."""
        return FULL_SCALE[self.kind]

    @property
    def quarantine(self) -> tuple[tuple[str, str], ...]:
        """(name, reason) of each sample that was not counted."""
        return self.tally.quarantine

    # ---- over pixels ------------------------------------------------------------------------------------

    @property
    def mean(self) -> Floats:
        """Mean over all pixels of all images, C."""
        return self._mean_and_variance[0]

    @property
    def std(self) -> Floats:
        """Pooled standard deviation over all pixels of all images, C (population: divides by the count)."""
        return np.sqrt(self._mean_and_variance[1])

    @property
    def min(self) -> Floats:
        """Smallest value, C; nan for a channel without a valid value."""
        return self._extreme(0)

    @property
    def max(self) -> Floats:
        """Largest value, C; nan for a channel without a valid value."""
        return self._extreme(-1)

    def percentile(self, q: float) -> Floats:
        """The q-th percentile (0…100), C. Exact for integer pixels (as `numpy.percentile`), within 1/128 for floats.

        Raises:
            FirstlightError: slug ``bad-percentile``, for q outside 0…100.
        """
        if not 0 <= q <= 100:
            raise FirstlightError(f"{q} is not a percentile", "give a number from 0 to 100", slug="bad-percentile")
        return self._joint.histogram.percentile(q) / self.full_scale

    @property
    def histogram(self) -> NDArray[np.int64]:
        """Count per channel and value, C×256 (uint8) or C×65536 (uint16; floats: one bin per bfloat16)."""
        return self._joint.histogram.counts

    @cached_property
    def bins(self) -> Floats:
        """The value of each bin of `histogram`."""
        return bin_values(self.kind) / self.full_scale

    @property
    def covariance(self) -> Floats:
        """Population covariance of the channels, C×C, over pixels that are valid in every channel."""
        return self._joint.comoments.covariance / self.full_scale**2

    @cached_property
    def eigen(self) -> tuple[Floats, Floats]:
        """Eigenvalues (C, falling) and eigenvectors (C×C, columns, largest entry positive) of `covariance`."""
        values, vectors = np.linalg.eigh(self.covariance)
        values, vectors = values[::-1], vectors[:, ::-1]
        signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(len(values))])
        return np.maximum(values, 0), vectors * signs

    # ---- over images ------------------------------------------------------------------------------------

    @property
    def per_image_std(self) -> Floats:
        """Mean over images of each image's own standard deviation, C. Not the std of the pixels: see `std`.

        This is what 0.229/0.224/0.225 (ImageNet) and 0.2023/0.1994/0.2010 (CIFAR-10) are.
        """
        return self._joint.per_image.std / self.full_scale

    @cached_property
    def between_image_variance(self) -> Floats:
        """Variance of image means around the pooled mean, C, large images weighing more; nan for one image."""
        joint = self._joint
        if isinstance(joint, FloatJoint):
            return joint.per_image.between(joint.moments.mean)
        return joint.per_image.between / self.full_scale**2

    @property
    def confidence(self) -> Floats:
        """Half-width of the 95 % confidence interval of `mean`, C; the image is the unit, Student's t."""
        from scipy.special import stdtrit

        images = self._joint.per_image.images.astype(np.float64)  # that have a valid pixel in the channel
        t = stdtrit(np.maximum(images - 1, 1), 0.975)
        return np.asarray(t * np.sqrt(self.between_image_variance / np.maximum(images, 1)))

    @property
    def digits(self) -> int:
        """Decimals of `mean` that are known: half-widths are at most half a unit of the last one."""
        width = float(np.max(self.confidence))
        if not math.isfinite(width):
            return 0
        return 15 if width == 0 else max(0, min(15, math.floor(-math.log10(2 * width))))

    def images_for(self, half_width: float) -> int:
        """Images, in all, that would bring every channel's `confidence` down to `half_width`, about.

        Raises:
            FirstlightError: slugs ``bad-half-width``, and ``no-interval`` where the images so far give none.
        """
        if not half_width > 0:
            raise FirstlightError(
                f"{half_width} is not a half-width", "give a positive number such as 0.002", slug="bad-half-width"
            )
        if not np.isfinite(self.confidence).all():
            raise FirstlightError(
                "some channel has fewer than two images, which say nothing about how images differ",
                "scan more images",
                slug="no-interval",
            )
        return math.ceil(self.count * (float(np.max(self.confidence)) / half_width) ** 2)

    @property
    def images_for_next_digit(self) -> int | None:
        """Images, in all, that would fix one more of the `digits`, about; None where no number of them is known."""
        width = float(np.max(self.confidence))
        if not math.isfinite(width) or width == 0 or self.digits >= 8:
            return None
        return self.images_for(0.5 * 10.0 ** -(self.digits + 1))

    @property
    def mean_image(self) -> Floats | None:
        """Mean of every position, H×W×C (AlexNet); None when the images differ in size."""
        image = self._mean_and_std_image
        return None if image is None else image[0]

    @property
    def std_image(self) -> Floats | None:
        """Standard deviation of every position, H×W×C; None when the images differ in size."""
        image = self._mean_and_std_image
        return None if image is None else image[1]

    # ---- files and sums ---------------------------------------------------------------------------------

    def __add__(self, other: "Statistics") -> "Statistics":
        """Statistics of both sets of images.

        Raises:
            FirstlightError: slug ``do-not-belong-together``, when transforms, ranges or channels differ.
        """
        conflicts = self.provenance.conflicts(other.provenance)
        if self.channels != other.channels:
            conflicts.append(f"{self.channels} channels against {other.channels}")
        if self.kind != other.kind:
            conflicts.append(f"{self.kind} pixels against {other.kind}")
        if conflicts:
            raise FirstlightError(
                f"these statistics do not belong together: {', '.join(conflicts)}",
                "scan both sources with the same options",
                slug="do-not-belong-together",
                call="statistics + statistics",
            )
        return Statistics(self.tally + other.tally, self.provenance + other.provenance)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one JSON file. Equal statistics give equal bytes."""
        write_atomically(path, self.to_json())

    def to_json(self) -> str:
        """The file's text: a readable summary, the provenance, and the exact sums."""
        value = {
            "format": FORMAT,
            "summary": self.summary(),
            "provenance": self.provenance.to_dict(),
            "tally": self.tally.to_dict(),
        }
        return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Statistics":
        """Read what `save` wrote.

        Raises:
            FirstlightError: slugs ``no-such-file``, ``not-statistics`` and ``newer-format``.
        """
        name = str(path)
        try:
            value = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise FirstlightError(
                f"cannot read {name!r}: {error.strerror}",
                "name a file that `firstlight scan -o` wrote",
                slug="no-such-file",
            ) from None
        except ValueError:
            value = None
        given = value.get("format") if isinstance(value, dict) else None
        if isinstance(given, str) and given.startswith("firstlight.statistics/") and given != FORMAT:
            raise FirstlightError(
                f"{name!r} has the format {given}, this firstlight reads {FORMAT}",
                "upgrade firstlight",
                slug="newer-format",
            )
        try:
            if given != FORMAT:
                raise ValueError
            return cls(Tally.from_dict(value["tally"]), Provenance.from_dict(value["provenance"]))
        except (AttributeError, LookupError, TypeError, ValueError, zlib.error):
            raise FirstlightError(
                f"{name!r} does not hold statistics",
                "name a file that `firstlight scan -o` wrote",
                slug="not-statistics",
            ) from None

    def summary(self) -> dict[str, Any]:
        """The numbers people read, as plain values: full scale unless the name says otherwise; null where undefined."""
        values, vectors = self.eigen if np.isfinite(self.covariance).all() else (None, None)
        return {
            "images": self.count,
            "quarantined": len(self.quarantine),
            "channels": self.channels,
            "pixel_kind": self.kind,
            "full_scale": self.full_scale,
            "pixels_per_channel": self.pixels.tolist(),
            "mean": _plain(self.mean),
            "mean_95_half_width": _plain(self.confidence),
            "std_pooled": _plain(self.std),
            "std_mean_of_per_image": _plain(self.per_image_std),
            "min": _plain(self.min),
            "max": _plain(self.max),
            "percentiles": {f"{q:g}": _plain(self.percentile(q)) for q in (0.5, 5, 25, 50, 75, 95, 99.5)},
            "covariance": _plain(self.covariance),
            "eigenvalues": None if values is None else _plain(values),
            "eigenvectors_in_columns": None if vectors is None else _plain(vectors),
            "between_image_variance": _plain(self.between_image_variance),
            "mean_image_shape": None if self._joint.mean_image is None else list(self._joint.mean_image.shape),
        }

    def __repr__(self) -> str:
        numbers = " ".join(f"{m:.4f}" for m in self.mean)
        spread = " ".join(f"{s:.4f}" for s in self.std)
        return f"Statistics({self.count} images, {self.kind}, mean {numbers}, std {spread})"

    # ---- how --------------------------------------------------------------------------------------------

    @cached_property
    def _joint(self) -> Joint:
        return self.tally.joined()

    @cached_property
    def _mean_and_variance(self) -> tuple[Floats, Floats]:
        joint = self._joint
        if isinstance(joint, FloatJoint):
            seen = joint.moments.pixels > 0
            return np.where(seen, joint.moments.mean, np.nan), joint.moments.variance
        n = joint.histogram.pixels
        sums, squares = joint.histogram.power_sums()
        scale = self.full_scale
        return to_float(sums, n * scale), to_float(n * squares - sums * sums, n * n * scale**2)

    def _extreme(self, end: int) -> Floats:
        joint = self._joint
        if isinstance(joint, IntegerJoint):
            return joint.histogram.percentile(0 if end == 0 else 100) / self.full_scale
        values = joint.moments.low if end == 0 else joint.moments.high
        return np.where(joint.moments.pixels > 0, values, np.nan)

    @cached_property
    def _mean_and_std_image(self) -> tuple[Floats, Floats] | None:
        image = self._joint.mean_image
        if image is None:
            return None
        mean, std = image.mean_and_std()
        return mean / self.full_scale, std / self.full_scale


def _plain(values: Floats) -> Any:
    """Nested lists of floats with null for what is not finite."""
    listed = values.astype(object)
    listed[~np.isfinite(values)] = None
    return listed.tolist()
