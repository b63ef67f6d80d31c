"""A prediction → its page: forward and backward size along depth, a table by block, and every node."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from firstlight.report.document import Block, Code, Document, Flow, Lines, Section, Table, Text, number, plural

if TYPE_CHECKING:
    from firstlight.graph import Graph
    from firstlight.theory import Derivation, NodePrediction, Prediction

_LONG = 40


def predict_document(
    name: str,
    prediction: "Prediction",
    derivation: "Derivation | None" = None,
    *,
    graph: "Graph | None" = None,
    footer: Sequence[str] = (),
) -> Document:
    """The report of `predict`.

    Args:
        name: of the model, as the user wrote it.
        prediction: of its signal.
        derivation: of one layer, shown first when there is one.
        graph: of the network, to draw its branches beside one another.
        footer: provenance, one fact per line.
    """
    verdict, tone = _verdict(prediction)
    sections = [
        Section("The signal along depth", tuple(_depth(prediction, graph))),
        Section("By block", (_blocks(prediction),)),
        Section("Every operation", (_nodes(prediction),)),
        Section("What was assumed", tuple(Text(_sentence(note)) for note in prediction.notes)),
    ]
    if derivation is not None:
        sections.insert(0, Section("One layer, line by line", (Code(str(derivation)),)))
    return Document(f"{name}, before any weight is drawn", verdict, tone, tuple(sections), tuple(footer))


def _verdict(p: "Prediction") -> tuple[str, str]:
    if p.turning_points:
        name, what = p.turning_points[0]
        return f"{_sentence(what)[:-1]} at {name}.", "bad"
    growth = "" if p.growth is None else f", forward ×{number(p.growth, 2)} and"
    chi = "" if p.chi is None else f"{growth} backward ×{number(p.chi, 2)} per layer"
    opaque = f"; {plural(len(p.opaque), 'operation')} opaque" if p.opaque else ""
    return f"The signal lives through {plural(len(p.nodes), 'operation')}{chi}{opaque}.", "warn" if p.opaque else "good"


def _depth(p: "Prediction", graph: "Graph | None") -> list[Block]:
    charts = [_along(p)] if graph is None else _flows(p, graph)
    scale = "" if p.depth_scale is None else f" The gradient changes by e in {number(p.depth_scale, 1)} layers."
    facts = [] if p.chi is None else [
        Text(f"Per layer with weights, the signal's second moment changes by {number(p.growth or 1.0)}, the gradient's "
             f"squared norm by {number(p.chi)} towards the input.{scale}")
    ]  # fmt: skip
    return [*charts, *facts, *(Text(f"{_sentence(what)[:-1]} at {name}.") for name, what in p.turning_points)]


def _along(p: "Prediction") -> Block:
    """Without the graph, one after another."""
    return Lines(
        tuple(_label(node) for node in p.nodes),
        (
            ("activation", "blue", tuple(node.forward_std for node in p.nodes)),
            ("gradient", "red", tuple(node.backward_std for node in p.nodes)),
        ),
        "standard deviation",
        "Predicted, operations in the order they run; the gradient in units of the gradient by the outputs.",
    )


def _flows(p: "Prediction", graph: "Graph") -> list[Block]:
    """Forward and backward, each operation at its distance from the input, joined as the operations are."""
    position = {node.name: k for k, node in enumerate(p.nodes)}
    depth: dict[str, int] = {}
    edges = []
    for node in graph.nodes:
        depth[node.name] = max((depth[name] + 1 for name in node.inputs if name in position), default=0)
        if node.name in position:
            edges += [(position[name], position[node.name]) for name in node.inputs if name in position]
    marked = " Red squares: opaque operations, whose moments were only passed through." if p.opaque else ""
    said = f"Each point is an operation, each line a tensor.{marked}"
    sides: list[tuple[str, str, list[float | None], str]] = [
        ("activation, standard deviation", "blue", [node.forward_std for node in p.nodes], said),
        (
            "gradient, standard deviation", "orange", [node.backward_std for node in p.nodes],
            "In units of the gradient by the outputs; it travels from right to left.",
        ),
    ]  # fmt: skip
    return [
        Flow(
            tuple((depth[n.name], v, _label(n), n.opaque) for n, v in zip(p.nodes, values, strict=True)),
            tuple(edges), tone, axis, caption,
        )
        for axis, tone, values, caption in sides
    ]  # fmt: skip


def _label(node: "NodePrediction") -> str:
    return f"{'opaque: ' if node.opaque else ''}{node.module or 'model'} ({node.op})"


def _blocks(p: "Prediction") -> Table:
    rows = []
    for block, nodes in groupby(p.nodes, lambda node: _block(node.module)):
        found = list(nodes)
        back = [node.backward_std for node in found if node.backward_std is not None]
        rows.append(
            (
                block or "model",
                str(len(found)),
                number(found[-1].forward_std),
                _range(node.forward_std for node in found),
                f"{back[0]:.2e}" if back else "none",
                str(sum(node.opaque for node in found) or ""),
            )
        )
    head = ("block", "operations", "std out", "std inside", "gradient std in", "opaque")
    return Table(head, tuple(rows), frozenset({1, 2, 3, 4, 5}))


def _block(module: str) -> str:
    """The outermost two levels of a module's path: ``layer1.0``, ``features.3``."""
    return ".".join(module.split(".")[:2])


def _range(values: Iterable[float]) -> str:
    found = list(values)
    return f"{number(min(found))} … {number(max(found))}"


def _nodes(p: "Prediction") -> Table:
    head = ("", "module", "operation", "shape", "mean", "std", "±", "gain", "gradient std", "±", "")
    rows = tuple(_row(k, node) for k, node in enumerate(p.nodes, start=1))
    caption = "± is the 95 % band of the second moment at this width and batch, and of what data leave in doubt"
    return Table(head, rows, frozenset({0, 4, 5, 6, 7, 8, 9}), caption, len(rows) > _LONG)


def _row(k: int, node: "NodePrediction") -> tuple[str, ...]:
    return (
        str(k),
        node.module or "model",
        node.op,
        "×".join(map(str, node.shape)),
        number(node.forward_mean),
        number(node.forward_std),
        f"{node.band:.0%}",
        "" if node.gain is None else number(node.gain, 3),
        "none" if node.backward_std is None else f"{node.backward_std:.2e}",
        "" if node.backward_std is None else f"{node.backward_band:.0%}",
        f"opaque: {node.reason}" if node.opaque else "",
    )


def _sentence(note: str) -> str:
    return note[:1].upper() + note[1:] + ("" if note.endswith(".") else ".")
