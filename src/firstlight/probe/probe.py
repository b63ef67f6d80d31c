"""Run a network once on a real batch, forward and backward, and measure every operation on the way."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from firstlight.graph import Graph, Node, call_arguments, record, untouched
from firstlight.graph.record import Observer, Recording
from firstlight.graph.trace import does_not_run
from firstlight.probe.losses import Loss, evaluate
from firstlight.probe.measurements import Measurements
from firstlight.probe.watch import Watch


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
    with untouched(model), torch.enable_grad():
        model.train()
        clear_gradients(model)
        watch = Watch()
        recording = watched(model, batch, [watch], "probe(model, batch)")
        value, kind = evaluate(recording.result, labels, loss)
        differentiate(value, "probe(model, batch)")
        return watch.measurements(model, graph, recording, value, kind)


def watched(model: nn.Module, batch: Any, observers: Sequence[Observer], call: str) -> Recording:
    """One forward pass under the recorder."""
    args, kwargs = call_arguments(batch)

    def observe(node: Node, tensor: Tensor) -> None:
        for observer in observers:
            observer(node, tensor)

    try:
        return record(model, args, kwargs, observe=observe, how="recorded by a probe")
    except Exception as error:
        raise does_not_run(error, call) from error


def differentiate(value: Tensor, call: str) -> None:
    """The backward pass, where the loss has one."""
    if value.requires_grad:
        try:
            value.backward()
        except Exception as error:
            raise does_not_run(error, f"{call}, backward pass") from error


def clear_gradients(model: nn.Module) -> None:
    """Forget what earlier backward passes left."""
    for parameter in model.parameters():
        parameter.grad = None
