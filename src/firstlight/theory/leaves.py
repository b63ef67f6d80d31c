"""Where moments start: the network's inputs, and its weights as they are or as a plan would draw them."""

import math
from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from firstlight.graph import Graph, Node
from firstlight.theory.axes import guess, label
from firstlight.theory.signal import Signal, fresh, scalar

Drawn: TypeAlias = Mapping[str, tuple[float, float]]
"""Mean and second moment of the elements of each parameter."""


_OFF = -50.0


def as_they_are(model: nn.Module, *, weights: bool = True) -> dict[str, tuple[float, float]]:
    """Mean and second moment of every parameter and buffer.

    An element of -50 or less in a buffer switches an attention weight off and is no part of the rest's distribution. A
    mean within four standard errors of zero is taken as zero: weights drawn with mean zero never have exactly that,
    and what is left over is no property of their distribution.

    Args:
        model: any network.
        weights: false to look at its buffers only.

    Returns:
        By name; tensors on the meta device, which have no values, are left out.
    """
    found = {}
    with torch.no_grad():
        for name, tensor in [*(model.named_parameters() if weights else ()), *model.named_buffers()]:
            if not tensor.is_meta and tensor.numel() and tensor.is_floating_point():
                values = tensor.detach().double()
                found[name] = _moments(values[values > _OFF] if bool((values > _OFF).any()) else values)
    return found


def _moments(values: Tensor) -> tuple[float, float]:
    mean, second = float(values.mean()), float(values.square().mean())
    deviation = math.sqrt(max(second - mean**2, 0.0))
    drawn = values.numel() > 1 and deviation > 1e-6 * abs(mean)
    if drawn and abs(mean) < 4 * deviation / math.sqrt(values.numel()):
        mean = 0.0
    return mean, second if drawn else mean**2


def leaf(node: Node, graph: Graph, drawn: Drawn, batch: int, data: tuple[float, float]) -> Signal:
    """The signal of an input, a parameter, a buffer or a constant.

    Args:
        node: which.
        graph: of the network.
        drawn: moments of parameters and buffers.
        batch: samples in the example.
        data: mean and second moment of the inputs.
    """
    shape = node.shape or ()
    rank = len(shape)
    mean, second = data if node.kind == "input" else drawn.get(node.name, (0.0, 0.0 if node.kind == "buffer" else 1.0))
    square = scalar(mean**2, rank)
    if node.kind == "input":
        other, axes = square, guess(shape, batch)
    else:
        other, axes = scalar(second, rank), label(shape, "c" * rank)
    return fresh(node.name, shape, axes, mean=scalar(mean, rank), second=scalar(second, rank), far=square, other=other)
