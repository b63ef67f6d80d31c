"""A source of images → Statistics."""

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import chain, islice
from operator import add
from typing import Any

from firstlight._typing import Progress
from firstlight.engines import ENGINES, Checkpoint, Family, Masks, Observer
from firstlight.errors import FirstlightError
from firstlight.sources import Block, Source, Stream, Transform, guard
from firstlight.statistics import Provenance, Statistics, Tally
from firstlight.workflows.folding import (
    checked_engine,
    checked_policy,
    checkpoint_of,
    fold,
    opened_source,
    provenance_of,
    refuse_mostly_bad,
    strict_and_quiet,
    threads_for,
)

# Below this many images Student's t of the image means is not to be trusted to stop a scan.
_FEWEST_FOR_TOLERANCE = 30


def scan(
    source: Any,
    *,
    resize: int | tuple[int, int] | None = None,
    crop: int | tuple[int, int] | None = None,
    resample: str = "bilinear",
    sample: int | None = None,
    tolerance: float | None = None,
    seed: int = 0,
    split: str | None = None,
    all_splits: bool = False,
    alpha: str = "mask",
    orientation: bool = False,
    nodata: float | None = None,
    masks: Any = None,
    key: str | None = None,
    workers: int | None = None,
    engine: str = "local",
    checkpoint: str | os.PathLike[str] | None = None,
    restart: bool = False,
    progress: Progress | None = None,
) -> Statistics:
    """Exact statistics of all images of a source, the same bits for any number of workers.

    Args:
        source: anything `open_source` opens: a folder, archive, array, dataset, iterable …
        resize: shorter side, or (height, width), as torchvision's v2 ``Resize`` on Pillow images.
        crop: side of the central square, or (height, width), as ``CenterCrop``.
        resample: "nearest", "box", "bilinear", "hamming", "bicubic" or "lanczos" (Pillow's).
        sample: count only this many images, chosen at random by `seed`.
        tolerance: go through the images in random order by `seed` and stop once the mean of every channel is
            known to ± this much (half of the 95 % interval, full scale = 1).
        split: use only "train", "val" or "test" of a source whose names show splits.
        all_splits: use all of them; without one of the two such a source is refused.
        alpha: "mask", "drop" or "composite #rrggbb": see `sources.Policy`.
        orientation: apply EXIF orientation; by default pixels stay as stored.
        nodata: value that means "no measurement" and is left out.
        masks: a second source with a mask per image, by name; zero leaves a pixel out.
        key: which array of a .npz, which column of a Parquet file.
        workers: threads; by default one per available core. Never changes the result.
        engine: "local", threads of this machine, or "ray", the cluster Ray is initialized for (extra ``ray``), which
            starts one of `workers` processes when there is none. Never changes the result either.
        checkpoint: file that keeps finished blocks while the scan runs; the same call goes on from it.
        restart: forget an existing checkpoint.
        progress: called with (images done, images in all or None).

    Returns:
        Statistics in units of full scale. Images that could not be read are listed in ``.quarantine``.

    Raises:
        FirstlightError: when there is nothing to scan, several splits and none named, more than half of
            the images cannot be read, or a checkpoint belongs to another scan.
    """
    plan = _Plan(sample, tolerance, seed)
    policy = checked_policy(alpha, orientation, nodata)
    transform = Transform(resize, crop, resample)
    processors = checked_engine(engine, workers)
    with opened_source(source, key) as opened, nullcontext() if masks is None else opened_source(masks) as mask_source:
        call = f"scan({opened.location!r})"
        chosen, split_name = guard(opened, split, all_splits, call)
        observer = Observer(policy, transform, None if mask_source is None else Masks(mask_source))
        mask_stamp = "" if mask_source is None or checkpoint is None else mask_source.stamp()
        store = checkpoint_of(checkpoint, chosen, (policy, transform, plan, split_name, mask_stamp), restart, Tally)
        with strict_and_quiet():
            tally, stopped = _tallied(chosen, observer, plan, (engine, processors), store, progress, call)
        if store is not None:
            store.remove()
        refuse_mostly_bad(tally, call)
        _refuse_without_pixels(tally, call)
        sample_text = plan.describe(tally, chosen, stopped)
        channels = tally.joined().channels
        return Statistics(tally, provenance_of(chosen, channels, policy, transform, split_name, sample_text))


@dataclass(frozen=True)
class _Plan:
    """Which images, in which order, and when to stop."""

    sample: int | None
    tolerance: float | None
    seed: int

    def __post_init__(self) -> None:
        if self.sample is not None and self.sample < 1:
            raise FirstlightError(
                f"sample={self.sample} is not a number of images", "give 1 or more", slug="bad-sample"
            )
        if self.tolerance is not None and not 0 < self.tolerance < math.inf:
            raise FirstlightError(
                f"tolerance={self.tolerance} is not a half-width",
                "give a positive number such as 0.002",
                slug="bad-tolerance",
            )

    @property
    def random(self) -> bool:
        return self.sample is not None or self.tolerance is not None

    def order(self, source: Source, call: str) -> Sequence[int] | None:
        """Indices by the hash of (seed, name): a random order that no library version and no other file changes."""
        if not self.random:
            return None
        if isinstance(source, Stream):
            raise FirstlightError(
                "a stream has no random order, so its first images are no sample of it",
                "leave sample and tolerance out, or give a source with random access",
                slug="stream-sample",
                call=call,
            )

        def rank(index: int) -> bytes:
            return hashlib.blake2b(f"{self.seed} {source.names[index]}".encode(), digest_size=16).digest()

        return sorted(range(len(source)), key=rank)[: self.sample]

    def reached(self, tally: Tally) -> bool:
        """Whether every channel's mean is known to ± tolerance."""
        if self.tolerance is None or tally.count < _FEWEST_FOR_TOLERANCE:
            return False
        return bool((Statistics(tally, _NOWHERE).confidence <= self.tolerance).all())

    def describe(self, tally: Tally, source: Source, stopped: bool) -> str:
        """What provenance says about the choice of images."""
        if not self.random:
            return ""
        offered = tally.count + len(tally.quarantine)
        text = f"{offered:,} of {len(source):,} images in the random order of seed {self.seed}"
        if stopped:
            return f"{text}, stopped when the mean was known to ±{self.tolerance:g}"
        return f"{text}; ±{self.tolerance:g} was not reached" if self.tolerance is not None else text


def _tallied(
    source: Source,
    observer: Observer,
    plan: _Plan,
    engine: tuple[str, int],
    store: Checkpoint | None,
    progress: Progress | None,
    call: str,
) -> tuple[Tally, bool]:
    """The tally of all blocks, merged in order, and whether the tolerance stopped it early.

    Args:
        engine: its name and how many workers it may use.
    """
    run, workers = ENGINES[engine[0]], engine[1]
    order = plan.order(source, call)
    total = None if isinstance(source, Stream) else len(source) if order is None else len(order)
    size = 256 if total is None else source.block_size(total)
    if plan.tolerance is not None:
        size = min(size, 64)
    blocks, observer, threads = _with_first(source.blocks(size, order), observer, workers)
    workers = threads if engine[0] == "local" else workers
    begin = (0, Tally()) if store is None else store.load()
    tallies = run(observer, islice(blocks, begin[0], None), workers)
    return fold(tallies, begin, add, total, store, progress, plan.reached)


def _with_first(blocks: Iterator[Block], observer: Observer, workers: int) -> tuple[Iterator[Block], Observer, int]:
    """The same blocks, the observer told the family of the first readable picture, and the threads to use."""
    seen = []
    for block in blocks:
        seen.append(block)
        first = observer.first_of(block)
        if first is not None:
            threads = threads_for(first, block, workers)
            return chain(seen, blocks), replace(observer, family=Family.of(first)), threads
    return iter(seen), observer, workers


def _refuse_without_pixels(tally: Tally, call: str) -> None:
    if not tally.joined().histogram.counts.any():
        raise FirstlightError(
            f"none of the {tally.count:,} images has a pixel that may be counted: all are NaN, nodata, masked or "
            "transparent",
            "check nodata and masks, or count what lies under transparent pixels with alpha='drop'",
            slug="no-pixels",
            call=call,
        )


_NOWHERE = Provenance((), "", "", "", "", "", None, "", "", "")
