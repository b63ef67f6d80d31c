"""A few images of a source, as they were counted: to show, and to feed to a network."""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.engines import Observer
from firstlight.sources import Source, Stream, Unreadable
from firstlight.workflows.folding import strict_and_quiet


def sample_images(source: Source, observer: Observer, count: int, seed: int = 0) -> list[tuple[str, NDArray[Any]]]:
    """(name, pixels H×W×C) of `count` readable images, chosen by the hash of (seed, name); none of a stream.

    Unreadable ones are passed over; the scan has listed them.
    """
    if isinstance(source, Stream):
        return []

    def rank(index: int) -> bytes:
        return hashlib.blake2b(f"sample {seed} {source.names[index]}".encode(), digest_size=8).digest()

    chosen = []
    with strict_and_quiet():  # what the scan refused must not come back as a sample
        for index in sorted(range(len(source)), key=rank):
            try:
                chosen.append((source.names[index], observer.picture(source.names[index], source.read(index)).pixels))
            except (Unreadable, OSError):
                continue
            if len(chosen) == count:
                break
    return chosen


def class_of(name: str) -> str:
    """The folder a sample lies in: the way ImageFolder names classes; empty when there is none."""
    return name.rsplit("/", 2)[-2] if "/" in name else ""


def batch_of(samples: list[tuple[str, NDArray[Any]]], channels: int, kind: str) -> NDArray[Any]:
    """Samples of one size as N×H×W×C in the form of their statistics: gray is repeated, 8 bits widened to 16."""
    images = []
    for _, pixels in samples:
        if kind == "uint16" and pixels.dtype == np.uint8:
            pixels = pixels.astype(np.uint16) * np.uint16(257)
        images.append(np.repeat(pixels, channels, axis=2) if pixels.shape[2] == 1 < channels else pixels)
    return np.stack(images)
