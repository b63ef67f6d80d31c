"""Where moments start: the network's inputs, and its weights as they are or as a plan would draw them."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor, nn

from firstlight.graph import Node
from firstlight.theory.axes import label
from firstlight.theory.inputs import InputMoments
from firstlight.theory.signal import Signal, fresh

Drawn: TypeAlias = Mapping[str, tuple[float | Tensor, ...]]
"""Mean and second moment of the elements of each parameter; then, where known, their kurtosis (3 when not). Of a buffer
whose columns differ, as the sines and cosines of rotary positions do, both along the last dimension [C]."""

_OFF = -50.0


def as_they_are(model: nn.Module, *, weights: bool = True) -> dict[str, tuple[float | Tensor, ...]]:
    """Mean, second moment and kurtosis of every parameter and buffer.

    An element of -50 or less in a buffer switches an attention weight off and is no part of the rest's distribution. A
    mean within four standard errors of zero is taken as zero, where elements have both signs: weights drawn with mean
    zero never have exactly that, and what is left over is no property of their distribution.

    Args:
        model: any network.
        weights: false to look at its buffers only.

    Returns:
        By name; tensors on the meta device, which have no values, are left out.
    """
    found: dict[str, tuple[float | Tensor, ...]] = {}
    parameters = dict(model.named_parameters()) if weights else {}
    with torch.no_grad():
        for name, tensor in [*parameters.items(), *model.named_buffers()]:
            if not tensor.is_meta and tensor.numel() and tensor.is_floating_point():
                values = tensor.detach().double()
                found[name] = _moments(_on(values)) if name in parameters else _fixed(values)
    return found


def _on(values: Tensor) -> Tensor:
    on = values > _OFF
    return values[on] if bool(on.any()) else values


def _fixed(values: Tensor) -> tuple[float | Tensor, ...]:
    """Of what is not drawn: what each index of the last dimension is, over all others."""
    if values.dim() < 2 or not bool((values > _OFF).all()):
        return _moments(_on(values))
    rows = values.flatten(0, -2)
    mean, second = rows.mean(0), rows.square().mean(0)
    return (mean.cpu(), second.cpu()) if bool((second != second[0]).any()) else _moments(values)


def _moments(values: Tensor) -> tuple[float, float, float]:
    mean, second = float(values.mean()), float(values.square().mean())
    deviation = math.sqrt(max(second - mean * mean, 0.0))
    drawn = values.numel() > 1 and deviation > 1e-6 * abs(mean)
    both = float(values.min()) < 0 < float(values.max())
    if drawn and both and abs(mean) < 4 * deviation / math.sqrt(values.numel()):
        mean = 0.0
    if not drawn:
        return mean, mean * mean, 3.0
    return mean, second, float(((values - mean) / deviation).pow(4).mean())


def leaf(node: Node, drawn: Drawn, batch: int, inputs: InputMoments) -> Signal:
    """The signal of an input, a parameter, a buffer or a constant.

    Args:
        node: which.
        drawn: moments of parameters and buffers.
        batch: samples in the example.
        inputs: moments of the data.
    """
    shape = node.shape or ()
    rank = len(shape)
    if node.kind == "input":
        return inputs.signal(node.name, shape, batch)
    known = drawn.get(node.name)
    if known is None and node.value is not None and node.value.is_floating_point() and node.value.numel():
        known = _fixed(node.value.double())
    first, square, *kurtosis = known or (0.0, 0.0 if node.kind == "buffer" else 1.0)
    mean, second = (
        torch.as_tensor(m, dtype=torch.float64).reshape((1,) * (rank - 1) + (-1,) * min(rank, 1))
        for m in (first, square)
    )
    # A table that a network keeps, of positions or distances, has a row for each place; of a constant that it makes on
    # the way nobody has said what its dimensions are.
    axes = label(shape, "s" * (rank - 1) + "c" if node.kind == "buffer" and rank > 1 else "c" * rank)
    signal = fresh(node.name, shape, axes, mean=mean, second=second, far=mean**2, other=second)
    return replace(signal, kurtosis=float(kurtosis[0])) if kurtosis else signal
