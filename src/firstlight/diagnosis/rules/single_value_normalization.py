"""FL307."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from firstlight.diagnosis.case import Case
from firstlight.diagnosis.finding import Finding, Severity
from firstlight.diagnosis.places import at_node
from firstlight.diagnosis.rule import Rule
from firstlight.graph import Graph, Node


class SingleValueNormalization(Rule):
    """A normalization that sees one value: a value minus itself is zero, whatever the image.

    **Measured:** from shapes and settings, how many values each mean and variance is taken over: samples times
    positions for batch norm, channels of a group times positions for group norm, positions for instance norm, the
    normalized axes for layer norm.

    **Expected:** many. Over one value the result is the bias alone, and no gradient passes (fail). Over two values of a
    batch every result is ±1 (warn).

    **Usual causes:** normalization behind global pooling with a group for each channel; instance norm on a map of one
    pixel; a batch of one image; images too small for the network's strides.

    **Mends it:** fewer groups; larger images or batches; no normalization behind global pooling.
    """

    code = "FL307"
    name = "single-value-normalization"
    explains = frozenset({"FL301", "FL304", "FL305", "FL401"})

    def examine(self, case: Case) -> Iterator[Finding]:
        """One finding: the first normalization over the fewest values, with the others as its victims."""
        if case.measured is None and "more than 1 " in case.reasons.get("run", ""):
            yield self._finding("fail", 1, "a normalization", {"where": "input"}, case.reasons["run"])
            return
        counts = {node: _values(case.graph, node) for node in case.graph.operations}
        few = [n for n, count in counts.items() if count == 1 or (count == 2 and n.function == "batch_norm")]
        if few:
            first = min(few, key=lambda node: counts[node] or 0)
            count = counts[first] or 0
            others = [f"{self.code} {n.module or n.name}: so does {n.function}" for n in few if n is not first]
            place = at_node(case.graph, first.name)
            yield self._finding("fail" if count == 1 else "warn", count, first.function, place, others=others)

    def _finding(
        self, severity: Severity, count: int, function: str, place: dict[str, Any], detail: str = "",
        others: Sequence[str] = (),
    ) -> Finding:  # fmt: skip
        left = "its bias is all that is left" if count == 1 else "every result is +1 or -1"
        return self.finding(
            severity,
            title=f"{function} takes mean and variance over {count} value{'s' * (count > 1)}: {left}"
            + (f"; so do {len(others)} more" if others else ""),
            evidence=(detail + ". " if detail else "")
            + "A mean over one value is the value; subtracted, it leaves zero for every image.",
            cause="a map of one pixel or a batch of one sample where the normalization expects many",
            fix="use larger images or batches, fewer groups, or no normalization in this place",
            victims=tuple(others),
            **place,
        )


def _values(graph: Graph, node: Node) -> int | None:
    """Values that one mean is taken over; None for what is no normalization, or does not use this batch."""
    source = graph[node.inputs[0]] if node.inputs else None
    shape = source.shape if source is not None else None
    if not shape or len(shape) < 2 or node.name not in graph.signal:
        return None
    if node.function == "batch_norm" and node.arguments.get("training", True):
        return shape[0] * math.prod(shape[2:])
    if node.function == "instance_norm" and node.arguments.get("use_input_stats", True):
        return math.prod(shape[2:])
    if node.function == "group_norm":
        return shape[1] // node.arguments["num_groups"] * math.prod(shape[2:])
    if node.function in ("layer_norm", "rms_norm"):
        return math.prod(node.arguments["normalized_shape"])
    return None
