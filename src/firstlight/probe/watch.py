"""Measures the results of operations as they are made, and their gradients as they arrive."""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from firstlight.graph import Graph, Node
from firstlight.graph.record import Recording
from firstlight.graph.vocabulary import REARRANGEMENT
from firstlight.probe.axes import Axes
from firstlight.probe.histograms import evenly, histograms
from firstlight.probe.measurements import Measurements, NodeMeasurement, ParameterMeasurement
from firstlight.probe.moments import MAXIMUM, MEAN, MINIMUM, NONFINITE, STD, ZEROS, fetch, moments
from firstlight.probe.sketch import Sketch, has_units, sketch, units


@dataclass(slots=True)
class _Seen:
    """What is kept of one result; all of it stays on the device."""

    elements: int
    attached: bool
    forward: Tensor
    gradient: Tensor | None = None
    values: Tensor | None = None
    gradient_values: Tensor | None = None
    sketch: Sketch | None = None


class Watch:
    """An observer for `record`.

    Args:
        batch: samples in the batch, where it is known.
        detailed: whether to keep histograms and units too.
        only: names of nodes in the draft to measure; all of them without it.
    """

    def __init__(self, batch: int | None = None, detailed: bool = False, only: Collection[str] | None = None) -> None:
        self.seen: dict[str, _Seen] = {}
        self._axes = Axes()
        self._batch, self._detailed, self._only = batch, detailed, only

    def __call__(self, node: Node, tensor: Tensor) -> None:
        """Measure one result, and ask for its gradient."""
        if not tensor.is_floating_point() or tensor.numel() == 0:
            return
        axis = self._axes.of(node, tensor)
        if node.function in REARRANGEMENT or not (self._only is None or node.name in self._only):
            return
        with torch.autocast(tensor.device.type, enabled=False):  # what is measured is not measured in half precision
            seen = self.seen[node.name] = _Seen(tensor.numel(), tensor.requires_grad, moments(tensor))
            if self._detailed:
                seen.values = evenly(tensor)
                if has_units(node):
                    seen.sketch = sketch(node, tensor, axis, self._batch)
        if tensor.requires_grad:

            def arrived(gradient: Tensor | None) -> None:
                if gradient is None:  # of a part that nothing used, while another part of the same result got one
                    return
                seen.gradient = moments(gradient)
                if self._detailed:
                    seen.gradient_values = evenly(gradient)

            tensor.register_hook(arrived)

    def measurements(
        self, model: nn.Module, graph: Graph | None, recording: Recording, value: Tensor, kind: str
    ) -> Measurements:
        """Everything that was seen, fetched from the device."""
        drafts = {final: draft for draft, final in recording.names.items() if draft in self.seen}
        nodes = [node for node in recording.graph.operations if node.name in drafts]
        seen = [self.seen[drafts[node.name]] for node in nodes]
        parameters = dict(model.named_parameters())
        waiting = [moments(value), *(s.forward for s in seen)]
        waiting += [s.gradient for s in seen if s.gradient is not None]
        waiting += [moments(p) for p in parameters.values()]
        waiting += [moments(p.grad) for p in parameters.values() if p.grad is not None]
        numbers = iter(fetch(waiting))

        loss = next(numbers)[MEAN]
        forwards = [next(numbers) for _ in seen]
        gradients = [None if s.gradient is None else next(numbers) for s in seen]
        weights = [next(numbers) for _ in parameters]
        details = self._details(seen)
        missing = [node.name for node in graph.operations if node.name not in recording.graph] if graph else []
        return Measurements(
            nodes=tuple(
                _node(node, s, forward, gradient, detail)
                for node, s, forward, gradient, detail in zip(nodes, seen, forwards, gradients, details, strict=True)
            ),
            parameters=tuple(
                ParameterMeasurement(name, weight[STD], None if parameter.grad is None else next(numbers)[STD])
                for (name, parameter), weight in zip(parameters.items(), weights, strict=True)
            ),
            loss=loss,
            loss_kind=kind,
            missing=tuple(missing),
        )

    def _details(self, seen: list[_Seen]) -> list[dict[str, object]]:
        details: list[dict[str, object]] = [{} for _ in seen]
        for key, field in (("histogram", "values"), ("gradient_histogram", "gradient_values")):
            kept = [(detail, getattr(s, field)) for detail, s in zip(details, seen, strict=True)]
            kept = [(detail, values) for detail, values in kept if values is not None]
            for (detail, _), histogram in zip(kept, histograms([values for _, values in kept]), strict=True):
                detail[key] = histogram
        sketched = [(detail, s.sketch, s.values) for detail, s in zip(details, seen, strict=True)]
        found = [(detail, part, values) for detail, part, values in sketched if part is not None and values is not None]
        for (detail, _, _), unit in zip(found, units([(p, v) for _, p, v in found]), strict=True):
            detail["units"] = unit
        return details


def _node(
    node: Node, seen: _Seen, forward: list[float], gradient: list[float] | None, detail: dict[str, object]
) -> NodeMeasurement:
    return NodeMeasurement(
        name=node.name,
        module=node.module,
        op=node.op,
        shape=node.shape or (),
        forward_mean=forward[MEAN],
        forward_std=forward[STD],
        gradient_std=None if gradient is None else gradient[STD],
        fraction_zero=forward[ZEROS] / seen.elements,
        nonfinite=int(forward[NONFINITE]),
        gradient_nonfinite=0 if gradient is None else int(gradient[NONFINITE]),
        minimum=forward[MINIMUM],
        maximum=forward[MAXIMUM],
        gradient_max=None if gradient is None else max(abs(gradient[MINIMUM]), abs(gradient[MAXIMUM])),
        gradient_zero=None if gradient is None else gradient[ZEROS] / seen.elements,
        attached=seen.attached,
        **detail,  # type: ignore[arg-type]
    )
