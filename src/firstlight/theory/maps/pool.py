"""Averages, maxima and resampling over sites: rules that need the correlation between them.

The average of ``n`` elements has the second moment of an average pair, ``q/n + (1-1/n) K``; taking pixels as
independent would give ``q/n``. A maximum over ``n`` equally correlated Gaussians ``z_i = √r u + √(1-r) v_i`` is
``√r u + √(1-r) max v``, and the largest of ``n`` standard normals has density ``n φ Φ^(n-1)``; a maximum after a
function that rises is that function of the maximum.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.special import ndtr
from torch import Tensor

from firstlight._typing import Floats
from firstlight.graph import Node
from firstlight.theory.axes import lag_weights, resized, size
from firstlight.theory.elementwise import IDENTITY
from firstlight.theory.gaussian import grid
from firstlight.theory.maps.pointwise import slope_of
from firstlight.theory.maps.registry import Context, Flow, Step, dims_of, linear_terms, rule, shape_of, with_maps
from firstlight.theory.maps.weights import sharing
from firstlight.theory.maps.windows import Window, each, scattered
from firstlight.theory.mixture import even, fitting
from firstlight.theory.signal import Gradient, Near, Signal, scalar
from firstlight.theory.taps import averaged, closeness, to_middle


def _normal() -> tuple[Floats, Floats]:
    g, w = grid(np.zeros(1), np.ones(1), (-6.0, -2.0, 2.0, 4.0, 5.0, 6.0))
    return g[0], w[0]


def window_of(node: Node, x: Signal, shape: Sequence[int] = (), edges: Sequence[int] = ()) -> Window:
    """The window of `x` that gives this shape, its own by default, with `edges` before and after it from the end on."""
    dims = int(node.function[-2]) if node.function[-1] == "d" else int(node.function.partition("d_")[0][-1])
    kernel = each(node.arguments["kernel_size"], dims)
    stride = node.arguments.get("stride") or kernel
    before = each(node.arguments.get("padding", 0), dims)
    dilation = each(node.arguments.get("dilation", 1), dims)
    before = tuple(b + e for b, e in zip(before, (*edges[::2], *(0,) * dims)[dims - 1 :: -1], strict=False))
    return Window(
        x.shape[-dims:], (shape or pooled_shape(node, x))[-dims:], kernel, each(stride, dims), before, dilation
    )


def pooled_shape(node: Node, x: Signal) -> tuple[int, ...]:
    """Shape of the values, also where the operation returns indices beside them."""
    if node.shape is not None:
        return node.shape
    dims = int(node.function.partition("d_")[0][-1])
    kernel = each(node.arguments["kernel_size"], dims)
    stride = each(node.arguments.get("stride") or kernel, dims)
    before, dilation = each(node.arguments.get("padding", 0), dims), each(node.arguments.get("dilation", 1), dims)
    up = bool(node.arguments.get("ceil_mode", False))
    out = []
    for n, k, s, p, d in zip(x.shape[-dims:], kernel, stride, before, dilation, strict=True):
        places = (n + 2 * p - d * (k - 1) - 1) / s
        out.append(int(math.ceil(places) if up else math.floor(places)) + 1)
    return (*x.shape[:-dims], *out)


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d")
def average(node: Node, ctx: Context) -> Step:
    """Average over a window, zeros of the padding included unless the network leaves them out."""
    x = ctx.first(node)
    window = window_of(node, x)
    n = math.prod(window.kernel)
    counts = window.sum(torch.ones((1,) * len(x.shape), dtype=torch.float64))
    counted = counts if not node.arguments.get("count_include_pad", True) else torch.full_like(counts, n)
    r = closeness(x, window.kernel)
    pair = x.far + r * (x.second - x.far)
    second = ((window.sum(x.second) + (counts - 1) * window.sum(pair)) / counted**2).clamp_min(0)
    mean = window.sum(x.mean) / counted
    far, other = (window.sum(m) * counts / counted**2 for m in (x.far, x.other))
    axes = resized(x.axes, shape_of(node))
    near = _overlap(window) if x.near is None else averaged(x.near, window.kernel, window.stride)
    out = replace(with_maps(x, node, axes, [mean, second, far, other]), near=near, profile=_windowed(x, window, node))
    if out.shape == x.shape:
        variance, apart, _ = x.covariances()
        own = float((1 / counted).mean())  # the element's own part of the window around it, more at a border
        middle = to_middle(x, window.kernel)
        alpha = own + (1 - own) * (apart / variance + middle * (1 - apart / variance) if variance > 0 else 0.0)
        shared = linear_terms(x.terms, np.array([alpha, 1.0, 1.0]))
        out = replace(out, terms={**shared, node.name: 1.0})

    def pull(g: Gradient) -> list[Flow]:
        reads = window.scatter(1 / counted**2 * g.second)
        several = window.scatter(torch.ones_like(g.second))
        second = reads + (several - 1).clamp_min(0) * window.scatter(g.far / counted**2)
        back = g.moved(second, _flat(g.far, window, counted))
        return [(x.name, replace(back, profile=scattered(g.profile, window)), True)]

    return Step(ctx.register(_varying(x, out, ctx.batch)), pull)


def _varying(x: Signal, out: Signal, batch: int) -> Signal:
    """An average with the spread that it adds: it keeps what the elements of a channel share, which weights draw once.

    Of the mean of ``C`` channels' squares that is ``2/C`` times their mean squared correlation (`weights.sharing`).
    """
    if x.anchors is not None or not x.fresh:
        return out
    more = 2 * max(sharing(out, batch) - sharing(x, batch), 0.0) / max(x.channels(), 1)
    return replace(out, spread=x.spread + more, fresh=x.fresh + more)


def _windowed(x: Signal, window: Window, node: Node) -> Tensor | None:
    """The profile averaged over each window."""
    if x.profile is None:
        return None
    mean = window.sum(x.profile) / window.sum(torch.ones_like(x.profile)).clamp_min(1)
    return fitting(even(mean), pooled_shape(node, x))


def _flat(far: Tensor, window: Window, counted: Tensor) -> Tensor:
    """What two inputs have in common, averaged over the second: both collect from all windows that read them."""
    reads = window.scatter(far.sqrt().nan_to_num() / counted)
    return reads * reads.mean(list(range(-len(window.kernel), 0)), keepdim=True)


def _overlap(window: Window) -> Near | None:
    """Closeness of two windows: the share of their taps that they have in common."""
    near = np.ones(())
    for k, s in zip(window.kernel, window.stride, strict=True):
        near = np.multiply.outer(near, np.array([(k - lag) / k for lag in range(0, k, s)]))
    return near if near.size > 1 else None


@rule("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")
def adaptive(node: Node, ctx: Context) -> Step:
    """Average over equal parts; over the whole image it is the global average."""
    x = ctx.first(node)
    shape = shape_of(node)
    dims = tuple(d for d in range(len(shape)) if shape[d] != x.shape[d])
    step = over(node, ctx, x, dims, tuple(max(1, x.shape[d] // shape[d]) for d in dims), shape)
    copies = math.prod(max(1.0, shape[d] / x.shape[d]) for d in dims)
    if copies == 1:
        return step

    def pull(g: Gradient) -> list[Flow]:
        """More parts than elements: each element is in several, whose gradients agree by `far`."""
        grown = g.moved(copies * (g.second + (copies - 1) * g.far), copies**2 * g.far)
        return list(step.pull(grown))

    return replace(step, pull=pull)


@rule("mean", "sum")
def reduce(node: Node, ctx: Context) -> Step:
    """Mean or sum over whole dimensions."""
    x = ctx.first(node)
    dims = tuple(sorted(dims_of(node, len(x.shape))))
    return over(node, ctx, x, dims, tuple(x.shape[d] for d in dims), shape_of(node), total=node.function == "sum")


def over(
    node: Node, ctx: Context, x: Signal, dims: tuple[int, ...], parts: tuple[int, ...], shape: tuple[int, ...],
    *, total: bool = False,
) -> Step:  # fmt: skip
    """Mean over blocks of `parts` elements along `dims`: the product of an average pair."""
    blocks = tuple(tuple((k, min(n, p)) for k, n in x.axes[d]) for d, p in zip(dims, parts, strict=True))
    sites, channels, samples = (size(blocks, kind) for kind in "scb")
    n = math.prod(parts)
    r = closeness(x, parts) if len(parts) > 1 else 0.0
    pair = x.far + r * (x.second - x.far)
    within = x.second / max(sites, 1) + (1 - 1 / max(sites, 1)) * pair
    known = x.far.shape[0] > 1  # of each sample, whose sites cancel no further than if they were independent
    if known:
        within = torch.maximum(within, x.second / max(sites, 1))
    batch = within / max(samples, 1) + (1 - 1 / max(samples, 1)) * x.other
    apart = (1 - 1 / max(channels, 1)) * x.mean**2
    maps = [
        x.mean,
        (batch / max(channels, 1) + apart).clamp_min(0),
        x.far / max(channels, 1) + apart,
        x.other / max(channels, 1) + apart,
    ]
    kept = shape if len(shape) == len(x.shape) else tuple(1 if d in dims else m for d, m in enumerate(x.shape))
    scale = float(n) if total else 1.0
    maps = [_blocks(m, dims, kept) * (scale if k == 0 else scale**2) for k, m in enumerate(maps)]
    axes = resized(x.axes, kept)
    dropped = len(shape) != len(x.shape)
    if dropped:
        maps = [m.squeeze(dims) for m in maps]
        axes = tuple(axis for d, axis in enumerate(axes) if d not in dims)
    profile = None if x.profile is None or (known and sites > 1) else even(_blocks(x.profile.sqrt(), dims, kept) ** 2)
    if profile is not None and dropped:
        profile = profile.squeeze(dims)
    out = replace(with_maps(x, node, axes, maps), near=None, profile=fitting(profile, shape))

    def pull(g: Gradient) -> list[Flow]:
        second, far, uneven = g.second, g.far, g.profile
        if dropped:
            for d in dims:
                second, far = second.unsqueeze(d), far.unsqueeze(d)
                uneven = None if uneven is None else uneven.unsqueeze(d)
        second, far = (_spread_out(m, dims, x.shape) * scale**2 / n**2 for m in (second, far))
        whole = all(p == x.shape[d] for d, p in zip(dims, parts, strict=True))
        back = g.moved(second, second if whole and sites > 1 else far)
        return [(x.name, replace(back, profile=None if uneven is None else _spread_out(uneven, dims, x.shape)), True)]

    return Step(ctx.register(_varying(x, out, ctx.batch)), pull)


def _blocks(values: Tensor, dims: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    for d in dims:
        if values.shape[d] > 1:
            n = values.shape[d] // shape[d] * shape[d]
            values = values.narrow(d, 0, n).unflatten(d, (shape[d], -1)).mean(d + 1)
    return values


def _spread_out(values: Tensor, dims: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    for d in dims:
        if values.shape[d] > 1:
            index = torch.arange(shape[d]) * values.shape[d] // shape[d]
            values = values.index_select(d, index)
    return values


@rule(
    "max_pool1d", "max_pool2d", "max_pool3d", "max_pool1d_with_indices", "max_pool2d_with_indices",
    "max_pool3d_with_indices", "adaptive_max_pool1d", "adaptive_max_pool2d", "amax",
)  # fmt: skip
def maximum(node: Node, ctx: Context) -> Step | None:
    """The largest of a window; the padding never wins."""
    x = ctx.first(node)
    if node.function.startswith("max_pool"):
        shape = pooled_shape(node, x)
        x, edges = _without_padding(ctx, x)
        taps = window_of(node, x, shape, edges)
        n, r = math.prod(taps.kernel), closeness(x, taps.kernel)
        overlap, window = _overlap(taps), taps
    else:
        window, shape, overlap, r = None, shape_of(node), None, 0.0
        n = max(1, math.prod(x.shape) // max(1, math.prod(shape)))
    if n == 1:
        return None
    inside = Counter(window.sum(scalar(1.0, len(x.shape))).flatten().tolist()) if window else Counter({n: 1})
    parts = _parts(x, ctx)
    found = [largest_of(node, part.signal, inside, r) for part in parts]
    out, chi = found[0]
    if parts[0].signal is not x:
        out = with_maps(out, node, x.axes, _weighed(parts, [signal for signal, _ in found]))
    towards = float((out.mean.mean() - x.mean.mean()) / x.variance.mean().sqrt().clamp_min(1e-150))
    gone = dims_of(node, len(x.shape)) if len(shape) < len(x.shape) else ()
    axes = resized(tuple(axis for d, axis in enumerate(x.axes) if d not in gone), shape)
    maps = [m.reshape((1,) * len(shape)) for m in out.maps()]
    near = overlap if x.near is None or window is None else averaged(x.near, window.kernel, window.stride)
    profile = _windowed(x, window, node) if window else None
    out = replace(with_maps(out, node, axes, maps), near=near, shape=shape, profile=profile)
    outputs, inputs = math.prod(shape), math.prod(x.shape)

    def pull(g: Gradient) -> list[Flow]:
        """Only winners get a gradient, so a function before the pooling meets it with its slope there."""
        second = (g.second.mean() + _same_winner(window, shape) * g.far.mean()) * outputs / inputs
        far = g.far.mean() * (outputs / inputs) ** 2
        rank = (1,) * len(x.shape)
        uneven = scattered(g.profile, window) if window else None
        back = replace(g.moved(second.reshape(rank), far.reshape(rank)), profile=uneven)
        if x.root is x:
            return [(x.name, replace(back, lean=towards), True)]
        return [(x.root.name, back.scaled(chi), True), (x.name, back, False)]

    return Step(ctx.register(out), pull)


def _without_padding(ctx: Context, x: Signal) -> tuple[Signal, Sequence[int]]:
    """What was padded with minus infinity, which never wins, and by how much from the last dimension on."""
    pad = ctx.graph[x.name]
    endless = pad.function in ("pad", "constant_pad_nd") and pad.arguments.get("value") == -math.inf
    return (ctx.first(pad), pad.arguments["pad"]) if endless else (x, ())


@dataclass(frozen=True, slots=True)
class _Part:
    """A share of a signal's channels that is `signal` times a positive gate with these moments."""

    signal: Signal
    share: float = 1.0
    gate: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)


def _parts(x: Signal, ctx: Context) -> list[_Part]:
    """What a signal that is no function of one Gaussian is made of, as far as its largest values follow from that.

    Channels that were put side by side are pooled each for itself; what a gate has multiplied at all sites alike is
    largest where it was before.
    """
    node = ctx.graph[x.name]
    operands = [ctx.signals[name] for name in node.inputs]
    if x.root is not x or len(x.shape) != 4:
        return [_Part(x)]
    if node.function in ("cat", "concat") and all(z.shape[2:] == x.shape[2:] for z in operands):
        found = [(z.shape[1] / x.shape[1], part) for z in operands for part in _parts(z, ctx)]
        return [replace(part, share=share * part.share) for share, part in found]
    if node.function in ("mul", "multiply") and len(operands) == 2:
        gate, signal = sorted(operands, key=lambda z: math.prod(z.shape[2:]))
        whole = signal.shape == x.shape and gate.sites() == 1
        if whole and float(gate.mean.mean()) ** 2 > 0.5 * float(gate.second.mean()):
            return [_Part(signal, gate=gate.scalars())]
    return [_Part(x)]


def _weighed(parts: list[_Part], found: list[Signal]) -> list[Tensor]:
    """Mean, second, far and other of all parts together."""
    each = [
        [p.share * g * m.mean() for g, m in zip(p.gate, z.maps(), strict=True)]
        for p, z in zip(parts, found, strict=True)
    ]
    return [torch.stack(values).sum().reshape((1,) * len(parts[0].signal.shape)) for values in zip(*each, strict=True)]


def _same_winner(window: Window | None, shape: tuple[int, ...]) -> float:
    """How many other windows have the winner of one, on average: of two that share ``s`` of their taps, ``s/(2-s)``."""
    overlap = None if window is None else _overlap(window)
    if overlap is None:
        return 0.0
    sizes = shape[-overlap.ndim :]
    part = overlap[tuple(slice(0, n) for n in sizes)]
    pairs = lag_weights(sizes, part.shape) * math.prod(sizes)
    return float((pairs * part / (2 - part)).sum() - pairs.flat[0])


def largest_of(node: Node, x: Signal, counts: Mapping[float, int], r: float) -> tuple[Signal, float]:
    """Moments of the largest of several elements of `x` at different sites, and the mean squared slope there.

    The function before the pooling is taken of the largest Gaussian: exact where it rises, as ReLU does.

    Args:
        node: the pooling.
        x: what it reads.
        counts: how many windows hold this many elements; those at the border hold fewer.
        r: closeness of the elements of a window, beyond `far`.
    """
    base, rank = x.root, len(x.shape)
    mean, second, far, other = base.scalars()
    variance = max(second - mean**2, 0.0)
    shared, apart = ((k - mean**2) / variance if variance > 0 else 1.0 for k in (far, other))
    correlation = float(np.clip(shared + r * (1 - shared), 0.0, 1.0))
    correlation = correlation if base.law is None else float(base.law.behind(np.array(correlation)))
    f = x.function or IDENTITY
    g, w = _normal()
    u, wu = (g, w) if correlation > 1e-6 else (np.zeros(1), np.ones(1))
    standard = math.sqrt(correlation) * u[:, None] + math.sqrt(1 - correlation) * g[None]
    places = torch.from_numpy(mean + math.sqrt(variance) * (standard if base.law is None else base.law.at(standard)))
    values, slopes = f.call(places).numpy(), slope_of(f, None).call(places).numpy()
    first = square = chi = 0.0
    for n, count in counts.items():
        weights = wu[:, None] * (n * ndtr(g) ** (n - 1) * w)[None] * count / sum(counts.values())
        first += float((values * weights).sum())
        square += float((values**2 * weights).sum())
        chi += float((slopes**2 * weights).sum())
    # Places of uneven size have a smaller mean beside their mean square; exact where the function scales, as ReLU does.
    first *= 1.0 if x.profile is None else float(x.profile.sqrt().mean())
    spread = max(square - first**2, 0.0)
    pairs = (first**2 + spread * float(np.clip(c, 0, 1)) for c in (shared, apart))
    maps = [scalar(v, rank) for v in (first, square, *pairs)]
    return with_maps(x, node, x.axes, maps), chi
