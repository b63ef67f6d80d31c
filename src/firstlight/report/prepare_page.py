"""Statistics, recipe, weights and measurements → the report of the main job."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from firstlight.report.check_page import check_coverage, check_verdict, finding_cards
from firstlight.report.document import Block, Code, Document, Lines, Section, Table, Text, number, plural
from firstlight.report.recipe_page import RecipeViews
from firstlight.report.scan_page import Sample, data_sections, footer
from firstlight.statistics import Statistics

if TYPE_CHECKING:
    from firstlight.diagnosis import Diagnosis
    from firstlight.initialization import InitReport
    from firstlight.probe import Measurements
    from firstlight.recipe import Recipe
    from firstlight.theory import Prediction

_LONG = 40


def prepare_document(
    statistics: Statistics,
    samples: Sequence[Sample],
    recipe: "Recipe",
    initialized: "InitReport",
    measurements: "Measurements",
    diagnosis: "Diagnosis",
    *,
    prediction: "Prediction",
    views: RecipeViews | None,
    notes: Sequence[str],
    labels: str,
) -> Document:
    """The report of `prepare`."""
    verdict, tone = _verdict(statistics, measurements, initialized)
    said, state = check_verdict(diagnosis)
    if state != "good":
        verdict, tone = said, "bad" if "bad" in (tone, state) else "warn"
    location = statistics.provenance.sources[0]["location"]
    sections = (
        *((Section("Findings", finding_cards(diagnosis)),) if diagnosis.findings else ()),
        Section("Does the signal flow?", tuple(_signal(measurements, prediction, labels))),
        Section("Initial weights", tuple(_weights(initialized))),
        Section("Preprocessing recipe", (Code(str(recipe), "Applied to every image, in this order"),)),
        *data_sections(statistics, samples, views),
        Section("What was checked", tuple(check_coverage(diagnosis))),
        Section("Notes", tuple(Text(_sentence(note)) for note in notes)),
    )
    return Document(f"{location}, prepared for training", verdict, tone, sections, footer(statistics))


def _verdict(s: Statistics, m: "Measurements", report: "InitReport") -> tuple[str, str]:
    """What was measured, in one line. Red for numbers that are not finite, yellow for what was left out."""
    broken = sum(node.nonfinite > 0 or node.gradient_nonfinite > 0 for node in m.nodes)
    silent = [p.name for p in m.parameters if p.gradient_std is None]
    if broken:
        return f"{plural(broken, 'operation')} of {len(m.nodes)} gave values that are not finite.", "bad"
    stds = [node.forward_std for node in m.nodes if node.forward_std > 0]
    spread = (
        f"activations between std {number(min(stds), 2)} and {number(max(stds), 2)}" if stds else "no activation varies"
    )
    reached = f"{len(m.parameters) - len(silent)} of {plural(len(m.parameters), 'parameter')} get a gradient"
    left = len(report.uncovered) + len(s.quarantine)
    tail = f"; {left} left out, listed below" if left else ""
    return (
        f"{plural(s.count, 'image')} counted, {plural(len(report.parameters), 'parameter')} initialized; "
        f"one step over {plural(len(m.nodes), 'operation')}: {spread}, {reached}{tail}.",
        "warn" if left or silent else "good",
    )


def _signal(m: "Measurements", prediction: "Prediction", labels: str) -> list[Block]:
    expected = {node.name: node.forward_std for node in prediction.nodes if not node.opaque}
    names = tuple(f"{node.module or 'model'} ({node.op})" for node in m.nodes)
    chart = Lines(
        names,
        (
            ("predicted", "gray", tuple(expected.get(node.name) for node in m.nodes)),
            ("activation", "blue", tuple(node.forward_std for node in m.nodes)),
            ("gradient", "red", tuple(node.gradient_std for node in m.nodes)),
        ),
        "standard deviation",
        "Measured on one real batch through the recipe: the values of every operation and the loss's gradient by them. "
        "Gray: what theory says of these weights before any is drawn, for images of these moments and this smoothness. "
        "A pooling over n positions hands each of them 1/n of its gradient.",
    )
    rows = tuple(
        (
            str(k + 1),
            node.module or "model",
            node.op,
            "×".join(map(str, node.shape)),
            number(node.forward_mean),
            number(node.forward_std),
            number(expected[node.name]) if node.name in expected else "–",
            "none" if node.gradient_std is None else f"{node.gradient_std:.2e}",
            f"{100 * node.fraction_zero:.1f} %",
        )
        for k, node in enumerate(m.nodes)
    )
    head = ("", "module", "operation", "shape", "mean", "std", "predicted", "gradient", "zeros")
    table = Table(head, rows, frozenset({0, 4, 5, 6, 7, 8}), "Every operation in the order it runs", len(rows) > _LONG)
    blocks: list[Block] = [chart, Text(f"Loss: {number(m.loss)} ({m.loss_kind}; {labels})."), table]
    silent = [p.name for p in m.parameters if p.gradient_std is None]
    if silent:
        blocks.append(Text(f"No gradient reaches {', '.join(silent)}."))
    if m.missing:
        blocks.append(Text(f"Operations of the graph that this batch did not run: {', '.join(m.missing)}."))
    return blocks


def _weights(report: "InitReport") -> list[Block]:
    rows = tuple(
        (
            p.name,
            p.rule,
            "" if p.fan_in is None else f"{p.fan_in:g}",
            "" if p.gain is None else number(p.gain),
            number(p.std),
            number(p.measured_std),
            p.reason,
        )
        for p in report.parameters
    )
    head = ("parameter", "rule", "fan in", "gain", "std", "measured", "why")
    caption = f"Scheme {report.plan.scheme}, seed {report.seed}"
    blocks: list[Block] = [Table(head, rows, frozenset({2, 3, 4, 5}), caption, len(rows) > _LONG)]
    if report.uncovered:
        blocks.append(Text(f"No rule covers {', '.join(report.uncovered)}: left as they were."))
    return blocks


def _sentence(note: str) -> str:
    return note[:1].upper() + note[1:] + ("" if note.endswith(".") else ".")
