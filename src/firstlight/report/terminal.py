"""A `Document` in the terminal: the verdict, the tables that are not folded, and nothing that needs a picture."""

from dataclasses import replace

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text as RichText

from firstlight.report.document import Card, Code, Document, Table, Text, visible

_STYLES = {"good": "bold green", "warn": "bold yellow", "bad": "bold red"}
_FOLDED = 3
_MARKS = {"good": "✓", "warn": "!", "bad": "✗"}


def print_document(
    document: Document, console: Console, *, sections: tuple[str, ...] | None = None, rows: int | None = None
) -> None:
    """Print the verdict and the text, code and tables of all sections, or of those named; of a table `rows` at most."""
    console.print(RichText(visible(f"{_MARKS[document.tone]} {document.verdict}"), style=_STYLES[document.tone]))
    for section in document.sections:
        if sections is not None and section.title not in sections:
            continue
        console.print(f"\n[bold]{escape(section.title)}[/bold]")
        for block in section.blocks:
            if isinstance(block, Text):
                console.print(RichText(visible(block.text)))
            elif isinstance(block, Code):
                text = f"{block.label}:\n{block.text}" if block.label else block.text
                console.print(RichText(visible(text)), soft_wrap=True)
            elif isinstance(block, Card):
                _print_card(block, console)
            elif isinstance(block, Table) and not block.folded:
                console.print(_table(replace(block, rows=block.rows[:rows])))
                if rows is not None and len(block.rows) > rows:
                    console.print(f"… and {len(block.rows) - rows:,} more, listed in the files.", highlight=False)


def _print_card(card: Card, console: Console) -> None:
    mark, style = _MARKS.get(card.tone, "·"), _STYLES.get(card.tone, "bold")
    console.print(RichText(visible(f"{mark} {card.badge}: {card.title}"), style=style))
    console.print(RichText(visible(f"  at {card.place}")), soft_wrap=True)
    for what, text in card.facts:
        console.print(Padding(RichText(visible(f"{what}: {text}")), (0, 0, 0, 2)))
    if card.code:
        console.print(Padding(RichText(visible(f"Fix:\n{card.code}")), (0, 0, 0, 2)))
    if card.folded:
        console.print(RichText(visible(f"  Follows from it: {'; '.join(card.folded[:_FOLDED])}" + _more(card))))
    console.print()


def _more(card: Card) -> str:
    return f"; and {len(card.folded) - _FOLDED} more" if len(card.folded) > _FOLDED else ""


def _table(block: Table) -> RichTable:
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, title=block.caption or None, title_justify="left")
    for k, name in enumerate(block.head):
        table.add_column(
            escape(name), justify="right" if k in block.numeric else "left", overflow="fold", no_wrap=k in block.numeric
        )
    for row in block.rows:
        table.add_row(*(escape(visible(cell)) for cell in row))
    return table
