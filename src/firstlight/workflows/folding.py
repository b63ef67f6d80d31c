"""What every walk over a source shares: opening it, adding up its blocks in order, and what is refused."""

import hashlib
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import numpy as np
from PIL import ImageFile

from firstlight import __version__
from firstlight._typing import Progress
from firstlight.engines import ENGINES, Checkpoint
from firstlight.errors import FirstlightError
from firstlight.sources import Block, Picture, Policy, Source, Stream, Transform, decoder_versions, open_source
from firstlight.statistics import Provenance


class Sum(Protocol):
    """What blocks add up to: how many images count so far, and which do not. It can be stored."""

    @property
    def count(self) -> int:
        """Images that were counted."""

    @property
    def quarantine(self) -> Sequence[tuple[str, str]]:
        """(name, reason) of those that were not."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Any:
        """The inverse of `to_dict`."""


Total = TypeVar("Total", bound=Sum)
Part = TypeVar("Part")


def fold(
    parts: Iterator[Part],
    begin: tuple[int, Total],
    add: Callable[[Total, Part], Total],
    total: int | None,
    store: Checkpoint | None,
    progress: Progress | None,
    stop: Callable[[Total], bool] = lambda _: False,
) -> tuple[Total, bool]:
    """What all parts add up to, in their order, and whether `stop` ended it early.

    Args:
        parts: an engine's results from block `begin[0]` on; closed in the end.
        begin: blocks done already, and what they add up to.
        add: may reuse the arrays of its first argument.
        total: images in all, for `progress`.
        store: where finished blocks are kept.
        progress: called with (images done, total).
        stop: whether enough is known.
    """
    done, value = begin
    whole = True
    try:
        if progress:
            progress(_seen(value), total)
        for part in parts:
            whole = False
            value, done = add(value, part), done + 1
            whole = True
            if progress:
                progress(_seen(value), total)
            if stop(value):
                return value, True
            if store is not None:
                store.offer(done, value)
    except KeyboardInterrupt as interrupt:
        if store is not None:
            if whole:  # an addition in place that was cut off has spoilt its arrays; what was kept before is sound
                store.save(done, value)
            interrupt.add_note(
                f"{store.kept:,} finished blocks are kept in {str(store.path)!r}: the same call goes on from them."
            )
        raise
    finally:
        parts.close()  # type: ignore[attr-defined]
    return value, False


def _seen(value: Sum) -> int:
    return value.count + len(value.quarantine)


@contextmanager
def opened_source(source: Any, key: str | None = None) -> Iterator[Source]:
    """The source, closed in the end if it was opened here."""
    opened = open_source(source, key=key)
    try:
        yield opened
    finally:
        if opened is not source:
            opened.close()


def checkpoint_of(
    path: str | os.PathLike[str] | None, source: Source, options: tuple[Any, ...], restart: bool, noun: type[Any]
) -> Checkpoint | None:
    """Where finished blocks are kept: nowhere without a path, nor of a stream, which comes only once.

    Args:
        options: whatever besides the source decides the result.
        restart: forget what is there.
        noun: type of the value that is kept.
    """
    if path is None or isinstance(source, Stream):
        return None
    key = hashlib.blake2b(f"{source.stamp()} {(*options, __version__)}".encode(), digest_size=16).hexdigest()
    store = Checkpoint(path, key, noun)
    if restart:
        store.remove()
    return store


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


def threads_for(first: Picture, block: Block, workers: int) -> int:
    """How many threads to use for images like this one.

    Decoding holds no interpreter lock, but everything around it does. With files of less than about 100×100
    pixels two threads spend more time handing the lock to each other than they gain, so those get one.
    """
    tiny = first.size[0] * first.size[1] < 100 * 100 and not isinstance(block.samples, np.ndarray)
    return 1 if tiny else workers


def refuse_mostly_bad(value: Sum, call: str) -> None:
    """Refuse a source without images, or more than half of whose images cannot be counted.

    Raises:
        FirstlightError: slugs ``no-images`` and ``mostly-bad``.
    """
    bad, offered = len(value.quarantine), _seen(value)
    if offered == 0:
        raise FirstlightError("the source is empty", "point at one that holds images", slug="no-images", call=call)
    if 2 * bad > offered:
        shown = "; ".join(f"{name}: {reason}" for name, reason in value.quarantine[:3])
        raise FirstlightError(
            f"{bad:,} of {offered:,} images cannot be counted ({shown}{'; …' if bad > 3 else ''})",
            "mend or move the bad files, or point at the right folder",
            slug="mostly-bad",
            call=call,
        )


def provenance_of(
    source: Source, channels: int, policy: Policy, transform: Transform, split: str, sample: str
) -> Provenance:
    """Where statistics of the source with these options come from."""
    return Provenance(
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


def checked_policy(alpha: str, orientation: bool, nodata: float | None) -> Policy:
    """The mode policy of these options.

    Raises:
        FirstlightError: slugs ``bad-alpha`` and ``bad-nodata``.
    """
    if alpha not in ("mask", "drop") and not re.fullmatch(r"composite #[0-9a-fA-F]{6}", alpha):
        raise FirstlightError(
            f"alpha={alpha!r} is not a policy", 'choose "mask", "drop" or "composite #rrggbb"', slug="bad-alpha"
        )
    if nodata is not None and not math.isfinite(nodata):
        raise FirstlightError(
            f"nodata={nodata} is not a value of pixels",
            "leave it out: NaN and infinities are never counted",
            slug="bad-nodata",
        )
    return Policy(alpha, orientation, nodata)


def checked_engine(engine: str, workers: int | None) -> int:
    """How many workers the engine gets: by default one per available core.

    Raises:
        FirstlightError: slugs ``bad-workers`` and ``no-such-engine``.
    """
    if workers is not None and workers < 1:
        raise FirstlightError(
            f"workers={workers} is not a number of threads", "give 1 or more, or leave it out", slug="bad-workers"
        )
    if engine not in ENGINES:
        raise FirstlightError(
            f"there is no engine {engine!r}", f"choose one of {', '.join(ENGINES)}", slug="no-such-engine"
        )
    return workers or _available_cores()


def _available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
