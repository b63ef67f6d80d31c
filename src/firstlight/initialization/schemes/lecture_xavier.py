"""Xavier as on the lecture's slide: ``randn(fan_in, fan_out) / sqrt(fan_in)``.

``var(y) = d · var(x) · var(w)`` for ``y = Σ w_i x_i`` over ``d`` inputs, so ``var(w) = 1/d`` keeps the variance.
"""

import math

from firstlight.graph import Graph
from firstlight.initialization.plan import Plan
from firstlight.initialization.schemes.covering import cover, sized


def lecture_xavier(graph: Graph) -> Plan:
    """Plan ``std = 1 / √fan_in``, normal, for every weight."""
    return cover(
        "lecture-xavier",
        graph,
        lambda fan: sized(fan, "lecture-xavier", 1 / math.sqrt(fan.fan_in), "1/√d, as var(y) = d·var(x)·var(w) asks"),
    )
