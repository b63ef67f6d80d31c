"""A few optimizer steps on one batch, measured, without a trace: what only sleeps wakes up, what is broken does not."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves, tree_map

from firstlight.graph import Graph, call_arguments, untouched
from firstlight.graph.untouched import kept_random
from firstlight.probe.calls import Listener
from firstlight.probe.losses import Loss, evaluate
from firstlight.probe.probe import clear_gradients, differentiate, watched
from firstlight.probe.run import ParameterStep, Run, Step
from firstlight.probe.twin import Optimizing, default_optimizer, facts, twin
from firstlight.probe.watch import Watch

_CALL = "run_steps(model, batch, labels, loss)"


def run_steps(
    model: nn.Module,
    batch: Any,
    labels: Tensor | None = None,
    loss: Loss | None = None,
    *,
    optimizer: Optimizing | None = None,
    steps: int = 3,
    graph: Graph | None = None,
    histograms: bool = True,
    mixing: bool = True,
    autocast: torch.dtype | None = None,
) -> Run:
    """Make a few training steps on one batch and measure them; model, optimizer and random numbers stay as they were.

    Every operation is measured in the first step, every parameter in each. All steps draw the same random numbers, so
    that their losses can be compared. The last step measures once more what had no gradient at first.

    Args:
        model: any module.
        batch: a real batch as the model takes it, on its device; see `probe`.
        labels: of the batch.
        loss: callable of output and labels; see `evaluate` for what is taken without it.
        optimizer: the one that will train the model, or a callable that makes one of the parameters. It is not
            stepped: a fresh one of its class and settings is. Adam with a learning rate of 1e-4 without it.
        steps: how many.
        graph: of this model, to learn which of its operations the batch did not run.
        histograms: whether to keep histograms and units of the first step.
        mixing: whether to look for samples that influence each other.
        autocast: element type for mixed precision; none without it.

    Raises:
        FirstlightError: slug ``model-does-not-run`` when the model raises in the first step, ``loss-does-not-fit`` when
            the loss does.
    """
    with untouched(model), warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        model.train()
        training = _Training(model, batch, labels, loss, optimizer, autocast)
        return training.run(steps, graph, histograms, mixing)


class _Training:
    """The loop that is run, and what it has shown so far."""

    def __init__(
        self, model: nn.Module, batch: Any, labels: Tensor | None, loss: Loss | None, optimizer: Optimizing | None,
        autocast: torch.dtype | None,
    ) -> None:  # fmt: skip
        self.model, self.batch, self.labels, self.loss = model, batch, labels, loss
        self.autocast = autocast
        self.notes: list[str] = []
        self.optimizer: Optimizer | None
        self.optimizer = default_optimizer(model) if optimizer is None else twin(optimizer, model)
        self.facts = facts(self.optimizer, model, optimizer is not None)
        self.parameters = dict(model.named_parameters())
        self.rows: list[tuple[Tensor, list[tuple[Tensor, ...]]]] = []

    def run(self, steps: int, graph: Graph | None, histograms: bool, mixing: bool) -> Run:
        watch = Watch(batch_size(self.batch), detailed=histograms)
        with self._forward():
            recording = watched(self.model, self.batch, watch, _CALL)
            listener = Listener(recording.result, recording.graph.outputs)
            with listener:
                value, kind = evaluate(recording.result, self.labels, self.loss)
        differentiate(value, _CALL)
        first = watch.measurements(self.model, graph, recording, value, kind)
        output = tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, recording.result)
        silent = {node.name for node in first.nodes if not node.gradient_std and not node.gradient_max}
        recorded = recording.graph
        del recording
        losses = [value.detach()]
        last = None
        done = [self._step()]
        for turn in range(1, steps):
            clear_gradients(self.model)
            if turn == steps - 1 and silent:
                watch = Watch()
                with self._forward():
                    recording = watched(self.model, self.batch, watch, _CALL)
                    value, kind = evaluate(recording.result, self.labels, self.loss)
                differentiate(value, _CALL)
                last = watch.measurements(self.model, graph, recording, value, kind)
            else:
                with self._forward():
                    args, kwargs = call_arguments(self.batch)
                    value, _ = evaluate(self.model(*args, **kwargs), self.labels, self.loss)
                differentiate(value, _CALL)
            losses.append(value.detach())
            done.append(self._step())
        with torch.no_grad(), self._forward():
            args, kwargs = call_arguments(self.batch)
            final, _ = evaluate(self.model(*args, **kwargs), self.labels, self.loss)
        return Run(
            recorded,
            first,
            last,
            tuple(Step(float(v), p) for v, p in zip(losses, done, strict=True)),
            float(final),
            tuple(listener.calls),
            output,
            self.facts,
            None,
            tuple(name for name, p in self.parameters.items() if not p.requires_grad),
            tuple(self.notes),
        )

    def _step(self) -> tuple[ParameterStep, ...]:
        before = {name: p.detach().clone() for name, p in self.parameters.items()}
        if self.optimizer is not None:
            self.optimizer.step()
        found = []
        with torch.no_grad():
            for name, p in self.parameters.items():
                gradient = p.grad
                found.append(
                    ParameterStep(
                        name,
                        _rms(before[name]),
                        None if gradient is None else _rms(gradient),
                        1.0 if gradient is None else float((gradient == 0).double().mean()),
                        _rms(p - before[name]),
                    )
                )
        return tuple(found)

    @contextlib.contextmanager
    def _forward(self) -> Iterator[None]:
        device = next((t.device.type for t in tree_leaves(self.batch) if isinstance(t, Tensor)), "cpu")
        with kept_random(), torch.autocast(device, dtype=self.autocast, enabled=self.autocast is not None):
            yield


def _rms(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.double())) / max(tensor.numel(), 1) ** 0.5


def batch_size(batch: Any) -> int | None:
    """Length of the first tensor's first axis."""
    return next((len(leaf) for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()), None)
