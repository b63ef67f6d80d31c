"""Whether the samples of a batch influence each other."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from firstlight.graph import Node, call_arguments, record
from firstlight.graph.trace import reason
from firstlight.graph.untouched import kept_random
from firstlight.probe.histograms import evenly
from firstlight.probe.moments import fetch
from firstlight.probe.run import Mixing
from firstlight.probe.samples import batch_size, with_company


def find_mixing(model: nn.Module, batch: Any) -> Mixing | str:
    """Run a sample in company and alone, and compare what becomes of it.

    The axis of samples is then the one along which a result has two parts in one pass and one in the other.

    Args:
        model: in eval mode, where batch normalization and dropout treat each sample alone.
        batch: as the model takes it.

    Returns:
        What was found, or why nothing could be.
    """
    size = batch_size(batch)
    if size is None:
        return "the batch has no axis of samples"
    if size == 1 and not any(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in tree_leaves(batch)):
        return "there is only one sample"
    try:
        company, alone = (_followed(model, with_company(batch, size, others), 1 + others) for others in (1, 0))
    except _DrawsNumbers:
        return "the model draws random numbers in eval mode"
    except Exception as error:
        return f"with two samples, or one, in eval mode: {reason(error)}"
    first, other = company.firsts, alone.firsts
    pairs = [(name, *pair) for name, both in first.items() if (pair := _paired(both, other.get(name, {})))]
    if not pairs:
        return "no operation has an axis of samples"
    # A model that returns its loss has none among its outputs: the last operation with one stands for them.
    outputs = frozenset(company.outputs) & {name for name, *_ in pairs} or {pairs[-1][0]}
    return _compared(pairs, frozenset(outputs), _rounding(model))


class _DrawsNumbers(Exception):
    pass


_Firsts = dict[tuple[int | None, ...], Tensor]  # shape, with None for the axis of samples -> the first sample's values


@dataclass(frozen=True, slots=True)
class _Pass:
    firsts: dict[str, _Firsts]
    outputs: tuple[str, ...]


@torch.no_grad()
def _followed(model: nn.Module, batch: Any, samples: int) -> _Pass:
    """What becomes of the first sample, by node, for each axis that could be the samples'."""
    firsts: dict[str, _Firsts] = {}

    def see(node: Node, tensor: Tensor) -> None:
        if not tensor.is_floating_point() or not tensor.numel():
            return
        axes = [axis for axis, length in enumerate(tensor.shape) if length == samples]
        # Made contiguous, for one sample and two may lie in memory in different orders.
        firsts[node.name] = {
            (*tensor.shape[:axis], None, *tensor.shape[axis + 1 :]): evenly(tensor.narrow(axis, 0, 1).contiguous())
            for axis in axes
        }

    args, kwargs = call_arguments(batch)
    with kept_random():
        before = _random_state()
        recording = record(model, args, kwargs, observe=see, how="recorded by a probe")
        if not all(map(torch.equal, before, _random_state())):
            raise _DrawsNumbers
    graph = recording.graph
    drafts = {final: draft for draft, final in recording.names.items()}
    found = {node.name: firsts.get(drafts[node.name], {}) for node in graph.operations if node.name in graph.signal}
    return _Pass(found, graph.outputs)


def _random_state() -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [])]


def _paired(one: _Firsts, other: _Firsts) -> tuple[Tensor, Tensor] | None:
    """The first sample's values in both passes, where exactly one axis can be the samples'."""
    both = [shape for shape in one if shape in other]
    return (one[both[0]], other[both[0]]) if len(both) == 1 else None


def _compared(pairs: list[tuple[str, Tensor, Tensor]], outputs: frozenset[str], rounding: float) -> Mixing | str:
    """The first operation that changes, if an output changes too.

    Windows and patches fold samples into axes whose length may by chance be that of the axis of samples; what they
    seem to change there, the outputs of the first sample do not show.
    """
    numbers = fetch([torch.stack([(a - b).abs().amax(), torch.maximum(a.abs(), b.abs()).amax()]) for _, a, b in pairs])
    changes = {name: d / size if size else 0.0 for (name, *_), (d, size) in zip(pairs, numbers, strict=True)}
    broken = next((name for name, change in changes.items() if change != change), None)
    if broken is not None:
        return f"{broken} is not finite in eval mode"
    if all(changes.get(name, 0.0) <= rounding for name in outputs):
        return Mixing(None)
    return next(Mixing(name, change) for name, change in changes.items() if change > rounding)


def _rounding(model: nn.Module) -> float:
    """The relative change that another order of summation can make, deep in a network."""
    exact = all(p.device.type == "cpu" and p.dtype in (torch.float32, torch.float64) for p in model.parameters())
    return 1e-3 if exact else 3e-2
