"""Where a statistic comes from: enough to repeat it, and to refuse what does not belong to it."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any


@dataclass(frozen=True)
class Provenance:
    """How statistics came about. Holds no time and no worker count, so equal scans give equal files.

    Attributes:
        sources: one entry per source: kind, location, images offered, hash of their names.
        split: the split that was named, "all" for all of them, or "" when the source shows none.
        transform: what was done to the pixels, as text ("resize 256 bilinear, center crop 224"; "none").
        channel_order: "RGB", "gray" or "bands as stored".
        alpha: "mask", "drop" or "composite #rrggbb".
        orientation: "as stored" or "EXIF applied".
        nodata: declared value that was excluded, or None.
        sample: "" for every image, else how they were chosen.
        decoders: libraries and versions that turned bytes into pixels.
        version: firstlight's own.
    """

    sources: tuple[dict[str, Any], ...]
    split: str
    transform: str
    channel_order: str
    alpha: str
    orientation: str
    nodata: float | None
    sample: str
    decoders: str
    version: str

    def conflicts(self, other: "Provenance") -> list[str]:
        """Why statistics with these two origins cannot be added; empty when they can."""
        must_agree = ("transform", "channel_order", "alpha", "orientation", "nodata")
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in must_agree]
        return [f"{name.replace('_', ' ')} {a!r} against {b!r}" for name, a, b in pairs if a != b]

    def __add__(self, other: "Provenance") -> "Provenance":
        def both(name: str) -> str:
            a, b = getattr(self, name), getattr(other, name)
            return a if a == b else f"{a or 'none'}; {b or 'none'}"

        merged = {name: both(name) for name in ("split", "sample", "decoders", "version")}
        return replace(self, sources=self.sources + other.sources, **merged)  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "sources": list(self.sources)}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "Provenance":
        """The inverse of `to_dict`."""
        known = {field.name: value[field.name] for field in fields(cls)}
        return cls(**{**known, "sources": tuple(value["sources"])})
