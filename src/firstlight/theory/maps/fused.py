"""The fused attention operation: logits, softmax and average of values in one (`attention` has the theory).

Tokens may be those of one window of many. Queries of one window average the same values, so they share what the
weights leave; queries of different windows share what values of different windows do. Windows that do not divide the
image are filled up: padding after a norm is zero, its logits are zero, and it has no value. Of ``n`` keys that are
there beside ``m`` that are not the weights sum to ``A = E Σ a < 1``, and only theirs count, for the output of a query
that is there; one that is not is an even average, ``A = n/(n+m)``.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from firstlight.graph import Node
from firstlight.theory.axes import resized
from firstlight.theory.maps.attention import (
    by_row,
    by_sample,
    jacobian,
    lean,
    of_samples,
    overlaps,
    pair_along,
    pair_of_rows,
    participation,
    same_window,
)  # fmt: skip
from firstlight.theory.maps.registry import Context, Flow, Step, rule, shape_of, with_maps
from firstlight.theory.mixture import fitted
from firstlight.theory.signal import Gradient, Signal, scalar
from firstlight.theory.taps import closeness


@dataclass(frozen=True)
class _Seen:
    """How many keys the queries see: all of them, with a causal mask one more each, in a filled window those there.

    Attributes:
        counts: of keys; a few stand for many.
        absent: beside them, zeros.
        queries: how many queries see as many.
        pairs: of how many pairs the query that sees more sees as many: their weights overlap by 1/that.
        window: which count each window has, with the rank of the keys; ``None`` when all have the same.
        there: which queries are, with their rank.
    """

    counts: tuple[int, ...]
    absent: tuple[int, ...]
    queries: tuple[float, ...]
    pairs: tuple[float, ...]
    window: Tensor | None = None
    there: Tensor | None = None

    @classmethod
    def of(cls, node: Node, q: Signal, k: Signal) -> "_Seen":
        queries, tokens = q.shape[-2], k.shape[-2]
        if node.arguments.get("is_causal", False):
            return cls._causal(queries, tokens)
        keys, there = (x.second.mean(-1, keepdim=True) > 0 for x in (k, q))
        # A projection that is zero everywhere is no padding.
        keys, there = (m if bool(m.any()) else torch.ones_like(m) for m in (keys, there))
        if bool(keys.all()) and bool(there.all()):
            return cls((tokens,), (0,), (1.0,), (1.0,))
        each = keys.expand(*keys.shape[:-2], tokens, 1).sum(-2, keepdim=True)
        asking = there.expand(*there.shape[:-2], queries, 1).sum(-2, keepdim=True).expand(each.shape)
        counts, window = each.unique(return_inverse=True)
        rows = [asking[window == k].double() for k in range(len(counts))]
        return cls(
            tuple(counts.tolist()), tuple((tokens - counts).tolist()), tuple(float(r.sum()) for r in rows),
            tuple(float((r * (r - 1)).sum()) for r in rows), window, there,
        )  # fmt: skip

    @classmethod
    def _causal(cls, queries: int, tokens: int) -> "_Seen":
        each = np.minimum(np.arange(1, queries + 1), tokens)
        edges = np.unique(np.geomspace(1, queries + 1, min(queries + 1, 40)).astype(int))
        parts = [slice(a - 1, b - 1) for a, b in itertools.pairwise(edges)]
        turns = np.arange(1, queries + 1) * 2 - 1
        return cls(
            tuple(round(float(each[part].mean())) for part in parts), (0,) * len(parts),
            tuple(float(part.stop - part.start) for part in parts), tuple(float(turns[part].sum()) for part in parts),
        )  # fmt: skip

    def mean(self, of_count: Callable[[int, int], float], *, pairs: bool = False) -> float:
        """Mean over queries, or over pairs of queries, of a function of the number of keys there and not there."""
        weights = self.pairs if pairs else self.queries
        found = (w * of_count(n, m) for w, n, m in zip(weights, self.counts, self.absent, strict=True) if w)
        return sum(found) / max(sum(weights), 1e-300)

    def map(self, of_count: Callable[[int, int, bool], float], rank: int, *, pairs: bool = False) -> Tensor:
        """The same function as a map over windows; its last argument tells whether the query is there."""
        if self.window is None or self.there is None:
            return scalar(self.mean(lambda n, m: of_count(n, m, True), pairs=pairs), rank)
        there, not_there = (
            torch.tensor([of_count(*c, b) if c[0] else 0.0 for c in zip(self.counts, self.absent, strict=True)])
            for b in (True, False)
        )
        return torch.where(self.there, there.double()[self.window], not_there.double()[self.window])


def _present(x: Signal) -> tuple[float, float]:
    """E z² and E z z' of two tokens of one window, among those that are not zero.

    `far` of tokens is the mean over all pairs of a sample, ``far' + r̄ (q - far')``; in a window ``r̄`` is larger.
    """
    share = max(float((x.second > 0).double().mean()), 1e-300)
    second, far = float(x.second.mean()) / share, float(x.far.mean()) / share
    inside = [n for kind, n in x.axes[-2] if kind == "s"]
    windows = x.sites() / x.shape[-2]
    if x.near is None or windows <= 1:
        return second, far
    whole = [n * round(windows ** (1 / len(inside))) for n in inside]
    close, everywhere = (closeness(x, sizes) for sizes in (inside, whole))
    apart = (far - everywhere * second) / (1 - min(everywhere, 0.9))
    return second, apart + close * (second - apart)


def _relative(values: Tensor) -> Tensor:
    """A map over its mean."""
    return values.clamp_min(0) / values.clamp_min(0).mean().clamp_min(1e-300)


def _few(second: Tensor, overlaps: Tensor, alike: Tensor, v: Signal) -> float:
    """Variance of the logarithm of a mean of ``(g_i·v_j)²`` over few heads, samples, and directions of their values.

    Given the values, ``g·v`` of one head and one ``g`` is Gaussian along ``1/overlaps`` directions, and its square
    varies by twice its mean squared. Gradients of queries that are `alike` are one.

    Args:
        second: of the gradient, where samples differ in size, [N, ...].
        overlaps: of the tokens of each sample; alike: ``E g g'`` of two queries over ``E g²``.
    """
    heads, queries = max(math.prod(v.shape[1:-2]), 1), v.shape[-2]
    sizes = by_sample(second)
    one = overlaps * (alike**2 + (1 - alike**2) / queries)
    samples = v.shape[0] if sizes.shape[0] == 1 else 1
    shares = sizes / sizes.sum().clamp_min(1e-300)
    return 2 * float((shares**2 * one).sum()) / heads / samples


def _same_window(q: Signal, seen: _Seen) -> float:
    """Of two queries of one sample, how often they are in one window."""
    windows = q.sites() / q.shape[-2]
    if windows <= 1:
        return 1.0
    if seen.window is None:
        return same_window(q.shape[-2], q.sites())
    of_one = sum(seen.queries) / seen.window.numel()
    return sum(seen.pairs) / seen.window.numel() / max(of_one * (windows * of_one - 1), 1e-300)


def _along_keys(mask: Signal) -> float:
    """How much an additive mask varies along the keys; one that only switches keys off has no values that are known."""
    return max(float((mask.second - pair_along(mask, len(mask.shape) - 1)).mean()), 0.0)


@dataclass(frozen=True)
class _Attention:
    """One fused attention: what it reads, and what is known of its tokens and weights.

    Attributes:
        q, k, v, mask: the signals it reads.
        factor: of the logits.
        seen: which keys each query sees.
        qq, far_q: E q², and E q q' of two queries of one window.
        apart, free: by how much E k² and E v² exceed that of two tokens.
        logits, common: variance of the logits along the keys, and what all queries have in common of it.
        far_v: E v v' of two tokens of one window.
    """

    q: Signal
    k: Signal
    v: Signal
    mask: Signal | None
    factor: float
    seen: _Seen
    qq: float
    far_q: float
    apart: float
    free: float
    logits: float
    common: float
    far_v: float

    @classmethod
    def of(cls, node: Node, q: Signal, k: Signal, v: Signal, mask: Signal | None) -> "_Attention":
        d, scale = q.shape[-1], node.arguments.get("scale")
        factor = float(scale) if isinstance(scale, int | float) else 1 / math.sqrt(d)
        (qq, far_q), (qk, far_k), (qv, far_v) = (_present(x) for x in (q, k, v))
        apart, free = max(qk - far_k, 0.0), max(qv - far_v, 0.0)
        biased = _along_keys(mask) if mask is not None else 0.0
        logits, common = (round(d * factor**2 * x * apart, 9) for x in (qq, max(far_q, 0.0)))
        logits, seen = round(logits + biased, 9), _Seen.of(node, q, k)
        return cls(q, k, v, mask, factor, seen, qq, far_q, apart, free, logits, common, far_v)

    @cached_property
    def p(self) -> float:
        """``E Σ a²`` of one query."""
        return self.seen.mean(lambda n, m: participation(self.logits, n, 2, m))

    @cached_property
    def alike(self) -> float:
        """``E Σ a a'`` of two."""
        return self.seen.mean(lambda n, m: participation(self.common, n, 2, m), pairs=True)

    def whole(self, n: int, m: int, there: bool = True) -> float:
        """``E Σ a`` over the `n` keys that are there, beside `m` that are not, of a query that is there or not."""
        return participation(self.logits if there else 0.0, n, 1, m) if m else 1.0

    def second(self, n: int, m: int, there: bool) -> float:
        """``E y²``."""
        p = participation(self.logits if there else 0.0, n, 2, m)
        # Values that sum to zero over the tokens leave what the weights differ from equal ones.
        least = max(p - 1 / n, 0.0) * self.free if not m else 0.0
        leaning = lean(self.logits if there else 0.0, p, self.k)
        return max(self.whole(n, m, there) ** 2 * self.far_v + (p + leaning) * self.free, least)

    def shared(self, n: int, m: int, there: bool) -> float:
        """``E y y'`` of two queries of one sample."""
        p = participation(self.logits if there else 0.0, n, 2, m)
        alike = participation(self.common if there else 0.0, n, 2, m)
        same, towards = _same_window(self.q, self.seen), max(self.far_q, 0.0) / max(self.qq, 1e-300)
        between = float(self.v.apart.mean()) if same < 1 and not m else self.far_v
        kept = self.whole(n, m, there) ** 2 * between
        return kept + (same * alike + lean(self.logits, p, self.k) * towards) * self.free


@rule("scaled_dot_product_attention")
def fused(node: Node, ctx: Context) -> Step | None:
    """Logits, softmax and average of values in one operation."""
    q, k, v = (ctx.of(node, role) for role in ("query", "key", "value"))
    if q is None or k is None or v is None:
        return None
    it = _Attention.of(node, q, k, v, ctx.of(node, "attn_mask"))
    rank, kept = len(shape_of(node)), it.seen.mean(it.whole)
    seconds = it.seen.map(it.second, rank)
    # What all queries of a sample, or of two samples, have in common leans all of them to one side.
    towards = max(float(q.other.mean() / q.second.mean().clamp_min(1e-300)), 0.0)
    other = torch.minimum(kept**2 * v.other.mean() + lean(it.logits, it.p, k) * it.free * towards, seconds)
    maps = [(kept * v.mean.mean()).reshape((1,) * rank), seconds, it.seen.map(it.shared, rank, pairs=True), other]
    axes = resized((*q.axes[:-1], v.axes[-1]), shape_of(node))
    out = ctx.register(with_maps(replace(v, near=None), node, axes, maps))
    return Step(out, lambda g: _back(g, it, out))


def _back(g: Gradient, it: _Attention, out: Signal) -> list[Flow]:
    """``dv_j = Σ_i a_ij g_i``; ``dl_ij = a_ij (g_i·v_j - Σ a g·v)``, ``dq_i = scale Σ_j dl_ij k_j``; k like q."""
    q, k, v, tokens, queries = it.q, it.k, it.v, it.k.shape[-2], it.q.shape[-2]
    gq, gf = by_row(g.second), by_row(g.far)
    mean, between = by_sample(gq), pair_of_rows(g.far, queries)
    ratio = queries / tokens
    to_v = ratio * (it.p * mean + (queries - 1) * it.alike * between)
    soft = it.seen.mean(lambda n, m: jacobian(it.logits, n))
    differ, keys_differ, agree = (_relative(of_samples(m, out)) for m in (v.second - v.far, k.second - k.far, q.far))
    slope = v.shape[-1] * it.free * it.factor**2 * differ
    # Keys and values are two projections of the same tokens, whose overlaps 1/√C add up over T of them.
    along = of_samples(overlaps(k), out)
    overlap = (tokens - 1) * along
    to_q = slope * soft * it.apart * keys_differ * (1 + overlap) * gq
    agreed = it.alike / it.p if it.p > 0 else 0.0
    alike_q = (agreed + overlap) / (1 + overlap)  # two queries' weights differ, their keys and values do not
    to_k = slope * ratio * soft * (mean * it.qq + (queries - 1) * between * it.far_q * agree * agreed)
    pair = ratio * (mean / tokens + (queries - 1) / tokens * between)
    far_to_q = to_q * (gf / gq.clamp_min(1e-300)).clamp(-1, 1) * alike_q
    spread = g.spread + v.spread
    few = _few(to_q, along, between / mean.clamp_min(1e-300), v)
    flows: list[Flow] = [
        (x.name, Gradient(fitted(second, x.shape), fitted(far, x.shape), spread + more, g.doubt), True)
        for x, second, far, more in (
            (q, to_q, far_to_q, few),
            (k, to_k, -to_k / max(tokens - 1, 1), few),  # what a query gives to all its keys together is nothing
            (v, to_v, torch.minimum(pair, to_v), 0.0),
        )
    ]
    if it.mask is not None:
        by_mask = fitted(v.shape[-1] * it.free * soft * differ * mean / tokens, it.mask.shape)
        flows.append((it.mask.name, Gradient(by_mask, torch.zeros_like(by_mask), spread, g.doubt), True))
    return flows
