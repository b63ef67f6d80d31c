"""Run chapters, keep what is finished, write the page."""

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from firstlight import __version__
from firstlight._files import write_atomically
from firstlight.errors import FirstlightError
from firstlight.experiments import (
    cache,
    chapter1_preprocessing,
    chapter2_zeros,
    chapter3_small,
    chapter4_large,
    chapter5_xavier,
    chapter6_rectifier,
    chapter7_families,
    chapter8_beyond,
)
from firstlight.experiments.chapter import Chapter
from firstlight.experiments.images import Album, open_album
from firstlight.report import to_html
from firstlight.report.lecture_page import ChapterPage, lecture_document
from firstlight.workflows.kept import keep, load

FORMAT = "firstlight.lecture/1"
CHAPTERS: tuple[Chapter[Any], ...] = (
    chapter1_preprocessing.CHAPTER,
    chapter2_zeros.CHAPTER,
    chapter3_small.CHAPTER,
    chapter4_large.CHAPTER,
    chapter5_xavier.CHAPTER,
    chapter6_rectifier.CHAPTER,
    chapter7_families.CHAPTER,
    chapter8_beyond.CHAPTER,
)

Announce: TypeAlias = Callable[[int, int, str], None]
"""Called with (chapters done, chapters in all, title of the one that runs)."""

_LIMITS = {True: 1_000, False: 4_000}  # images, of a quick and of a full run


@dataclass(frozen=True)
class Lecture:
    """What `lecture` made.

    Attributes:
        chapters: as computed, in order.
        numbers: of each chapter, by its number: what was predicted and measured.
        files: "page" and "numbers", where they lie.
        ok: whether no claim was refuted.
    """

    chapters: tuple[ChapterPage, ...]
    numbers: dict[int, Any]
    data: str
    quick: bool
    seed: int
    files: dict[str, Path]

    @property
    def ok(self) -> bool:
        """Whether no claim was refuted."""
        return all(claim.outcome != "refuted" for chapter in self.chapters for claim in chapter.claims)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "format": FORMAT,
            "version": __version__,
            "data": self.data,
            "quick": self.quick,
            "seed": self.seed,
            "ok": self.ok,
            "claims": [
                {"chapter": chapter.number, "title": chapter.title, **asdict(claim)}
                for chapter in self.chapters
                for claim in chapter.claims
            ],
            "chapters": [
                {
                    "number": c.number,
                    "title": c.title,
                    "idea": c.idea,
                    "settings": c.settings,
                    "seconds": c.seconds,
                    "code": c.code,
                    "numbers": self.numbers[c.number],
                }
                for c in self.chapters
            ],
            "files": {name: str(path) for name, path in self.files.items()},
        }


def lecture(
    out: str | os.PathLike[str],
    *,
    data: Any = None,
    quick: bool = False,
    chapters: Sequence[int] | None = None,
    seed: int = 0,
    announce: Announce | None = None,
) -> Lecture:
    """Regenerate the lecture: run its chapters and write ``lecture.html`` and ``lecture.json`` into `out`.

    A finished chapter is kept in ``out/.cache`` under its settings, images, seed and the library's code; a run that
    was interrupted, or is repeated, takes it from there.

    Args:
        out: folder.
        data: images with a folder per class, anything `open_source` opens; scikit-learn's photographs and digits
            without it.
        quick: small settings, about a minute; otherwise a quarter of an hour.
        chapters: numbers of those to run; all when not given.
        seed: of weights, batches and the choice of images.
        announce: called before each chapter and at the end.

    Raises:
        FirstlightError: slug ``no-such-chapter``; and what `open_album` raises.
    """
    chosen = _chosen(chapters)
    album = open_album(data, limit=_LIMITS[quick], seed=seed)
    folder = Path(out)
    pages, numbers = [], {}
    for done, chapter in enumerate(chosen):
        if announce is not None:
            announce(done, len(chosen), f"{chapter.number}. {chapter.title}")
        try:
            kept = _finished(chapter, album, quick, seed, folder / ".cache")
        except KeyboardInterrupt as interrupt:
            interrupt.add_note(
                f"{done} of {len(chosen)} chapters are kept in {folder / '.cache'}; the same command goes on."
            )
            raise
        numbers[chapter.number] = kept["numbers"]
        pages.append(_page(chapter, album, quick, kept))
    if announce is not None:
        announce(len(chosen), len(chosen), "")
    files = {"page": folder / "lecture.html", "numbers": folder / "lecture.json"}
    result = Lecture(tuple(pages), numbers, album.what, quick, seed, files)
    _write(result)
    return result


def _chosen(numbers: Sequence[int] | None) -> list[Chapter[Any]]:
    known = {chapter.number: chapter for chapter in CHAPTERS}
    odd = sorted(set(numbers or ()) - set(known))
    if odd:
        raise FirstlightError(
            f"there is no chapter {odd[0]}",
            f"choose among {', '.join(map(str, known))}",
            slug="no-such-chapter",
            call="lecture",
        )
    return [chapter for number, chapter in known.items() if numbers is None or number in numbers]


def _finished(chapter: Chapter[Any], album: Album, quick: bool, seed: int, folder: Path) -> Any:
    """Numbers and time of a chapter, from an earlier run where there was one."""
    settings = chapter.settings(quick)
    path = folder / f"chapter{chapter.number}-{cache.key_of(settings, album.stamp, seed)}.json"
    kept = load(path)
    if kept is not None:
        return kept
    start = time.perf_counter()
    numbers = chapter.run(settings, album, seed)
    return keep(path, {"numbers": numbers, "seconds": time.perf_counter() - start})


def _page(chapter: Chapter[Any], album: Album, quick: bool, kept: Any) -> ChapterPage:
    numbers = kept["numbers"]
    return ChapterPage(
        chapter.number,
        chapter.title,
        chapter.idea,
        tuple(chapter.judge(numbers)),
        tuple(chapter.show(numbers, album)),
        chapter.code.strip("\n"),
        chapter.said(quick),
        kept["seconds"],
    )


def _write(result: Lecture) -> None:
    """The page last, so that a page means that everything is there."""
    footer = (
        f"firstlight {__version__}, seed {result.seed}, {'quick' if result.quick else 'full'} run, "
        f"{sum(chapter.seconds for chapter in result.chapters):.0f} s of computation.",
        "Numbers, settings and verdicts: lecture.json beside this page.",
    )
    document = lecture_document(result.chapters, data=result.data, footer=footer)
    write_atomically(result.files["numbers"], json.dumps(finite(result.to_dict()), indent=1, allow_nan=False))
    write_atomically(result.files["page"], to_html(document))


def finite(value: Any) -> Any:
    """The value with None for what JSON has no word for: infinities and nan."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
