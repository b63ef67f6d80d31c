"""Verdicts on given constants, above the numbers they were compared with."""

from typing import TYPE_CHECKING

from firstlight.report.document import Block, Document, Section, Table, Text
from firstlight.report.scan_page import data_sections, footer
from firstlight.statistics import Statistics

if TYPE_CHECKING:
    from firstlight.recipe import Audit


def audit_document(statistics: Statistics, audit: "Audit") -> Document:
    """The report of an audit."""
    location = statistics.provenance.sources[0]["location"]
    first = audit.verdicts[0]
    word = "Right" if audit.ok else "Wrong"
    section = Section("Are these constants right?", tuple(_verdicts(audit)))
    return Document(
        f"Constants for {location}",
        f"{word}: {first.title}.",
        "good" if audit.ok else "bad",
        (section, *data_sections(statistics, ())),
        footer(statistics),
    )


def _verdicts(audit: "Audit") -> list[Block]:
    rows = tuple(
        ("fault" if v.wrong else "fine", v.code, v.title, v.evidence, v.fix, f"{v.confidence:.1%}")
        for v in audit.verdicts
    )
    head = ("", "code", "what", "evidence", "what to do", "confidence")
    return [Table(head, rows, frozenset({5})), *(Text(f"Not known: {line}.") for line in audit.unknown)]
