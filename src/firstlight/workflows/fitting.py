"""A source of images → the covariance that whitening over patches and pixels needs."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

from firstlight._typing import Progress
from firstlight.engines import ENGINES, Checkpoint, Family, Gathered, Gatherer, Observer
from firstlight.errors import FirstlightError
from firstlight.sources import Block, Picture, Source, Stream, Transform, Unreadable, guard
from firstlight.statistics.sketch import LowRank, LowRankSketch
from firstlight.statistics.vectors import Vectors, pixel_kind
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

_SHORT = 1024
"""Vectors of up to so many components are counted by the workers: such a matrix has 8 MB."""

_LOOK = 16
"""Images that are looked at to learn what pixels the source has."""

_BLOCK_BYTES = 2**24
"""Decoded pixels of a block that is counted by who merges."""

_BLOCK_IMAGES = 256
"""Images in such a block, at least: adding a matrix product to D×D numbers pays only for many rows."""


def fit(
    source: Any,
    *,
    over: str = "pixels",
    size: int = 5,
    rank: int | None = None,
    passes: int = 3,
    seed: int = 0,
    resize: int | tuple[int, int] | None = None,
    crop: int | tuple[int, int] | None = None,
    resample: str = "bilinear",
    split: str | None = None,
    all_splits: bool = False,
    alpha: str = "mask",
    orientation: bool = False,
    nodata: float | None = None,
    key: str | None = None,
    workers: int | None = None,
    engine: str = "local",
    checkpoint: str | os.PathLike[str] | None = None,
    restart: bool = False,
    progress: Progress | None = None,
) -> Vectors | LowRank:
    """Covariance of patches or of whole images, for `Recipe.pca` and `Recipe.zca`; the same bits for any workers.

    A patch that holds a value which is left out (transparent, nodata, not finite) is left out whole, and so is an
    image over pixels: a covariance of vectors with holes need not be one. Gray images among RGB ones become three
    equal channels, 8 bits among 16 become 16, exactly; what a fit expects is seen in the first 16 images.

    Args:
        source: anything `open_source` opens.
        over: "patches" (size×size, images of any size) or "pixels" (whole images of one size).
        size: side of a patch.
        rank: over pixels, fit only this many components, without any D×D matrix.
        passes: over the source, with a rank: each further one brings the components nearer to the best there are.
            A stream, which comes only once, gets one.
        seed: of the random start, with a rank.
        resize, crop, resample, split, all_splits, alpha, orientation, nodata, key, workers, engine: as in `scan`.
        checkpoint: file that keeps finished blocks while the fit runs; the same call goes on from it. With a rank it
            holds 12·D·l bytes (l a quarter above the rank), and writing it takes a few times as much memory.
        restart: forget an existing checkpoint.
        progress: called with (images done in all passes, images × passes or None).

    Returns:
        `Vectors`, exact for integers and with `+`; with a rank, `LowRank`, which states its error. Images that were
        not used are listed in ``.quarantine``; ``.provenance`` says where the others come from.

    Raises:
        FirstlightError: slugs ``bad-over``, ``bad-patch``, ``bad-rank``, ``too-many-components``, ``sizes-differ``
            (over pixels), and those of `scan`: ``no-images``, ``several-splits``, ``mostly-bad``, ``source-changed`` …
    """
    goal = _Goal(over, size, rank, 1 if rank is None else max(1, passes), seed)
    policy = checked_policy(alpha, orientation, nodata)
    transform = Transform(resize, crop, resample)
    processors = checked_engine(engine, workers)
    with opened_source(source, key) as opened:
        call = f"fit({opened.location!r})"
        chosen, split_name = guard(opened, split, all_splits, call)
        if isinstance(chosen, Stream):
            goal = replace(goal, passes=1)
        store = checkpoint_of(checkpoint, chosen, ("fit", goal, policy, transform, split_name), restart, Fitting)
        begin = (0, Fitting()) if store is None else store.load()
        observer = Observer(policy, transform)
        try:
            with strict_and_quiet():
                fitting = _fitted(chosen, observer, goal, (engine, processors), begin, store, progress, call)
        except FirstlightError:  # such images can never be fitted: there is nothing to go on from
            _removed(store)
            raise
        _removed(store)
        found = fitting.found
        assert found is not None, "not mostly bad, so some images were counted"
        result = found.components() if isinstance(found, LowRankSketch) else found
        provenance = provenance_of(chosen, result.channels, policy, transform, split_name, "")
        return replace(
            result,
            order=provenance.channel_order,
            transform=provenance.transform,
            quarantine=fitting.quarantine,
            provenance=provenance,
        )


@dataclass(frozen=True)
class _Goal:
    """What is fitted."""

    over: str
    size: int
    rank: int | None
    passes: int
    seed: int

    def __post_init__(self) -> None:
        call = "fit(source, over=...)"
        if self.over not in ("patches", "pixels"):
            raise FirstlightError(
                f"there is nothing to fit over {self.over!r}",
                'choose "patches" or "pixels"; for channels, fl.scan(source) is all it takes',
                slug="bad-over",
                call=call,
            )
        if self.over == "patches" and self.size < 1:
            raise FirstlightError(f"size={self.size} is no side of a patch", "give 1 or more", slug="bad-patch")
        if self.rank is not None and self.over == "patches":
            raise FirstlightError(
                "patches have few components, and are fitted with all of them",
                "leave rank out and keep some with Recipe.pca(..., components=), or fit over pixels",
                slug="bad-rank",
                call=call,
            )

    def empty(self, kind: str, shape: tuple[int, int, int]) -> Vectors | LowRankSketch:
        """Nothing seen yet of images H×W×C."""
        if self.rank is not None:
            return LowRankSketch.empty(kind, shape, self.rank, seed=self.seed)
        return Vectors.empty(self.over, kind, (self.size, self.size, shape[2]) if self.over == "patches" else shape)

    def added(self, before: "Fitting", part: Gathered) -> "Fitting":
        """`before` and one block more, in the arrays of `before`."""
        found = before.found
        if part.vectors is not None and part.vectors.count:
            assert not isinstance(found, LowRankSketch), "a sketch is made of images"
            found = part.vectors if found is None else found + part.vectors
        for images, valid in part.batches:
            if found is None:
                found = self.empty(pixel_kind(images), images.shape[1:])
            found = found.add(images) if isinstance(found, LowRankSketch) else found.add(images, valid)
        return replace(before, found=found, quarantine=before.quarantine + part.quarantine)


@dataclass(frozen=True, eq=False)
class Fitting:
    """What a fit has counted so far.

    Attributes:
        passed: passes over the source that are finished.
        found: what this one has found; None before the first image.
        quarantine: (name, reason) of every image that was not counted in it.
    """

    passed: int = 0
    found: Vectors | LowRankSketch | None = None
    quarantine: tuple[tuple[str, str], ...] = ()

    @property
    def count(self) -> int:
        """Images that were counted."""
        return 0 if self.found is None else self.found.images

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        found = None if self.found is None else self.found.to_dict()
        return {
            "passed": self.passed,
            "sketch": isinstance(self.found, LowRankSketch),
            "found": found,
            "quarantine": [list(entry) for entry in self.quarantine],
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "Fitting":
        """The inverse of `to_dict`."""
        noun = LowRankSketch if value["sketch"] else Vectors
        found = None if value["found"] is None else noun.from_dict(value["found"])
        return cls(value["passed"], found, tuple((name, reason) for name, reason in value["quarantine"]))


def _fitted(
    source: Source,
    observer: Observer,
    goal: _Goal,
    engine: tuple[str, int],
    begin: tuple[int, Fitting],
    store: Checkpoint | None,
    progress: Progress | None,
    call: str,
) -> Fitting:
    """All passes over the source.

    Args:
        engine: its name and how many workers it may use.
        begin: blocks done already in the pass under way, and what they add up to.
    """
    total = None if isinstance(source, Stream) else len(source)
    done, fitting = begin
    gatherer, blocks, workers = _plan(source, observer, goal, engine)
    while True:
        parts = ENGINES[engine[0]](gatherer, islice(blocks(), done, None), workers)
        shown = None if progress is None else _shown(progress, fitting.passed, goal.passes)
        fitting, _ = fold(parts, (done, fitting), goal.added, total, store, shown)
        refuse_mostly_bad(fitting, call)
        if fitting.passed + 1 == goal.passes or not isinstance(fitting.found, LowRankSketch):
            return fitting
        done, fitting = 0, Fitting(fitting.passed + 1, fitting.found.again())


def _removed(store: Checkpoint | None) -> None:
    if store is not None:
        store.remove()


def _shown(progress: Progress, passed: int, passes: int) -> Progress:
    """The progress of one pass as that of all."""

    def show(done: int, total: int | None) -> None:
        progress(done + passed * (total or 0), None if total is None else passes * total)

    return show


def _plan(
    source: Source, observer: Observer, goal: _Goal, engine: tuple[str, int]
) -> tuple[Gatherer, Callable[[], Iterator[Block]], int]:
    """Who turns a block into a part of the fit, the blocks, and how many workers are to do it."""
    seen: list[Block] = []
    pictures: list[Picture] = []
    looked = source.blocks(64 if isinstance(source, Stream) else _LOOK)
    for block in looked:
        seen.append(block)
        pictures = list(_readable(observer, block))
        if pictures:
            break
    if not pictures:  # nothing can be read: every image will say why
        return Gatherer(observer, goal.over, goal.size, "uint8", 3, False), lambda: iter(seen), 1
    first = pictures[0]
    kin = [picture.pixels for picture in pictures if Family.of(picture) == Family.of(first)]
    kinds = {pixel_kind(pixels[None]) for pixels in kin}
    kind = "uint16" if "uint16" in kinds else kinds.pop()
    channels = max(pixels.shape[2] for pixels in kin)
    found_here = goal.over == "patches" and goal.size**2 * channels <= _SHORT
    gatherer = Gatherer(observer, goal.over, goal.size, kind, channels, found_here)
    workers = engine[1] if found_here or engine[0] != "local" else threads_for(first, seen[-1], engine[1])
    if isinstance(source, Stream):
        return gatherer, lambda: chain(seen, looked), workers
    size = source.block_size(len(source))
    if not found_here:
        size = max(1, min(max(size, _BLOCK_IMAGES), _BLOCK_BYTES // first.pixels.nbytes))
    return gatherer, lambda: source.blocks(size), workers


def _readable(observer: Observer, block: Block) -> Iterator[Picture]:
    for k, name in enumerate(block.names[:_LOOK]):
        try:
            yield observer.picture(name, block.samples[k])
        except (Unreadable, OSError):
            continue
