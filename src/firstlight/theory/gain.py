"""The gain that makes up for what a nonlinearity does to the size of a signal."""

import math

from firstlight.graph import Activation
from firstlight.theory.gaussian import expect

# Gates scale another signal by something between 0 and 1; their own size is not what has to be kept.
GATES = frozenset({"sigmoid", "hardsigmoid"})

# Where the activations of ATen have a corner, beside the numbers among their arguments.
_CORNERS = (-6.0, -3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0, 6.0)


def gain(activation: Activation | None) -> float:
    """Factor for the weights in front of `activation`: ``1 / sqrt(E[phi(z)^2])`` for a standard normal ``z``.

    For ReLU this is the ``sqrt(2)`` of He et al. (2015), eq. 10; for anything else it keeps the second moment at one in
    the same way. No activation, and a gate, have gain 1.
    """
    if activation is None or (activation.function in GATES and not activation.gated):
        return 1.0
    moment = second_moment(activation)
    return 1.0 / math.sqrt(moment) if moment > 0 else 1.0


def second_moment(activation: Activation, variance: float = 1.0) -> float:
    """``E[phi(z)^2]`` for a normal ``z`` of mean zero, to about ten digits, by the quadrature of `theory.gaussian`."""
    if activation.steps:
        return expect(lambda z: activation(z).square(), variance=variance)
    settings = [float(v) for v in activation.arguments.values() if isinstance(v, int | float)]
    kinks = (*_CORNERS, *(v for v in settings if -12 < v < 12))
    return expect(lambda z: activation(z).square(), variance=variance, kinks=kinks)
