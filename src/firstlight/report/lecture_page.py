"""Chapters of the lecture → one page: the claims with their verdicts first, then chapter by chapter."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from firstlight.report.document import Block, Code, Document, Section, Table, Text, Verdict, plural

Outcome: TypeAlias = Literal["confirmed", "conditional", "refuted"]

_TONES = {"confirmed": "good", "conditional": "warn", "refuted": "bad"}
_MARKS = {"confirmed": "✓", "conditional": "◐", "refuted": "✗"}


@dataclass(frozen=True)
class Claim:
    """One claim of the lecture, and what a run made of it.

    Attributes:
        text: the claim, one sentence.
        outcome: "confirmed", "conditional" (confirmed under `condition` only) or "refuted".
        evidence: the numbers that decided.
        condition: under which it holds; empty unless conditional.
    """

    text: str
    outcome: Outcome
    evidence: str
    condition: str = ""

    @property
    def verdict(self) -> str:
        """The outcome in words."""
        if self.outcome == "conditional":
            return f"{_MARKS[self.outcome]} confirmed only {self.condition}"
        return f"{_MARKS[self.outcome]} {'confirmed' if self.outcome == 'confirmed' else 'not confirmed'}"


@dataclass(frozen=True)
class ChapterPage:
    """One chapter, computed.

    Attributes:
        number, title: of the chapter.
        idea: what it says, in one sentence.
        claims: judged, from this run.
        blocks: figures, tables and words.
        code: lines that a reader can paste.
        settings: of the run, for people.
        seconds: that the run took, when it ran.
    """

    number: int
    title: str
    idea: str
    claims: tuple[Claim, ...]
    blocks: tuple[Block, ...]
    code: str
    settings: str
    seconds: float


def lecture_document(chapters: Sequence[ChapterPage], *, data: str, footer: Sequence[str] = ()) -> Document:
    """The page of the lecture.

    Args:
        chapters: that ran, in order.
        data: which images, for people.
        footer: provenance, one fact per line.
    """
    claims = [claim for chapter in chapters for claim in chapter.claims]
    verdict, tone = _summary(claims)
    sections = [Section("Claims", _overview(chapters, data)), *map(_section, chapters)]
    return Document("How to begin: preprocessing and initialization, measured", verdict, tone, tuple(sections),
                    tuple(footer))  # fmt: skip


def _summary(claims: Sequence[Claim]) -> tuple[str, str]:
    counts = {outcome: sum(c.outcome == outcome for c in claims) for outcome in _TONES}
    said = [f"{counts['confirmed']} of {plural(len(claims), 'claim')} confirmed"]
    if counts["conditional"]:
        said.append(f"{counts['conditional']} only under a condition")
    if counts["refuted"]:
        said.append(f"{counts['refuted']} not confirmed")
    tone = "bad" if counts["refuted"] else "warn" if counts["conditional"] else "good"
    return ", ".join(said) + ", by the numbers of this run.", tone


def _overview(chapters: Sequence[ChapterPage], data: str) -> tuple[Block, ...]:
    rows = tuple(
        ("" if k else f"{c.number}. {c.title}", claim.text, claim.verdict)
        for c in chapters
        for k, claim in enumerate(c.claims)
    )
    return (
        Text(
            "Before the first step of training, two choices decide whether there will be a second: what is done to the "
            "pixels, and what numbers the weights start from. Every figure below was computed for this page, on "
            f"{data}. Lines are what theory says before anything runs; points and rings are what was measured."
        ),
        Table(("chapter", "claim", "verdict of this run"), rows),
    )


def _section(chapter: ChapterPage) -> Section:
    return Section(
        f"{chapter.number}. {chapter.title}",
        (
            Text(chapter.idea),
            *chapter.blocks,
            *(Verdict(claim.text, claim.verdict, _TONES[claim.outcome], claim.evidence) for claim in chapter.claims),
            Code(chapter.code.strip("\n"), "Try it"),
            Text(f"Settings: {chapter.settings}. Computed in {chapter.seconds:.0f} s."),
        ),
    )
