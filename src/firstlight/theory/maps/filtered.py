"""How each operation changes the filter that a channel is (`theory.filters`), forward and backward.

An operation without a rule here ends it: what follows begins anew.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import torch

from firstlight._typing import Floats
from firstlight.graph import Node
from firstlight.graph.vocabulary import REARRANGEMENT
from firstlight.theory.filters import Covariance, Filters, Response, drawn
from firstlight.theory.maps.registry import Context, Flow, Step, entered
from firstlight.theory.maps.windows import each
from firstlight.theory.signal import Gradient, Near, Signal

Carry: TypeAlias = Callable[[Node, Context, Step], Step]
"""From a node and its step to the step with filters, of its signal and of the gradients it hands on."""

_CARRIES: dict[str, Carry] = {}
_LITTLE = 0.1  # of a sum: what is added without being followed


def _carries(*functions: str) -> Callable[[Carry], Carry]:
    return entered(_CARRIES, functions)


def filtered(node: Node, ctx: Context, step: Step) -> Step:
    """The step with filters."""
    carry = _CARRIES.get(node.function) if node.kind == "op" and not step.opaque else None
    return step if carry is None else carry(node, ctx, step)


def of(x: Signal) -> Filters:
    """The filters of a signal; of one without, itself."""
    return Filters.identity(x.name) if x.filters is None else x.filters


def sizes_differ(x: Signal) -> bool:
    """Whether filters say more of the sizes of channels than `Signal.taps`, those of one layer of weights."""
    return x.filters is not None and x.filters.drawn > (0 if x.taps is None else 1)


def sizes(x: Signal, ctx: Context) -> Floats:
    """``σ²`` of each filter over all sites and samples, up to one factor, [K]."""
    found = of(x)
    return _covariance(found, x, ctx).sizes(found)


def skews(x: Signal, ctx: Context) -> Floats:
    """Third cumulant of each filter over its variance to 3/2, [K]."""
    found = of(x)
    third, variance = _covariance(found, x, ctx).cumulants(found, ctx.signals[found.base].skew)
    return third / np.maximum(variance, 1e-12 * variance.max()) ** 1.5


def over_channels(squares: Floats) -> tuple[float, float]:
    """``E 1/σ² · E σ²``, and the variance of 1/σ² over its mean squared, where channels differ in ``σ²`` [K]."""
    inverse = 1 / squares
    mean = float(inverse.mean())
    return mean * float(squares.mean()), float(inverse.var()) / mean**2


def apart(x: Signal, ctx: Context) -> float:
    """By how much distant sites share less once a norm has divided every channel by its size.

    ``(Σ f)²/σ²`` on average, over the average ``(Σ f)²`` over the average ``σ²``.
    """
    found = of(x)
    covariance = _covariance(found, x, ctx)
    squares, shared = covariance.sizes(found), covariance.shared(found)
    return float(np.mean(shared / squares) * np.mean(squares) / np.mean(shared))


def closeness(x: Signal, ctx: Context) -> Near | None:
    """`Signal.near` once a norm has divided every channel by its size."""
    found = of(x)
    covariance = _covariance(found, x, ctx)
    near = None if x.near is None else covariance.closeness(found, covariance.sizes(found))
    return x.near if near is None else near


def _covariance(filters: Filters, x: Signal, ctx: Context) -> Covariance:
    return Covariance.of(ctx.signals[filters.base], x.shape[2:], ctx.batch)


def _carried(step: Step, filters: Filters | None) -> Step:
    return replace(step, signal=replace(step.signal, filters=filters))


def _known(filters: Filters | None) -> Filters | None:
    return filters if filters is not None and filters.drawn else None


def _back(flow: Gradient, response: Response, before: float) -> Gradient:
    """`flow`, what the operation's own rule makes of a gradient, with what comes through filters as they have it.

    Args:
        flow: by the operand.
        response: at the operand.
        before: what `flow` has of that part, E g².
    """
    second, far = float(flow.second.mean()), float(flow.far.mean())
    changed = max(1 + (response.second - before) / max(second, 1e-300), 0.0)
    rest = max(1 - before / max(second, 1e-300), 0.0)
    maps = flow.second * changed, torch.full_like(flow.far, far * rest + response.far)
    return replace(flow, second=maps[0], far=maps[1], response=response, tied=1.0, other=flow.other * changed)


def _handed_on(
    g: Gradient,
    flow: Gradient,
    sizes: "float | Floats" = 1.0,
    *,
    sites: Sequence[int] | None = None,
    alike: float | None = None,
) -> Gradient:
    """The same filters, each multiplied by a number whose mean square is one, after a rule that scales evenly.

    Args:
        g: the gradient by the result.
        flow: by the operand.
        sizes: those numbers.
        sites, alike: of `Response`, where they change.
    """
    known = g.response
    if known is None:
        return flow
    factor = float(flow.second.mean()) / max(float(g.second.mean()), 1e-300)
    response = Response(
        known.filters.scaled(sizes),
        known.unit * factor,
        known.alike if alike is None else alike,
        known.sites if sites is None else _sites(sites),
    )
    return _back(flow, response, known.second * factor)


def _sites(sites: Sequence[int]) -> tuple[int, ...]:
    return tuple(sites) or (1, 1)


@_carries("conv2d")
def _depthwise(node: Node, ctx: Context, step: Step) -> Step:
    x, weight = ctx.of(node, "input"), ctx.of(node, "weight")
    if x is None or weight is None or len(x.shape) != 4 or set(each(node.arguments["stride"], 2)) != {1}:
        return step
    if not weight.shape[0] == x.shape[1] == int(node.arguments["groups"]):
        return step
    mean, second = float(weight.mean.mean()), float(weight.second.mean())
    weights = drawn(weight.name, weight.shape[2:], each(node.arguments["dilation"], 2), mean, second)

    def pull(g: Gradient) -> list[Flow]:
        flows = list(step.pull(g))
        back = None if g.response is None else g.response.filters.then(weights)
        if g.response is None or back is None:
            return flows
        response = replace(g.response, filters=back)
        share = g.response.second / max(float(g.second.mean()), 1e-300)
        return [
            (name, _back(flow, response, share * float(flow.second.mean())) if name == x.name else flow, on)
            for name, flow, on in flows
        ]

    return replace(_carried(step, of(x).then(weights, drawn=1)), pull=pull)


@_carries("batch_norm")
def _normalized(node: Node, ctx: Context, step: Step) -> Step:
    x = ctx.of(node, "input")
    if x is None or not (ctx.training and node.arguments.get("training", True)):
        return step
    gamma = ctx.of(node, "weight")
    scale = 1.0 if gamma is None else float(gamma.second.mean()) ** 0.5
    roots = 1 / np.sqrt(sizes(x, ctx) + float(node.arguments["eps"]))
    relative = roots / np.sqrt(np.mean(roots**2))

    def begun(flow: Gradient) -> Gradient:
        second = float(flow.second.mean())
        alike = min(max(float(flow.far.mean()) / max(second, 1e-300), 0.0), 1.0)
        filters = Filters.identity(node.name).scaled(relative)
        return replace(flow, tied=1.0, response=Response(filters, second, alike, _sites(x.shape[2:])))

    def pull(g: Gradient) -> list[Flow]:
        flows = list(step.pull(g))
        if g.response is not None:
            return [(name, _handed_on(g, flow, relative, sites=x.shape[2:]), on) for name, flow, on in flows]
        return [(name, begun(flow), on) for name, flow, on in flows] if sizes_differ(x) and scale else flows

    return replace(_carried(step, of(x).scaled(roots * scale)), pull=pull)


@_carries("add", "sub")
def _sum(node: Node, ctx: Context, step: Step) -> Step:
    operands = [ctx.signals[name] for name in node.inputs]
    if len(operands) != 2 or any(x.shape != node.shape or not ctx.is_signal(x.name) for x in operands):
        return step
    a, b = operands
    alpha = float(node.arguments.get("alpha", 1)) * (1 if node.function == "add" else -1)
    scales = {b.name: alpha, a.name: 1.0}
    still = min(float(x.variance.mean()) for x in operands) == 0  # a branch that starts at zero: the other goes through
    one, two = of(a), of(b).scaled(alpha)
    followed = one.plus(two) if one.base == two.base else None
    if followed is None:  # what is much the smaller hardly changes what the other is
        parts = sorted(((float(x.variance.mean()), f) for x, f in ((a, one), (b, two))), key=lambda part: part[0])
        followed = parts[1][1] if parts[0][0] <= _LITTLE * parts[1][0] else None

    def pull(g: Gradient) -> list[Flow]:
        return [
            (name, _handed_on(g, flow, math.copysign(1, scales.get(name, 1.0))), on)
            if name in scales or still
            else (name, flow, on)
            for name, flow, on in step.pull(g)
        ]

    found = _carried(step, _known(followed))
    base = ctx.signals[one.base]
    if one.base == two.base and followed is not None and base.skew:
        skew = _covariance(followed, step.signal, ctx).skewed(followed, base.skew)
        found = replace(found, signal=replace(found.signal, skew=skew, law=None))
    return replace(found, pull=pull)


@_carries("adaptive_avg_pool2d", "mean")
def _pooled(node: Node, ctx: Context, step: Step) -> Step:
    """The mean of all sites: one number for each channel and sample."""
    x, out = ctx.first(node), step.signal
    if out.sites() != 1 or out.channels() != x.channels() or len(x.shape) != 4 or _known(x.filters) is None:
        return step
    found = of(x)
    amplitudes = np.sqrt(_covariance(found, x, ctx).pooled(found))
    followed = Filters(out.name, (amplitudes / np.sqrt(np.mean(amplitudes**2)))[:, None, None], found.drawn + 1)

    def pull(g: Gradient) -> list[Flow]:
        return [(name, _handed_on(g, flow, sites=x.shape[2:], alike=1.0), on) for name, flow, on in step.pull(g)]

    return replace(_carried(step, followed), pull=pull)


@_carries(*REARRANGEMENT, "dropout")
def _arranged(node: Node, ctx: Context, step: Step) -> Step:
    """Every channel stays what it was."""
    x = ctx.first(node)

    def pull(g: Gradient) -> list[Flow]:
        return [(name, _handed_on(g, flow), on) for name, flow, on in step.pull(g)]

    return replace(_carried(step, _known(x.filters)), pull=pull)
