"""Orthogonal weights: every direction of the signal, not only its size on average, is kept.

Saxe, McClelland, Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks"
(2014): a product of orthogonal matrices has singular values one at any depth, a product of normal ones does not.
A ``k×k`` convolution whose *flattened* matrix is orthogonal is no isometry; one whose middle tap is orthogonal and
whose other taps are zero is, with "same" padding (Xiao et al., "Dynamical Isometry and a Mean Field Theory of CNNs",
2018). Each group, and each matrix packed into one parameter, is orthogonal by itself, taken as stacked along the first
dimension. Elements have mean square ``gain² / fan_in``, so the size of the signal per unit is kept for any shape.
"""

import dataclasses
import math

from firstlight.graph import Fan, Graph
from firstlight.graph.vocabulary import CONVOLUTION
from firstlight.initialization.plan import Decision, Plan
from firstlight.initialization.schemes.covering import cover, gain_of, sized


def orthogonal(graph: Graph) -> Plan:
    """Plan matrices that are orthogonal when flattened to outputs × inputs."""
    return cover("orthogonal", graph, lambda fan: _orthogonal(graph, fan, delta=False))


def delta_orthogonal(graph: Graph) -> Plan:
    """Plan convolutions whose middle tap is orthogonal and whose other taps are zero; other weights as `orthogonal`.

    With a stride the middle tap reads every ``s``-th position and the size is kept as well. A depthwise convolution
    has one-by-one matrices: its middle tap is ±1.
    """
    return cover("delta-orthogonal", graph, lambda fan: _orthogonal(graph, fan, delta=True))


def _orthogonal(graph: Graph, fan: Fan, *, delta: bool) -> Decision:
    factor, why = gain_of(fan)
    decision = sized(fan, "orthogonal", factor / math.sqrt(fan.fan_in), why, factor=factor)
    shape = graph[fan.parameter].shape or ()
    groups = int(graph[fan.node].arguments.get("groups", 1))
    count = groups if groups > 1 else fan.parts
    if len(shape) < 2 or shape[0] % count:
        return decision  # no matrix to make orthogonal
    middle = delta and fan.op in CONVOLUTION and len(shape) > 2
    words = ("; the middle tap of each kernel" if middle else "") + (f"; {count} matrices" if count > 1 else "")
    return dataclasses.replace(
        decision,
        rule="delta-orthogonal" if middle else "orthogonal",
        distribution="delta-orthogonal" if middle else "orthogonal",
        blocks=count,
        reason=f"{decision.reason}; orthogonal{words}",
    )
