"""FL402."""

import math
from collections.abc import Iterator

from firstlight.diagnosis.case import Case, NotChecked
from firstlight.diagnosis.finding import Finding, Repair
from firstlight.diagnosis.flow import flow, gradient_steps
from firstlight.diagnosis.places import at_node
from firstlight.diagnosis.rule import Rule
from firstlight.diagnosis.weights import summing

_FAIL, _WARN, _NOTE = 1e8, 3e7, 1e5


class ExplodingGradient(Rule):
    """The gradient grows on its way back until the first layers are torn apart.

    **Measured:** the largest squared norm of one sample's gradient among what crosses the network in front of its
    second layer, over that in front of its last.

    **Expected:** a value near one. Batch normalization without shortcuts multiplies it by π/(π-1) = 1.47 in every ReLU
    layer (Yang et al., "A mean field theory of batch normalization", 2019): 150 after 13 layers, which trains, and
    2·10⁸ after 50, which does not. Published networks that train begin at up to 10⁷ (Inception-v4 and SENet-154 at
    10⁵ to 10⁶, vision transformers with a normalization at both ends of each branch at 10⁷), so from 10⁵ it is a note;
    halfway between those that train and those that do not, from 3·10⁷, a warning; beyond 10⁸ a failure.

    **Usual causes:** weights that are too large; deep batch-normalized networks without shortcuts; a factor in
    `forward`.

    **Mends it:** `fl.initialize`; shortcuts; until then a smaller learning rate and clipped gradients.
    """

    code = "FL402"
    name = "exploding-gradient"
    explains = frozenset({"FL602"})

    def examine(self, case: Case) -> Iterator[Finding]:
        """At most one finding."""
        signal = flow(case)
        grown = signal.kept_gradient
        if grown is None:
            raise NotChecked("no gradient arrives at two layers that could be compared")
        if not _NOTE < grown < math.inf:
            return
        steps = gradient_steps(case, signal)
        node, factor = max(steps, key=lambda step: step[1], default=(signal.cuts[0].node, grown))
        spread = math.log(factor) < 0.5 * math.log(grown)
        if spread:
            node = signal.cuts[0].node
        function = case.graph[node].function
        yield self.finding(
            "fail" if grown > _FAIL else "warn" if grown > _WARN else "note",
            title=f"the gradient's second moment is {grown:.1e} times larger in the first layers than in the last"
            + ("" if spread else f"; {function} multiplies it by {factor:.1e}"),
            evidence="squared norm of a sample's gradient in front of the second layer over that in front of the last; "
            "a value near one is what keeps a gradient.",
            cause=f"each layer multiplies it by {grown ** (1 / max(1, len(signal.cuts) - 2)):.2g}"
            if spread
            else f"{function} multiplies it",
            fix='fl.initialize(model, example, scheme="auto", seed=0)',
            repair=Repair("initialize", {"parameters": tuple(summing(case)), "scheme": "auto"}),
            **at_node(case.graph, node),
        )
