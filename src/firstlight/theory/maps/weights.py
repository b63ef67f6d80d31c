"""Sums with weights: linear layers, convolutions, transposed convolutions, embeddings.

With ``y = Σ_k w_k x_k + b`` over ``d`` terms, weights independent of the input and of each other, of mean ``μ`` and
variance ``s²``: ``E y = d μ E x + E b`` and

    E y y' = s² Σ_k E x_k x'_k + μ² E (Σ x)(Σ x') + E b²,   (Σ x)(Σ x') = d E x x' + d(d-1) pairs,

for ``y'`` the same output at another site or sample; `pairs` is the product of two different inputs. With ``μ = 0``
this is the lecture's ``var(y) = d var(w) E x²`` (He et al. 2015, eq. 7: it is the second moment of the input that
counts, not its variance). Backward, the same weights the other way: ``E (∂L/∂x)² = s² fan_out E (∂L/∂y)²`` (eq. 13).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from firstlight.graph import Node
from firstlight.theory import spectrum
from firstlight.theory.anchors import centred
from firstlight.theory.axes import Axes, main_kind, size
from firstlight.theory.maps.again import again
from firstlight.theory.maps.registry import Context, Flow, Step, rule, shape_of, with_maps
from firstlight.theory.maps.windows import Window, each, leading_padding, scattered
from firstlight.theory.mixture import even, fitting
from firstlight.theory.signal import Gradient, Near, Signal
from firstlight.theory.taps import Taps, closeness, independent, of_pixels, taps


def sharing(signal: Signal, batch: int) -> float:
    """Mean squared correlation between all elements of one channel: 1 when they say the same, 1/N when independent.

    The second moment of a layer is an average over channels, of which there are few, and over sites and samples, which
    share the channel's weights; this is how little the latter help.
    """
    if signal.anchors is not None:
        shift = float((signal.mean**2).mean())
        about = signal.anchors.becoming(signal.anchors.values - shift, signal.anchors.own - shift)
        return spectrum.sharing(about, signal.sites())
    variance, far, other = signal.covariances()
    if variance <= 0:
        return 1.0
    sites = max(1, signal.sites())
    within = (1 / sites) + (1 - 1 / sites) * (far / variance) ** 2
    return float((within / batch) + (1 - 1 / batch) * (other / variance) ** 2)


def _spread(x: Signal, signal: Signal, batch: int, outputs: int) -> float:
    """Variance of the logarithm of the mean of `outputs` channels' squares, over the draw of their weights.

    Given the input, a channel is a Gaussian vector over all elements whose kernel is the input's own, averaged over the
    ``d`` products that it sums: ``K̂ = Σ x x'/d``, and the mean square of that vector varies by twice the mean of ``K̂²``
    over ``K̂(i, i)²``. That is `sharing` of the expected kernel, and ``1/d`` for its own fluctuation, with ``d``
    counted in independent products (`Taps.fan`).
    """
    shared = sharing(signal, batch) if x.anchors is None else spectrum.sharing(x.anchors, x.sites())
    return 2 * min(shared + 1 / max(signal.fan, 1.0), 1.0) / outputs


def _spread_back(g: Gradient, y: Signal, batch: int, terms: float, inputs: int) -> float:
    """The same of the gradient: of the mean of `inputs` channels' squares, each a sum of `terms` products.

    Given the gradient ``g`` by the result `y`, that of one input channel is a Gaussian vector over all elements with
    ``g``'s kernel: `_shared_back` of it, and ``1/d`` for its own fluctuation.
    """
    return 2 * min(_shared_back(g, y, batch) + 1 / max(terms, 1.0), 1.0) / inputs


def _shared_back(g: Gradient, y: Signal, batch: int) -> float:
    """Mean squared correlation between all elements of one channel of a gradient, sizes of samples included."""
    second = g.second.mean(list(range(1, g.second.dim())))
    whole = float(second.mean())
    if whole <= 0:
        return 0.0
    uneven = float((second / whole).square().mean())
    sites = max(1, y.sites())
    alike = min(abs(float(g.far.mean())) / whole, 1.0)
    within = 1 / sites + (1 - 1 / sites) * alike**2
    apart = min(abs(g.other) / whole, 1.0)
    return min(uneven * within / batch + (1 - 1 / batch) * apart**2, 1.0)


def _alike(x: Signal) -> float:
    """`sharing` of the input about its mean; of noise, whose norms count it themselves, none."""
    if x.anchors is None:
        return 0.0
    return spectrum.sharing(centred(x.anchors, x.sites()), x.sites())


def _steady(x: Signal, ctx: Context) -> bool:
    """Whether a norm has given every channel the same size."""
    return ctx.graph[x.root.name].function in ("batch_norm", "instance_norm")


def _copies(x: Signal, per_group: float) -> float:
    """Independent weights per tap: channels that resemble each other, as colours do, count as fewer."""
    if x.across is None:
        return per_group
    alike = float(x.across.mean()) / max(float(x.second.mean()), 1e-300)
    return per_group / (1 + (per_group - 1) * alike**2)


def _finish(
    node: Node, ctx: Context, x: Signal, axes: Axes, maps: list[Tensor], near: Near | None, weights: Taps
) -> Signal:
    """Add the bias, which all sites and samples share, and make the result a source of its own."""
    bias = ctx.of(node, "bias")
    if bias is not None:
        mean_b, second_b = float(bias.mean.mean()), float(bias.second.mean())
        cross = 2 * mean_b * maps[0]
        maps = [maps[0] + mean_b, *(m + second_b + cross for m in maps[1:])]
    mean, second, far, other = maps[:4]
    across = None if len(maps) == 4 else maps[4]
    return replace(with_maps(x, node, axes, [mean, second, far, other]), near=near, across=across, taps=weights)


def _weighted(
    x: Signal, weight: Signal, terms: float, collect: Callable[[Tensor, bool], Tensor], kernel: Sequence[int] = ()
) -> list[Tensor]:
    """Mean, second, far, other (and across, when the weights' mean is not zero) of a sum with random weights.

    `collect(map, pair)` sums a map over the terms, of which those of a `kernel` read one channel.
    """
    mean_w, second_w = float(weight.mean.mean()), float(weight.second.mean())
    variance_w = max(second_w - mean_w**2, 0.0)
    summed = [collect(x.second, False), collect(x.far, True), collect(x.other, True)]
    maps = [variance_w * m for m in summed]
    mean = collect(x.mean, False)
    if mean_w:
        apart = (1 - 1 / terms) * terms * collect(x.channel_pairs(), False)
        shared = [mean_w**2 * (s + apart) for s in summed]
        return [mean_w * mean, *(m + s for m, s in zip(maps, shared, strict=True)), shared[0]]
    if weight.balanced:
        maps = _without_shared(x, variance_w / max(terms - 1, 1), maps, collect, kernel, terms)
    return [mean_w * mean, *maps]


def _without_shared(
    x: Signal,
    covariance: float,
    maps: list[Tensor],
    collect: Callable[[Tensor, bool], Tensor],
    kernel: Sequence[int],
    terms: float,
) -> list[Tensor]:
    """For weights that add up to zero what all inputs share does not count.

    ``E w w' = -s²/(d-1)`` for two of the ``d`` weights takes ``s²/(d-1)`` of each product of two different inputs away.
    These differ in their site alone (a share `same` of them) or in their channel; with ``p`` for such a product, the
    sum over all inside the image is ``Σ √p Σ √p'`` less the terms that are one input. Sites of one kernel are close.
    """
    found = []
    same = (math.prod(kernel) - 1) / max(terms - 1, 1)
    near = x.far + closeness(x, kernel) * (x.second - x.far)
    for k, (m, apart) in enumerate(zip(maps, (near, x.far, x.other), strict=True)):
        across = x.mean**2 if x.across is None else x.across * (apart / x.second.clamp_min(1e-300))
        pairs = (same * apart + (1 - same) * across).clamp_min(0)
        here = collect(pairs.sqrt(), False)
        there = here if k == 0 else here.mean()
        found.append(m - covariance * (here * there - collect(pairs, k > 0)))
    return [found[0].clamp_min(0), *found[1:]]


def _free(weight: Signal, terms: float) -> float:
    """As many normal weights as make a sum of squares vary as these `terms` do: ``var Σ w² ~ (κ - 1)/terms``."""
    return terms * 2 / max(weight.kurtosis - 1, 1e-6)


def spread_out(signal: Signal, read: float, out: int) -> Signal:
    """With its rank and that of what was read: one over the rank of ``W S Wᵀ`` is one over those of ``S`` and ``W``."""
    return replace(signal, read=read, rank=1 / (1 / max(read, 1.0) + 1 / out))


def returned(g: Gradient, weights: Taps) -> Gradient:
    """Without what the size of the weights has added to it (`Gradient.tied`), as far as they take it back."""
    if g.tied == 1:
        return g
    alike = min(max(float(g.far.mean()) / max(float(g.second.mean()), 1e-300), 0.0), 1.0)
    back = g.before_weights()
    return replace(back.scaled(weights.returned(alike)), along=back.along)


def _echo(along: Tensor, x: Signal, y: Signal, gain: Tensor) -> Tensor:
    """What a depthwise convolution gives back of its own input.

    A gradient ``g(y)`` that depends on ``y = Σ w_k x_k`` grows by ``g' w_k x`` where a tap reads ``x``, and comes back
    through the same tap: ``Σ_k w_k g_k`` has the part ``x Σ w² E g'``, over the taps that read it (`gain`: one of them
    in each stride). Over many output channels such parts cancel; over one they do not. Stein: ``E g' = E g ŷ/σ``, which
    `along` holds for two sites, as different taps are.
    """
    terms = max(y.fan, 1.0)
    return (
        along.mean()
        * gain**2
        * (1 - 1 / terms)
        / y.variance.mean().clamp_min(1e-300)
        * x.second.mean().reshape((1,) * len(x.shape))
    )


def _pulled(weight: Signal) -> float:
    return max(float(weight.second.mean()), 0.0)


@rule("linear")
def linear(node: Node, ctx: Context) -> Step | None:
    """``y = x Wᵀ + b`` over the last dimension; mixing sites (MLP-Mixer) makes sites of what were channels."""
    x, weight = ctx.of(node, "input"), ctx.of(node, "weight")
    if x is None or weight is None or not x.shape:
        return None
    return weighted_sum(node, ctx, x, weight, out=shape_of(node)[-1])


def weighted_sum(node: Node, ctx: Context, x: Signal, weight: Signal, out: int) -> Step:
    """A matrix product with a weight over the last dimension of `x`, giving `out` outputs per row."""
    fan_in, last = x.shape[-1], len(x.shape) - 1

    def collect(values: Tensor, pair: bool) -> Tensor:
        return values.mean(last, keepdim=True) * fan_in

    maps = _weighted(x, weight, fan_in, collect)
    axes, near = (*x.axes[:-1], (("c", out),)), x.near
    if main_kind(x.axes[-1]) == "s" and size(x.axes, "s", [last]) > 1:
        axes = (*(tuple(("s" if k == "c" else k, n) for k, n in a) for a in x.axes[:-1]), (("c", out),))
        # Two of those share the sites that are summed and have channels of their own: so have two samples, but for one
        # pair in as many as there are channels.
        level, near = maps[0] ** 2 + _pulled(weight) * collect(x.mean**2, False), None
        apart = _pulled(weight) * collect(x.other - x.mean**2, False) / max(size(x.axes[:-1], "c"), 1)
        maps[2:4] = level, level + apart
    signal = _finish(node, ctx, x, axes, maps, near, independent(_free(weight, fan_in)))
    if x.profile is not None and x.profile.shape[last] == 1:
        signal = replace(signal, profile=fitting(x.profile, signal.shape))
    signal = ctx.register(spread_out(signal, min(x.rank, fan_in), out))
    second_w = _pulled(weight)
    # Sites that were merged into the last dimension (patches) meet weights of their own: only equals pair.
    merged = max(1, size(x.axes, "s", [last]))

    def pull(g: Gradient) -> list[Flow]:
        factor = second_w * out
        g = g.before_weights()
        second, far = (m.mean(last, keepdim=True) * factor for m in (g.second, g.far))
        more = _spread_back(g, signal, ctx.batch, out, fan_in)
        return [(x.name, replace(g.moved(second, far / merged), spread=g.spread + more), True)]

    return Step(signal, pull, local=_spread(x, signal, ctx.batch, out))


@rule("conv1d", "conv2d", "conv3d")
def convolution(node: Node, ctx: Context) -> Step | None:
    """Convolution: `windows` for the taps, groups as segments of channels."""
    x, weight = ctx.of(node, "input"), ctx.of(node, "weight")
    if x is None or weight is None or len(x.shape) != len(weight.shape):
        return None
    _, per_group, *kernel = weight.shape
    dims = len(kernel)
    dilation = each(node.arguments["dilation"], dims)
    before = leading_padding(node.arguments["padding"], kernel, dilation)
    stride = each(node.arguments["stride"], dims)
    window = Window(x.shape[2:], shape_of(node)[2:], kernel, stride, before, dilation)
    groups, terms = int(node.arguments["groups"]), per_group * math.prod(kernel)

    def collect(values: Tensor, pair: bool) -> Tensor:
        grouped = _by_group(values, groups, shape_of(node)[1]) * per_group
        return window.pair_sum(grouped) if pair else window.sum(grouped)

    maps, near = _weighted(x, weight, terms, collect, kernel), _strided(x.near, stride)
    profile = None if x.profile is None else even(window.sum(x.profile) / window.sum(torch.ones_like(x.profile)))
    # A small image has most taps of a large kernel outside.
    inside = float(window.sum(torch.ones((1,) * len(x.shape), dtype=torch.float64)).mean()) / math.prod(kernel)
    pixels = None if x.anchors is None or groups > 1 else x.anchors.pixels
    if pixels is not None and not pixels.sites:
        seen = pixels.through(kernel, stride, before, dilation, shape_of(node)[2:])
        free = of_pixels(x, seen.spectrum(), kernel, dilation, stride, _free(weight, 1.0))
    else:
        free = taps(x, kernel, dilation, stride, _free(weight, _copies(x, per_group) * inside), _alike(x),
                    steady=per_group == 1 and _steady(x, ctx))  # fmt: skip
        free = replace(free, drawn=free.square / per_group if per_group > 1 else 0.0)
    signal = _convolved(node, ctx, x, maps, near, free, profile)
    if per_group == 1 and signal.shape == x.shape:
        signal = again(ctx, x, weight, signal, math.prod(kernel))
    every = x.directions() / x.channels() * terms * groups / free.unevenness  # each group reads channels of its own
    signal = spread_out(signal, every, shape_of(node)[1])
    factor = _pulled(weight) * shape_of(node)[1] / groups

    def pull(g: Gradient) -> list[Flow]:
        back = returned(g, free)
        second, far = (_by_group(m, groups, x.shape[1]) * factor for m in (back.second, back.far))
        found = back.moved(window.scatter(second), window.pair_scatter(far))
        more = _spread_back(back, signal, ctx.batch, terms / per_group * shape_of(node)[1] / groups, x.shape[1])
        found = replace(found, profile=scattered(back.profile, window), spread=g.spread + more)
        if per_group == 1 and back.along is not None:
            reads = window.scatter(torch.ones((1,) * len(x.shape), dtype=torch.float64))
            echo = _echo(back.along, x, signal, reads * _pulled(weight)) * shape_of(node)[1] / groups
            found = replace(found, second=found.second + echo, echo=echo)
        return [(x.name, found, True)]

    return Step(signal, pull, local=_spread(x, signal, ctx.batch, shape_of(node)[1]))


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed(node: Node, ctx: Context) -> Step | None:
    """Transposed convolution: the window's transpose. With kernel 3 and stride 2 outputs have 1, 2, 2 or 4 taps."""
    x, weight = ctx.of(node, "input"), ctx.of(node, "weight")
    if x is None or weight is None or len(x.shape) != len(weight.shape):
        return None
    inputs, per_group, *kernel = weight.shape
    dims, groups = len(kernel), int(node.arguments["groups"])
    window = Window(
        shape_of(node)[2:], x.shape[2:], kernel, each(node.arguments["stride"], dims),
        each(node.arguments["padding"], dims), each(node.arguments["dilation"], dims),
    )  # fmt: skip

    def collect(values: Tensor, pair: bool) -> Tensor:
        grouped = _by_group(values, groups, shape_of(node)[1]) * (inputs / groups)
        return window.pair_scatter(grouped) if pair else window.scatter(grouped)

    reached = inputs / groups * math.prod(kernel) / math.prod(window.stride)
    near = None if math.prod(window.stride) > 1 else x.near
    profile = None
    if x.profile is not None:
        profile = even(window.scatter(x.profile) / window.scatter(torch.ones_like(x.profile)).clamp_min(1e-9))
    signal = _convolved(
        node, ctx, x, _weighted(x, weight, reached, collect), near, independent(_free(weight, reached)), profile
    )
    factor = _pulled(weight) * per_group

    def pull(g: Gradient) -> list[Flow]:
        g = g.before_weights()
        second, far = (_by_group(m, groups, x.shape[1]) * factor for m in (g.second, g.far))
        back = g.moved(window.sum(second), window.pair_sum(far))
        if g.profile is not None:
            back = replace(
                back, profile=even(window.sum(g.profile) / window.sum(torch.ones_like(g.profile)).clamp_min(1e-9))
            )
        more = _spread_back(g, signal, ctx.batch, per_group * math.prod(kernel), inputs)
        return [(x.name, replace(back, spread=g.spread + more), True)]

    return Step(signal, pull, local=_spread(x, signal, ctx.batch, shape_of(node)[1]))


def _convolved(
    node: Node, ctx: Context, x: Signal, maps: list[Tensor], near: Near | None, weights: Taps, profile: Tensor | None
) -> Signal:
    shape = shape_of(node)
    axes = (x.axes[0], (("c", shape[1]),), *((("s", n),) for n in shape[2:]))
    signal = replace(_finish(node, ctx, x, axes, maps, near, weights), profile=fitting(profile, shape))
    return ctx.register(signal)


def _by_group(values: Tensor, groups: int, out: int) -> Tensor:
    """Average a map over the channels (dimension 1) of each group; each of the `out` results gets its group's."""
    if values.shape[1] == 1:
        return values
    if groups == 1:
        return values.mean(1, keepdim=True)
    averaged = values if groups == values.shape[1] else values.unflatten(1, (groups, -1)).mean(2)
    if groups == out:
        return averaged
    return averaged.repeat_interleave(out // groups, 1)


def _strided(near: Near | None, stride: tuple[int, ...]) -> Near | None:
    """Independent taps pair only with themselves, so K at lag ``l`` is K of the input at lag ``stride · l``."""
    if near is None or near.ndim != len(stride):
        return None
    kept = near[tuple(slice(None, None, s) for s in stride)]
    return kept if kept.size > 1 and np.delete(kept.ravel(), 0).any() else None


@rule("embedding")
def embedding(node: Node, ctx: Context) -> Step | None:
    """Selects rows: elements of the table as they are; other sites and samples mostly select other rows."""
    table = ctx.of(node, "weight")
    if table is None:
        return None
    shape = shape_of(node)
    rank = len(shape)
    mean, second = (torch.full((1,) * rank, float(m.mean()), dtype=torch.float64) for m in (table.mean, table.second))
    kinds = ["b" if k == 0 and n == ctx.batch else "s" for k, n in enumerate(shape[:-1])]
    axes = tuple(((kind, n),) for kind, n in zip([*kinds, "c"], shape, strict=True))
    signal = Signal(node.name, shape, axes, mean, second, mean**2, mean**2, terms={node.name: 1.0})
    return Step(ctx.register(signal), lambda g: [], local=2 / shape[-1])
