"""Recurrent layers: long short-term memory (`theory.recurrent` has the mathematics)."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from firstlight._typing import Floats
from firstlight.graph import Node
from firstlight.theory.axes import size
from firstlight.theory.maps.attention import same_window
from firstlight.theory.maps.registry import Context, Flow, Step, rule, with_maps
from firstlight.theory.maps.weights import sharing, spread_out
from firstlight.theory.recurrent import REMEMBERED, Cell, Course, Instant, backward, forward
from firstlight.theory.signal import Gradient, Signal, compress, scalar


@dataclass(frozen=True)
class _Run:
    """One layer in one direction; instants and course in its own order of time."""

    cell: Cell
    reverse: bool
    instants: list[Instant]
    course: Course

    @classmethod
    def of(cls, cell: Cell, reverse: bool, x: Course) -> "_Run":
        course, instants = forward(cell, replace(x, second=_turned(x.second, reverse)))
        return cls(cell, reverse, instants, course)

    def back(self, arriving: Floats) -> Floats:
        """The gradient by the input, from that by the result, both in the order of time of the sequence, [T, 3]."""
        return _turned(backward(self.cell, self.instants, _turned(arriving, self.reverse)), self.reverse)


def _turned(values: Floats, reverse: bool) -> Floats:
    return values[::-1] if reverse else values


@rule("lstm")
def memory(node: Node, ctx: Context) -> Step | None:
    """Long short-term memory of any number of layers, in one direction or both, from a state of zero."""
    x = ctx.of(node, "input")
    layers = None if x is None else _cells(node, ctx)
    if x is None or not layers or not _from_zero(node, ctx):
        return None
    time = 1 if node.arguments["batch_first"] and len(x.shape) == 3 else 0
    kept = 1 - float(node.arguments["dropout"]) * (ctx.training and bool(node.arguments["train"]))
    course = _course(x, time)
    runs: list[list[_Run]] = []  # the last layer first
    for cells in layers:
        if runs:
            course = replace(course, second=course.second / kept)
        runs = [[_Run.of(cell, bool(k), course) for k, cell in enumerate(cells)], *runs]
        course = _together(runs[0])
    out = _signal(node, ctx, x, time, course, sum(run.cell.units for run in runs[0]))

    def pull(g: Gradient) -> list[Flow]:
        alike = float(g.far.mean() / g.second.mean().clamp_min(1e-300))
        found = _back(runs, _by_time(g.second, out, time)[:, None] * np.array([1.0, alike, alike]), kept)
        second = _along(found[:, 0], x, time)
        return [(x.name, g.moved(second, torch.full_like(second, found[:, 2].mean())), True)]

    fourth = course.fourth / max(float(course.second.mean()) ** 2, 1e-300)
    return Step(out, pull, local=max(fourth - 1, 0.0) * sharing(out, ctx.batch) / out.channels())


def _cells(node: Node, ctx: Context) -> list[list[Cell]]:
    """By layer and direction; none with projected states."""
    names = [name for name, role in zip(node.inputs, node.roles, strict=True) if role == "params"]
    directions, each = 1 + bool(node.arguments["bidirectional"]), 2 + 2 * bool(node.arguments["has_biases"])
    if len(names) != int(node.arguments["num_layers"]) * directions * each:
        return []
    cells = [_cell(*(ctx.signals[name] for name in names[k : k + each])) for k in range(0, len(names), each)]
    return [cells[k : k + directions] for k in range(0, len(cells), directions)]


def _cell(weight: Signal, recurrent: Signal, *biases: Signal) -> Cell:
    mean = sum(float(b.mean.mean()) for b in biases)
    variance = sum(float(b.variance.mean()) for b in biases)
    second, again = (float(w.second.mean()) for w in (weight, recurrent))
    return Cell(weight.shape[1], recurrent.shape[1], second, again, mean, variance)


def _from_zero(node: Node, ctx: Context) -> bool:
    states = [ctx.signals[name] for name, role in zip(node.inputs, node.roles, strict=True) if role == "hx"]
    return all(not ctx.is_signal(s.name) and float(s.second.max()) == 0 for s in states)


def _course(x: Signal, time: int) -> Course:
    """What is known of a sequence; `Signal.near` says how close its times are."""
    second, far, other = (float(m.mean()) for m in (x.second, x.far, x.other))
    dims = [d for d, axis in enumerate(x.axes) for kind, n in axis if kind == "s" and n > 1]
    near = far
    if x.near is not None and time in dims and x.near.ndim == len(dims):
        lags = np.moveaxis(x.near, dims.index(time), 0).reshape(len(x.near), -1)[1 : x.shape[time], 0]
        weights = REMEMBERED ** np.arange(1, x.shape[time])
        near = far + float((weights[: len(lags)] * lags).sum() / weights.sum()) * (second - far)
    return Course(_by_time(x.second, x, time), np.array([near, far, other]), far)


def _by_time(m: Tensor, like: Signal, time: int) -> Floats:
    """A map as it is at each time, averaged over everything else, [T]."""
    full = m.expand(*(n if d == time else m.shape[d] for d, n in enumerate(like.shape)))
    return np.asarray(full.movedim(time, 0).flatten(1).mean(1).numpy())


def _along(values: Floats, like: Signal, time: int) -> Tensor:
    """Values for each time, [T], as a map."""
    shape = [1] * len(like.shape)
    shape[time] = len(values)
    return compress(torch.from_numpy(np.array(values)).view(shape))


def _together(runs: list[_Run]) -> Course:
    """The channels of both directions."""
    courses = [run.course for run in runs]
    second = np.mean([_turned(run.course.second, run.reverse) for run in runs], 0)
    pairs = np.mean([course.pairs for course in courses], 0)
    distant, fourth = np.mean([(course.distant, course.fourth) for course in courses], 0)
    return Course(second, pairs, float(distant), float(fourth))


def _signal(node: Node, ctx: Context, x: Signal, time: int, whole: Course, channels: int) -> Signal:
    axes = (*x.axes[:-1], (("c", channels),))
    within = same_window(x.shape[time], size(axes, "s"))
    far = within * whole.distant + (1 - within) * float(whole.pairs[1])
    zero, pair, other = (scalar(value, len(axes)) for value in (0.0, far, float(whole.pairs[2])))
    out = replace(with_maps(x, node, axes, [zero, _along(whole.second, x, time), pair, other]),
                  shape=(*x.shape[:-1], channels))  # fmt: skip
    return ctx.register(spread_out(out, min(x.rank, x.shape[-1]), channels))


def _back(runs: list[list[_Run]], arriving: Floats, kept: float) -> Floats:
    """Through all layers, the last one first, [T, 3]."""
    for turn, layer in enumerate(runs):
        scaled = arriving / np.array([kept, 1.0, 1.0]) if turn else arriving
        arriving = np.sum([run.back(scaled) for run in layer], 0)
    return arriving
