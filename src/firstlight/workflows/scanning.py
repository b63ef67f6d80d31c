"""A source of images → Statistics."""

import hashlib
import math
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

import numpy as np
from PIL import ImageFile

from firstlight import __version__
from firstlight._typing import Progress
from firstlight.engines import ENGINES, Checkpoint, Family, Masks, Observer
from firstlight.errors import FirstlightError
from firstlight.sources import Block, Policy, Source, Stream, Transform, decoder_versions, guard, open_source
from firstlight.statistics import Provenance, Statistics, Tally

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
    policy = Policy(_checked_alpha(alpha), orientation, _checked_nodata(nodata))
    transform = Transform(resize, crop, resample)
    processors = _checked_workers(workers)
    if engine not in ENGINES:
        raise FirstlightError(
            f"there is no engine {engine!r}", f"choose one of {', '.join(ENGINES)}", slug="no-such-engine"
        )
    with _open(source, key) as opened, nullcontext() if masks is None else _open(masks) as mask_source:
        call = f"scan({opened.location!r})"
        chosen, split_name = guard(opened, split, all_splits, call)
        observer = Observer(policy, transform, None if mask_source is None else Masks(mask_source))
        store = None
        if checkpoint is not None and not isinstance(chosen, Stream):
            mask_stamp = "" if mask_source is None else mask_source.stamp()
            options = (policy, transform, plan, split_name, mask_stamp, __version__)
            scan_key = hashlib.blake2b(f"{chosen.stamp()} {options}".encode(), digest_size=16).hexdigest()
            store = Checkpoint(checkpoint, scan_key)
            if restart:
                store.remove()
        with strict_and_quiet():
            tally, stopped = _fold(chosen, observer, plan, (engine, processors), store, progress, call)
        if store is not None:
            store.remove()
        _refuse_without_pixels(tally, call)
        return _statistics(tally, chosen, policy, transform, split_name, plan.describe(tally, chosen, stopped))


@contextmanager
def _open(source: Any, key: str | None = None) -> Iterator[Source]:
    """The source, closed in the end if it was opened here."""
    opened = open_source(source, key=key)
    try:
        yield opened
    finally:
        if opened is not source:
            opened.close()


@contextmanager
def strict_and_quiet() -> Iterator[None]:
    """Pillow refuses truncated files, whatever the program told it before, and keeps its warnings to itself.

    It warns of files that it goes on to refuse, and of large ones; `sources.picture` checks sizes.
    """
    tolerant, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            warnings.filterwarnings("ignore", message="Dataset has no geotransform")  # pixels need no place on earth
            yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = tolerant


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


def _fold(
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
    size = 64 if total is None else source.block_size(total)
    if plan.tolerance is not None:
        size = min(size, 64)
    blocks, observer, threads = _with_first(source.blocks(size, order), observer, workers)
    workers = threads if engine[0] == "local" else workers
    done, tally = (0, Tally()) if store is None else store.load()
    tallies = run(observer, islice(blocks, done, None), workers)
    try:
        if progress:
            progress(tally.count + len(tally.quarantine), total)
        for block_tally in tallies:
            tally, done = tally + block_tally, done + 1
            if progress:
                progress(tally.count + len(tally.quarantine), total)
            if plan.reached(tally):
                return tally, True
            if store is not None:
                store.offer(done, tally)
    except KeyboardInterrupt as interrupt:
        if store is not None:
            store.save(done, tally)
            interrupt.add_note(
                f"{done:,} finished blocks are kept in {str(store.path)!r}: the same call goes on from them."
            )
        raise
    finally:
        tallies.close()  # type: ignore[attr-defined]
    return tally, False


def _with_first(blocks: Iterator[Block], observer: Observer, workers: int) -> tuple[Iterator[Block], Observer, int]:
    """The same blocks, the observer told the family of the first readable picture, and the threads to use.

    Decoding holds no interpreter lock, but everything around it does. With files of less than about 100×100
    pixels two threads spend more time handing the lock to each other than they gain, so those get one.
    """
    seen = []
    for block in blocks:
        seen.append(block)
        first = observer.first_of(block)
        if first is not None:
            tiny = first.size[0] * first.size[1] < 100 * 100 and not isinstance(block.samples, np.ndarray)
            return chain(seen, blocks), replace(observer, family=Family.of(first)), 1 if tiny else workers
    return iter(seen), observer, workers


def _refuse_without_pixels(tally: Tally, call: str) -> None:
    bad, offered = len(tally.quarantine), tally.count + len(tally.quarantine)
    if offered == 0:
        raise FirstlightError("the source is empty", "point at one that holds images", slug="no-images", call=call)
    if 2 * bad > offered:
        shown = "; ".join(f"{name}: {reason}" for name, reason in tally.quarantine[:3])
        raise FirstlightError(
            f"{bad:,} of {offered:,} images cannot be counted ({shown}{'; …' if bad > 3 else ''})",
            "mend or move the bad files, or point at the right folder",
            slug="mostly-bad",
            call=call,
        )
    if not tally.joined().histogram.counts.any():
        raise FirstlightError(
            f"none of the {tally.count:,} images has a pixel that may be counted: all are NaN, nodata, masked or "
            "transparent",
            "check nodata and masks, or count what lies under transparent pixels with alpha='drop'",
            slug="no-pixels",
            call=call,
        )


def _statistics(
    tally: Tally, source: Source, policy: Policy, transform: Transform, split: str, sample: str
) -> Statistics:
    channels = tally.joined().channels
    provenance = Provenance(
        sources=(source.identity(),),
        split=split,
        transform=str(transform),
        channel_order={1: "gray", 3: "RGB"}.get(channels, "bands as stored"),
        alpha=policy.alpha,
        orientation="EXIF applied" if policy.orientation else "as stored",
        nodata=policy.nodata,
        sample=sample,
        decoders=decoder_versions(),
        version=__version__,
    )
    return Statistics(tally, provenance)


def _checked_alpha(alpha: str) -> str:
    if alpha not in ("mask", "drop") and not re.fullmatch(r"composite #[0-9a-fA-F]{6}", alpha):
        raise FirstlightError(
            f"alpha={alpha!r} is not a policy", 'choose "mask", "drop" or "composite #rrggbb"', slug="bad-alpha"
        )
    return alpha


def _checked_nodata(nodata: float | None) -> float | None:
    if nodata is not None and not math.isfinite(nodata):
        raise FirstlightError(
            f"nodata={nodata} is not a value of pixels",
            "leave it out: NaN and infinities are never counted",
            slug="bad-nodata",
        )
    return nodata


def _checked_workers(workers: int | None) -> int:
    if workers is not None and workers < 1:
        raise FirstlightError(
            f"workers={workers} is not a number of threads", "give 1 or more, or leave it out", slug="bad-workers"
        )
    return workers or _available_cores()


def _available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_NOWHERE = Provenance((), "", "", "", "", "", None, "", "", "")
