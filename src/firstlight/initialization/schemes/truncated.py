"""Truncated normal weights: as Kaiming's, without the tails.

The standard deviation is the one asked for *after* the cut (a normal cut at ±2σ keeps 0.87963 of σ), and the bounds are
in units of σ, not absolute: both differ from ``torch.nn.init.trunc_normal_``.
"""

import dataclasses

from firstlight.graph import Graph
from firstlight.initialization.plan import Decision, Plan
from firstlight.initialization.schemes.kaiming import kaiming


def truncated_normal(graph: Graph, *, bounds: float = 2.0, std: float | None = None) -> Plan:
    """Plan weights, embeddings, positions and tokens from a normal distribution cut at ± `bounds` σ.

    Args:
        graph: the network.
        bounds: where it ends, in standard deviations before the cut.
        std: of every weight after the cut; Kaiming's for each when not given.
    """
    plan = kaiming(graph)

    def cut(decision: Decision) -> Decision:
        chosen = decision.std if std is None or decision.rule != "kaiming" else std
        why = f"{decision.reason}; cut at ±{bounds:g}σ"
        return dataclasses.replace(decision, distribution="truncated-normal", std=chosen, bounds=bounds, reason=why)

    decisions = tuple(cut(d) if d.distribution == "normal" else d for d in plan.decisions)
    return Plan("truncated-normal", decisions, plan.uncovered)
