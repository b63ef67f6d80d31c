"""Fixup: residual networks without normalization.

Zhang, Dauphin, Ma, "Fixup Initialization" (2019), section 4: with ``L`` residual branches of ``m`` weights each, scale
the weights inside a branch by ``L^(-1/(2m-2))`` so that one step of SGD changes the output by Θ(η) whatever the depth;
start the last weight of every branch, and the classifier, at zero. (The scalar biases and multipliers of the paper's
rule 3 are part of an architecture, and are covered by the rules for biases and scales where it has them.)
"""

import dataclasses

from firstlight.graph import Graph, fans
from firstlight.initialization.branches import branches
from firstlight.initialization.plan import Decision, Plan
from firstlight.initialization.schemes.kaiming import kaiming


def fixup(graph: Graph) -> Plan:
    """Plan a Fixup start; a network without residual branches gets Kaiming's with a zero head."""
    plan, found = kaiming(graph), branches(graph)
    factors: dict[str, float] = {}
    for branch in found:
        m = len(branch.weights)
        factors |= {name: len(found) ** (-1 / (2 * m - 2)) if m > 1 else 1.0 for name in branch.weights}
        factors |= {end.parameter: 0.0 for end in branch.ends if end.function != "mul"}
    weights = [fan.parameter for fan in fans(graph) if not fan.op.startswith("embedding")]
    if weights:
        factors[weights[-1]] = 0.0

    def scaled(decision: Decision) -> Decision:
        factor = factors[decision.name]
        if factor == 0:
            where = "classifier" if decision.name == weights[-1] else "end of a residual branch"
            why = f"{where}: zero ({decision.reason})"
            return dataclasses.replace(decision, rule="fixup", distribution="constant", mean=0.0, std=0.0, reason=why)
        why = f"{decision.reason}; × {factor:.4g} for {len(found)} residual branches"
        return dataclasses.replace(decision, rule="fixup", std=decision.std * factor, reason=why)

    return Plan("fixup", tuple(scaled(d) if d.name in factors else d for d in plan.decisions), plan.uncovered)
