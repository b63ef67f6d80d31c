"""FL302."""

import math
from collections.abc import Iterator

from firstlight.diagnosis.case import Case, NotChecked
from firstlight.diagnosis.finding import Finding, Repair
from firstlight.diagnosis.flow import flow, trail
from firstlight.diagnosis.places import at_node
from firstlight.diagnosis.rule import Rule
from firstlight.diagnosis.weights import summing

_FAIL, _WARN = 1e8, 1e4


class ExplodingSignal(Rule):
    """The signal grows on the way until a layer reads numbers far above one.

    **Measured:** the largest second moment that a layer with weights reads, over that of the input (or over one, if
    that is more). A residual stream that grows and is normalized before each use does not count.

    **Expected:** a value near one. Beyond 10⁴ (100 standard deviations) the loss is dominated by a few logits and
    float16 is near its end (65504); beyond 10⁸ the first step destroys the weights. The culprit is the operation on the
    way that adds the most; where the growth is spread, the first layer.

    **Usual causes:** weights drawn with std 1; a gain applied twice; a residual network without normalization whose
    branches start at full size; a factor in `forward`.

    **Mends it:** `fl.initialize`, a normalization, or taking the factor out.
    """

    code = "FL302"
    name = "exploding-signal"
    explains = frozenset({"FL206", "FL301", "FL303", "FL305", "FL306", "FL401", "FL402", "FL501", "FL601", "FL602"})

    def examine(self, case: Case) -> Iterator[Finding]:
        """At most one finding."""
        signal = flow(case)
        grown = signal.loudest
        if grown is None or signal.loudest_cut is None:
            raise NotChecked("there is no layer with weights")
        if not _WARN < grown < math.inf:
            return
        way = trail(case, case.graph[signal.loudest_cut.node].inputs[0])
        most = max((factor for _, factor in way), default=grown)
        # The first of those that add as much: half of the largest growth, in decades, is much.
        node, factor = next(
            ((name, f) for name, f in reversed(way) if f >= math.sqrt(most)), (signal.cuts[0].node, grown)
        )
        spread = math.log(factor) < 0.5 * math.log(grown)
        names = tuple(summing(case))
        yield self.finding(
            "fail" if grown > _FAIL else "warn",
            title=f"{signal.loudest_cut.node} reads a second moment {grown:.1e} times the input's"
            + ("" if spread else f"; {case.graph[node].function} multiplies it by {factor:.1e}"),
            evidence=f"second moment {signal.cuts[0].forward:.2g} at the input, "
            f"{grown * max(signal.cuts[0].forward, 1):.2g} in front of {signal.loudest_cut.node}; a value near one is "
            "what keeps a signal, and nothing on the way normalizes it.",
            cause="every layer multiplies it a little" if spread else "this one operation multiplies it",
            fix='fl.initialize(model, example, scheme="auto", seed=0)'
            if spread
            else f"take the factor of {case.graph[node].function} out, or put a normalization behind it",
            repair=Repair("initialize", {"parameters": names, "scheme": "auto"}) if spread else None,
            **at_node(case.graph, node),
        )
