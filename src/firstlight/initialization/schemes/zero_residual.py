"""Start every residual network as its shortcuts: the end of each branch is zero.

Goyal et al., "Accurate, Large Minibatch SGD" (2017), section 5.1, set the scale of each block's last batch norm to
zero; without a norm the last weight takes its place (as Fixup does). Gradients reach the branch's end at once and its
beginning one step later. A branch ends a product with LayerScale already close to zero and is left alone.
"""

import dataclasses

from firstlight.graph import Graph
from firstlight.initialization.branches import branches
from firstlight.initialization.plan import Decision, Plan
from firstlight.initialization.schemes.kaiming import kaiming


def zero_residual(graph: Graph) -> Plan:
    """Plan a Kaiming start whose residual branches end in zero."""
    plan = kaiming(graph)
    ends = {end.parameter for branch in branches(graph) for end in branch.ends if end.function != "mul"}

    def ended(decision: Decision) -> Decision:
        why = f"end of a residual branch: zero, the block starts as its shortcut ({decision.reason})"
        return dataclasses.replace(
            decision, rule="zero-residual", distribution="constant", mean=0.0, std=0.0, reason=why
        )

    return Plan("zero-residual", tuple(ended(d) if d.name in ends else d for d in plan.decisions), plan.uncovered)
