"""From a block of samples to its Tally: read, decode, transform, count. What cannot be counted is named."""

from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.sources import Block, Picture, Policy, Source, Transform, Unreadable, decode
from firstlight.statistics import Joint, Tally, observation, runs

# Decoded pixels that wait to be counted together. More would have left the cache by then.
_BATCH_BYTES = 2**20

# A picture of this size is counted by itself: nothing is gained by copying it beside its neighbour.
_LARGE_BYTES = 2**17

_KINDS = {np.dtype(np.uint8): "uint8", np.dtype(np.uint16): "uint16"}


@dataclass(frozen=True)
class Family:
    """Which pixels have a common scale. Integers of 1 and 3 channels and 8 and 16 bits convert exactly.

    Attributes:
        integer: uint8 or uint16, as against floats.
        channels: number of channels; 1 and 3 belong together.
    """

    integer: bool
    channels: int

    @classmethod
    def of(cls, picture: Picture) -> "Family":
        """The family of a picture."""
        channels = picture.pixels.shape[2]
        return cls(picture.pixels.dtype.kind == "u", 3 if channels == 1 else channels)

    def __str__(self) -> str:
        channels = "1 or 3 channels" if self.channels == 3 else f"{self.channels} channels"
        return f"{'integer' if self.integer else 'float'} pixels of {channels}"


class Masks:
    """Mask images of a second source, found by name without suffix; zero means "leave this pixel out"."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._index = {_stem(name): i for i, name in enumerate(source.names)}

    def applied(self, name: str, picture: Picture) -> Picture:
        """The picture with the masked pixels left out.

        Raises:
            Unreadable: when there is no mask of that name or size.
        """
        index = self._index.get(_stem(name))
        if index is None:
            raise Unreadable(f"there is no mask {_stem(name)!r}")
        try:
            mask = decode(self._source.read(index), Policy(alpha="drop")).pixels
        except Unreadable as reason:
            raise Unreadable(f"its mask is unusable: {reason}") from None
        if mask.shape[:2] != picture.pixels.shape[:2]:
            raise Unreadable(f"its mask has the size {mask.shape[:2]}, the image {picture.pixels.shape[:2]}")
        kept = np.broadcast_to(mask.any(axis=2, keepdims=True), picture.pixels.shape)
        valid = kept if picture.valid is None else picture.valid & kept
        return Picture(picture.pixels, picture.mode, picture.size, valid, picture.remarks)


@dataclass(frozen=True)
class Observer:
    """Turns a block into its Tally; the answer depends on the block alone.

    Attributes:
        family: pixels of another family are put on the quarantine list; None accepts all.
    """

    policy: Policy
    transform: Transform
    masks: Masks | None = None
    family: Family | None = None

    def picture(self, name: str, sample: Any) -> Picture:
        """One sample, decoded, masked and transformed.

        Raises:
            Unreadable, OSError: why it cannot be counted.
        """
        picture = decode(sample, self.policy)
        if self.masks is not None:
            picture = self.masks.applied(name, picture)
        if self.family is not None and Family.of(picture) != self.family:
            raise Unreadable(f"{Family.of(picture)}, where the first image of the source has {self.family}")
        return self.transform(picture)

    def first_of(self, block: Block) -> Picture | None:
        """The first picture of the block that can be read; None when none can."""
        for k, name in enumerate(block.names):
            try:
                return self.picture(name, block.samples[k])
            except (Unreadable, OSError):
                continue
        return None

    def __call__(self, block: Block) -> Tally:
        """Count a block. Never raises for a sample: a bad one becomes an entry of the quarantine list."""
        if isinstance(block.samples, np.ndarray) and self._counts_whole(block.samples):
            return _count_array(block.samples)
        counting = _Counting()
        modes: Counter[str] = Counter()
        heights: Counter[int] = Counter()
        widths: Counter[int] = Counter()
        remarks: Counter[str] = Counter()
        quarantine: list[tuple[str, str]] = []
        for k, name in enumerate(block.names):
            try:
                picture = self.picture(name, block.samples[k])
            except Unreadable as reason:
                quarantine.append((name, str(reason)))
                continue
            except OSError as error:
                quarantine.append((name, f"cannot be read: {error.strerror or error}"))
                continue
            modes[picture.mode] += 1
            heights[picture.size[0]] += 1
            widths[picture.size[1]] += 1
            remarks.update(picture.remarks)
            counting.add(picture)
        return Tally(counting.joints(), modes, heights, widths, remarks, tuple(quarantine))

    def _counts_whole(self, samples: NDArray[Any]) -> bool:
        """Whether the samples are one plain array, about whose images nothing is left to decide one by one."""
        plain = type(samples) is np.ndarray and (samples.dtype in (np.uint8, np.uint16) or samples.dtype.kind == "f")
        untouched = self.masks is None and self.policy.nodata is None and self.transform == Transform()
        return bool(plain and untouched and samples.size)


class _Counting:
    """The pixels of a block per kind, counted about a megabyte at a time: large images while they are in the cache,
    small ones many in one call.
    """

    def __init__(self) -> None:
        self._running: dict[tuple[str, int], Any] = {}
        self._pending: list[Picture] = []
        self._bytes = 0

    def add(self, picture: Picture) -> None:
        self._pending.append(picture)
        self._bytes += picture.pixels.nbytes
        if self._bytes >= _BATCH_BYTES or (len(self._pending) == 1 and self._bytes >= _LARGE_BYTES):
            self._count()

    def joints(self) -> dict[tuple[str, int], Joint]:
        self._count()
        return {key: running.joint() for key, running in self._running.items()}

    def _count(self) -> None:
        for key, group in groupby(self._pending, key=_key):
            same = list(group)
            if key not in self._running:
                self._running[key] = observation(same[0].pixels)
            for images, valid in runs([p.pixels for p in same], [p.valid for p in same]):
                self._running[key].add(images, valid)
        self._pending.clear()
        self._bytes = 0


def _count_array(images: NDArray[Any]) -> Tally:
    """The tally of N×H×W×C images, about a megabyte at a time."""
    n, height, width, _ = images.shape
    step = max(1, _BATCH_BYTES // images[0].nbytes)
    running = observation(images)
    for start in range(0, n, step):
        running.add(images[start : start + step])
    joint = running.joint()
    key = (joint.histogram.kind, joint.channels)
    sizes: tuple[Counter[int], Counter[int]] = (Counter({height: n}), Counter({width: n}))
    return Tally({key: joint}, Counter({f"{images.dtype} array": n}), *sizes)


def _key(picture: Picture) -> tuple[str, int]:
    return (_KINDS.get(picture.pixels.dtype, "float"), picture.pixels.shape[2])


def _stem(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + (base.rpartition(".")[0] or base)
