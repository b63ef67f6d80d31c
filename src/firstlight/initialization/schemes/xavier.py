"""Xavier initialization: a compromise between the signal and the gradient of a linear network.

Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks" (2010). The signal keeps
its variance when ``fan_in · Var[w] = 1`` (eq. 10), the gradient when ``fan_out · Var[w] = 1`` (eq. 11); eq. 12 takes
``Var[w] = 2 / (fan_in + fan_out)``. No nonlinearity enters: it is made for functions like tanh, linear around zero.
"""

import math

from firstlight.graph import Graph
from firstlight.initialization.plan import Plan
from firstlight.initialization.schemes.covering import cover, sized


def xavier(graph: Graph) -> Plan:
    """Plan ``std = √(2 / (fan_in + fan_out))`` for every weight."""
    return cover(
        "xavier",
        graph,
        lambda fan: sized(
            fan, "xavier", math.sqrt(2 / (fan.fan_in + fan.fan_out)),
            f"mean of fan-in {fan.fan_in:g} and fan-out {fan.fan_out:g}",
        ),
    )  # fmt: skip
