"""The calls of PyTorch's losses in the first step: their numbers, and the layer that made the scores."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from firstlight.diagnosis.case import Case, NotChecked
from firstlight.graph import Node
from firstlight.graph.vocabulary import CONVOLUTION, SHAPE
from firstlight.probe import LossCall

_LAYERS = CONVOLUTION | {"linear", "addmm"}
_AMPLIFIED = 2.0
"""No activation after a head doubles the spread of its argument; a fixed factor does."""
_TOLERANCE = {torch.float16: 2e-2, torch.bfloat16: 5e-2}


@dataclass(frozen=True)
class Head:
    """The layer whose result the loss reads.

    Attributes:
        where: its module, or ``"loss"`` when it is not known.
        node: its node in the graph.
        source: its ``file:line``.
        bias: dotted name of its bias; None without one.
    """

    where: str
    node: str | None = None
    source: str | None = None
    bias: str | None = None


def calls(case: Case, *functions: str) -> tuple[LossCall, ...]:
    """Calls of these losses.

    Raises:
        NotChecked: when there are none, or the network did not run.
    """
    found = tuple(call for call in case.run.losses if call.function in functions)
    if not found:
        seen = ", ".join(sorted({call.function for call in case.run.losses})) or "none of PyTorch's own losses"
        raise NotChecked(f"the loss calls {seen}, and not {' or '.join(functions)}")
    return found


def each(call: LossCall, *, plain: bool = True) -> Tensor:
    """The loss of every sample (and position, and class for binary losses), float64; ignored ones left out.

    Args:
        call: one call.
        plain: without the weights of classes and without label smoothing.
    """
    dropped = {"size_average", "reduce", "reduction"} | (
        {"weight", "pos_weight", "label_smoothing"} if plain else set()
    )
    arguments = {key: _wide(value) for key, value in call.arguments.items() if key not in dropped}
    function = getattr(torch.nn.functional, call.function)
    values = function(_wide(call.input), _wide(call.target), reduction="none", **arguments).flatten()
    if call.function in ("cross_entropy", "nll_loss") and not call.target.is_floating_point():
        values = values[call.target.flatten() != int(call.arguments.get("ignore_index", -100))]
    return values


def rows(scores: Tensor) -> Tensor:
    """Scores ``[N, C, …]`` as one row of C for each sample and position, float64."""
    if scores.dim() == 1:
        return scores[None].double()
    return scores.double().movedim(1, -1).reshape(-1, scores.shape[1])


def sums_to_one(values: Tensor, dim: int, kind: torch.dtype) -> bool:
    """Whether these are probabilities along an axis."""
    if values.shape[dim] < 2 or values.numel() == 0 or not bool((values >= 0).all()):
        return False
    return bool((values.sum(dim) - 1).abs().max() <= _TOLERANCE.get(kind, 1e-4))


def head(case: Case, call: LossCall) -> Head:
    """The last layer with weights before the loss, behind nothing but a change of shape or a squashing."""
    for node in _back(case, call):
        if node.function in _LAYERS:
            bias = dict(node.parameters).get("bias")
            return Head(node.module or node.name, node.name, node.source, bias)
    return Head("loss")


def amplifier(case: Case, call: LossCall) -> Head:
    """What makes the scores large: an operation after the head that does it by itself, otherwise the head."""
    spread = {node.name: node.forward_std for node in case.run.first.nodes}
    for node in _back(case, call):
        if node.function in _LAYERS:
            break
        before = next((spread[name] for name in node.inputs if name in spread), None)
        if before is not None and spread.get(node.name, 0.0) > _AMPLIFIED * before:
            return Head(node.module or node.name, node.name, node.source)
    return head(case, call)


def maker(case: Case, call: LossCall, *functions: str) -> Head | None:
    """Where one of these functions made the scores: a module of the model, or the loss; None when none did."""
    if call.between:
        return Head("loss") if call.between[-1] in functions else None
    node = next(iter(_back(case, call)), None)
    if node is None or node.function not in functions:
        return None
    return Head(node.module or node.name, node.name, node.source)


def _back(case: Case, call: LossCall) -> Iterator[Node]:
    """From the scores back, through changes of shape, to what made them, and on while there is one argument."""
    name = call.node
    if name is None and len(case.graph.outputs) == 1:
        name = case.graph.outputs[0]
    while name is not None and name in case.graph:
        node = case.graph[name]
        if node.kind != "op":
            return
        if node.function not in SHAPE:
            yield node
        signals = [source for source in node.inputs if source in case.graph.signal]
        name = signals[0] if len(signals) == 1 else None


def _wide(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
