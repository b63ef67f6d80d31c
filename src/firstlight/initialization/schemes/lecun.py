"""LeCun initialization: unit variance for sums over ``fan_in`` inputs, uniformly distributed.

LeCun, Bottou, Orr, Müller, "Efficient BackProp" (1998), section 4.6: weights drawn with standard deviation
``m^(-1/2)``, ``m`` the number of connections into the unit. It is what self-normalizing networks (SELU) start from.
"""

import dataclasses
import math

from firstlight.graph import Fan, Graph
from firstlight.initialization.plan import Decision, Plan
from firstlight.initialization.schemes.covering import cover, sized


def lecun(graph: Graph) -> Plan:
    """Plan uniform weights with ``std = 1 / √fan_in``."""

    def weigh(fan: Fan) -> Decision:
        decision = sized(fan, "lecun", 1 / math.sqrt(fan.fan_in), "std 1/√fan-in, uniform")
        return dataclasses.replace(decision, distribution="uniform")

    return cover("lecun", graph, weigh)
