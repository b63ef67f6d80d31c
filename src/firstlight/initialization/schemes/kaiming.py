"""Kaiming initialization: keep the second moment of the signal at one through every weight and its nonlinearity.

He, Zhang, Ren, Sun, "Delving Deep into Rectifiers" (2015), eq. 10. For ``y = w·x`` with ``n = fan_in`` independent
zero-mean weights, ``E[y^2] = n · Var[w] · E[x^2]``; after a nonlinearity, ``E[phi(y)^2] = E[y^2] / gain^2`` (one half
for ReLU). Both together leave the size of the signal alone when ``Var[w] = gain^2 / n``. With ``n = fan_out`` the same
holds for the gradient on its way back (eq. 14).
"""

import math
from typing import Literal

from firstlight.graph import Fan, Graph
from firstlight.initialization.plan import Decision, Plan
from firstlight.initialization.schemes.covering import cover, gain_of, sized


def kaiming(graph: Graph, *, mode: Literal["fan_in", "fan_out"] = "fan_in") -> Plan:
    """Plan a Kaiming start: fans from the operations, gains from the activations that really follow.

    Biases start at zero, norms at one and zero, embeddings, positions and tokens with std 0.02, LayerScale at 1e-5.
    A tied or reused weight is decided once, by its first use.

    Args:
        graph: the network.
        mode: "fan_in" keeps the signal, "fan_out" the gradient.
    """

    def weigh(fan: Fan) -> Decision:
        factor, why = gain_of(fan)
        n = fan.fan_in if mode == "fan_in" else fan.fan_out
        words = why if mode == "fan_in" else f"{why}; by the {n:g} outputs of one input"
        return sized(fan, "kaiming", factor / math.sqrt(n), words, factor=factor)

    return cover("kaiming" if mode == "fan_in" else "kaiming-fan-out", graph, weigh)
