"""FL401."""

import math
from collections.abc import Iterator

from firstlight.diagnosis.case import Case, NotChecked
from firstlight.diagnosis.finding import Finding, Repair
from firstlight.diagnosis.flow import flow, gradient_steps, learned_scale
from firstlight.diagnosis.places import at_node
from firstlight.diagnosis.rule import Rule
from firstlight.diagnosis.weights import summing

_FAIL, _WARN = 1e-8, 1e-4


class VanishingGradient(Rule):
    """Next to nothing of the gradient gets back to the first layers.

    **Measured:** the largest squared norm of one sample's gradient among what crosses the network in front of its
    second layer, over that in front of its last. A branch behind a small scale does not count, for the stream carries
    the gradient past it; where the gradient is zero at first and wakes up (a head or a branch that starts at zero), it
    is taken from the third step.

    **Expected:** a value near one, as for the signal: with the right weights both keep their size. Below 10⁻⁴ is a
    warning, below 10⁻⁸ a failure: the first layers learn ten thousand times more slowly than the last. Norms of
    parameter gradients, which depend on shapes, batch and loss, are not looked at.

    **Usual causes:** weights that are too small; sigmoid, whose slope is at most a quarter; saturated or dead units; an
    operation whose slope is zero (rounding, comparison, argmax).

    **Mends it:** `fl.initialize`; another activation; shortcuts; a straight-through estimator for rounding.

    **Source:** Glorot and Bengio (2010); Schoenholz et al., "Deep information propagation" (2017).
    """

    code = "FL401"
    name = "vanishing-gradient"

    def examine(self, case: Case) -> Iterator[Finding]:
        """At most one finding."""
        if _flat(case):
            yield self.finding(
                "fail",
                "loss",
                "the loss has no slope: every gradient is exactly zero in every step",
                evidence=f"{len(case.run.steps)} steps, all gradients zero, those by the output included.",
                cause="an operation in the loss whose slope is zero: argmax, round, sign, a comparison, an accuracy",
                fix="use a smooth loss (cross_entropy) and keep the count of hits for the log",
            )
            return
        signal = flow(case)
        kept = signal.kept_gradient
        if kept is None:
            raise NotChecked("no gradient arrives at two layers that could be compared")
        if not kept < _WARN:
            return
        steps = gradient_steps(case, signal)
        node, factor = min(steps, key=lambda step: step[1], default=(signal.cuts[0].node, kept))
        spread = kept > 0 and math.log(max(factor, 1e-300)) > 0.5 * math.log(kept)
        if spread:
            node = signal.cuts[0].node
        function = case.graph[node].function
        scale = learned_scale(case) if kept > 0 else ""  # a small scale passes little, not nothing
        yield self.finding(
            "note" if scale else "fail" if kept < _FAIL else "warn",
            title=f"{kept:.1e} of the gradient's second moment gets back to the first layers"
            + ("" if spread else f"; {function} passes {factor:.1e} of it"),
            evidence="squared norm of a sample's gradient in front of the second layer over that in front of the last; "
            "a value near one is what keeps a gradient.",
            cause=f"{scale} starts near zero on the only way from image to output, and will grow"
            if scale
            else f"each layer leaves about {kept ** (1 / max(1, len(signal.cuts) - 2)):.2g} of it"
            if spread
            else f"{function} has next to no slope where it is used",
            fix='fl.initialize(model, example, scheme="auto", seed=0)'
            if spread
            else f"replace {function}, or give it a slope (a straight-through estimator, another activation)",
            repair=Repair("initialize", {"parameters": tuple(summing(case)), "scheme": "auto"}) if spread else None,
            **at_node(case.graph, node),
        )


def _flat(case: Case) -> bool:
    """Whether gradients arrive and all of them are zero, those by the output included."""
    gradients = [p.gradient for step in case.run.steps for p in step.parameters if p.gradient is not None]
    outputs = {node.name: node for node in case.run.first.nodes}
    seen = [outputs[name].gradient_max for name in case.graph.outputs if name in outputs]
    return bool(gradients) and not any(gradients) and bool(seen) and not any(seen)
