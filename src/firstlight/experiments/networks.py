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


def small_convs(classes: int) -> nn.Sequential:
    """Three 3×3 convolutions with ReLU, two of stride 2, and a linear head: milliseconds for a step at 32×32."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, 1, 1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes),
    )  # fmt: skip
