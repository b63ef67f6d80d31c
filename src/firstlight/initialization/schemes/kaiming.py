"""Kaiming initialization: keep the second moment of the signal at one through every weight and its nonlinearity.

He, Zhang, Ren, Sun, "Delving Deep into Rectifiers" (2015), eq. 10. For ``y = w·x`` with ``n = fan_in`` independent
zero-mean weights, ``E[y^2] = n · Var[w] · E[x^2]``; after a nonlinearity, ``E[phi(y)^2] = E[y^2] / gain^2`` (one half
for ReLU). Both together leave the size of the signal alone when ``Var[w] = gain^2 / n``.
"""

import math

from firstlight.graph import Fan, Graph, fans
from firstlight.initialization.gain import GATES, gain
from firstlight.initialization.plan import Decision, Plan
from firstlight.initialization.schemes.others import EMBEDDING_STD, decide, normal


def kaiming(graph: Graph) -> Plan:
    """Plan a Kaiming start: fans from the operations, gains from the activations that really follow.

    Biases start at zero, norms at one and zero, embeddings, positions and tokens with std 0.02, LayerScale at 1e-5.
    A tied or reused weight is decided once, by its first use.
    """
    first: dict[str, Fan] = {}
    uses: dict[str, int] = {}
    for fan in fans(graph):
        first.setdefault(fan.parameter, fan)
        uses[fan.parameter] = uses.get(fan.parameter, 0) + 1
    weights = {name: _weight(fan, uses[name]) for name, fan in first.items()}
    sizes = {name: decision.std for name, decision in weights.items()}
    decisions, uncovered = [], []
    for parameter in graph.parameters:
        decision = weights.get(parameter.name) or decide(graph, parameter, sizes)
        if decision is None:
            uncovered.append(parameter.name)
        else:
            decisions.append(decision)
    return Plan("kaiming", tuple(decisions), tuple(uncovered))


def _weight(fan: Fan, uses: int) -> Decision:
    if fan.op.startswith("embedding"):
        return normal(fan.parameter, "embedding", EMBEDDING_STD, f"{fan.derivation}: std {EMBEDDING_STD}, as in ViT")
    factor = gain(fan.activation)
    shared = f"; the first of {uses} uses decides" if uses > 1 else ""
    return Decision(
        fan.parameter, "kaiming", "normal", 0.0, factor / math.sqrt(fan.fan_in), fan.fan_in, fan.fan_out, factor,
        f"{fan.derivation}; {_why(fan)}{shared}",
    )  # fmt: skip


def _why(fan: Fan) -> str:
    if fan.activation is None:
        return "no nonlinearity before the next weight"
    if fan.activation.function in GATES and not fan.activation.gated:
        return f"{fan.activation} follows, a gate: gain 1"
    return f"{fan.activation} follows"
