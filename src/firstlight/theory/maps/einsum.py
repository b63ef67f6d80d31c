"""Sums of products written as ``einsum``.

The letters say it all: those that the result lacks are summed; those that only one operand has are that operand's rows.
With a weight it is a linear layer, whose weights may differ between sites (relative positions: ``bhwc,hkc->bhwk`` has
weights of its own for each ``h``). Two signals are a matrix product once their letters are put together.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from firstlight.graph import Node
from firstlight.theory.axes import Axes
from firstlight.theory.maps.attention import of_signals, pair_along
from firstlight.theory.maps.registry import Context, Flow, Step, rule, shape_of, with_maps
from firstlight.theory.maps.weights import sharing
from firstlight.theory.signal import Gradient, Signal, scalar
from firstlight.theory.taps import independent


@dataclass(frozen=True, slots=True)
class _Letters:
    """Which letters each operand has, in order, and the result."""

    a: str
    b: str
    out: str

    @classmethod
    def of(cls, equation: str, ranks: Sequence[int]) -> "_Letters":
        """Read an equation; dots are letters that line up from the right."""
        left, arrow, out = equation.replace(" ", "").partition("->")
        terms = left.split(",")
        spare = [c for c in "ABCDEFGHIJKLMNOP" if c not in equation]
        dots = [rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True)]
        a, b = (t.replace("...", "".join(spare[len(spare) - n :])) for t, n in zip(terms, dots, strict=True))
        if not arrow:
            once = sorted(c for c in set(a + b) if (a + b).count(c) == 1 and c not in spare)
            out = "..." * ("..." in left) + "".join(once)
        return cls(a, b, out.replace("...", "".join(spare[len(spare) - max(dots) :])))

    @property
    def understood(self) -> bool:
        """Whether each letter comes once, and all that is summed is in both operands."""
        once = all(len(set(term)) == len(term) for term in (self.a, self.b, self.out))
        return once and set(self.a) ^ set(self.b) <= set(self.out) <= set(self.a) | set(self.b)

    @property
    def summed(self) -> str:
        """What both have and the result has not."""
        return "".join(c for c in self.a if c not in self.out)


@rule("einsum")
def einsum(node: Node, ctx: Context) -> Step | None:
    """Two operands: a signal and a weight in either order, or two signals."""
    if len(node.inputs) != 2 or node.shape is None:
        return None
    a, b = (ctx.signals[name] for name in node.inputs)
    letters = _Letters.of(str(node.arguments["equation"]), (len(a.shape), len(b.shape)))
    if not ctx.is_signal(a.name):
        a, b, letters = b, a, replace(letters, a=letters.b, b=letters.a)
    if not letters.understood or not letters.summed:
        return None
    axes = _axes(a, b, letters)
    return (
        _of_signals(node, ctx, a, b, letters, axes) if ctx.is_signal(b.name) else _with(node, ctx, a, b, letters, axes)
    )


def _axes(a: Signal, b: Signal, letters: _Letters) -> Axes:
    known = dict(zip(letters.b, b.axes, strict=True)) | dict(zip(letters.a, a.axes, strict=True))
    return tuple(known[c] for c in letters.out)


def _sizes(x: Signal, letters: str) -> dict[str, int]:
    return dict(zip(letters, x.shape, strict=True))


def _with(node: Node, ctx: Context, x: Signal, weight: Signal, letters: _Letters, axes: Axes) -> Step:
    """``y = Σ_k x_k w_k``, as in `weights`; sites that have weights of their own share only what their mean does."""
    sizes = _sizes(x, letters.a) | _sizes(weight, letters.b)
    n = math.prod(sizes[c] for c in letters.summed)
    columns = math.prod(sizes[c] for c in letters.out if c not in letters.a)
    own = math.prod(sizes[c] for c in letters.out if c in letters.a and c in letters.b)
    alike = (x.sites() / own - 1) / max(x.sites() - 1, 1)  # of pairs of sites that have the same weights
    mean_w, second_w = float(weight.mean.mean()), float(weight.second.mean())
    free = max(second_w - mean_w**2, 0.0)
    mean, second, far, other = x.scalars()
    pair = float(pair_along(x, letters.a.index(letters.summed[0])).mean())

    def collected(k: float, same: float = 1.0) -> float:
        return n * ((mean_w**2 + same * free) * k + (n - 1) * mean_w**2 * pair)

    rank = len(shape_of(node))
    maps = [
        scalar(v, rank)
        for v in (n * mean_w * mean, collected(second), collected(far, alike), collected(other, 1 / own))
    ]
    out = ctx.register(replace(with_maps(x, node, axes, maps), near=None, taps=independent(n)))

    def pull(g: Gradient) -> list[Flow]:
        back, apart = (columns * second_w * float(m.mean()) for m in (g.second, g.far))
        to = (1,) * len(x.shape)
        return [(x.name, g.moved(scalar(back, len(to)), scalar(apart * alike, len(to))), True)]

    return Step(out, pull, local=2 * sharing(out, ctx.batch) / (columns * own))


def _of_signals(node: Node, ctx: Context, a: Signal, b: Signal, letters: _Letters, axes: Axes) -> Step:
    """A matrix product of the operands with their letters put together: rows that are sites, and what is summed."""
    step = of_signals(node, ctx, _matrix(a, letters.a, letters, left=True), _matrix(b, letters.b, letters), axes)

    def pull(g: Gradient) -> list[Flow]:
        ranks = {a.name: len(a.shape), b.name: len(b.shape)}
        even = replace(g, second=scalar(float(g.second.mean()), 2), far=scalar(float(g.far.mean()), 2))
        flows = []
        for name, f, carries in step.pull(even):
            second, far = (scalar(float(m), ranks[name]) for m in (f.second, f.far))
            flows.append((name, replace(f, second=second, far=far), carries))
        return flows

    return replace(step, pull=pull)


def _matrix(x: Signal, term: str, letters: _Letters, *, left: bool = False) -> Signal:
    """`x` as rows × summed, or summed × columns; both operands' letters are batches of matrices and left out."""
    place = {c: k for k, c in enumerate(term)}
    rows = [c for c in term if not (c in letters.a and c in letters.b)]
    parts = [rows, list(letters.summed)] if left else [list(letters.summed), rows]
    axes = tuple(tuple(f for c in part for f in x.axes[place[c]]) or (("s", 1),) for part in parts)
    shape = tuple(math.prod(x.shape[place[c]] for c in part) for part in parts)
    mean, second, far, other = (scalar(v, 2) for v in x.scalars())
    simplex = -1 if left and x.simplex and letters.summed == term[x.simplex] else 0
    return replace(
        x.gaussian(), shape=shape, axes=axes, mean=mean, second=second, far=far, other=other, simplex=simplex,
        near=None, profile=None, rows=None,
    )  # fmt: skip
