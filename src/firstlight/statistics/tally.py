"""What a scan has counted so far: a value with `+`, one per block, merged in canonical order."""

from collections import Counter
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any

from firstlight.statistics.joint import FloatJoint, IntegerJoint, Joint, joint_from_dict, joint_to_dict


@dataclass(frozen=True, eq=False)
class Tally:
    """Statistics per kind of pixels, and everything worth saying about the images themselves.

    Gray and RGB, 8-bit and 16-bit images of one source are kept apart here and joined exactly at the end
    (a gray image is three equal channels; 255 is 65535), so the order in which they come cannot matter.

    Attributes:
        joints: by (kind, channels), such as ("uint8", 3).
        modes: images per stored mode ("RGB", "L", "CMYK", …).
        heights, widths: images per size as stored, before any transform.
        remarks: images per thing that was done to them ("alpha used as mask", …).
        quarantine: (name, reason) of every sample that was not counted, in canonical order.
    """

    joints: dict[tuple[str, int], Joint] = field(default_factory=dict)
    modes: Counter[str] = field(default_factory=Counter)
    heights: Counter[int] = field(default_factory=Counter)
    widths: Counter[int] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)
    quarantine: tuple[tuple[str, str], ...] = ()

    def __add__(self, other: "Tally") -> "Tally":
        joints = dict(self.joints)
        for key, joint in other.joints.items():
            joints[key] = joints[key] + joint if key in joints else joint  # type: ignore[operator]
        return Tally(
            joints,
            self.modes + other.modes,
            self.heights + other.heights,
            self.widths + other.widths,
            self.remarks + other.remarks,
            self.quarantine + other.quarantine,
        )

    @property
    def count(self) -> int:
        """Images that were counted."""
        return sum(joint.count for joint in self.joints.values())

    def joined(self) -> Joint:
        """All images as one Joint, in the widest form among them. The tally must hold at least one image."""
        channels = max(channels for _, channels in self.joints)
        wide = any(kind == "uint16" for kind, _ in self.joints)
        return reduce(add, (_conformed(self.joints[key], channels, wide) for key in sorted(self.joints)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "joints": [joint_to_dict(self.joints[key]) for key in sorted(self.joints)],
            "modes": dict(sorted(self.modes.items())),
            "heights": sorted(self.heights.items()),
            "widths": sorted(self.widths.items()),
            "remarks": dict(sorted(self.remarks.items())),
            "quarantine": [list(entry) for entry in self.quarantine],
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "Tally":
        """The inverse of `to_dict`."""
        joints = [joint_from_dict(joint) for joint in value["joints"]]
        return cls(
            {(joint.histogram.kind, joint.channels): joint for joint in joints},
            Counter(value["modes"]),
            Counter(dict(value["heights"])),
            Counter(dict(value["widths"])),
            Counter(value["remarks"]),
            tuple((name, reason) for name, reason in value["quarantine"]),
        )


def _conformed(joint: Joint, channels: int, wide: bool) -> Joint:
    """The same statistics in the form of a source with `channels` channels, 16 bits if `wide`."""
    if isinstance(joint, IntegerJoint) and wide and joint.histogram.kind == "uint8":
        joint = joint.widened()
    if joint.channels < channels:
        assert joint.channels == 1, f"{joint.channels} channels cannot become {channels}"
        joint = joint.repeated(channels)
    return joint


__all__ = ["FloatJoint", "IntegerJoint", "Joint", "Tally"]
