"""A check → its page: verdict, findings, the batch as the network sees it, the signal along depth, every layer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from firstlight.diagnosis import all_rules
from firstlight.report.document import (
    Block,
    Card,
    Document,
    Gallery,
    Plot,
    Ridges,
    Section,
    Series,
    Table,
    Text,
    number,
    plural,
)
from firstlight.report.pictures import thumbnail
from firstlight.report.scan_page import Sample

if TYPE_CHECKING:
    from firstlight.diagnosis import Case, Diagnosis, Finding
    from firstlight.probe import LogHistogram, NodeMeasurement, Run

_TONES = {"fail": "bad", "warn": "warn", "note": "gray"}
_DRAWN, _SHOWN, _LONG = 240, 200, 40
_JOINTS = frozenset({"add", "mul", "cat", "batch_norm", "layer_norm", "group_norm", "rms_norm", "instance_norm"})
# Edges of `LogHistogram`: half decades from 1e-12 to 1e6.
_LOW, _HIGH = -12, 6


@dataclass(frozen=True)
class CheckViews:
    """The batch as the network sees it.

    Attributes:
        images: (caption, pixels H×W×C) of some of it, turned back into what an eye can see.
        how: how they were turned back.
        channels: (channel, mean, std, smallest, largest) of the whole batch, in the units the network gets.
        facts: shape, type, device, one each.
    """

    images: tuple[Sample, ...] = ()
    how: str = ""
    channels: tuple[tuple[str, float, float, float, float], ...] = ()
    facts: tuple[str, ...] = ()


def check_document(
    subject: str,
    diagnosis: "Diagnosis",
    case: "Case",
    views: CheckViews | None = None,
    *,
    repaired: Sequence[tuple[str, ...]] = (),
    footer: Sequence[str] = (),
) -> Document:
    """The report of `check`.

    Args:
        subject: name of the network.
        diagnosis: findings, clean rules, rules that were not applied.
        case: what they looked at.
        views: the batch, to be looked at.
        repaired: (code and place, what was done, before, after) of each fix that was tried on a copy.
        footer: provenance, one fact per line.
    """
    verdict, tone = check_verdict(diagnosis)
    sections = [Section("Findings", finding_cards(diagnosis))]
    if repaired:
        table = Table(("finding", "what was tried", "before", "after"), tuple(repaired))
        sections.append(Section("The fixes, tried on a copy", (table,)))
    if views is not None and views.facts:
        sections.append(Section("What the network sees", tuple(_batch(views))))
    run = case.measured
    if run is not None:
        sections += [
            Section("The signal along depth", tuple(depth_plots(case, run))),
            Section("Three steps on this batch", (_steps(run),)),
            Section("Every layer", tuple(_layers(case, run))),
        ]
    reasons, states = check_coverage(diagnosis)
    sections += [Section("What was not looked at", (reasons,)), Section("Every rule", (states,))]
    return Document(f"{subject} before its first epoch", verdict, tone, tuple(sections), tuple(footer))


def finding_cards(diagnosis: "Diagnosis") -> tuple[Block, ...]:
    """A card for each finding."""
    return tuple(_card(finding) for finding in diagnosis.findings) or (Text("Nothing was found."),)


def check_verdict(diagnosis: "Diagnosis") -> tuple[str, str]:
    """The one line to read, and its tone."""
    counts = {s: sum(f.severity == s for f in diagnosis.findings) for s in _TONES}
    looked = f"{plural(len(diagnosis.clean), 'rule')} clean, {len(diagnosis.not_checked)} not checked"
    if counts["fail"]:
        first = next(f for f in diagnosis.findings if f.severity == "fail")
        more = f", and {plural(counts['fail'] - 1, 'other fault')}" if counts["fail"] > 1 else ""
        return f"It will not train as meant: {first.title} ({_place(first.where)}){more}. {looked}.", "bad"
    if counts["warn"]:
        return f"The signal flows, with {plural(counts['warn'], 'warning')}. {looked}.", "warn"
    return f"The signal flows. {looked}.", "good"


def _card(finding: "Finding") -> Card:
    place = _place(finding.where) + (f", {finding.source}" if finding.source else "")
    facts = (("Evidence", finding.evidence), ("Cause", finding.cause), ("Fix", finding.fix))
    code = finding.fix if "\n" in finding.fix or "(" in finding.fix else ""
    shown = tuple((what, text) for what, text in facts if text and not (what == "Fix" and code))
    return Card(
        _TONES[finding.severity],
        f"{finding.severity} · {finding.code} {finding.name}",
        finding.title,
        place,
        shown,
        code,
        finding.victims,
    )


def _place(where: str) -> str:
    return where or "the model itself"


def _batch(views: CheckViews) -> list[Block]:
    blocks: list[Block] = [Text(" · ".join(views.facts))]
    if views.images:
        blocks += [Gallery(tuple(thumbnail(pixels, name, 128) for name, pixels in views.images), 96), Text(views.how)]
    if views.channels:
        rows = tuple((name, *(number(value) for value in values)) for name, *values in views.channels)
        head = ("channel", "mean", "std", "smallest", "largest")
        blocks.append(Table(head, rows, frozenset({1, 2, 3, 4}), "in the units in which the network gets them"))
    return blocks


def depth_plots(case: "Case", run: "Run") -> tuple[Plot, Plot]:
    """Activations and gradients along depth: predicted from the weights, and measured on the batch."""
    nodes = _along(run)
    x = tuple(float(k) for k in range(1, len(nodes) + 1))
    expected = [case.predicted(node.name) for node in nodes]
    forward = Plot(
        x,
        (
            Series(
                "predicted", "gray",
                tuple(None if p is None else _root(p.forward_second_moment) for p in expected), "dashed",
                tuple(None if p is None else _root(p.forward_second_moment / (1 + p.band)) for p in expected),
                tuple(None if p is None else _root(p.forward_second_moment * (1 + p.band)) for p in expected),
            ),
            Series("measured", "blue", tuple(_root(n.forward_std**2 + n.forward_mean**2) for n in nodes)),
        ),
        "activation, root mean square", "operations in the order they run",
        "Line: measured on this batch, with a gap where it is exactly zero. Dashed: predicted from the weights, with "
        "its 95 % band at this width.", log=True,
    )  # fmt: skip
    unit = _gradient_unit(nodes, expected)
    backward = Plot(
        x,
        (
            Series(
                "predicted", "gray",
                tuple(
                    None if p is None or p.backward_second_moment is None else _root(p.backward_second_moment * unit)
                    for p in expected
                ),
                "dashed",
            ),
            Series("measured", "orange", tuple(n.gradient_std for n in nodes)),
        ),
        "gradient, root mean square", "operations in the order they run",
        "The loss's gradient by each result, with a gap where it is exactly zero. The prediction has the shape along "
        "depth; its height is set at the last operation shown.", log=True,
    )  # fmt: skip
    return forward, backward


def _along(run: "Run") -> list["NodeMeasurement"]:
    """What is drawn: layers with weights, normalizations and joints; everything in a small network."""
    nodes = list(run.first.nodes)
    if len(nodes) > 60:
        nodes = [node for node in nodes if _is_layer(node) or node.op.rstrip("_") in _JOINTS] or nodes
    stride = math.ceil(len(nodes) / _DRAWN)
    return nodes[::stride]


def _is_layer(node: "NodeMeasurement") -> bool:
    return node.units is not None


def _gradient_unit(nodes: Sequence["NodeMeasurement"], expected: Sequence[object]) -> float:
    """Measured over predicted mean square of the gradient at the last operation that has both."""
    for node, said in zip(reversed(nodes), reversed(expected), strict=True):
        predicted = getattr(said, "backward_second_moment", None)
        if predicted and node.gradient_std:
            return float(node.gradient_std**2 / predicted)
    return 1.0


def _root(value: float) -> float:
    return math.sqrt(value) if value > 0 else 0.0


def _steps(run: "Run") -> Table:
    losses = [step.loss for step in run.steps] + ([] if run.final_loss is None else [run.final_loss])
    optimizer = run.optimizer
    rates = sorted(set(optimizer.learning_rate.values()))
    rate = "" if not rates else f", learning rate {' … '.join(f'{r:g}' for r in (rates[0], rates[-1])[: len(rates)])}"
    who = f"{optimizer.name}{rate}" + ("" if optimizer.given else " (a default: none was given)")
    rows = tuple((str(k), number(loss, 5)) for k, loss in enumerate(losses))
    return Table(("steps done", "loss"), rows, frozenset({0, 1}), f"{run.first.loss_kind}; {who}")


def _layers(case: "Case", run: "Run") -> list[Block]:
    layers = [node for node in run.first.nodes if _is_layer(node)] or list(run.first.nodes)
    drawn = [node for node in layers if node.histogram is not None][:_SHOWN]
    blocks: list[Block] = [_ridges(drawn)] if drawn else []
    if len(layers) > len(drawn) > 0:
        blocks.append(Text(f"The first {len(drawn)} of {len(layers)} layers are drawn; the table has them all."))
    head = ("module", "operation", "shape", "mean", "std", "predicted", "zero", "dead", "gradient", "alike", "rank")
    rows = tuple(_row(case, node) for node in layers)
    caption = "predicted: std · zero: share of exact zeros · dead: units of all that never vary · alike: mean cosine "
    caption += "of two samples · rank: effective rank over the largest possible"
    return [*blocks, Table(head, rows, frozenset(range(3, 11)), caption, len(rows) > _LONG)]


def _ridges(nodes: Sequence["NodeMeasurement"]) -> Ridges:
    found = [h for n in nodes for h in (n.histogram, n.gradient_histogram) if h is not None]
    filled = [k for h in found for k, count in enumerate(h.counts) if count] or [0, 1]
    first, last = min(filled) // 2 * 2, (max(filled) // 2 + 1) * 2
    rows = tuple(
        (f"{n.module or 'model'} ({n.op})", f"{n.fraction_zero:.0%} zero" if n.fraction_zero >= 0.005 else "",
         _heights(n.histogram, first, last), _heights(n.gradient_histogram, first, last))
        for n in nodes
    )  # fmt: skip
    caption = "Magnitudes of activations and gradients, each row as high as its own highest bin; zeros have no place "
    caption += "on this axis and stand at the right."
    names = (("activation", "blue"), ("gradient", "orange"))
    return Ridges(_LOW + first // 2, _LOW + last // 2, names, rows, caption)


def _heights(histogram: "LogHistogram | None", first: int, last: int) -> tuple[float, ...]:
    return () if histogram is None else tuple(float(count) for count in histogram.counts[first:last])


def _row(case: "Case", node: "NodeMeasurement") -> tuple[str, ...]:
    said, units = case.predicted(node.name), node.units
    return (
        node.module or "model",
        node.op,
        "×".join(map(str, node.shape)),
        number(node.forward_mean, 3),
        number(node.forward_std, 3),
        "" if said is None else number(said.forward_std, 3),
        f"{node.fraction_zero:.0%}",
        "" if units is None else f"{len(units.dead)}/{units.count}",
        "none" if node.gradient_std is None else f"{node.gradient_std:.1e}",
        "" if units is None or units.alike is None else f"{units.alike:.2f}",
        "" if units is None or units.rank is None else f"{units.rank:.2f}",
    )


def _codes(codes: Sequence[str]) -> str:
    """``"FL201 to FL206, FL301"``: what follows one another in the list of all rules is drawn together."""
    order = [rule.code for rule in all_rules()]
    runs: list[list[str]] = []
    for code in sorted(codes, key=order.index):
        if runs and order.index(code) == order.index(runs[-1][-1]) + 1:
            runs[-1].append(code)
        else:
            runs.append([code])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(run) for run in runs)


def check_coverage(diagnosis: "Diagnosis") -> tuple[Block, Block]:
    """What was not looked at, with the reasons; and the state of every rule."""
    found = {f.code: f"found, {f.severity}" for f in reversed(diagnosis.findings)}
    victims = {line.split()[0]: "follows from another" for f in diagnosis.findings for line in f.victims}
    states = {code: "not checked" for code, _ in diagnosis.not_checked} | victims | found
    rows = tuple((rule.code, rule.name, states.get(rule.code, "clean")) for rule in all_rules())
    said = "firstlight explain CODE says what a rule looks at"
    reasons: Block = Text("Every rule was applied.")
    if diagnosis.not_checked:
        codes: dict[str, list[str]] = {}
        for code, reason in diagnosis.not_checked:
            codes.setdefault(reason, []).append(code)
        reasons = Table(("not checked", "because"), tuple((_codes(every), reason) for reason, every in codes.items()))
    return reasons, Table(("code", "rule", "state"), rows, caption=said, folded=True)
