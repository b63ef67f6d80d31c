"""The lecture's networks."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def mlp(widths: Sequence[int], activation: type[nn.Module] = nn.Tanh, *, head: bool = True) -> nn.Sequential:
    """Linear layers of these widths with the activation between them.

    Args:
        widths: of the input and of every layer.
        activation: built without arguments.
        head: whether the last layer gives scores, so that no activation follows it.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*(layers[:-1] if head else layers))
