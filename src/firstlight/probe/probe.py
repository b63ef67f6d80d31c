"""Run a network once on a real batch, forward and backward, and measure every operation on the way."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from firstlight.graph import Graph, Node, call_arguments, record, untouched
from firstlight.graph.record import Recording
from firstlight.graph.trace import does_not_run
from firstlight.graph.vocabulary import REARRANGEMENT
from firstlight.probe.losses import Loss, evaluate
from firstlight.probe.measurements import Measurements, NodeMeasurement, ParameterMeasurement


def probe(
    model: nn.Module,
    batch: Any,
    labels: Tensor | None = None,
    loss: Loss | None = None,
    graph: Graph | None = None,
) -> Measurements:
    """Measure one training step short of the update: the forward pass in train mode, the loss, the backward pass.

    What is measured is the model's own run, so functional activations, reused modules and control flow are all there,
    and an in-place operation cannot overwrite what was measured before it. The model and every random generator are
    left exactly as they were. Numbers stay on the device until the end and are fetched at once.

    Args:
        model: any module.
        batch: a real batch as the model takes it, on its device: a tensor, a tuple of positional arguments, or a
            mapping of keyword arguments.
        labels: of the batch; integer classes of shape [N] for a classifier.
        loss: callable of the output (and of `labels`, when given) that returns one number; see `evaluate` for what
            is taken without it.
        graph: of this model, to learn which of its operations the batch did not run.

    Raises:
        FirstlightError: slug ``model-does-not-run`` when the model raises, ``loss-does-not-fit`` when the loss does.
    """
    args, kwargs = call_arguments(batch)
    with untouched(model), torch.enable_grad():
        model.train()
        for parameter in model.parameters():
            parameter.grad = None
        watch = _Watch()
        try:
            recording = record(model, args, kwargs, observe=watch.see, how="recorded by a probe")
        except Exception as error:
            raise does_not_run(error, "probe(model, batch)") from error
        value, kind = evaluate(recording.result, labels, loss)
        if value.requires_grad:
            try:
                value.backward()
            except Exception as error:
                raise does_not_run(error, "probe(model, batch), backward pass") from error
        return _collect(model, graph, recording, watch, value, kind)


@dataclass(slots=True)
class _Seen:
    forward: Tensor  # mean, std, zeros, nonfinite; on the device
    elements: int
    gradient: Tensor | None = None


class _Watch:
    """Measures tensors as they are made, and their gradients as they arrive."""

    def __init__(self) -> None:
        self.seen: dict[str, _Seen] = {}

    def see(self, node: Node, tensor: Tensor) -> None:
        """Measure one result, and ask for its gradient."""
        if node.function in REARRANGEMENT or not tensor.is_floating_point() or tensor.numel() == 0:
            return
        seen = self.seen[node.name] = _Seen(_moments(tensor), tensor.numel())
        if tensor.requires_grad:

            def arrived(gradient: Tensor) -> None:
                seen.gradient = _moments(gradient)

            tensor.register_hook(arrived)


@torch.no_grad()
def _moments(tensor: Tensor) -> Tensor:
    """Mean, standard deviation, count of zeros, count of non-finite elements, without waiting for the device."""
    values = tensor.detach()
    wide = values if values.dtype == torch.float64 else values.float()
    elements = wide.numel()
    mean = wide.mean()
    std = torch.linalg.vector_norm(wide - mean) / elements**0.5
    # x - x is zero for a number, and NaN, which counts as not zero, for an infinity or NaN.
    zeros, nonfinite = elements - torch.count_nonzero(wide), torch.count_nonzero(wide - wide)
    return torch.stack([x.double() for x in (mean, std, zeros, nonfinite)])


def _collect(
    model: nn.Module, graph: Graph | None, recording: Recording, watch: _Watch, value: Tensor, kind: str
) -> Measurements:
    drafts = {final: draft for draft, final in recording.names.items() if draft in watch.seen}
    nodes = [node for node in recording.graph.operations if node.name in drafts]
    seen = [watch.seen[drafts[node.name]] for node in nodes]
    parameters = dict(model.named_parameters())
    waiting = [_moments(value), *(s.forward for s in seen)]
    waiting += [s.gradient for s in seen if s.gradient is not None]
    waiting += [_moments(p) for p in parameters.values()]
    waiting += [_moments(p.grad) for p in parameters.values() if p.grad is not None]
    numbers = iter(_fetch(waiting))

    loss = next(numbers)[0]
    forwards = [next(numbers) for _ in seen]
    gradients = [None if s.gradient is None else next(numbers) for s in seen]
    weights = [next(numbers) for _ in parameters]
    return Measurements(
        nodes=tuple(
            NodeMeasurement(
                node.name, node.module, node.op, node.shape or (), forward[0], forward[1],
                None if gradient is None else gradient[1], forward[2] / s.elements, int(forward[3]),
                0 if gradient is None else int(gradient[3]),
            )
            for node, s, forward, gradient in zip(nodes, seen, forwards, gradients, strict=True)
        ),
        parameters=tuple(
            ParameterMeasurement(name, weight[1], None if parameter.grad is None else next(numbers)[1])
            for (name, parameter), weight in zip(parameters.items(), weights, strict=True)
        ),
        loss=loss,
        loss_kind=kind,
        missing=tuple(node.name for node in graph.operations if node.name not in recording.graph) if graph else (),
    )  # fmt: skip


def _fetch(tensors: Sequence[Tensor]) -> list[list[float]]:
    """All numbers in one transfer."""
    device = tensors[0].device
    rows: list[list[float]] = torch.stack([tensor.to(device, non_blocking=True) for tensor in tensors]).tolist()
    return rows
