"""How often each value occurs, per channel. From it: minimum, maximum and every percentile.

Integer pixels have one bin per value (256 or 65,536), so the histogram *is* the data up to order. Floats
have one bin per bfloat16 number: sign, exponent and 7 bits of mantissa. That needs no range beforehand,
merges like any other count, and places a percentile within 1/128 of its value.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from firstlight.statistics.exact import Exact, Packed

FULL_SCALE = {"uint8": 255, "uint16": 65535, "float": 1}
"""Value of full scale per kind of pixel; floats are taken as they are."""

BINS = {"uint8": 256, "uint16": 65536, "float": 65536}


@dataclass(frozen=True, eq=False)
class Histogram(Packed):
    """Counts per channel and value.

    Attributes:
        kind: "uint8", "uint16" or "float": what a bin stands for.
        counts: C×B int64.
    """

    kind: str
    counts: NDArray[np.int64]

    def __add__(self, other: "Histogram") -> "Histogram":
        return Histogram(self.kind, self.counts + other.counts)

    @property
    def pixels(self) -> Exact:
        """Values counted per channel."""
        return self.counts.sum(axis=1).astype(object)

    def power_sums(self) -> tuple[Exact, Exact]:
        """Σx and Σx² per channel in raw integer units, exact; for integer kinds only."""
        assert self.kind != "float", "a float histogram has lost the values it counted"
        values = np.arange(BINS[self.kind]).astype(object)
        counts = self.counts.astype(object)
        return counts @ values, counts @ (values * values)

    def percentile(self, q: float) -> NDArray[np.float64]:
        """The q-th percentile (0…100) per channel, raw units, nan for an empty channel.

        For integers it equals `numpy.percentile(..., method="linear")` of all values: the two order
        statistics beside position q/100·(n−1), interpolated. For floats, within 1/128 of the value.
        """
        lower_edges = bin_values(self.kind)
        return np.array([_percentile(row, lower_edges, q) for row in self.counts])

    def repeated(self, channels: int) -> "Histogram":
        """A one-channel histogram as that of `channels` equal channels."""
        return Histogram(self.kind, np.repeat(self.counts, channels, axis=0))

    def widened(self) -> "Histogram":
        """8-bit values as 16-bit: 255 becomes 65535 = 257·255, so full scale stays full scale."""
        counts = np.zeros((len(self.counts), BINS["uint16"]), np.int64)
        counts[:, ::257] = self.counts
        return Histogram("uint16", counts)


def bin_values(kind: str) -> NDArray[np.float64]:
    """The value of each bin in raw units; for floats the bfloat16 number itself, in rising order."""
    if kind != "float":
        return np.arange(BINS[kind], dtype=np.float64)
    keys = np.arange(BINS["float"], dtype=np.uint32)
    bits = np.where(keys >= 0x8000, keys - 0x8000, 0xFFFF - keys).astype(np.uint32)
    with np.errstate(invalid="ignore"):
        return (bits << np.uint32(16)).view(np.float32).astype(np.float64)


def float_keys(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bin of each finite float: its nearest-to-zero bfloat16, renumbered so that order is kept.

    Positive numbers sort like their bit patterns, negative ones in reverse; flipping all bits of the
    negative ones and setting the top bit of the others makes one rising sequence.
    """
    largest = np.finfo(np.float32).max
    bits = np.clip(values, -largest, largest).astype(np.float32).view(np.uint32) >> 16
    return np.where(bits & 0x8000, 0xFFFF - bits, bits + 0x8000).astype(np.int64)


def _percentile(counts: NDArray[np.int64], values: NDArray[np.float64], q: float) -> float:
    total = int(counts.sum())
    if total == 0:
        return float("nan")
    position = q / 100 * (total - 1)
    rank = int(position)
    cumulative = np.cumsum(counts)
    low = values[np.searchsorted(cumulative, rank, side="right")]
    high = values[np.searchsorted(cumulative, min(rank + 1, total - 1), side="right")]
    return float(low + (high - low) * (position - rank))
