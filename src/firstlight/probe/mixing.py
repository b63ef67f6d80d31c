"""Whether the samples of a batch influence each other."""

from collections.abc import Collection, Mapping
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

_COMPANION, _OTHER = -1.0, 0.5  # times the last sample of the batch


def find_mixing(model: nn.Module, batch: Any) -> Mixing | str:
    """Run a sample in company and alone, and compare what becomes of it.

    The axis of samples is then the one along which a result has two parts in one pass and one in the other. Two samples
    may be summed in another order than one, which is a small change, and no small one in a network whose signal
    explodes; so a change counts only where another companion, with which nothing is summed in another order, makes one
    too. Then even a small one counts: in eval mode little of it may be left, where it is large in training.

    Args:
        model: in eval mode, where batch normalization and dropout treat each sample alone.
        batch: as the model takes it.

    Returns:
        What was found, or why nothing could be.
    """
    size = batch_size(batch)
    if size is None:
        return "the batch has no axis of samples"
    continuous = any(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in tree_leaves(batch))
    if size == 1 and not continuous:
        return "there is only one sample"
    try:
        return _found(model, batch, size, continuous)
    except _DrawsNumbers:
        return "the model draws random numbers in eval mode"
    except Exception as error:
        return f"with two samples, or one, in eval mode: {reason(error)}"


def _found(model: nn.Module, batch: Any, size: int, continuous: bool) -> Mixing | str:
    company = _followed(model, with_company(batch, size, _COMPANION), 2)
    alone = _followed(model, with_company(batch, size), 1)
    shapes = {
        name: shape for name, both in company.firsts.items() if (shape := _shape(both, alone.firsts.get(name, {})))
    }
    if not shapes:
        return "no operation has an axis of samples"
    # A model that returns its loss has none among its outputs: the last operation with one stands for them.
    outputs = frozenset(company.outputs) & shapes.keys() or frozenset([*shapes][-1:])
    same, other = _rounding(model)
    found = _compared(company, alone, shapes, outputs, same if continuous else other)
    if isinstance(found, str) or found.node is None or not continuous:
        return found
    return _compared(company, _followed(model, with_company(batch, size, _OTHER), 2), shapes, outputs, same)


class _DrawsNumbers(Exception):
    pass


_Shape = tuple[int | None, ...]  # with None for the axis of samples
_Firsts = dict[_Shape, Tensor]  # the first sample's values


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


def _shape(one: _Firsts, other: _Firsts) -> _Shape | None:
    """The first sample's shape in both passes, where exactly one axis can be the samples'."""
    both = [shape for shape in one if shape in other]
    return both[0] if len(both) == 1 else None


def _compared(
    one: _Pass, other: _Pass, shapes: Mapping[str, _Shape], outputs: Collection[str], rounding: float
) -> Mixing | str:
    """The first operation that changes, if an output changes too.

    Windows and patches fold samples into axes whose length may by chance be that of the axis of samples; what they
    seem to change there, the outputs of the first sample do not show.
    """
    both = {name: shape for name, shape in shapes.items() if shape in other.firsts.get(name, {})}
    pairs = [(one.firsts[name][shape], other.firsts[name][shape]) for name, shape in both.items()]
    numbers = fetch([torch.stack([(a - b).abs().amax(), torch.maximum(a.abs(), b.abs()).amax()]) for a, b in pairs])
    changes = {name: d / size if size else 0.0 for name, (d, size) in zip(both, numbers, strict=True)}
    broken = next((name for name, change in changes.items() if change != change), None)
    if broken is not None:
        return f"{broken} is not finite in eval mode"
    if all(changes.get(name, 0.0) <= rounding for name in outputs):
        return Mixing(None)
    return next(Mixing(name, change) for name, change in changes.items() if change > rounding)


def _rounding(model: nn.Module) -> tuple[float, float]:
    """The relative change that rounding can make: in the same order of summation, and in another, deep in a network.

    In the same order every number is the same to the last bit, unless parts of sums are added up as they arrive.
    """
    exact = all(p.device.type == "cpu" and p.dtype in (torch.float32, torch.float64) for p in model.parameters())
    return (1e-6, 1e-3) if exact else (3e-2, 3e-2)
