"""The gain that makes up for what a nonlinearity does to the size of a signal."""

import math
from itertools import pairwise

import numpy as np
import torch

from firstlight.graph import Activation

# Gates scale another signal by something between 0 and 1; their own size is not what has to be kept.
GATES = frozenset({"sigmoid", "hardsigmoid"})

# Where the activations of ATen have a corner, beside the numbers among their arguments.
_CORNERS = (-6.0, -3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0, 6.0)
_TAIL = (-12.0, -9.0, 9.0, 12.0)


def gain(activation: Activation | None) -> float:
    """Factor for the weights in front of `activation`: ``1 / sqrt(E[phi(z)^2])`` for a standard normal ``z``.

    For ReLU this is the ``sqrt(2)`` of He et al. (2015), eq. 10; for anything else it keeps the second moment at one in
    the same way. No activation, and a gate, have gain 1.
    """
    if activation is None or (activation.function in GATES and not activation.gated):
        return 1.0
    moment = second_moment(activation)
    return 1.0 / math.sqrt(moment) if moment > 0 else 1.0


def second_moment(activation: Activation) -> float:
    """``E[phi(z)^2]`` for a standard normal ``z``, to about ten digits.

    Gauss-Hermite quadrature loses digits at every corner of ``phi``, so the integral over [-12, 12] is cut at the
    corners and each piece done with 64 Gauss-Legendre nodes; beyond, the density is below 1e-31.
    """
    settings = [float(v) for v in activation.arguments.values() if isinstance(v, int | float)]
    cuts = sorted({*_CORNERS, *_TAIL, *(v for v in settings if -12 < v < 12)})
    nodes, weights = np.polynomial.legendre.leggauss(64)
    total = 0.0
    for low, high in pairwise(cuts):
        z = low + (high - low) * (nodes + 1) / 2
        density = np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        y = activation(torch.from_numpy(z)).numpy()
        total += float(np.sum(weights * density * y * y)) * (high - low) / 2
    return total
