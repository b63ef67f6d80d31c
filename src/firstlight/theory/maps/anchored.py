"""How each operation changes the kernel between anchors (`theory.anchors`); the scalars of its rule are set by them.

An operation without a rule here has no anchors after it, and its scalars stand as its own rule made them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import torch

from firstlight.graph import Node
from firstlight.graph.vocabulary import LEFT_OPERAND, PRODUCT, REARRANGEMENT
from firstlight.theory.anchors import Anchors, calibrated, centred, coarser, shifted
from firstlight.theory.axes import main_kind, size
from firstlight.theory.lone import evened
from firstlight.theory.maps import filtered
from firstlight.theory.maps.pool import window_of
from firstlight.theory.maps.registry import Context, entered
from firstlight.theory.maps.windows import each, leading_padding
from firstlight.theory.pixels import Fine
from firstlight.theory.series import of_function
from firstlight.theory.signal import Signal

Carry: TypeAlias = Callable[[Node, Context, Signal], Anchors | None]
"""From a node and what its rule made of it to the anchors of the result."""

_CARRIES: dict[str, Carry] = {}


def _carries(*functions: str) -> Callable[[Carry], Carry]:
    return entered(_CARRIES, functions)


def follow(node: Node, ctx: Context, out: Signal) -> Signal:
    """`out` with anchors, and with `far` and `other` as they have them."""
    signals = [ctx.signals[name] for name in node.inputs]
    if all(x.anchors is None for x in signals):
        return replace(out, anchors=None)
    try:
        found = _followed(node, ctx, out)
    except (RuntimeError, ValueError, IndexError, ArithmeticError):  # a use that its rule does not know, as for moments
        found = None
    if found is not None and not bool(torch.isfinite(found.values).all()):
        found = None
    return calibrated(replace(out, anchors=found))


def _followed(node: Node, ctx: Context, out: Signal) -> Anchors | None:
    if out.base is not None and out.function is not None:
        base = out.base
        mean, first, second = (float(m.mean()) for m in (base.mean, out.mean, out.second))
        if base.anchors is None:
            return None
        return of_function(base.anchors, mean, out.function, first, second, base.skew)
    carry = _CARRIES.get(node.function)
    return None if carry is None else carry(node, ctx, out)


def _main(node: Node, ctx: Context) -> Signal:
    return next((x for name in node.inputs if (x := ctx.signals[name]).anchors is not None), ctx.first(node))


def _common(operands: Sequence[Signal]) -> Anchors:
    """The anchors with the fewest places beyond one, to which all can be brought; one operand at least has some."""
    known = [x.anchors for x in operands if x.anchors is not None]
    return min([k for k in known if k.places > 1] or known, key=lambda k: k.places)


def _or_even(x: Signal, like: Anchors) -> Anchors | None:
    """The anchors of `x`; of a signal without any, what its scalars say, everywhere the same."""
    if x.anchors is not None:
        if x.anchors.places > like.places and _fits(x.anchors.grid, like.grid):
            return x.anchors.blocks(like.grid)
        return x.anchors if x.anchors.grid == like.grid else _repeated(x.anchors, like)
    _, second, far, other = x.scalars()
    n, p = like.samples, like.places
    same = torch.block_diag(*[torch.ones(p, p, dtype=torch.float64)] * n)
    return replace(like.becoming(other + (far - other) * same, torch.full_like(like.own, second)), noise=0.0)


def _fits(fine: tuple[int, ...], coarse: tuple[int, ...]) -> bool:
    return len(fine) == len(coarse) and all(a % b == 0 for a, b in zip(fine, coarse, strict=True))


def _repeated(gate: Anchors, like: Anchors) -> Anchors | None:
    """One number of each sample, at all its places."""
    if gate.places != 1 or gate.samples != like.samples:
        return None
    p = like.places
    own = gate.own.repeat_interleave(p)
    values = gate.whole(1).repeat_interleave(p, 0).repeat_interleave(p, 1)
    return replace(like.becoming(values, own), noise=gate.noise)


@_carries("linear", "addmm")
def _linear(node: Node, ctx: Context, out: Signal) -> Anchors | None:
    x = _main(node, ctx)
    if x.anchors is None or main_kind(x.axes[-1]) != "c" or out.sites() != x.sites():
        return None
    drawn = _varied(x, x.anchors) ** 2 / x.shape[-1]
    return _weighted(node, ctx, replace(x.anchors, noise=x.anchors.noise + drawn, lone=None), out)


def _varied(x: Signal, found: Anchors) -> float:
    """``E z²`` about what all elements share, which every draw of the inputs has alike and norms subtract."""
    return max(float(found.own.mean() - found.whole(x.sites()).mean()), 0.0)


def _weighted(node: Node, ctx: Context, found: Anchors, out: Signal) -> Anchors:
    bias = ctx.of(node, "bias")
    return found.scaled(float(out.second.mean()), 0.0 if bias is None else float(bias.second.mean()))


@_carries("conv1d", "conv2d", "conv3d")
def _convolution(node: Node, ctx: Context, out: Signal) -> Anchors | None:
    x, weight = ctx.of(node, "input"), ctx.of(node, "weight")
    if x is None or weight is None or x.anchors is None or not x.anchors.grid:
        return None if x is None or x.anchors is None else _weighted(node, ctx, x.anchors, out)
    kernel = weight.shape[2:]
    dilation, stride = (each(node.arguments[key], len(kernel)) for key in ("dilation", "stride"))
    before = leading_padding(node.arguments["padding"], kernel, dilation)
    if x.anchors.pixels is not None and not x.anchors.pixels.sites:
        seen = x.anchors.pixels.through(kernel, stride, before, dilation, out.shape[2:])
        terms = math.prod(weight.shape[1:])
        channels = np.eye(terms) - 1 / terms if weight.balanced else None
        first = seen.moments(channels=channels)
        if first is None:
            return None
        first = coarser(first, out.shape[2:])
        return _weighted(node, ctx, replace(first, fine=Fine(seen, channels)), out)
    square, drawn = (1.0, 0.0) if out.taps is None else (out.taps.square, out.taps.drawn)
    taps = [_reach(*setting) for setting in zip(kernel, dilation, stride, strict=True)]
    noise = x.anchors.noise * square + drawn * _varied(x, x.anchors) ** 2
    lone = x.anchors.lone if weight.shape[1] == 1 else None
    fine = x.anchors.fine if math.prod(kernel) == 1 else None  # sites that several taps read are others
    found = replace(shifted(x.anchors, taps, x.shape[2:], any(before)), noise=noise, lone=lone, fine=fine)
    found = coarser(found, out.shape[2:])
    if weight.balanced and int(node.arguments["groups"]) == 1:
        found = _unshared(x, found, float(out.second.mean() / weight.second.mean().clamp_min(1e-300)), weight.shape[1:])
    return _weighted(node, ctx, found, out)


def _unshared(x: Signal, found: Anchors, second: float, terms: Sequence[int]) -> Anchors:
    """Weights that add up to zero do not see what all their inputs share: those of one channel, and all channels' mean.

    Args:
        x: the input.
        found: its kernel under the taps.
        second: of the result with weights of variance one.
        terms: inputs summed, channels first.
    """
    left = min(second / max(math.prod(terms) * float(x.second.mean()), 1e-300), 1.0)
    sizes = found.own.clamp_min(0).sqrt()  # a mean is large where the signal is, as in `mixture.sized`
    means = (x.mean**2).mean().sqrt() * sizes / sizes.mean().clamp_min(1e-150)
    values = (found.values - means[:, None] * means) * (1 - 1 / terms[0])
    return found.becoming(values, found.own * max(left, 1e-6))


def _reach(kernel: int, dilation: int, stride: int) -> list[float]:
    """How far taps reach beyond the sites that an output stands for: kernels side by side do not overlap."""
    if kernel == 1:
        return [0.0]
    beyond = max((kernel - 1) * dilation + 1 - stride, 0) / (kernel - 1)
    return [(k - (kernel - 1) / 2) * beyond for k in range(kernel)]


@_carries("batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm")
def _normalized(node: Node, ctx: Context, out: Signal) -> Anchors | None:
    """``(K(i, j) - what the norm subtracts)/(σ_i σ_j)``, with one σ for all places that are normalized together."""
    x = _main(node, ctx)
    found = x.anchors
    if found is None or (node.function == "batch_norm" and not (ctx.training and node.arguments.get("training", True))):
        return None if found is None else found.scaled(float(out.second.mean()))
    n, p, values, own = found.samples, found.places, found.values, found.own
    mean = 0.0 if node.function == "rms_norm" else float((x.mean**2).mean())
    second = float(out.second.mean())
    bias = ctx.of(node, "bias")
    beta = 0.0 if bias is None else float(bias.second.mean())
    fine = found.fine
    if node.function in ("layer_norm", "rms_norm"):
        fine = fine and fine.even
        count = len(node.arguments["normalized_shape"])
        dims = list(range(len(x.shape) - count, len(x.shape)))
        if size(x.axes, "s", dims) > 1 or size(x.axes, "b", dims) > 1:
            return None
        seen = found.pixels
        exact = None if seen is None else seen.moments(normalized=True)
        if seen is not None and exact is not None:
            exact = coarser(exact, seen.sites or seen.images.shape[2:])
            return replace(exact.becoming(exact.values, exact.own), fine=fine).scaled(second, beta)
        values, own = values - mean, own - mean
        variance = own.clamp_min(0)
    elif node.function == "batch_norm":
        return _of_each_channel(x, found, ctx).scaled(second, beta)
    else:
        groups = x.shape[1] if node.function == "instance_norm" else int(node.arguments["num_groups"])
        if groups == x.shape[1]:
            return None
        level = found.between_samples(x.sites()).diagonal() * groups / x.shape[1] + mean
        values, own = values - mean, own - mean
        variance = (found.own.view(n, p).mean(1) - level).clamp_min(0).repeat_interleave(p)
    eps = node.arguments.get("eps")
    root = (variance + (1.2e-7 if eps is None else float(eps))).sqrt()
    noise = found.noise / float(variance.mean().clamp_min(1e-100)) ** 2
    made = replace(found.becoming(values / (root[:, None] * root), own / root**2), noise=noise, fine=fine)
    return made.scaled(second, beta)


def _of_each_channel(x: Signal, found: Anchors, ctx: Context) -> Anchors:
    """A norm of each channel makes all equally large: what they see is no longer weighted by how large that was.

    A first convolution sees pixels, a depthwise one the taps of its own channel, any other one all it sums.
    """
    sites = x.sites()
    if x.taps is not None and x.taps.channels is not None and found.pixels is not None:
        exact = found.pixels.moments(channels=x.taps.channels)
        return centred(coarser(found if exact is None else exact, x.shape[2:]), sites).scaled(1.0)
    middle = centred(found, sites).scaled(1.0)
    apart = filtered.apart(x, ctx) if filtered.sizes_differ(x) else None
    if apart is None and x.taps is not None and not x.taps.drawn:
        apart = x.taps.apart
    if apart is not None:
        even = evened(found, x.shape[2:])
        values, own = middle.values * apart, middle.own
        if even is not None:
            values, own = values * (even[:, None] * even).sqrt(), own * even
        return replace(middle, values=values, own=own, noise=middle.noise * apart**2)
    return replace(found.spectrum(sites).equalized(found, sites), noise=middle.noise)


@_carries("avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool1d", "max_pool2d", "max_pool3d",
          "max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices")  # fmt: skip
def _pooled(node: Node, ctx: Context, out: Signal) -> Anchors | None:
    """Pairs that lie apart stay as they are in an average, which loses only what single sites have of their own.

    An average over a window with zeros outside the image is smaller there, by the share of its taps that are inside.
    The largest of a window follows the Gaussian behind it: pairs as far as their Gaussians agree.
    """
    x = _main(node, ctx)
    if x.anchors is None or len(out.shape) != len(x.shape):
        return None
    found = coarser(x.anchors, out.shape[2:])
    second = float(out.second.mean())
    if node.function.startswith("avg"):
        inside = _inside(node, x, found)
        values, own = found.values * (inside[:, None] * inside), found.own * inside**2
        return found.becoming(values, own * (second / max(float(own.mean()), 1e-300)))
    base = None if x.root.anchors is None else coarser(x.root.anchors, out.shape[2:])
    if base is None:
        return None
    sizes = base.own.clamp_min(0).sqrt() / base.own.mean().clamp_min(1e-300).sqrt()
    means = float(x.root.mean.mean() / sizes.mean()) * sizes  # a mean is large where the signal is
    root = (base.own - means**2).clamp_min(1e-300).sqrt()
    alike = ((base.values - means[:, None] * means) / (root[:, None] * root)).clamp(0, 1)
    mean = float(out.mean.mean() / sizes.mean())
    values = (mean**2 + (second - mean**2) * alike) * (sizes[:, None] * sizes)
    noise = base.noise * (max(second - mean**2, 0.0) / float(root.square().mean())) ** 2
    return replace(found.becoming(values, second * sizes**2), noise=noise).scaled(second)


def _inside(node: Node, x: Signal, found: Anchors) -> torch.Tensor:
    """The share of the taps of an average's window that count, by block, [M]."""
    taps = window_of(node, x)
    if not node.arguments.get("count_include_pad", True) or len(found.grid) != 2:
        return torch.ones_like(found.own)
    share = taps.sum(torch.ones((1,) * len(x.shape), dtype=torch.float64)) / math.prod(taps.kernel)
    whole = share.expand(*share.shape[:-2], *(m.shape[0] for m in taps.same))
    by_block = torch.nn.functional.adaptive_avg_pool2d(whole.reshape(1, 1, *whole.shape[-2:]), found.grid)
    return by_block.reshape(-1).repeat(found.samples)


@_carries("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "mean")
def _averaged(node: Node, ctx: Context, out: Signal) -> Anchors | None:
    """The average over all sites of a sample."""
    x = _main(node, ctx)
    if x.anchors is None or out.sites() != 1 or out.channels() != x.channels():
        return x.anchors if out.shape == x.shape else None
    means = x.anchors.between_samples(x.sites())
    own = means.diagonal().clone()
    alike = float(own.mean() / x.anchors.own.mean().clamp_min(1e-300))
    return Anchors(means, own, x.anchors.samples, (), noise=x.anchors.noise * alike**2)


@_carries("add", "sub", "rsub")
def _sum(node: Node, ctx: Context, out: Signal) -> Anchors | None:
    operands = [ctx.signals[name] for name in node.inputs]
    if len(operands) != 2 or any(not ctx.is_signal(x.name) for x in operands):
        x = _main(node, ctx)
        return None if x.anchors is None or out.shape != x.shape else x.anchors.scaled(float(out.second.mean()))
    a, b = operands
    like = _common(operands)
    one, two = _or_even(a, like), _or_even(b, like)
    if one is None or two is None:
        return None
    alpha = float(node.arguments.get("alpha", 1)) * (1 if node.function == "add" else -1)
    shared = alpha * ctx.shared(a, b) if a.shape == b.shape else [0.0, 0.0, 0.0]
    means = 2 * alpha * float(a.mean.mean() * b.mean.mean())
    n, p = like.samples, like.places
    crossed = torch.full((n, p, n, p), 2 * float(shared[2]), dtype=torch.float64)
    crossed.diagonal(dim1=0, dim2=2).fill_(2 * float(shared[1]))
    values = one.values + alpha**2 * two.values + means + crossed.view(n * p, n * p)
    own = one.own + alpha**2 * two.own + means + 2 * float(shared[0])
    noise = one.noise + alpha**4 * two.noise
    return replace(like.becoming(values, own), noise=noise).scaled(float(out.second.mean()))


@_carries("mul", "multiply")
def _product(node: Node, ctx: Context, out: Signal) -> Anchors | None:
    operands = [ctx.signals[name] for name in node.inputs]
    like = _common(operands)
    if len(operands) != 2 or any(not ctx.is_signal(x.name) for x in operands):
        return like.scaled(float(out.second.mean()))
    one, two = (_or_even(x, like) for x in operands)
    if one is None or two is None:
        return None
    noise = one.noise * float(two.own.mean()) ** 2 + two.noise * float(one.own.mean()) ** 2
    found = replace(like.becoming(one.values * two.values, one.own * two.own), noise=noise)
    return found.scaled(float(out.second.mean()))


@_carries("cat", "concat")
def _joined(node: Node, ctx: Context, out: Signal) -> Anchors | None:
    """Channels side by side; a token more among many leaves the others as they are."""
    parts = [x for name in node.inputs if 0 not in (x := ctx.signals[name]).shape]
    largest = max(parts, key=lambda x: math.prod(x.shape))
    if largest.anchors is None:
        return None
    if out.sites() != largest.sites():
        return largest.anchors if out.sites() < 1.1 * largest.sites() else None
    found = [_or_even(x, largest.anchors) for x in parts]
    total = sum(math.prod(x.shape) for x in parts)
    if any(a is None for a in found):
        return None
    shares = [math.prod(x.shape) / total for x in parts]
    pairs = [(a, share) for a, share in zip(found, shares, strict=True) if a is not None]
    values, own = (torch.stack([getattr(a, of) * w for a, w in pairs]).sum(0) for of in ("values", "own"))
    noise = sum(a.noise * w**2 for a, w in pairs)
    return replace(largest.anchors.becoming(values, own), noise=noise)


@_carries("scaled_dot_product_attention")
def _attended(node: Node, ctx: Context, out: Signal) -> Anchors | None:
    """Each token is nearly the mean of its sample's values, and the more so the more these agree.

    What the weights leave of the values' differences, on average over samples, each has as its own values differ.
    """
    v = ctx.of(node, "value")
    return None if v is None or v.anchors is None else _averages(v, v.anchors, out)


@_carries("matmul", "bmm")
def _weighed(node: Node, ctx: Context, out: Signal) -> Anchors | None:
    """The same where weights that sum to one multiply the values."""
    weights, v = (ctx.of(node, role) for role in (LEFT_OPERAND[node.function], PRODUCT[node.function]))
    if weights is None or v is None or v.anchors is None or weights.simplex != -1 or main_kind(v.axes[-1]) != "c":
        return None
    return _averages(v, v.anchors, out)


def _averages(v: Signal, seen: Anchors, out: Signal) -> Anchors:
    n, p = seen.samples, seen.places
    means = seen.between_samples(v.sites())
    agreed = means.diagonal()
    differ = (seen.own.view(n, p).mean(1) - agreed).clamp_min(0)
    differ = differ / differ.mean().clamp_min(1e-300)
    _, second, far, _ = out.scalars()
    own = (agreed + (second - float(agreed.mean())) * differ).clamp_min(0)
    if out.sites() == 1:
        return Anchors(means, own, n, ())
    within = means + torch.diag((far - float(v.far.mean())) * differ)
    values = within.repeat_interleave(p, 0).repeat_interleave(p, 1)
    return seen.becoming(values, own.repeat_interleave(p))


@_carries("dropout", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout", "feature_alpha_dropout",
          "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d")  # fmt: skip
def _own_only(node: Node, ctx: Context, out: Signal) -> Anchors | None:
    found = _main(node, ctx).anchors
    if found is None:
        return None
    return found.becoming(found.values, found.own * (float(out.second.mean()) / max(float(found.own.mean()), 1e-300)))


@_carries(*REARRANGEMENT, "slice", "narrow", "getitem", "chunk", "split", "split_with_sizes", "tensor_split",
          "unbind", "select", "constant_pad_nd", "pad", "reflection_pad2d")  # fmt: skip
def _arranged(node: Node, ctx: Context, out: Signal) -> Anchors | None:
    """The same places, or some of them, evenly."""
    x = _main(node, ctx)
    if x.anchors is None or not out.shape or size(out.axes, "b") != x.anchors.samples:
        return None
    if out.sites() == 1 and x.anchors.places > 1:
        return None
    return x.anchors.scaled(float(out.second.mean()))
