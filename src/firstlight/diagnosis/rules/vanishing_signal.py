"""FL301."""

import math
from collections.abc import Iterator

from firstlight.diagnosis.case import Case, NotChecked
from firstlight.diagnosis.finding import Finding, Repair
from firstlight.diagnosis.flow import flow, trail
from firstlight.diagnosis.places import at_node
from firstlight.diagnosis.rule import Rule
from firstlight.diagnosis.weights import summing

_FAIL, _WARN = 1e-8, 1e-4
_ONE_FAIL, _ONE_WARN = 1e-8, 1e-6  # of one operation, even if normalizations make up for it later


class VanishingSignal(Rule):
    """Next to nothing of the signal's size arrives at the last layer.

    **Measured:** the largest second moment of what crosses the network in front of its last layer, over that of the
    input (or over one, if that is less). A small residual branch does not count, for the stream passes it by; nor does
    what a normalization restores behind a learned scale.

    **Expected:** a value near one, whatever the depth; pooling takes one or two decades. Below 10⁻⁴ is a warning. Plain
    ReLU networks that lose 2·10⁻⁷ still train and those that lose 10⁻⁹ do not (He et al., 2015, Fig. 3), so below 10⁻⁸
    is a failure. The culprit is the operation on the way that takes the most; where the loss is spread evenly, the
    first layer, and FL206 says what its weights should be.

    **Usual causes:** weights that are too small; an activation that shrinks (sigmoid, a steep clamp); a factor or a
    division in `forward`; a branch that starts at zero without a shortcut beside it; an input divided by 255 twice.

    **Mends it:** `fl.initialize`, a normalization, or taking the factor out.
    """

    code = "FL301"
    name = "vanishing-signal"
    explains = frozenset({"FL305", "FL306", "FL401", "FL402", "FL602"})

    def examine(self, case: Case) -> Iterator[Finding]:
        """At most one finding."""
        signal = flow(case)
        kept = signal.kept_forward
        if kept is None:
            raise NotChecked("there are no two layers with weights to compare")
        way = trail(case, signal.cuts[-1].largest)
        worst = min((factor for _, factor in way), default=kept)
        if not (kept < _WARN or worst < _ONE_WARN):
            return
        # The first of those that lose as much: half of the worst loss, in decades, is much.
        node, factor = next(
            ((name, f) for name, f in reversed(way) if f <= math.sqrt(worst)), (signal.cuts[0].node, kept)
        )
        if kept >= _WARN and _is_learned_scale(case, node):
            return  # a normalization restores what the scale takes for now, and training will move the scale
        spread = kept > 0 and math.log(max(factor, 1e-300)) > 0.5 * math.log(min(kept, 0.5))
        names = tuple(summing(case))
        predicted = case.predicted(signal.cuts[-1].largest)
        yield self.finding(
            "fail" if kept < _FAIL or worst < _ONE_FAIL else "warn",
            title=f"{kept:.1e} of the input's second moment is left in front of the last layer"
            + ("" if spread else f"; {case.graph[node].function} leaves {factor:.1e} of what it reads"),
            evidence=f"second moment {signal.cuts[0].forward:.2g} at the input, {signal.cuts[-1].forward:.2g} in front "
            f"of {signal.cuts[-1].node}, {len(signal.cuts) - 1} layers later; a value near one is what keeps a signal."
            + (f" The theory predicts {predicted.forward_second_moment:.1e} for these weights." if predicted else ""),
            cause=f"each layer leaves about {kept ** (1 / (len(signal.cuts) - 1)):.2g} of it"
            if spread
            else "this one operation takes most of it",
            fix='fl.initialize(model, example, scheme="auto", seed=0)'
            if spread
            else f"take the factor of {case.graph[node].function} out, or put a normalization behind it",
            repair=Repair("initialize", {"parameters": names, "scheme": "auto"}) if spread else None,
            **at_node(case.graph, node),
        )


def _is_learned_scale(case: Case, node: str) -> bool:
    """Whether an operation multiplies the signal by a parameter."""
    found = case.graph[node]
    return found.function == "mul" and any(name not in case.graph.signal for name in found.inputs)
