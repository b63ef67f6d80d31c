"""All statistics of one kind of pixels, from one pass, as one value with `+`.

`IntegerJoint` holds nothing but integers, so `+` is exactly associative and commutative: any partition of
the images, in any order, gives the same bits. `FloatJoint` merges in float64; fixed blocks merged in
canonical order give the same bits for any number of workers.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

from firstlight.statistics.comoments import FloatComoments, IntegerComoments, Moments
from firstlight.statistics.histogram import Histogram
from firstlight.statistics.mean_image import FloatMeanImage, IntegerMeanImage
from firstlight.statistics.per_image import FloatPerImage, IntegerPerImage


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


def _add_mean_images(a: Any, b: Any) -> Any:
    """The sum of two mean images of one size; otherwise None, which absorbs everything."""
    return a + b if a is not None and b is not None and a.shape == b.shape else None
