"""What every scheme shares: go over the parameters, decide weights its own way and everything else by `others`."""

import dataclasses
from collections.abc import Callable

from firstlight.graph import Fan, Graph, fans
from firstlight.initialization.plan import Decision, Plan
from firstlight.initialization.schemes.others import EMBEDDING_STD, decide, normal
from firstlight.theory.gain import GATES, gain

Weigh = Callable[[Fan], Decision]


def cover(scheme: str, graph: Graph, weigh: Weigh) -> Plan:
    """A plan that decides each weight of a sum by `weigh`, and everything else by the rules that hold in any scheme.

    A tied or reused weight is decided once, by its first use; embeddings select and sum nothing, so they are not
    weights of a sum.
    """
    first: dict[str, Fan] = {}
    uses: dict[str, int] = {}
    for fan in fans(graph):
        first.setdefault(fan.parameter, fan)
        uses[fan.parameter] = uses.get(fan.parameter, 0) + 1
    weights = {name: _weight(fan, uses[name], weigh) for name, fan in first.items()}
    sizes = {name: decision.std for name, decision in weights.items()}
    decided = [(p.name, weights.get(p.name) or decide(graph, p, sizes)) for p in graph.parameters]
    return Plan(
        scheme,
        tuple(decision for _, decision in decided if decision is not None),
        tuple(name for name, decision in decided if decision is None),
    )


def _weight(fan: Fan, uses: int, weigh: Weigh) -> Decision:
    if fan.op.startswith("embedding"):
        return normal(fan.parameter, "embedding", EMBEDDING_STD, f"{fan.derivation}: std {EMBEDDING_STD}, as in ViT")
    decision = weigh(fan)
    if uses == 1:
        return decision
    return dataclasses.replace(decision, reason=f"{decision.reason}; the first of {uses} uses decides")


def sized(fan: Fan, rule: str, std: float, why: str, *, factor: float | None = 1.0) -> Decision:
    """A normal weight with `fan`'s numbers."""
    return Decision(
        fan.parameter, rule, "normal", 0.0, std, fan.fan_in, fan.fan_out, factor, f"{fan.derivation}; {why}"
    )


def gain_of(fan: Fan) -> tuple[float, str]:
    """The gain of the activation that follows, and the words for it."""
    if fan.activation is None:
        return 1.0, "no nonlinearity before the next weight"
    if fan.activation.function in GATES and not fan.activation.gated:
        return 1.0, f"{fan.activation} follows, a gate: gain 1"
    return gain(fan.activation), f"{fan.activation} follows"
