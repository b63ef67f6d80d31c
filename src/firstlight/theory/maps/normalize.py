"""Normalizations: batch, layer, group, instance and root-mean-square norm.

All of them subtract a mean over some of the elements and divide by the root of what variance is left. Over ``n_c``
channels, ``n_s`` sites and ``n_b`` samples, the square of the mean is the average product of two elements,

    K̄ = [q/n_s + (1-1/n_s) far]·(1/n_b)(1/n_c) + other·(1-1/n_b)(1/n_c) + (E z)²·(1-1/n_c),

the variance ``σ² = q - K̄``, and every product of two elements becomes ``(K - K̄_i - K̄_j + K̄)/σ²``, with ``K̄_i`` the
average product of one of them with all. The forward pass forgets
its size; the backward pass is divided by it: ``g ↦ γ/σ (g - mean g - ẑ mean(g ẑ))``. For ReLU before a batch norm,
``σ²`` is ``q/2·(1-1/π)`` where ``q/2`` came from ``q``, so gradients grow by ``π/(π-1)`` a layer (Yang et al., "A Mean
Field Theory of Batch Normalization", 2019).

The variance of one channel is ``wᵀ S w`` for its ``d`` weights and the covariance ``S`` of what they read. It varies
with the ``n`` independent numbers it is taken over and with the weights, so ``E 1/σ² = n/(n-2) · d/(d-2) / E σ²``
(Jensen). The gradient at the layer's input is ``Σ_c w_c² g_c²/σ_c²``, and the sum over its inputs of ``E w²/(wᵀ S w)``
is ``1/E x²`` whatever ``d`` is: the weights take their own part of Jensen's factor back (`Gradient.tied`).
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from firstlight.graph import Node
from firstlight.theory import law
from firstlight.theory.axes import label, main_kind, size
from firstlight.theory.maps.channels import channels
from firstlight.theory.maps.filtered import closeness, over_channels, sizes, sizes_differ
from firstlight.theory.maps.registry import Context, Flow, Step, linear_terms, rule, with_maps
from firstlight.theory.mixture import about_mean
from firstlight.theory.signal import Coefficient, Gradient, Near, Signal, like_most

# Factors for data that are finite, alike and uneven are expectations over Gaussians of a kernel that is itself an
# estimate: their logarithms are off by about a quarter (docs/theory.md says on which networks that was seen).
_KNOWN_TO = 0.25
_LEAST = 0.1


@dataclass(frozen=True, slots=True)
class Group:
    """The elements that are normalized together: how many channels, sites and samples, over which dimensions."""

    channels: int
    sites: int
    samples: int
    dims: tuple[int, ...]
    groups: int = 1  # groups of channels, along dimension 1

    def average(self, values: Tensor) -> Tensor:
        """A map averaged over the group."""
        if self.groups > 1 and values.shape[1] > 1:
            out = values.shape[1]
            values = values.unflatten(1, (self.groups, -1)).mean(2).repeat_interleave(out // self.groups, 1)
        return values.mean(self.dims, keepdim=True) if self.dims else values

    def pairs(self, second: Tensor, far: Tensor, other: Tensor, across: Tensor) -> Tensor:
        """The average product of one element with all of its group; `across` is that of two channels."""
        within = second / self.sites + (1 - 1 / self.sites) * far
        samples = within / self.samples + (1 - 1 / self.samples) * other
        return samples / self.channels + (1 - 1 / self.channels) * across


def standardize(node: Node, ctx: Context, x: Signal, group: Group, eps: float, *, centred: bool = True) -> Step:
    """Normalize `x` over `group`, then scale and shift by the node's own weight and bias."""
    if group.samples > 1:  # how samples differ is in the profile, and one σ divides them all
        x = replace(x, far=x.far.mean(0, keepdim=True))
    gamma, beta = _affine(ctx, node, "weight", 1.0), _affine(ctx, node, "bias", 0.0)
    cross = group.average(x.mean) ** 2 if centred else torch.zeros_like(x.mean)
    far = x.apart
    place = (
        group.pairs(x.second, far, x.other, x.mean * group.average(x.mean)) if centred else torch.zeros_like(x.second)
    )
    level = group.average(group.pairs(group.average(x.second), group.average(far), group.average(x.other), cross))
    level = level if centred else torch.zeros_like(level)
    variance = (group.average(x.second) - level).clamp_min(0) + eps
    gain = gamma[1] / variance
    apart = [
        place if shares else (k + (group.channels - 1) * cross) / group.channels * centred
        for k, shares in ((far, group.sites > 1), (x.other, group.samples > 1))
    ]
    shared = group.samples > 1 and group.sites > 1  # one σ for all places keeps their sizes apart
    pair_gain = gamma[1] * _pair_of_roots(variance, x, group)
    # Of `far` and `other` the second element is any: what the mean has in common with it is, on average, `level`.
    maps = [((x.second - 2 * place + level) * gain + beta[1]).clamp_min(0)]
    maps += [(k - p) * pair_gain + beta[1] for k, p in zip((x.far, x.other), apart, strict=True)]
    root = variance.sqrt()
    mean = (x.mean - (group.average(x.mean) if centred else 0.0)) / root * gamma[0] + beta[0]
    out = replace(with_maps(x, node, x.axes, [mean, *maps]), spread=0.0, taps=None)
    out = replace(out, balanced=centred and not ctx.is_signal(x.name) and beta == (0.0, 0.0))
    out = replace(out, terms=_terms(x, float((gamma[0] / root).mean())))
    if group.channels == 1:
        out = replace(out, skew=math.copysign(x.skew, x.skew * gamma[0]), law=law.of(x) if gamma[0] > 0 else None)
    profile = about_mean(x.profile, float(x.second.mean()), float(level.mean())) if shared else None
    near = out.near
    if group.channels == 1:
        near = closeness(x, ctx) if sizes_differ(x) else _equalized(x)
    out = ctx.register(replace(out, terms={**out.terms, node.name: 1.0}, profile=profile, near=near))
    over_numbers, noise = _over_numbers(x, group, float(level.mean()))
    weights = x.fan if group.channels == 1 else math.inf
    over_weights, uneven = 1.0, 0.0
    if group.channels == 1 and sizes_differ(x):
        over_weights, uneven = over_channels(sizes(x, ctx) + eps)
    elif group.channels == 1 and x.taps is not None:
        over_weights = x.taps.inverse
    elif group.channels == 1 and x.base is not None and x.function is not None:
        differ = channels(x.base, x.function, ctx)
        over_weights, uneven = (1.0, 0.0) if differ is None else over_channels(differ.after)
    places = 1.0 if shared else _over_places(x, group)
    back = gain * over_numbers * over_weights * places
    noise += _varying(weights) + uneven
    groups = math.prod(x.shape) / (group.channels * group.sites * group.samples)

    def pull(g: Gradient) -> list[Flow]:
        found = _back(g, group, out, beta[1], gamma[1], centred)
        along = None if found.along is None else found.along * back
        kept = float(found.second.mean()) / max(float(g.second.mean()), 1e-300)
        doubt = g.doubt + _doubt(over_numbers, over_weights, places, kept)
        return [
            (x.name, replace(found.scaled(back, noise / groups), tied=over_weights, along=along, doubt=doubt), True)
        ]

    return Step(out, pull)


def _doubt(*corrections: float | Tensor) -> float:
    """How far off the logarithm of a gradient may be by these factors, which are 1 for wide layers and white data."""
    means = (min(max(float(torch.as_tensor(c).mean()), _LEAST), 1 / _LEAST) for c in corrections)
    return _KNOWN_TO * sum(abs(math.log(c)) for c in means)


def _equalized(x: Signal) -> Near | None:
    """Closeness of sites once all channels are equally large (`Taps.equalized`)."""
    seen = None if x.taps is None else x.taps.seen
    if x.near is None or x.taps is None or seen is None or seen.ndim != x.near.ndim + 1:
        return x.near
    close = x.taps.equalized(seen)
    if close.flat[0] <= 0:
        return x.near
    near = x.near * min(x.taps.apart / close.flat[0], 1.0)
    near[tuple(slice(0, n) for n in close.shape)] = close / close.flat[0]
    return near


def _pair_of_roots(variance: Tensor, x: Signal, group: Group) -> Tensor:
    """``1/(σ σ')`` for an element and another site, which may have been normalized by another σ.

    `far` is that of two sites like most others: neither padding nor a class token stands for the second.
    """
    root = variance.rsqrt()
    sites = [d for d, axis in enumerate(x.axes) if d not in group.dims and main_kind(axis) == "s"]
    if not sites:
        return root * root
    usual = like_most(variance * (group.average(x.second) > 0)).double()
    return root * (root * usual).sum(sites, keepdim=True) / usual.sum(sites, keepdim=True).clamp_min(1)


def _affine(ctx: Context, node: Node, role: str, default: float) -> tuple[float, float]:
    found = ctx.of(node, role)
    return (default, default**2) if found is None else (float(found.mean.mean()), float(found.second.mean()))


def _terms(x: Signal, factor: float) -> dict[str, Coefficient]:
    return linear_terms(x.terms, factor)


def _independent(x: Signal, group: Group, level: float) -> float:
    """Effective number of independent numbers behind the variance: ``(tr Σ)² / tr Σ²`` of their covariance."""
    _, second, far, other = x.scalars()
    variance = second - level
    if variance <= 0:
        return 1.0
    near, apart = ((k - level) / variance for k in (far, other))
    own = _own_sites(x, group, near)
    samples = own / group.samples + (1 - 1 / group.samples) * apart**2
    return max(group.channels / samples, 1.0)


def _own_sites(x: Signal, group: Group, alike: float) -> float:
    """Mean squared correlation of two sites of one sample: `alike` far apart, more where close; sizes differ."""
    apart = (1 - 1 / group.sites) * alike**2
    uneven = 1.0
    if x.profile is not None:  # over the places of the group: what is normalized apart has a size of its own
        dims = [d for d in group.dims if d < x.profile.dim()]
        own, square = (m.mean(dims, keepdim=True) if dims else m for m in (x.profile, x.profile.square()))
        uneven = float((square / own.square().clamp_min(1e-300)).mean())
    if x.near is None:
        return uneven / group.sites + apart
    weights, r = x.lag_weights(), x.near
    close = float((weights * ((alike + r * (1 - alike)) ** 2 - alike**2)).sum()) if weights is not None else 0.0
    return min(uneven * max(close, 1 / group.sites) + apart, 1.0)


def _over_places(x: Signal, group: Group) -> float | Tensor:
    """``E 1/σ² · E σ²`` over places that are normalized apart and differ in size."""
    if x.anchors is not None and x.anchors.grid and group.sites == 1:
        size = (x.anchors.own - float((x.mean**2).mean())).clamp_min(1e-3 * float(x.anchors.own.mean()))
        return torch.where(_of_the_data(x, group), size.mean() * (1 / size).mean(), 1.0)
    if x.profile is None:
        return 1.0
    own = x.profile.mean([d for d in group.dims if d < x.profile.dim()], keepdim=True)
    return float((own.mean() / own.clamp_min(1e-3 * float(own.mean()))).mean())


def _of_the_data(x: Signal, group: Group) -> Tensor:
    """Which sites the anchors stand for: all but a few that have a moment of their own, as a class token has."""
    return like_most(group.average(x.second))


def _over_numbers(x: Signal, group: Group, level: float) -> tuple[float, float]:
    """``E 1/σ² · E σ²`` and the relative variance of 1/σ², as the data that σ is taken over are finite."""
    if x.anchors is None or group.samples == 1 or group.channels > 1:
        numbers = _independent(x, group, level)
        return _inverse(numbers), _varying(numbers)
    if x.anchors.pixels is not None or (x.taps is not None and (x.taps.steady or x.taps.vectors is not None)):
        return 1.0, 0.0  # what is read has its size, or is pixels: all that varies is the weights
    known = x.anchors.spectrum(x.sites(), 0.0 if x.taps is None else x.taps.drawn)  # that is counted with the weights
    return known.inverse, known.spread


def _varying(n: float) -> float:
    """Variance of 1/σ² over its mean squared: that of an inverse gamma."""
    return 2 / max(n - 4, 0.5)


def _inverse(n: float) -> float:
    """``E 1/σ² · E σ²`` for a mean of `n` squares of independent normal numbers, ``n/(n-2)``.

    For two or fewer the mean is infinite, and a sample of it large; it is cut there.
    """
    return 1 + 2 / (n - 2) if n > 3 else 3.0


def _back(g: Gradient, group: Group, out: Signal, beta: float, gamma: float, centred: bool) -> Gradient:
    """``g - mean g - ẑ mean(g ẑ)`` in second moments; gradients of different channels do not pair."""
    zero = torch.zeros_like(g.second)
    common = group.pairs(group.average(g.second), group.average(g.far), zero + g.other, zero)
    scale = gamma if gamma > 0 else 1.0
    alike = ((group.average(out.far) - beta) / scale).clamp(0, 1)
    with_signal = group.average(g.far) * alike if g.along is None else group.average(g.along)
    along = group.pairs(group.average(g.second), with_signal, zero, zero)
    removed = (common if centred else 0.0) + along
    second = (g.second - removed).clamp_min(0)
    if group.sites > 1:  # one mean for all sites: what is taken from one is taken from all
        far = g.far - removed
    else:
        far = g.far * (second / g.second.clamp_min(1e-300)).clamp(0, 1)
    kept = None if g.along is None else g.along * (1 - 1 / group.samples)  # `mean(g ẑ)` over N samples takes 1/N of it
    back = replace(g.moved(second, far), along=kept, lean=g.lean)
    shared = group.samples > 1 and centred
    return replace(back, other=g.other - float(common.mean())) if shared else back


@rule("batch_norm")
def batch_norm(node: Node, ctx: Context) -> Step | None:
    """Over samples and sites in train mode; the affine map of the running statistics in eval mode."""
    x = ctx.of(node, "input")
    if x is None:
        return None
    eps = float(node.arguments["eps"])
    if ctx.training and bool(node.arguments.get("training", True)):
        dims = (0, *range(2, len(x.shape)))
        sites = math.prod(x.shape[2:])
        samples = size(x.axes, "b", [0]) if ctx.is_signal(x.name) else 1
        sites *= max(1, x.shape[0] // samples)
        channels = size(x.axes, "c", dims)
        return standardize(node, ctx, x, Group(max(1, channels), max(1, sites // max(1, channels)), samples, dims), eps)
    return _running(node, ctx, x, eps)


def _running(node: Node, ctx: Context, x: Signal, eps: float) -> Step:
    gamma, beta = _affine(ctx, node, "weight", 1.0), _affine(ctx, node, "bias", 0.0)
    centre, width = _affine(ctx, node, "running_mean", 0.0), _affine(ctx, node, "running_var", 1.0)
    gain = gamma[1] / (width[0] + eps)
    first = gamma[0] / math.sqrt(width[0] + eps)
    mean = (x.mean - centre[0]) * first
    shift = beta[1] + 2 * beta[0] * mean
    maps = [(m - 2 * x.mean * centre[0] + centre[1]) * gain + shift for m in (x.second, x.far, x.other)]
    out = with_maps(x, node, x.axes, [mean + beta[0], *maps])
    out = ctx.register(replace(out, terms={**_terms(x, first), node.name: 1.0}))
    return Step(out, lambda g: [(x.name, g.scaled(gain), True)])


@rule("layer_norm", "rms_norm")
def layer_norm(node: Node, ctx: Context) -> Step | None:
    """Over the last dimensions of each position; RMS norm does not subtract the mean."""
    x = ctx.of(node, "input")
    if x is None:
        return None
    count = len(node.arguments["normalized_shape"])
    dims = tuple(range(len(x.shape) - count, len(x.shape)))
    group = Group(size(x.axes, "c", dims), size(x.axes, "s", dims), size(x.axes, "b", dims), dims)
    eps = node.arguments.get("eps")
    return standardize(
        node, ctx, x, group, 1.2e-7 if eps is None else float(eps), centred=node.function == "layer_norm"
    )


@rule("group_norm", "instance_norm")
def group_norm(node: Node, ctx: Context) -> Step | None:
    """Over the channels of a group and all sites of one sample; instance norm has one channel per group."""
    x = ctx.of(node, "input")
    if x is None:
        return None
    groups = int(node.arguments["num_groups"]) if node.function == "group_norm" else x.shape[1]
    channels, sites = x.shape[1] // groups, math.prod(x.shape[2:])
    dims = tuple(range(2, len(x.shape))) + ((1,) if groups == 1 else ())
    # The channel axis as a group sees it; a tensor of tokens may have had its channels elsewhere.
    x = replace(x, axes=label(x.shape, "bc" + "s" * (len(x.shape) - 2)))
    return standardize(node, ctx, x, Group(channels, sites, 1, dims, groups), float(node.arguments["eps"]))


@rule("local_response_norm")
def response_norm(node: Node, ctx: Context) -> Step | None:
    """``x / (k + α mean x²)^β`` over neighbouring channels, whose mean is taken as sharp."""
    x = ctx.first(node)
    size_, alpha, beta, k = (float(node.arguments[key]) for key in ("size", "alpha", "beta", "k"))
    factor = (k + alpha * x.second * (size_ / size_)) ** (-2 * beta)
    out = with_maps(x, node, x.axes, [x.mean * factor.sqrt(), *(m * factor for m in x.maps()[1:])])
    return Step(ctx.register(out), lambda g: [(x.name, g.scaled(factor), True)])
