"""What a chapter of the lecture is: settings, a run that gives numbers, and what the numbers say and show."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from firstlight.experiments.images import Album
from firstlight.report.document import Block
from firstlight.report.lecture_page import Claim

Numbers: TypeAlias = Mapping[str, Any]
"""What a run measured and theory predicted: plain values for JSON."""

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Chapter(Generic[Settings]):
    """One chapter.

    Attributes:
        number, title: of the chapter.
        idea: what it says, in one sentence.
        quick, full: settings of the short and the long run.
        run: measures; the same settings, album and seed give the same numbers.
        judge: the claims, each with the verdict that the numbers give it.
        show: figures and tables.
        code: at most 15 lines that a reader can paste; they run as they stand.
    """

    number: int
    title: str
    idea: str
    quick: Settings
    full: Settings
    run: Callable[[Settings, Album, int], Numbers]
    judge: Callable[[Numbers], Sequence[Claim]]
    show: Callable[[Numbers, Album], Sequence[Block]]
    code: str

    def settings(self, quick: bool) -> Settings:
        """Those of the short or the long run."""
        return self.quick if quick else self.full

    def said(self, quick: bool) -> str:
        """The settings, for people."""
        values = asdict(self.settings(quick))  # type: ignore[call-overload]
        return ", ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in values.items())


def claim(text: str, holds: bool, evidence: str, *, only: str = "") -> Claim:
    """The verdict of a run on a claim: refuted unless it `holds`; then confirmed, or confirmed `only` where said."""
    if not holds:
        return Claim(text, "refuted", evidence)
    return Claim(text, "conditional" if only else "confirmed", evidence, only)


def _short(value: Any) -> str:
    return "/".join(map(_short, value)) if isinstance(value, (list, tuple)) else f"{value}"
