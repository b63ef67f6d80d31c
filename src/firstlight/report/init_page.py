"""Weights as they start, or as they were found → a page: sizes along depth, a row for every parameter, by module."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

from firstlight.report.document import Card, Code, Document, Plot, Section, Series, Table, Text, number, plural

if TYPE_CHECKING:
    from firstlight.initialization import Audited, InitAudit, Initialized, InitReport

T = TypeVar("T", "Initialized", "Audited")


def init_document(name: str, report: "InitReport", *, command: str = "", footer: Sequence[str] = ()) -> Document:
    """The report of `init`.

    Args:
        name: of the model, as the user wrote it.
        report: what initialization did.
        command: that does it again.
        footer: provenance, one fact per line.
    """
    count, said = len(report.parameters), f"{report.plan.scheme}, seed {report.seed}"
    verdict, tone = f"Each of {plural(count, 'parameter')} starts by a rule ({said}).", "good"
    if report.uncovered:
        verdict = f"{plural(count, 'parameter')} started by a rule ({said}), {len(report.uncovered)} left as they were."
        tone = "warn"
    elif report.warnings:
        verdict, tone = f"{verdict[:-1]}, with {plural(len(report.warnings), 'warning')}.", "warn"
    sections = [Section("Warnings", tuple(Card("warn", "warning", w, name) for w in report.warnings))]
    uncovered = tuple(Text(f"{parameter}: no rule covers it, it was left as it was.") for parameter in report.uncovered)
    sections += [
        Section("Left as they were", uncovered),
        Section("The weights along depth", _asked(report)),
        Section("Rules", (_rules(report),)),
        Section("Every parameter", tuple(_by_module(_HEAD, report.parameters, _row, frozenset({3, 4, 5, 6, 7})))),
    ]
    if report.buffers:
        text = f"Running statistics were put back to their start: {', '.join(report.buffers)}."
        sections.append(Section("Buffers", (Text(text),)))
    if command:
        sections.append(Section("The same weights again", (Code(command),)))
    kept = tuple(section for section in sections if section.blocks)
    return Document(f"{name}, as it starts", verdict, tone, kept, tuple(footer))


def audit_document(name: str, audit: "InitAudit", *, footer: Sequence[str] = ()) -> Document:
    """The report of `init --audit`.

    Args:
        name: of the model, as the user wrote it.
        audit: of its weights.
        footer: provenance, one fact per line.
    """
    count = len(audit.findings)
    cards = tuple(
        Card("bad", "finding", finding, p.name, (("Remark", "; ".join(p.remarks)),) if p.remarks else ())
        for p in audit.parameters
        for finding in p.findings
    )
    remarks = tuple(Text(f"{p.name}: {r}.") for p in audit.parameters for r in p.remarks)
    sections = (
        Section("Findings", cards),
        Section("How they were drawn", (_families(audit),)),
        Section("The weights along depth", _found(audit)),
        Section("Looks wrong and is not", remarks),
        Section("Every parameter", tuple(_by_module(_FOUND, audit.parameters, _audited, frozenset({3, 4, 5})))),
        Section("Not looked at", tuple(Text(f"{parameter}: it has no values.") for parameter in audit.not_checked)),
    )
    verdict = f"{plural(count, 'finding')} in {plural(len(audit.parameters), 'parameter')}."
    return Document(
        f"{name}, the weights it has",
        verdict if count else f"Nothing in {plural(len(audit.parameters), 'parameter')} that should not be there.",
        "bad" if count else "good",
        tuple(section for section in sections if section.blocks),
        (*footer, f"Compared with the schemes by {audit.how}."),
    )


def _asked(report: "InitReport") -> tuple[Plot | Text, ...]:
    drawn = [p for p in report.parameters if p.fan_in is not None and p.decision.distribution != "constant"]
    if not drawn:
        return ()
    series = (
        Series("asked for", "gray", tuple(p.std or None for p in drawn), "dashed"),
        Series("measured", "blue", tuple(p.measured_std for p in drawn), "rings"),
        Series("1/√fan-in", "green", tuple(1 / math.sqrt(p.fan_in or 1) for p in drawn)),
    )
    caption = (
        "Each weight of a sum, in the model's order. At 1/√fan-in a linear layer keeps the size of its signal; "
        "nonlinearities, pooling and branches move the weights off it."
    )
    return (_plot(drawn, series, caption),)


def _found(audit: "InitAudit") -> tuple[Plot, ...]:
    weights = [p for p in audit.parameters if p.against]
    if not weights:
        return ()
    sizes = [dict(p.against) for p in weights]
    kaiming = [next(size for scheme, size in found.items() if scheme.startswith("kaiming (")) for found in sizes]
    series = (
        Series("Kaiming", "green", tuple(kaiming)),
        Series("Xavier", "orange", tuple(found["xavier"] for found in sizes), "dashed"),
        Series("as found", "blue", tuple(p.std for p in weights), "rings"),
    )
    caption = (
        "Each weight of a sum, in the model's order, and what two schemes would give it (Kaiming with the gain of the "
        "nonlinearity that follows, ReLU where that is not known)."
    )
    return (_plot(weights, series, caption),)


def _plot(parameters: Sequence[T], series: tuple[Series, ...], caption: str) -> Plot:
    x = tuple(float(k) for k in range(1, len(parameters) + 1))
    return Plot(x, series, "standard deviation", "weights, first to last", caption, log=True)


def _rules(report: "InitReport") -> Table:
    groups: dict[str, list[Initialized]] = {}
    for p in report.parameters:
        groups.setdefault(f"{p.rule}, {p.decision.distribution}", []).append(p)
    rows = tuple((rule, str(len(found)), _range(_extent(p) for p in found)) for rule, found in groups.items())
    return Table(("rule, distribution", "parameters", "std, or the value of a constant"), rows, frozenset({1, 2}))


def _extent(p: "Initialized") -> float:
    return p.measured_mean if p.decision.distribution == "constant" else p.measured_std


def _families(audit: "InitAudit") -> Table:
    groups: Counter[tuple[str, str]] = Counter()
    for p in audit.parameters:
        groups[p.family, (", ".join(p.like) or "none of the schemes") if p.against else "no weight of a sum"] += 1
    rows = tuple((family, like, str(n)) for (family, like), n in groups.most_common())
    return Table(("family", "standard deviation as by", "parameters"), rows, frozenset({2}))


_HEAD = ("parameter", "rule", "distribution", "fan in", "gain", "asked for", "std", "mean", "reason")


def _row(p: "Initialized") -> tuple[str, ...]:
    d = p.decision
    value = f"{len(d.values)} values" if d.values is not None else _size(d.mean)
    asked = value if d.distribution == "constant" else "its own" if d.distribution == "reset" else _size(d.std)
    fan = "" if d.fan_in is None else f"{d.fan_in:g}"
    gain = "" if d.gain is None else number(d.gain, 3)
    return p.name, p.rule, d.distribution, fan, gain, asked, _size(p.measured_std), _size(p.measured_mean), p.reason


_FOUND = ("parameter", "family", "shape", "fan in", "mean", "std", "as by", "findings")


def _audited(p: "Audited") -> tuple[str, ...]:
    fan, said = "" if p.fan_in is None else f"{p.fan_in:g}", "; ".join(p.findings + p.remarks)
    shape = "×".join(map(str, p.shape)) or "one number"
    return p.name, p.family, shape, fan, number(p.mean), _size(p.std), ", ".join(p.like), said


def _by_module(head, parameters, row, numeric):  # type: ignore[no-untyped-def]
    """One folded table for each block of the network, the outermost two levels of its names; one when there are few."""
    blocks = [(block, list(found)) for block, found in groupby(parameters, lambda p: _block(p.name))]
    if len(parameters) <= 12:
        blocks = [("", list(parameters))]
    for block, found in blocks:
        yield Table(head, tuple(row(p) for p in found), numeric, block, bool(block))


def _block(name: str) -> str:
    """``layer1.0`` of ``layer1.0.conv2.weight``, ``fc`` of ``fc.bias``."""
    path = name.split(".")[:-1]
    return ".".join(path[:2] if len(path) > 1 and path[1].isdigit() else path[:1]) or "the model itself"


def _range(values: Iterable[float]) -> str:
    found = sorted(v for v in values if v == v)
    return "–" if not found else _size(found[0]) + (f" … {_size(found[-1])}" if found[-1] != found[0] else "")


def _size(value: float) -> str:
    return f"{value:g}" if value == round(value, 2) else number(value, 5)
