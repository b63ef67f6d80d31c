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
    """

    edges: tuple[float, ...]
    series: tuple[tuple[str, str, tuple[float, ...]], ...]
    caption: str


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


Block: TypeAlias = Text | Code | Table | Gallery | Bars | Lines | Swatches | Clouds


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
