"""Sums of overlapping patches, the largest along a dimension, lengths and variances of vectors."""

import math
from collections import Counter
from dataclasses import replace

import torch

from firstlight.graph import Node
from firstlight.theory.axes import guess
from firstlight.theory.maps.pool import largest_of
from firstlight.theory.maps.registry import Context, Flow, Step, dims_of, rule, shape_of, with_maps
from firstlight.theory.signal import Gradient, compress


@rule("col2im")
def fold(node: Node, ctx: Context) -> Step:
    """Patches added where they overlap (`fold`): with ``c`` of them on a pixel, ``c q + c (c-1) K``.

    ``K`` is the product of two elements of different patches, which are different sites. The gradient of each element
    of a patch is that of its pixel.
    """
    x = ctx.first(node)
    shape = shape_of(node)
    settings = {k: v for k, v in node.arguments.items() if k != "output_size"}
    size = node.arguments["output_size"]
    taps = math.prod(node.arguments["kernel_size"])
    places = torch.ones(1, taps, x.shape[-1], dtype=torch.float64)
    overlap = torch.ops.aten.col2im(places, size, **settings)
    overlap = overlap.reshape((1,) * (len(shape) - 2) + tuple(overlap.shape[-2:]))
    mean, second, far, other = x.scalars()
    maps = [overlap * mean, overlap * second + overlap * (overlap - 1) * far, overlap**2 * far, overlap**2 * other]
    out = ctx.register(replace(with_maps(x, node, guess(shape, ctx.batch), [compress(m) for m in maps]), near=None))

    def pull(g: Gradient) -> list[Flow]:
        rank = (1,) * len(x.shape)
        # Patches read every pixel as often as it was added to, so the mean over patches is weighted by the overlap.
        weights = overlap / overlap.sum()
        second, far = ((m * weights).sum((-2, -1)).mean().reshape(rank) for m in (g.second, g.far))
        return [(x.name, g.moved(second, far), True)]

    return Step(out, pull)


@rule("max")
def largest(node: Node, ctx: Context) -> Step | None:
    """The largest along one dimension; its place, the second result, has no gradient."""
    x = ctx.first(node)
    dim = node.arguments.get("dim")
    if not isinstance(dim, int) or len(node.inputs) != 1:
        return None
    dim %= len(x.shape)
    n = x.shape[dim]
    keep = bool(node.arguments.get("keepdim", False))
    shape = tuple(1 if d == dim else m for d, m in enumerate(x.shape) if keep or d != dim)
    axes = tuple((("s", 1),) if d == dim else axis for d, axis in enumerate(x.axes) if keep or d != dim)
    found, chi = largest_of(node, x, Counter({n: 1}), 0.0)
    maps = [m.reshape((1,) * len(shape)) for m in found.maps()]
    out = replace(with_maps(found, node, axes, maps), near=None, shape=shape)

    def pull(g: Gradient) -> list[Flow]:
        rank = (1,) * len(x.shape)
        back = g.moved(g.second.mean().reshape(rank) / n, g.far.mean().reshape(rank) / n**2)
        flows: list[Flow] = [(x.name, back, x.root is x)]
        return flows if x.root is x else [*flows, (x.root.name, back.scaled(chi), True)]

    return Step(ctx.register(out), pull)


@rule("linalg_vector_norm")
def length(node: Node, ctx: Context) -> Step | None:
    """``‖x‖`` over ``n`` elements: ``E ‖x‖² = n q``, with a relative variance of ``2 v²/(n q²)`` (all independent).

    A root halves relative deviations, so ``E ‖x‖ = √(n q) (1 - var/8)``. The gradient is ``g x/‖x‖``.
    """
    x = ctx.first(node)
    if float(node.arguments.get("ord", 2)) != 2 or node.arguments.get("dim") is None:
        return None
    dims = dims_of(node, len(x.shape))
    shape = shape_of(node)
    n = math.prod(x.shape[d] for d in dims)
    maps = [m.mean([d for d in dims if d < m.dim()], keepdim=True) for m in x.maps()]
    keep = len(shape) == len(x.shape)
    second = n * maps[1]
    relative = 2 * (maps[1] - maps[0] ** 2) ** 2 / (n * maps[1] ** 2).clamp_min(1e-300)
    mean = second.sqrt() * (1 - relative / 8)
    results = [mean, second, mean**2, mean**2]
    if not keep:
        results = [m.squeeze(dims) for m in results]
    axes = tuple((("s", 1),) if d in dims else axis for d, axis in enumerate(x.axes) if keep or d not in dims)
    out = ctx.register(replace(with_maps(x, node, axes, results), near=None))

    def pull(g: Gradient) -> list[Flow]:
        second, far = g.second, g.far
        if not keep:
            for d in sorted(dims):
                second, far = second.unsqueeze(d), far.unsqueeze(d)
        share = x.second / (n * x.second.mean()).clamp_min(1e-300)
        return [(x.name, g.moved(second * share, far * share * (x.far / x.second.clamp_min(1e-300))), True)]

    return Step(out, pull)


@rule("var", "std")
def deviation(node: Node, ctx: Context) -> Step | None:
    """The variance over channels, written out by a network; it varies by ``2/n`` of its square, a root by a quarter."""
    x = ctx.first(node)
    if node.arguments.get("dim") is None:
        return None
    dims = dims_of(node, len(x.shape))
    shape, n = shape_of(node), math.prod(x.shape[d] for d in dims)
    keep = len(shape) == len(x.shape)
    spread = (x.second - x.mean**2).mean(dims, keepdim=True)
    root = node.function == "std"
    value = spread.sqrt() if root else spread
    square = value**2
    maps = [value, square * (1 + (0.5 if root else 2) / n), square, square]
    if not keep:
        maps = [m.squeeze(dims) for m in maps]
    axes = tuple((("s", 1),) if d in dims else axis for d, axis in enumerate(x.axes) if keep or d not in dims)
    out = ctx.register(replace(with_maps(x, node, axes, maps), near=None))

    def pull(g: Gradient) -> list[Flow]:
        """``2 (x - m)/n``, or ``(x - m)/(n σ)``."""
        second, far = g.second, g.far
        if not keep:
            for d in sorted(dims):
                second, far = second.unsqueeze(d), far.unsqueeze(d)
        factor = 1 / n**2 if root else 4 * spread / n**2
        alike = (x.far - x.mean**2).mean(dims, keepdim=True) / spread.clamp_min(1e-300)
        return [(x.name, g.moved(second * factor, far * factor * alike), True)]

    return Step(out, pull)
