"""Layer-sequential unit variance, measured on a batch, in one forward pass.

Mishkin and Matas, "All you need is a good init" (2016): start orthogonal, then go through the layers in order and
divide each weight by the standard deviation of its result. With zero biases a sum is linear in its weight, so its
result can be divided by the same number *as it passes*, and the pass goes on as if the weight had been right from the
start: one pass calibrates every layer in the order in which they run, first, depthwise and reused ones alike.
"""

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor, nn

from firstlight.errors import FirstlightError
from firstlight.graph import Graph, Node, call_arguments, fans, record, untouched
from firstlight.initialization.apply import apply
from firstlight.initialization.plan import Decision, Plan
from firstlight.initialization.schemes.orthogonal import orthogonal


def lsuv(graph: Graph, model: nn.Module, batch: Any, *, seed: int = 0) -> Plan:
    """Measure the plan under which every sum on `batch` has standard deviation one; the model is left as it was.

    The plan holds the result: applied with the same seed, it needs no data.

    Args:
        graph: of the model.
        model: the network, with memory; it runs once, in train mode.
        batch: as the model takes it, preprocessed.
        seed: of the weights.

    Returns:
        The orthogonal plan with each standard deviation divided by the measured one. A weight whose result is constant,
        not finite, or not there at all (it is computed before it is used) keeps its own.

    Raises:
        FirstlightError: slug ``model-without-memory``, for a model on the meta device.
    """
    if any(parameter.is_meta for parameter in model.parameters()):
        raise FirstlightError(
            "LSUV measures what the network makes of a batch, and this one is on the meta device, without memory",
            "build it on a real device, or use scheme 'auto', which predicts instead of measuring",
            slug="model-without-memory",
            call="lsuv(graph, model, batch)",
        )
    start = orthogonal(graph)
    weights = {fan.parameter for fan in fans(graph)} & {d.name for d in start.decisions if d.gain is not None}
    scales: dict[str, float] = {}

    def calibrate(node: Node, result: Tensor) -> None:
        mine = [name for _, name in node.parameters if name in weights]
        if not mine or not result.is_floating_point() or result.numel() < 2:
            return
        if mine[0] not in scales:
            std = float(result.float().std(correction=0))
            if not 0 < std < math.inf:
                return
            scales[mine[0]] = 1 / std
        result.mul_(scales[mine[0]])

    args, kwargs = call_arguments(batch)
    with untouched(model), torch.no_grad():
        apply(start, model, seed=seed)
        model.train()
        record(model, args, kwargs, observe=calibrate, how="recorded to measure")
    return Plan("lsuv", tuple(_scaled(d, scales) for d in start.decisions), start.uncovered)


def _scaled(decision: Decision, scales: dict[str, float]) -> Decision:
    if decision.name not in scales:
        return decision
    factor = scales[decision.name]
    gain = None if decision.gain is None else decision.gain * factor
    why = f"{decision.reason}; the result measured std {1 / factor:.4g} and was brought to one"
    return dataclasses.replace(decision, rule="lsuv", std=decision.std * factor, gain=gain, reason=why)
