"""The lecture's first three ideas: all zeros, all equal, small random numbers.

Zeros and constants leave all units of a layer the same: they compute the same, receive the same gradient and stay the
same for ever (`firstlight.probe.symmetry` shows it). Small normal numbers break the symmetry, and in a deep
network the signal still shrinks layer by layer, by ``std · √fan_in``.
"""

from firstlight.graph import Fan, Graph
from firstlight.initialization.plan import Decision, Plan
from firstlight.initialization.schemes.covering import cover, sized


def zeros(graph: Graph) -> Plan:
    """Plan every weight to start at zero: nothing will ever learn. For demonstration."""
    return constant(graph, value=0.0)


def constant(graph: Graph, *, value: float = 0.01) -> Plan:
    """Plan every weight to start at `value`: all units of a layer stay one unit. For demonstration."""

    def weigh(fan: Fan) -> Decision:
        why = f"{fan.derivation}; every element {value:g}: the units of a layer stay the same"
        return Decision(fan.parameter, "constant", "constant", value, 0.0, fan.fan_in, fan.fan_out, None, why)

    return cover("constant" if value else "zeros", graph, weigh)


def normal(graph: Graph, *, std: float = 0.001) -> Plan:
    """Plan normal weights of one standard deviation, whatever the layer; the lecture's ``0.001 * randn``."""
    return cover("normal", graph, lambda fan: sized(fan, "normal", std, f"std {std:g} everywhere", factor=None))
