"""A few optimizer steps on one batch, measured, without a trace: what only sleeps wakes up, what is broken does not."""

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from firstlight.errors import FirstlightError
from firstlight.graph import Graph, call_arguments, untouched
from firstlight.graph.record import Recording
from firstlight.graph.trace import does_not_run
from firstlight.graph.untouched import kept_random
from firstlight.probe.calls import Inside, Listener
from firstlight.probe.losses import Loss, evaluate
from firstlight.probe.measurements import Measurements
from firstlight.probe.mixing import find_mixing
from firstlight.probe.probe import clear_gradients, differentiate, watched
from firstlight.probe.run import LossCall, Mixing, Run, Step
from firstlight.probe.samples import batch_size, copied
from firstlight.probe.stepper import Optimizing, Stepper
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
    """Make a few training steps on one batch and measure them.

    Every operation is measured in the first step and every parameter in each; the last step measures once more those
    operations that had no gradient at first. All steps draw the same random numbers, so that their losses can be
    compared. Model, loss, batch, optimizer and every random generator are left exactly as they were.

    Args:
        model: any module.
        batch: a real batch as the model takes it, on its device; see `probe`.
        labels: of the batch.
        loss: callable of output and labels; see `evaluate` for what is taken without it.
        optimizer: the one that will train the model, or a callable that makes one of the parameters. It is never
            stepped: a fresh one of its class and settings is. Without it, Adam with a learning rate of 1e-4.
        steps: how many, at least one.
        graph: of this model, to learn which of its operations the batch did not run.
        histograms: whether to keep histograms and units of the first step.
        mixing: whether to look for samples that influence each other.
        autocast: element type of mixed precision (``torch.bfloat16``); none without it.

    Raises:
        FirstlightError: slug ``model-does-not-run`` when the model raises in the first step, ``loss-does-not-fit`` when
            the loss does. What fails later is in the run's notes.
    """
    with contextlib.ExitStack() as stack:
        for module in (model, loss):
            if isinstance(module, nn.Module):
                stack.enter_context(untouched(module))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(torch.enable_grad())
        training = _Training(model, batch, labels, loss, autocast)
        mixed = training.mixing() if mixing else None
        model.train()
        return training.run(Stepper(model, optimizer, training.notes), steps, graph, histograms, mixed)


@dataclass(slots=True)
class _Pass:
    """One forward pass and its loss."""

    value: Tensor
    kind: str
    recording: Recording | None = None
    calls: tuple[LossCall, ...] = ()


class _Training:
    """The loop: what it runs on, and what could not be measured so far."""

    def __init__(
        self, model: nn.Module, batch: Any, labels: Tensor | None, loss: Loss | None, autocast: torch.dtype | None
    ) -> None:
        self.model, self.batch, self.labels, self.loss, self.autocast = model, batch, labels, loss, autocast
        self.notes: list[str] = []

    def mixing(self) -> Mixing | None:
        """Samples influencing each other; None, and a note, where that cannot be said."""
        self.model.eval()
        found = find_mixing(self.model, copied(self.batch))
        if isinstance(found, str):
            self.notes.append(f"samples influencing each other: {found}")
            return None
        return found

    def run(self, stepper: Stepper, steps: int, graph: Graph | None, histograms: bool, mixed: Mixing | None) -> Run:
        """All steps, and the loss after them."""
        clear_gradients(self.model)
        watch = Watch(batch_size(self.batch), detailed=histograms)
        start = self._watched(watch)
        assert start.recording is not None
        recording = start.recording
        first = watch.measurements(self.model, graph, recording, start.value, start.kind)
        stepper.step()
        losses, last, final = [start.value], None, None
        if self._learns(first):
            silent = frozenset(node.name for node in first.nodes if not node.gradient_max)
            try:
                for turn in range(2, steps + 1):
                    value, measured = self._again(silent if turn == steps else frozenset(), recording, graph)
                    losses.append(value)
                    last = measured or last
                    stepper.step()
                with torch.no_grad():
                    final = float(self._plain().value)
            except FirstlightError as error:
                self.notes.append(f"what follows step {len(losses)}: {error.cause}")
        parameters = stepper.steps()
        return Run(
            graph=recording.graph,
            first=first,
            last=last,
            steps=tuple(Step(float(value), row) for value, row in zip(losses, parameters, strict=False)),
            final_loss=final,
            losses=start.calls,
            output=recording.result,
            optimizer=stepper.facts,
            mixing=mixed,
            frozen=tuple(name for name, p in self.model.named_parameters() if not p.requires_grad),
            notes=tuple(self.notes),
        )

    def _learns(self, first: Measurements) -> bool:
        if any(parameter.gradient_std is not None for parameter in first.parameters):
            return True
        trainable = any(parameter.requires_grad for parameter in self.model.parameters())
        why = "the loss gives none a gradient" if trainable else "none requires gradients"
        self.notes.append(f"steps after the first: of the model's parameters, {why}")
        return False

    def _again(
        self, silent: frozenset[str], recording: Recording, graph: Graph | None
    ) -> tuple[Tensor, Measurements | None]:
        """One more forward and backward pass; the nodes in `silent` are measured."""
        clear_gradients(self.model)
        if not silent:
            done = self._plain()
            differentiate(done.value, _CALL)
            return done.value.detach(), None
        watch = Watch(only={draft for draft, final in recording.names.items() if final in silent})
        done = self._watched(watch)
        assert done.recording is not None
        measured = watch.measurements(self.model, graph, done.recording, done.value, done.kind)
        return done.value, replace(measured, nodes=tuple(node for node in measured.nodes if node.name in silent))

    def _watched(self, watch: Watch) -> _Pass:
        """Forward and backward under the recorder; what it returns holds no graph of gradients."""
        with self._conditions():
            batch = copied(self.batch)
            inside = Inside([leaf for leaf in tree_leaves(call_arguments(batch)) if isinstance(leaf, Tensor)])
            recording = watched(self.model, batch, [watch, inside], _CALL)
            with Listener(recording) as listener:
                value, kind = evaluate(recording.result, self.labels, self.loss)
        differentiate(value, _CALL)
        result = tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, recording.result)
        calls = (*inside.calls(recording.names), *listener.calls)
        return _Pass(value.detach(), kind, replace(recording, result=result), calls)

    def _plain(self) -> _Pass:
        """Forward alone."""
        with self._conditions():
            args, kwargs = call_arguments(copied(self.batch))
            try:
                output = self.model(*args, **kwargs)
            except Exception as error:
                raise does_not_run(error, _CALL) from error
            return _Pass(*evaluate(output, self.labels, self.loss))

    @contextlib.contextmanager
    def _conditions(self) -> Iterator[None]:
        """The same random numbers for every pass, and the precision that was asked for."""
        tensors = [leaf for leaf in tree_leaves(self.batch) if isinstance(leaf, Tensor)]
        device = next((tensor.device.type for tensor in [*self.model.parameters(), *tensors]), "cpu")
        with kept_random(), torch.autocast(device, dtype=self.autocast, enabled=self.autocast is not None):
            yield
