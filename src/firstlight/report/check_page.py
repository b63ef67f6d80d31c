"""A check → its page: verdict, findings, the batch as the network sees it, the signal along depth, every layer."""

from typing import TYPE_CHECKING

from firstlight.report.document import Document, Section, Table, Text, plural

if TYPE_CHECKING:
    from firstlight.diagnosis import Case, Diagnosis


def check_document(subject: str, diagnosis: "Diagnosis", case: "Case") -> Document:
    """The report of `check`."""
    verdict, tone = _verdict(diagnosis)
    rows = tuple((f.severity, f.code, f.where, f.title) for f in diagnosis.findings)
    return Document(
        f"{subject} before its first epoch",
        verdict,
        tone,
        (
            Section("Findings", (Table(("", "code", "where", "what"), rows),)),
            Section("Not checked", tuple(Text(f"{code}: {reason}") for code, reason in diagnosis.not_checked)),
        ),
    )


def _verdict(diagnosis: "Diagnosis") -> tuple[str, str]:
    counts = {s: sum(f.severity == s for f in diagnosis.findings) for s in ("fail", "warn", "note")}
    looked = f"{plural(len(diagnosis.clean), 'rule')} clean, {len(diagnosis.not_checked)} not checked"
    if counts["fail"]:
        first = next(f for f in diagnosis.findings if f.severity == "fail")
        more = f", and {plural(counts['fail'] - 1, 'other fault')}" if counts["fail"] > 1 else ""
        return f"This will not train as meant: {first.title} ({first.where}){more}. {looked}.", "bad"
    if counts["warn"]:
        return f"The signal flows, with {plural(counts['warn'], 'warning')}. {looked}.", "warn"
    return f"The signal flows. {looked}.", "good"
