"""Operations that arrange, select, repeat or join: they are carried out on the maps of moments themselves.

A map has the tensor's own shape, so a view, a slice, a shift of windows or a concatenation acts on it as on the tensor,
and segments of channels or rows of tokens stay where the network puts them. The backward pass is the adjoint of the
same call, taken by automatic differentiation.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from firstlight.graph import Node
from firstlight.graph.vocabulary import REARRANGEMENT, SPLIT
from firstlight.theory import law
from firstlight.theory.axes import Axes, guess, main_kind, permute, reshape, resized
from firstlight.theory.elementwise import IDENTITY
from firstlight.theory.maps.arithmetic import mixed
from firstlight.theory.maps.broadcast import aligned, reduced
from firstlight.theory.maps.moving import PERMUTING, RESHAPING, adjoint, carried_out, mapped, order
from firstlight.theory.maps.pointwise import apply
from firstlight.theory.maps.registry import Context, Flow, Step, rule, shape_of, with_maps
from firstlight.theory.mixture import even, fitting, summed
from firstlight.theory.runs import joined
from firstlight.theory.signal import Coefficient, Gradient, Signal, compress
from firstlight.theory.taps import closeness

_NEARLY_ALL = 0.9


def _axes(node: Node, x: Signal, batch: int) -> Axes:
    shape = shape_of(node)
    if node.function in PERMUTING:
        return permute(x.axes, order(node, len(x.shape)))
    if node.function in RESHAPING:
        return reshape(x.axes, shape)
    if node.function == "im2col" and len(x.axes) == 4:  # windows side by side, their channels and taps along one axis
        taps = shape[1] // x.shape[1]
        return (x.axes[0], (*x.axes[1], ("s", taps)), (("s", shape[2]),))
    if node.function in ("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "unfold", "im2col") or len(
        shape
    ) != len(x.shape):
        if node.function == "select":
            dim = int(node.arguments["dim"]) % len(x.shape)
            return tuple(axis for d, axis in enumerate(x.axes) if d != dim)
        return guess(shape, batch)
    return resized(x.axes, shape)


@rule(
    *(REARRANGEMENT - {"contiguous", "detach", "clone", "alias"}), "slice", "select", "narrow", "unfold", "im2col",
    "constant_pad_nd", "pad", "reflection_pad2d", "replication_pad2d", "upsample_nearest1d", "upsample_nearest2d",
    "upsample_nearest3d", "channel_shuffle", "diagonal", "flip", "tril", "triu",
)  # fmt: skip
def arrange(node: Node, ctx: Context) -> Step | None:
    """One tensor in, the same numbers out in another arrangement, or some of them."""
    x = ctx.first(node)
    if node.shape is None or (len(node.inputs) > 1 and not node.function.endswith("_as")):
        return None
    zero_fill = node.function in ("constant_pad_nd", "pad", "tril", "triu", "im2col")
    maps = [mapped(node, x, m, None, zero_fill) for m in x.maps()]
    if node.function in (
        "slice",
        "select",
        "narrow",
    ):  # `far` and `other` are known on average: of a token, at most this
        maps[2:] = [torch.minimum(m, maps[1]) for m in maps[2:]]
    axes = _axes(node, x, ctx.batch)
    out = replace(with_maps(x, node, axes, maps), profile=_profile(node, x), skew=x.skew, law=law.of(x))
    kept = node.function in REARRANGEMENT and math.prod(shape_of(node)) == math.prod(x.shape)
    if kept:
        out = replace(out, terms=x.terms, simplex=_simplex(node, x), balanced=x.balanced, fresh=x.fresh)
        rows = x.rows if _along_rows(node, x) else None
        out = replace(out, rows=None if rows is None else rows.mean().reshape((1,) * len(axes)))
    elif node.function.startswith("upsample"):
        out = replace(out, near=None)
    elif node.function in ("slice", "narrow"):
        out = replace(out, terms={**_parts_of(node, ctx, x), node.name: 1.0})
    if not kept:
        out = _of_fewer(x, out)
    ctx.register(out)

    def pull(g: Gradient) -> list[Flow]:
        rows = g.rows if kept and _along_rows(node, x) else None
        if kept and g.second.numel() == 1 and g.far.numel() == 1:
            rank = (1,) * len(x.shape)
            second, far = g.second.reshape(rank), g.far.reshape(rank)
        else:
            second, far = (adjoint(node, x, m, None) for m in (g.second, g.far))
        profile = g.profile
        if node.function.startswith("upsample"):
            second, far = _of_copies(second, far, math.prod(shape_of(node)) / math.prod(x.shape))
            profile = _at(profile, x.shape[2:])
        elif node.function in PERMUTING and profile is not None:
            profile = profile.permute(tuple(np.argsort(order(node, len(x.shape))).tolist()))
        return [(x.name, replace(g.moved(second, far), rows=rows, profile=profile), True)]

    return Step(out, pull)


def _along_rows(node: Node, x: Signal) -> bool:
    """Whether the last dimension is the last one still."""
    if node.function in PERMUTING:
        return order(node, len(x.shape))[-1] == len(x.shape) - 1
    return shape_of(node)[-1:] == x.shape[-1:]


def _of_copies(second: Tensor, far: Tensor, n: float) -> tuple[Tensor, Tensor]:
    """Of gradients added up over `n` copies at different sites, which agree by `far`; both are sums over copies."""
    return second + (n - 1) * far, n * far


def _of_fewer(x: Signal, part: Signal) -> Signal:
    """Some of a result's channels vary more than all of them: the mean of `n` squares as ``1/n``."""
    ratio = max(x.channels() / max(part.channels(), 1), 1.0)
    return replace(part, spread=x.spread + (ratio - 1) * x.fresh, fresh=ratio * x.fresh)


def _parts_of(node: Node, ctx: Context, x: Signal) -> dict[str, Coefficient]:
    """The sources of a slice that has nearly all of a tensor: those parts of the tensor's own, `_joined` puts together.

    What most of a tensor is on average its few others are not: of a class token's slice nothing is known.
    """
    dim = int(node.arguments["dim"]) % len(x.shape)
    start, size = int(node.arguments["start"] or 0), shape_of(node)[dim]
    if size < _NEARLY_ALL * x.shape[dim] or int(node.arguments.get("step", 1)) != 1:
        return {}
    found = {}
    for source, c in x.terms.items():
        part = f"{source}[{dim}:{start % x.shape[dim]}:{x.shape[dim]}]"
        ctx.leaves[part] = ctx.leaves[source]
        found[part] = c
    return found


def _joined(ctx: Context, dim: int, parts: Sequence[Signal], size: int) -> dict[str, Coefficient]:
    """The sources of a slice that is put back in its place among others; of what was made of them, likewise."""
    start = 0
    found: dict[str, Coefficient] = {}
    for p in parts:
        if p.shape[dim] >= _NEARLY_ALL * size:
            end = f"[{dim}:{start}:{size}]"
            found = {source.removesuffix(end): c for source, c in p.terms.items() if source.endswith(end)}
            for source in found:
                ctx.leaves[source] = ctx.leaves[source + end]
        start += p.shape[dim]
    return found


def _profile(node: Node, x: Signal) -> Tensor | None:
    """The profile, where only its dimensions change places, or channels alone are chosen."""
    if x.profile is not None and (node.function in PERMUTING or node.function.startswith("upsample_nearest")):
        return torch.as_tensor(carried_out(node, x.profile))
    return fitting(x.profile, shape_of(node)) if node.function in ("slice", "narrow", "channel_shuffle") else None


def _at(profile: Tensor | None, sizes: Sequence[int]) -> Tensor | None:
    """A profile [N, 1, *sites] at another resolution."""
    return None if profile is None else even(torch.nn.functional.interpolate(profile, size=tuple(sizes), mode="area"))


def _simplex(node: Node, x: Signal) -> int:
    """Where the dimension along which elements sum to one has gone; a reshape keeps the last."""
    if not x.simplex:
        return 0
    if node.function in PERMUTING:
        return order(node, len(x.shape)).index(len(x.shape) + x.simplex) - len(x.shape)
    return x.simplex if x.simplex == -1 and shape_of(node)[-1:] == x.shape[-1:] else 0


@rule("getitem")
def part(node: Node, ctx: Context) -> Step | None:
    """One part of a tensor that was cut, or the values of an operation that returns more than these."""
    whole = ctx.graph[node.inputs[0]]
    index = int(node.arguments["index"])
    if whole.function not in SPLIT:
        values = ctx.first(node)
        if index or values.shape != node.shape:
            return None
        return Step(replace(values, name=node.name), lambda g: [(values.name, g, True)])
    x = ctx.first(whole)
    maps = [mapped(whole, x, m, index, False) for m in x.maps()]
    shape = shape_of(node)
    axes = resized(x.axes, shape) if len(shape) == len(x.shape) else _without(whole, x)
    out = replace(with_maps(x, node, axes, maps), profile=fitting(x.profile, shape), skew=x.skew, law=law.of(x))
    out = ctx.register(_of_fewer(x, out))

    def pull(g: Gradient) -> list[Flow]:
        second, far = (adjoint(whole, x, m, index) for m in (g.second, g.far))
        return [(x.name, g.moved(second, far), True)]

    return Step(out, pull)


def _without(node: Node, x: Signal) -> Axes:
    dim = int(node.arguments.get("dim", 0)) % len(x.shape)
    return tuple(axis for d, axis in enumerate(x.axes) if d != dim)


@rule("chunk", "split", "split_with_sizes", "tensor_split", "unbind")
def cut(node: Node, ctx: Context) -> Step:
    """Cuts a tensor into parts, which `part` hands out."""
    x = ctx.first(node)
    return Step(replace(x, name=node.name), lambda g: [(x.name, g, True)])


@rule("cat", "concat", "stack")
def join(node: Node, ctx: Context) -> Step:
    """Joins tensors: each keeps its moments, as a segment of the map; no tokens, where some may be, are no segment."""
    every = [ctx.signals[name] for name in node.inputs]
    parts = [p for p in every if 0 not in p.shape] or every
    shape = shape_of(node)
    dim = int(node.arguments.get("dim", 0)) % len(shape)
    stacked = node.function == "stack"
    frame = next((p for p in parts if ctx.is_signal(p.name)), parts[0])
    axes = frame.axes if not stacked else (*frame.axes[:dim], (("s", len(parts)),), *frame.axes[dim:])
    maps = []
    for k in range(4):
        each = [p.maps()[k].unsqueeze(dim) if stacked else p.maps()[k] for p in parts]
        maps.append(compress(joined(each, [1 if stacked else p.shape[dim] for p in parts], dim)))
    axes = resized(axes, shape)
    sizes = [math.prod(p.shape) for p in parts]
    weights = [n * float(p.second.mean()) for n, p in zip(sizes, parts, strict=True)]
    total = sum(weights) or 1.0
    spread = sum((w / total) ** 2 * p.spread for w, p in zip(weights, parts, strict=True))
    near = mixed(parts, [float(n) for n in sizes])
    profile = None if stacked else fitting(summed([(p.profile, w) for p, w in zip(parts, weights, strict=True)]), shape)
    skew = sum(n * p.skew for n, p in zip(sizes, parts, strict=True)) / sum(sizes)
    out = replace(with_maps(frame, node, axes, maps), spread=spread, near=near, profile=profile, skew=skew)
    out = replace(out, law=law.joined(parts, [n / sum(sizes) for n in sizes]))
    if not stacked:
        out = replace(out, terms={**_joined(ctx, dim, parts, shape[dim]), node.name: 1.0})
    ctx.register(out)

    def pull(g: Gradient) -> list[Flow]:
        flows: list[Flow] = []
        start = 0
        for p in parts:
            n = 1 if stacked else p.shape[dim]
            second, far = (m if m.shape[dim] == 1 else m.narrow(dim, start, n) for m in (g.second, g.far))
            if stacked:
                second, far = second.squeeze(dim), far.squeeze(dim)
            flows.append((p.name, replace(g.moved(compress(second), compress(far)), lean=g.lean), True))
            start += n
        return flows

    return Step(out, pull)


@rule("expand", "expand_as", "broadcast_to", "repeat", "tile", "repeat_interleave")
def repeat(node: Node, ctx: Context) -> Step | None:
    """The same numbers several times: what is repeated along all sites is equal at all sites."""
    x = ctx.first(node)
    shape = shape_of(node)
    lead = len(shape) - len(x.shape)
    if not shape or lead < 0:
        return None
    full = (1,) * lead + x.shape
    old = (*((("s", 1),) for _ in range(lead)), *x.axes)
    axes = tuple(
        axis if full[d] == shape[d] else ((("b" if d == 0 and shape[d] == ctx.batch else main_kind(axis)), shape[d]),)
        for d, axis in enumerate(old)
    )
    maps = list(aligned(x, shape, axes).maps())
    if any(m.shape[d] > 1 and full[d] != shape[d] for m in maps for d in range(len(shape))):
        maps = [mapped(node, x, m, None, False) for m in x.maps()]
    out = ctx.register(with_maps(x, node, axes, maps))
    several = [d for d in range(lead, len(shape)) if 1 < full[d] < shape[d]]

    def pull(g: Gradient) -> list[Flow]:
        if not several:
            return [(x.name, reduced(g, x, shape, axes), True)]
        second, far = (adjoint(node, x, m, None) for m in (g.second, g.far))
        if all(main_kind(axes[d]) == "s" for d in several):
            second, far = _of_copies(second, far, math.prod(shape) / math.prod(x.shape))
        return [(x.name, g.moved(second, far), True)]

    return Step(out, pull)


@rule("copy")
def copied(node: Node, ctx: Context) -> Step | None:
    """A tensor that is overwritten as a whole: what is written counts, and where it was written does not."""
    x = ctx.of(node, "src")
    return None if x is None or x.shape != node.shape else apply(node, ctx, x, IDENTITY)


@rule("write")
def overwritten(node: Node, ctx: Context) -> Step | None:
    """A tensor of which a part was overwritten; which part is not known, so moments are averaged over both."""
    x, part_ = ctx.of(node, "self"), ctx.of(node, "src")
    if x is None or part_ is None:
        return None
    share = math.prod(part_.shape) / math.prod(x.shape)
    rank = (1,) * len(x.shape)
    maps = [
        ((1 - share) * old.mean() + share * new.mean()).reshape(rank)
        for old, new in zip(x.maps(), part_.maps(), strict=True)
    ]
    out = ctx.register(replace(with_maps(x, node, x.axes, maps), near=None))

    def pull(g: Gradient) -> list[Flow]:
        second, far = g.second.mean(), g.far.mean()
        there = (1,) * len(part_.shape)
        kept = g.moved((second * (1 - share)).reshape(rank), (far * (1 - share) ** 2).reshape(rank))
        return [(x.name, kept, True), (part_.name, g.moved(second.reshape(there), far.reshape(there)), True)]

    return Step(out, pull)


@rule("index_select", "gather", "index", "take_along_dim", "embedding_bag", "masked_fill", "where", "index_put")
def select(node: Node, ctx: Context) -> Step:
    """Elements chosen by an index or a mask: as they are, on average."""
    x = next((ctx.signals[n] for n in node.inputs if ctx.is_signal(n)), ctx.first(node))
    shape = shape_of(node)
    axes = resized(x.axes, shape) if len(shape) == len(x.shape) else guess(shape, ctx.batch)
    maps = [m.mean().reshape((1,) * len(shape)) for m in x.maps()]
    out = ctx.register(replace(with_maps(x, node, axes, maps), near=None))
    share = min(1.0, math.prod(shape) / max(1, math.prod(x.shape)))

    def pull(g: Gradient) -> list[Flow]:
        second, far = (m.mean().reshape((1,) * len(x.shape)) for m in (g.second, g.far))
        return [(x.name, g.moved(share * second, share**2 * far), True)]

    return Step(out, pull)


@rule("upsample_bilinear2d", "upsample_bicubic2d", "upsample_linear1d", "upsample_trilinear3d")
def interpolate(node: Node, ctx: Context) -> Step:
    """Weighted means of neighbours with weights ``A``: ``K ↦ far + A² (q - far)`` with the squares elementwise."""
    x = ctx.first(node)
    sizes, outs = x.shape[2:], shape_of(node)[2:]
    mode = "bicubic" if "bicubic" in node.function else "linear"
    share = math.prod(
        _square_weight(n, m, mode, bool(node.arguments["align_corners"])) for n, m in zip(sizes, outs, strict=True)
    )
    kept = share + (1 - share) * closeness(x, (2,) * len(sizes))
    maps = [m.mean(tuple(range(2, m.dim())), keepdim=True) for m in x.maps()]
    mean, second, far, other = maps
    out = with_maps(x, node, resized(x.axes, shape_of(node)), [mean, far + kept * (second - far), far, other])
    grown = math.prod(outs) / math.prod(sizes)

    def pull(g: Gradient) -> list[Flow]:
        second, far = (m.mean(tuple(range(2, m.dim())), keepdim=True) for m in (g.second, g.far))
        back = grown * share * (second - far) + grown**2 * far
        return [(x.name, replace(g.moved(back, grown**2 * far), profile=_at(g.profile, sizes)), True)]

    return Step(ctx.register(replace(out, near=None, profile=_at(x.profile, outs))), pull)


def _square_weight(n: int, out: int, mode: str, corners: bool) -> float:
    """Mean over outputs of the sum of squared weights, in one dimension."""
    eye = torch.eye(n, dtype=torch.float64)
    if mode == "bicubic":
        rows = torch.nn.functional.interpolate(
            eye[:, None, :, None].expand(n, 1, n, n), (out, n), mode="bicubic", align_corners=corners
        )
        return float((rows[:, 0, :, 0] ** 2).sum(0).mean())
    rows = torch.nn.functional.interpolate(eye[:, None], out, mode="linear", align_corners=corners)
    return float((rows[:, 0] ** 2).sum(0).mean())
