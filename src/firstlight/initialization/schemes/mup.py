"""Widths that transfer: μP.

Yang et al., "Tensor Programs V" (2022), table 3. When a network is made wider than a base network, weights between
widths that both grow, and those from the input, keep variance ``∝ 1/fan_in``; a weight that reads a growing width and
writes a fixed one (the head) takes ``∝ 1/fan_in²``. The learning rates that go with it under Adam are in the reasons.
"""

import math

from firstlight.errors import FirstlightError
from firstlight.graph import Fan, Graph, fans
from firstlight.initialization.plan import Decision, Plan
from firstlight.initialization.schemes.covering import cover, gain_of, sized


def mup(graph: Graph, *, base: Graph) -> Plan:
    """Plan the weights of a network as wide as it is from those of a narrower one.

    Args:
        graph: the network.
        base: the same network at the width at which the learning rate was tuned.

    Raises:
        FirstlightError: slug ``not-the-same-network``, when the parameters have other names.
    """
    narrow = {fan.parameter: fan for fan in reversed(fans(base))}
    missing = [node.name for node in graph.parameters if node.name not in base]
    if missing:
        raise FirstlightError(
            f"the base network has no parameter {missing[0]!r}",
            "trace the same network with a smaller width as the base",
            slug="not-the-same-network",
            call="mup(graph, base=...)",
        )

    def weigh(fan: Fan) -> Decision:
        factor, why = gain_of(fan)
        reads, writes = (getattr(fan, side) / getattr(narrow[fan.parameter], side) for side in ("fan_in", "fan_out"))
        std = factor / math.sqrt(fan.fan_in)
        if reads != 1 and writes == 1:
            text = f"{why}; reads a width {reads:g} times the base's: variance 1/fan-in²; Adam's rate ÷ {reads:g}"
            return sized(fan, "mup-output", std / math.sqrt(reads), text, factor=factor)
        if reads != 1:
            return sized(fan, "mup-hidden", std, f"{why}; a hidden width: Adam's rate ÷ {reads:g}", factor=factor)
        return sized(fan, "mup-input", std, f"{why}; reads no width that grows: Adam's rate as it is", factor=factor)

    return cover("mup", graph, weigh)
