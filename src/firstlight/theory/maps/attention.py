"""Attention: products of two signals, softmax, and the fused operation.

Logits of a query against keys of its own projection vary along the keys by ``s² = d·scale²·q_q·(q_k - far_k)``; what
all keys share cancels in the softmax. Over ``T`` keys the weights' participation ``P = E Σ a²`` is, with Gaussian
logits,

    P = T ∫ t E[e^{2l} e^{-t e^l}] (E e^{-t e^l})^{T-1} dt        (from 1/S² = ∫ t e^{-tS} dt),

one integral over ``t``; ``e^{s²}/T`` is its limit for small ``s``. The output is the average of an average pair of
values, ``far_v + P (q_v - far_v)``: the smaller ``P``, the more tokens agree (rank collapse; Dong et al., 2021).

Keys and values are projections of the same tokens ``x`` with ``C`` channels, and a logit is the token's component along
one direction, times ``s``. By Stein's lemma ``E Σ_j a_j x_j`` lies along it, with length ``s (1 - P)``: the softmax
leans towards tokens that score high. The values see that as ``s² (1 - P)²/C`` on top of ``P``: nothing beside 1/T for
few tokens, most of the result for many. Tokens that lie along fewer directions than they have channels, as after a
patch embedding, have ``(tr S)²/tr S²`` of their covariance in the place of ``C`` (`Signal.rank`).
"""

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from firstlight.graph import Node
from firstlight.graph.vocabulary import LEFT_OPERAND, PRODUCT
from firstlight.theory.axes import Axes, main_kind, resized, size
from firstlight.theory.gaussian import grid
from firstlight.theory.maps.registry import Context, Flow, Step, rule, shape_of, with_maps
from firstlight.theory.maps.weights import weighted_sum
from firstlight.theory.mixture import fitted
from firstlight.theory.signal import Gradient, Signal, scalar
from firstlight.theory.spectrum import alike_within, sharing


@lru_cache(maxsize=1024)
def participation(variance: float, tokens: int, power: int = 2, absent: int = 0) -> float:
    """``E Σ a^power`` for a softmax over `tokens` independent Gaussian logits of this variance; power 1, 2 or 3.

    `absent` keys more, such as padding, have a logit of zero and are no part of the sum.
    """
    if tokens + absent <= 1:
        return float(tokens)
    std = math.sqrt(min(variance, 400.0))
    if std < 1e-6:
        return tokens * float(tokens + absent) ** -power
    g, w = (row[0] for row in grid(np.zeros(1), np.ones(1)))
    g, w = g[w > 0], w[w > 0]  # cuts that coincide leave pieces of no width
    weight = np.exp(std * g)
    # log t from where T e^l t is tiny even for the largest logit to where t e^l is large even for a typical one
    log_t = np.linspace(-math.log(tokens + absent) - 9 * std - 12, 9 * std + 6, 1600)
    t = np.exp(log_t)[:, None]
    decay = np.exp(-t * weight)
    inner = decay @ (weight**power * w) / math.factorial(power - 1)
    rest = (tokens - 1) * np.log(np.maximum(decay @ w, 1e-300)) - absent * t[:, 0]
    integrand = tokens * t[:, 0] ** power * inner * np.exp(rest)
    least = 0.0 if absent else float(tokens) ** (1 - power)
    return float(np.clip(np.trapezoid(integrand, log_t), least, 1.0))


@rule("softmax", "_softmax", "log_softmax", "_log_softmax", "_safe_softmax")
def softmax(node: Node, ctx: Context) -> Step | None:
    """Weights that sum to one along a dimension."""
    x = ctx.first(node)
    if "log" in node.function or not x.shape:
        return None
    dim = int(node.arguments["dim"]) % len(x.shape)
    tokens = x.shape[dim]
    along = x.rows if x.rows is not None and dim == len(x.shape) - 1 else pair_along(x, dim)
    variance = max(float((x.second - along).mean()), 0.0)
    p = participation(round(variance, 9), tokens)
    rank = len(x.shape)
    alone = size(x.axes, "s") == max(size(x.axes, "s", [dim]), 1) and x.rows is None and tokens > 1
    common = (float(m.mean()) / max(float(x.second.mean()), 1e-300) for m in (x.far, x.other))
    shared, apart = (participation(round(variance * min(max(c, 0.0), 1.0), 9), tokens) for c in common)
    if alone and main_kind(x.axes[dim]) == "s":  # of one softmax, whose weights sum to one
        shared, apart = (1 - p) / (tokens - 1), 1 / tokens
    maps = [scalar(v, rank) for v in (1 / tokens, p / tokens, shared / tokens, apart / tokens)]
    out = replace(with_maps(x, node, x.axes, maps), near=None, simplex=dim - rank)

    def pull(g: Gradient) -> list[Flow]:
        """What the gradients of one softmax share cancels, as its weights sum to one: `far`, when it has all sites.

        Two softmaxes with gradients alike keep of that what their weights have in common.
        """
        factor = jacobian(variance, tokens) / tokens
        free = 1.0 if g.rows is None else max(1 - g.rows, 0.0)
        second, far = g.second * free * factor, g.far * free * factor * (shared / p)
        if alone:
            second = (g.second - g.far).clamp_min(0) * factor
            far = -second / (tokens - 1)
        sums_to_zero = -1 / (tokens - 1) if dim == rank - 1 and tokens > 1 else None
        return [(x.name, replace(g.moved(second, far), rows=sums_to_zero), True)]

    return Step(ctx.register(out), pull)


def jacobian(variance: float, tokens: int) -> float:
    """``Σ E dl²`` for ``dl = a (g - Σ a g)`` and white ``g`` of variance one: ``Σ a² - 2 Σ a³ + (Σ a²)²``."""
    two, three = (participation(round(variance, 9), tokens, power) for power in (2, 3))
    return max(two - 2 * three + two**2, 0.0)


def pair_along(x: Signal, dim: int) -> Tensor:
    """The average product of two elements that differ along `dim` only."""
    kind = main_kind(x.axes[dim])
    return {"s": x.far, "c": x.mean**2, "b": x.other}[kind]


def _pair(x: Signal, dim: int) -> Tensor:
    """The same, for weights that sum to one exactly: ``(1 - P)/(T (T-1))``."""
    tokens = x.shape[dim]
    if x.simplex and dim == len(x.shape) + x.simplex and tokens > 1:
        return (1 / tokens - x.second) / (tokens - 1)
    return pair_along(x, dim)


@rule("matmul", "mm", "bmm")
def matmul(node: Node, ctx: Context) -> Step | None:
    """A product with a weight, or of two signals."""
    a, b = ctx.of(node, LEFT_OPERAND[node.function]), ctx.of(node, PRODUCT[node.function])
    if a is None or b is None or not node.shape or len(a.shape) < 2 or len(b.shape) < 2:
        return None
    if not ctx.is_signal(b.name) and len(b.shape) == 2:
        return weighted_sum(node, ctx, a, b, out=b.shape[-1])
    lead = (*a.axes[:-1],) if len(a.axes) == len(node.shape) else tuple((("s", m),) for m in node.shape[:-1])
    return of_signals(node, ctx, a, b, (*lead, b.axes[-1]))


def directions(tokens: Signal) -> float:
    """In how many directions the tokens of one sample differ, on average (`overlaps`)."""
    return float(1 / overlaps(tokens).mean())


def overlaps(tokens: Signal) -> Tensor:
    """``E K²`` over pairs of tokens of each sample about their mean, [N, 1, ...]: one over the directions they have.

    To what blocks of sites have in common comes what single sites have that blocks average away: `Anchors.fine`; where
    that is not known, the larger of `Anchors.noise` and of what ``E K²`` over all pairs of the batch, which is
    ``1/rank``, has beyond that of the blocks.
    """
    rank = len(tokens.shape)
    if tokens.anchors is None:
        return scalar(1 / min(tokens.read, tokens.fan), rank)
    seen, sites = tokens.anchors, tokens.sites()
    within = alike_within(seen, sites)
    if seen.fine is None:
        apart = max(float((tokens.second - tokens.far).mean()), 1e-3 * float(tokens.second.mean()), 1e-150)
        beyond = 1 / tokens.read - sharing(replace(seen, noise=0.0), sites)
        within = within + max(seen.noise / apart**2, beyond)
    else:
        within = within + seen.fine.overlaps
    return within.reshape((-1,) + (1,) * (rank - 1)).clamp(1e-9, 1)


def lean(logits: float, p: float, tokens: Signal) -> float:
    """What the softmax's leaning towards high scores adds to the values' share ``P``."""
    return max(min(logits * (1 - p) ** 2 / directions(tokens), 1.0 - p), 0.0)


def _echo(ctx: Context, a: Signal, b: Signal, both: float) -> float:
    """What a sum over tokens keeps of two projections of the same tokens: ``E (x x')²`` of two of them, ``q_a q_b/C``.

    ``Σ_t q_t k_t`` is ``W (Σ x xᵀ) W'``, and the covariance of the tokens does not average away.
    """
    same = a.read == b.read < math.inf and a.taps is not None and b.taps is not None
    tokens = main_kind(a.axes[-1]) == "s" and not a.simplex
    return both / a.read if same and tokens and ctx.is_signal(a.name) and ctx.is_signal(b.name) else 0.0


def of_signals(node: Node, ctx: Context, a: Signal, b: Signal, axes: Axes) -> Step:
    """``y_ij = Σ_k a_ik b_kj``: ``n (q_a q_b + (n-1) pair_a pair_b)`` with pairs along the summed dimension."""
    n, rank = a.shape[-1], len(shape_of(node))
    qa, qb = float(a.second.mean()), float(b.second.mean())
    pa, pb = float(_pair(a, len(a.shape) - 1).mean()), float(_pair(b, len(b.shape) - 2).mean())
    second = n * (qa * qb + (n - 1) * (pa * pb + _echo(ctx, a, b, qa * qb)))
    mean = n * float(a.mean.mean()) * float(b.mean.mean())
    row = float(pair_along(a, len(a.shape) - 2).mean())  # two rows of a, same k
    column = float(pair_along(b, len(b.shape) - 1).mean())
    cross_a = 1 / n**2 if a.simplex == -1 else float(a.mean.mean()) ** 2
    rows = n * (qa * column + (n - 1) * pa * (float(b.mean.mean()) ** 2))
    far_b = qb if main_kind(b.axes[-1]) == "c" else column
    pair_b = pb if main_kind(b.axes[-1]) == "c" else float(b.mean.mean()) ** 2
    far = n * (row * far_b + (n - 1) * min(cross_a, 1.0) * pair_b)
    other = n * (float(a.other.mean()) * float(b.other.mean()) + (n - 1) * cross_a * float(b.mean.mean()) ** 2)
    by_column = main_kind(b.axes[-1]) == "s" and main_kind(a.axes[-2]) != "s"
    if by_column:  # a mixture of channels, the same at all sites
        far = rows
    elif a.simplex == -1:
        other = float(b.other.mean())
        free = max(qb - float(b.far.mean()), 0.0)
        # Small logits have P = e^{s²}/T; those of other queries agree as far as their products do.
        logits, alike = (max(math.log(max(n * n * x, 1.0)), 0.0) for x in (qa, row))
        leaning = lean(logits, n * qa, b) if ctx.is_signal(a.name) else 0.0
        second += leaning * free
        same = same_window(b.shape[-2], b.sites())
        far = float(b.far.mean()) + (same * n * row + leaning * alike / max(logits, 1e-300)) * free
    maps = [scalar(v, rank) for v in (mean, second, min(far, second), min(max(other, -second), second))]
    whose = b if a.simplex == -1 else a  # averages of tokens lie along the tokens' directions
    out = with_maps(replace(a, near=None, rank=whose.rank, read=whose.read), node, resized(axes, shape_of(node)), maps)
    out = replace(out, spread=a.spread + b.spread, rows=scalar(rows, rank) if a.simplex != -1 else None)
    ctx.register(out)
    return Step(out, lambda g: _back(g, out, (a, b), (pa, pb)))


def _back(g: Gradient, out: Signal, operands: tuple[Signal, Signal], pairs: tuple[float, float]) -> list[Flow]:
    """To ``a``: a sum over columns, ``Σ_j g_ij b_kj``; to ``b``: a sum over rows, ``Σ_i a_ik g_ij``.

    In both, gradients of two columns (rows) pair with the other operand's. Those of logits sum to zero over the keys,
    so that what all keys share is nothing to a query; but keys and values are projections of the same tokens, whose
    overlaps ``1/√C`` add up over all keys.
    """
    (a, b), (pair_a, pair_b) = operands, pairs
    rows, columns = a.shape[-2], b.shape[-1]
    p, far = by_row(g.second), by_row(g.far)
    (qa, row), (qb, column) = (
        [of_samples(m, out) for m in (x.second, pair_along(x, dim))]
        for x, dim in ((a, len(a.shape) - 2), (b, len(b.shape) - 1))
    )
    mean, between = by_sample(p), torch.zeros_like(p[..., :1, :])
    if main_kind(a.axes[-2]) == "s":
        between = pair_of_rows(g.far, rows)
    across = columns_alike(g, a, b)
    to_a = p * columns * (qb + (columns - 1) * across * column)
    if a.simplex != -1 and main_kind(b.axes[-1]) == "s":  # queries that meet keys
        to_a = to_a * (1 + (columns - 1) * of_samples(overlaps(b), out))
    to_b = rows * (mean * qa + (rows - 1) * between * row)
    far_a = to_a * (far / p.clamp_min(1e-300)).clamp(-1, 1) if main_kind(a.axes[-2]) == "s" else torch.zeros_like(to_a)
    if main_kind(b.axes[-2]) == "s":
        far_b = rows * (mean * pair_a + (rows - 1) * between * (1 / a.shape[-1] ** 2 if a.simplex == -1 else row))
    else:
        far_b = across * to_b
    whole = float(b.second.mean())
    alike = pair_b / whole if whole > 0 else None
    to_a, far_a = (fitted(m, a.shape) for m in (to_a, far_a))
    to_b, far_b = (fitted(m, b.shape) for m in (to_b, torch.minimum(far_b, to_b)))
    return [
        (a.name, Gradient(to_a, far_a, g.spread + a.spread, g.doubt, rows=alike), True),
        (b.name, Gradient(to_b, far_b, g.spread + b.spread, g.doubt), True),
    ]


def same_window(tokens: int, sites: int) -> float:
    """Of two sites of one sample, how often they are in one window of so many tokens, and average the same values."""
    return (tokens - 1) / (sites - 1) if sites > tokens else 1.0


def columns_alike(g: Gradient, a: Signal, b: Signal) -> float:
    """``E g g'`` of two columns of a product over ``E g²``."""
    if g.rows is not None:
        return g.rows
    if main_kind(b.axes[-1]) == "s" and main_kind(a.axes[-2]) != "s":
        return float(g.far.mean()) / max(float(g.second.mean()), 1e-300)
    return 0.0


def by_row(values: Tensor) -> Tensor:
    """A map averaged over all dimensions but samples and rows: a class token, and a sample, stay apart from others."""
    return values.mean([d for d in range(1, values.dim()) if d != values.dim() - 2], keepdim=True)


def by_sample(values: Tensor) -> Tensor:
    """A map averaged over all dimensions but the first. After a norm of pooled tokens gradients differ between samples
    by orders of magnitude, and are small where tokens agree: their products with what tokens share are of one sample.
    """
    return values.mean(list(range(1, values.dim())), keepdim=True)


def pair_of_rows(far: Tensor, rows: int) -> Tensor:
    """The average of `far` over pairs of different rows of each sample: ``√f √f'``, as one row alone has no partner."""
    per_row = by_row(far)
    if per_row.shape[-2] != rows or rows < 2:
        return by_sample(per_row)
    f = per_row.clamp_min(0)
    return (f.sqrt().sum(-2, keepdim=True) ** 2 - f.sum(-2, keepdim=True)) / (rows * (rows - 1))


def of_samples(values: Tensor, x: Signal) -> Tensor:
    """A map averaged over all dimensions but samples, as far as it fits a tensor of the shape of `x`."""
    return fitted(by_sample(values), x.shape)
