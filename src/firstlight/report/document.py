"""A report as plain values: sections of text, tables, pictures and charts. No markup, no colours, no clock."""

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Code:
    """Lines to copy, and what they are."""

    text: str
    label: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of text under a head; columns in `numeric` are set right-aligned in figures of equal width.

    Attributes:
        folded: shown behind a summary line that opens it.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[int] = frozenset()
    caption: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Picture:
    """An encoded image (PNG, JPEG) with its caption. `pixelated` keeps the pixels of an enlarged one visible."""

    data: bytes
    media_type: str
    caption: str
    pixelated: bool = False


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side."""

    pictures: tuple[Picture, ...]
    height: int = 96


@dataclass(frozen=True)
class Bars:
    """A histogram: one small panel per series, all on one scale.

    Attributes:
        edges: left edge of each bar and the right edge of the last.
        series: (label, tone, heights), heights as shares of their sum.
        small: panels half as wide, each as high as its own highest bar: for shapes side by side.
    """

    edges: tuple[float, ...]
    series: tuple[tuple[str, str, tuple[float, ...]], ...]
    caption: str
    small: bool = False


@dataclass(frozen=True)
class Lines:
    """Values along a sequence on a logarithmic axis; None leaves a gap.

    Attributes:
        labels: what each position is.
        series: (label, tone, values).
        axis: what is plotted, with its unit.
        along: what the positions run along.
    """

    labels: tuple[str, ...]
    series: tuple[tuple[str, str, tuple[float | None, ...]], ...]
    axis: str
    caption: str
    along: str = "depth"


@dataclass(frozen=True)
class Series:
    """One series of a `Plot`; None leaves a gap.

    Attributes:
        label: shown beside its last value; empty for none.
        tone: a colour by name: "blue", "orange", "green", "red", "violet", "gray".
        y: one value for each x.
        style: "line", "dashed", "points" or "rings".
        low, high: a band around it, one value for each x; empty for none.
    """

    label: str
    tone: str
    y: tuple[float | None, ...]
    style: str = "line"
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Plot:
    """Values over numbers: curves with bands, a prediction as a line with what was measured as points on it.

    Attributes:
        x: positions, rising.
        series: drawn in order, the last on top.
        axis: what is plotted, with its unit.
        along: what the positions are.
        log: decades upwards; values that are not positive are left out.
        ticks: names of the positions; their values when empty.
    """

    x: tuple[float, ...]
    series: tuple[Series, ...]
    axis: str
    along: str
    caption: str
    log: bool = False
    ticks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """A claim and what became of it.

    Attributes:
        claim: one sentence.
        verdict: "confirmed", "not confirmed", or under which condition.
        tone: "good", "warn" or "bad".
        evidence: the numbers that decided.
    """

    claim: str
    verdict: str
    tone: str
    evidence: str


@dataclass(frozen=True)
class Card:
    """One finding, to be read from top to bottom.

    Attributes:
        tone: "good", "warn", "bad" or "gray".
        badge: severity and code.
        title: what is wrong, in one line.
        place: where.
        facts: (what it is, text), one paragraph each.
        code: lines to copy, the fix; empty for none.
        folded: what follows from it, behind a line that opens it.
    """

    tone: str
    badge: str
    title: str
    place: str
    facts: tuple[tuple[str, str], ...] = ()
    code: str = ""
    folded: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ridges:
    """Small histograms, one row each, all on one logarithmic axis.

    Attributes:
        low, high: powers of ten at the ends of the axis.
        names: of the two distributions in a row, with their tones.
        rows: (label, value in words, heights of the first, heights of the second); equal bins over the axis, empty
            where there is none.
    """

    low: int
    high: int
    names: tuple[tuple[str, str], tuple[str, str]]
    rows: tuple[tuple[str, str, tuple[float, ...], tuple[float, ...]], ...]
    caption: str


@dataclass(frozen=True)
class Flow:
    """Values at the operations of a network on a logarithmic axis, joined as the operations are: branches run beside
    one another.

    Attributes:
        points: (steps from the input by the longest way, value, what it is, marked); a value of None is not drawn.
        edges: (from, to), positions among the points.
        tone: of points and edges.
        axis: what is plotted, with its unit.
    """

    points: tuple[tuple[int, float | None, str, bool], ...]
    edges: tuple[tuple[int, int], ...]
    tone: str
    axis: str
    caption: str


@dataclass(frozen=True)
class Swatches:
    """Rows of colours (0…1, RGB) from one end of an axis to the other, each row with its label."""

    rows: tuple[tuple[str, tuple[tuple[float, ...], ...]], ...]
    caption: str


@dataclass(frozen=True)
class Clouds:
    """The same points in several planes, one small square panel each, scaled to its own extent.

    Attributes:
        panels: (label, points as (x, y)).
        colours: of the points, RGB in 0…1.
    """

    panels: tuple[tuple[str, tuple[tuple[float, ...], ...]], ...]
    colours: tuple[tuple[float, ...], ...]
    caption: str


Block: TypeAlias = (
    Text | Code | Table | Gallery | Bars | Lines | Plot | Swatches | Clouds | Verdict | Card | Ridges | Flow
)


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """A whole report.

    Attributes:
        verdict: the one line to read if only one is read.
        tone: "good", "warn" or "bad".
        footer: provenance, one fact per line.
    """

    title: str
    verdict: str
    tone: str
    sections: tuple[Section, ...]
    footer: tuple[str, ...] = ()


def number(value: float, digits: int = 4) -> str:
    """A number for people: fixed decimals near 1, scientific where those would show nothing, "–" for nan."""
    if value != value:
        return "–"
    if value == 0 or 10**-digits * 5 <= abs(value) < 1e5:
        return f"{value:.{digits}f}"
    return f"{value:.{max(digits - 1, 1)}e}"


def numbers(values: object, digits: int = 4) -> str:
    """Several, separated by spaces."""
    return "  ".join(number(float(v), digits) for v in values)  # type: ignore[attr-defined]


def plural(count: int, noun: str) -> str:
    """ "1 image", "2,000 images"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def visible(text: str) -> str:
    """Control characters as escapes: a file name must not paint the terminal, nor turn the text around it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii") for c in text)
