"""What a recipe accepts, and the checks that stand at its door."""

import warnings
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from firstlight.errors import FirstlightError
from firstlight.statistics.histogram import FULL_SCALE
from firstlight.statistics.sketch import LowRank
from firstlight.statistics.vectors import Vectors

if TYPE_CHECKING:
    from firstlight.statistics import Statistics


class SuspiciousInput(UserWarning):
    """Images that may be given in another range than the recipe was made for; only suspicion is possible."""


@dataclass(frozen=True)
class Input:
    """The images a recipe was made for.

    Attributes:
        kind: "uint8", "uint16" or "float": how pixels are stored.
        channels: C.
        order: "RGB", "BGR", "gray", "bands as stored": what the channels mean. Nothing in the pixels shows it.
        transform: what was done to the images before ("resize 256 bilinear, center crop 224"; "none"; "" unknown).
        low, high: smallest and largest value seen, full scale; 0 and 1 where unknown.
    """

    kind: str
    channels: int
    order: str = "RGB"
    transform: str = ""
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in FULL_SCALE:
            raise FirstlightError(
                f"there is no kind of pixels {self.kind!r}", f"choose one of {', '.join(FULL_SCALE)}", slug="bad-kind"
            )

    @classmethod
    def of(cls, stats: "Statistics | Vectors | LowRank") -> "Input":
        """The images that `stats` were made of."""
        if isinstance(stats, Vectors | LowRank):
            order, transform, low, high = stats.order, stats.transform, stats.low, stats.high
        else:
            order, transform = stats.provenance.channel_order, stats.provenance.transform
            low, high = float(np.min(stats.min)), float(np.max(stats.max))
        low, high = (low, high) if stats.kind == "float" else (0.0, 1.0)
        return cls(stats.kind, stats.channels, order, transform, low, high)

    @property
    def full_scale(self) -> int:
        """Raw value that is 1.0 in the recipe's units: 255, 65535, or 1 for floats."""
        return FULL_SCALE[self.kind]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        unit = "floats as they are" if self.kind == "float" else f"{self.kind} / {self.full_scale}"
        after = f", after {self.transform}" if self.transform not in ("", "none") else ""
        channel = "channel" if self.channels == 1 else "channels"
        return f"{self.channels} {channel} ({self.order}), {unit}{after}"

    # ---- the door ---------------------------------------------------------------------------------------

    def scale_of(self, dtype: str) -> int:
        """What to divide pixels of `dtype` by to reach full scale: 255, 65535, or 1 for floats.

        Raises:
            FirstlightError: slug ``wrong-dtype``, for pixels stored otherwise than declared. Floats are always
                welcome where integers are declared: they are taken to be in units of full scale, 0…1.
        """
        kind = "float" if "float" in dtype else dtype
        if kind in ("float", self.kind):
            return FULL_SCALE[kind]
        if kind in FULL_SCALE:
            way_out = (
                "turn the images into floats in the units that were scanned"
                if self.kind == "float"
                else f"convert the images, or say that they mean the same: recipe.accepting({kind!r})"
            )
        else:
            way_out = f"give {self.kind}" + ("" if self.kind == "float" else ", or floats in 0…1")
        raise FirstlightError(
            f"{dtype} images given, {self.kind} declared", way_out, slug="wrong-dtype", call="recipe(images)"
        )

    def check_channels(self, shape: tuple[int, ...], axis: int, wanted: str, other: int) -> None:
        """Check dimensions and channels; `axis` is where they should be and `other` where they are by mistake.

        Raises:
            FirstlightError: slugs ``wrong-shape``, ``wrong-layout`` and ``wrong-channels``.
        """
        call = "recipe(images)"
        if len(shape) not in (3, 4):
            raise FirstlightError(
                f"shape {shape} is neither an image nor a batch",
                f"give {wanted}, or a batch of these; one channel is an axis too",
                slug="wrong-shape",
                call=call,
            )
        if 0 in shape[-3:]:
            raise FirstlightError(f"shape {shape} holds no pixels", "give whole images", slug="wrong-shape", call=call)
        given = shape[axis]
        if given == self.channels:
            return
        if shape[other] == self.channels:
            raise FirstlightError(
                f"shape {shape} has its {self.channels} channels where {wanted} has not",
                "NumPy arrays are H×W×C and torch tensors C×H×W: move the axis",
                slug="wrong-layout",
                call=call,
            )
        raise FirstlightError(
            f"{given} channels given, {self.channels} ({self.order}) declared",
            "give the channels that were scanned, or scan such images and make another recipe",
            slug="wrong-channels",
            call=call,
        )

    def check_range(self, low: float, high: float, integers: bool) -> None:
        """Compare the range of a batch, in its own units, with what was declared.

        Raises:
            FirstlightError: slug ``wrong-range``, for floats that cannot be 0…1 where integers are declared.

        Warns:
            SuspiciousInput: where the range is possible but strange.
        """
        if integers:
            if 0 < high <= 1:
                self._suspect(f"every {self.kind} value is 0 or 1 of {self.full_scale}", "0…1 given, integers wanted")
        elif self.kind != "float":
            if low < -1 or high > 2:
                raise FirstlightError(
                    f"floats from {low:.4g} to {high:.4g} given, but floats are in units of full scale, 0…1",
                    f"divide by {self.full_scale}, or give the {self.kind} pixels themselves; "
                    "what is already normalized must not be normalized again",
                    slug="wrong-range",
                    call="recipe(images)",
                )
            if low < -0.1 or high > 1.1:
                self._suspect(f"floats from {low:.4g} to {high:.4g}", "0…1 wanted; already normalized?")
            elif 0 < high <= 1.5 / self.full_scale:
                self._suspect(f"floats up to {high:.4g}", "divided by full scale twice?")
        else:
            declared = max(abs(self.low), abs(self.high))
            given = max(abs(low), abs(high))
            if given > 10 * declared or 0 < given < declared / 50:
                self._suspect(
                    f"floats from {low:.4g} to {high:.4g}",
                    f"the data scanned went from {self.low:.4g} to {self.high:.4g}",
                )

    def _suspect(self, given: str, why: str) -> None:
        warnings.warn(f"{given}: {why}", SuspiciousInput, stacklevel=5)


def value_range(values: NDArray[Any]) -> tuple[float, float]:
    """Smallest and largest value that is a number; (0, 0) when there is none. For integers any above 1 will do."""
    if values.size == 0:
        return (0.0, 0.0)
    if values.dtype.kind == "u" and int(values.flat[0]) > 1:  # all that is asked of integers is whether any exceeds 1
        return (0.0, float(values.flat[0]))
    low, high = np.fmin.reduce(values, axis=None), np.fmax.reduce(values, axis=None)
    return (float(low), float(high)) if low <= high else (0.0, 0.0)


def fitted_on(stats: "Statistics | Vectors | LowRank") -> str:
    """Where constants come from, for people."""
    if isinstance(stats, Vectors):
        return f"{stats.images:,} images" + (f", {stats.count:,} patches" if stats.over == "patches" else "")
    if isinstance(stats, LowRank):
        rank = len(stats.values)
        return f"{stats.images:,} images, rank {rank} with at least {stats.captured:.4%} of the variance"
    origin = stats.provenance
    parts = [f"{stats.count:,} images", origin.split and f"split {origin.split}", origin.sample]
    return ", ".join(part for part in parts if part)
