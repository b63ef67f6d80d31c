"""Sums and products of two signals.

Sum (residual connections): ``E (a+b)² = E a² + E b² + 2 E a b``. The cross moment is ``E a E b`` when the branch ends
in a fresh zero-mean weight, and more when the two share a source: ``x + relu(x)`` has second moment 2.5, not the 1.5 of
independent terms. Product (gates, squeeze-and-excite, GLU): ``E a² b² = E a² E b²`` for independent factors, plus
``2 k² + 4 k E a E b`` for Gaussian ones of covariance ``k`` (Isserlis). Two functions of one Gaussian are neither: they
are one function, taken exactly.
"""

import math
import operator
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from firstlight.graph import Node
from firstlight.theory import law
from firstlight.theory.axes import Axes, main_kind, resized
from firstlight.theory.elementwise import IDENTITY, Elementwise, aten, derivative
from firstlight.theory.maps.broadcast import aligned, reduced
from firstlight.theory.maps.pointwise import apply, of_function, shown, through
from firstlight.theory.maps.registry import Context, Flow, Step, dims_of, linear_terms, rule, shape_of, with_maps
from firstlight.theory.mixture import even, fitting, summed, times
from firstlight.theory.signal import Coefficient, Gradient, Near, Signal, like_most, scalar

_SCALAR = {
    "add": lambda c: Elementwise(f"+{c}", lambda z: z + c),
    "sub": lambda c: Elementwise(f"-{c}", lambda z: z - c),
    "rsub": lambda c: Elementwise(f"{c}-", lambda z: c - z),
    "mul": lambda c: Elementwise(f"*{c}", lambda z: z * c),
    "div": lambda c: Elementwise(f"/{c}", lambda z: z / c),
}
_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv,
}  # fmt: skip


@rule("add", "sub", "rsub", "mul", "div", "true_divide", "multiply", "subtract")
def binary(node: Node, ctx: Context) -> Step | None:
    """One of the four operations on a signal and a number, on two functions of one Gaussian, or on two signals."""
    op = {"true_divide": "div", "multiply": "mul", "subtract": "sub"}.get(node.function, node.function)
    operands = [ctx.signals[name] for name in node.inputs]
    alpha = float(node.arguments.get("alpha", 1))
    if len(operands) == 1:
        value = node.arguments.get("other", node.arguments.get("self"))
        if not isinstance(value, int | float):
            return None
        number = value * alpha if op in ("add", "sub") else value
        return apply(node, ctx, operands[0], _SCALAR[op](float(number)))
    a, b = operands
    if op == "rsub":
        a, b, op = b, a, "sub"
    constant = _constant(a, b)
    if constant is not None and op != "div" and not (constant[1] is a and op == "sub"):
        return _with_constant(node, ctx, *constant, op, alpha)
    if a.root.name == b.root.name and a.shape == b.shape and a.root.shape == a.shape:
        return _one_function(node, ctx, a, b, op, alpha)
    if op == "div":
        return quotient(node, ctx, a, b)
    return product(node, ctx, a, b) if op == "mul" else total(node, ctx, a, b, alpha if op == "add" else -alpha)


def _constant(a: Signal, b: Signal) -> tuple[Signal, Signal] | None:
    """The one operand, and the other when all its elements are equal and it adds no dimension."""
    for x, c in ((a, b), (b, a)):
        still = float(c.variance.max()) <= 1e-14 * float(c.second.max()) and bool((c.mean == c.mean.mean()).all())
        if still and math.prod(c.shape) <= math.prod(x.shape) and len(c.shape) <= len(x.shape):
            return x, c
    return None


def _with_constant(node: Node, ctx: Context, x: Signal, c: Signal, op: str, alpha: float) -> Step:
    """A number that is written as a tensor: a scale with one value, a branch that starts at zero."""
    value = float(c.mean.mean()) * (alpha if op in ("add", "sub") else 1.0)
    step = apply(node, ctx, x, _SCALAR[op](value))

    def pull(g: Gradient) -> list[Flow]:
        back = g.moved(g.second * x.second, g.far * x.far) if op == "mul" else g.scaled(alpha**2)
        return [*step.pull(g), (c.name, reduced(back, c, x.shape, x.axes), True)]

    return replace(step, pull=pull) if ctx.is_signal(c.name) else step


def _one_function(node: Node, ctx: Context, a: Signal, b: Signal, op: str, alpha: float) -> Step:
    f, g = a.function or IDENTITY, b.function or IDENTITY
    combine = _BINARY[op]
    whole = Elementwise(f"({f.key}){op}[{alpha}]({g.key})", lambda z: combine(f.call(z), alpha * g.call(z)))
    base = a.root
    slopes = (
        _partial(combine, f, g, alpha, by_first=True, key=whole.key),
        _partial(combine, f, g, alpha, by_first=False, key=whole.key),
    )
    signal = replace(of_function(node, ctx, base, whole), steps=tuple(zip((a, b), slopes, strict=True)))

    def pull(grad: Gradient) -> list[Flow]:
        return [(base.name, through(base, whole, grad, ctx), True), *shown(signal, None, grad)]

    return Step(signal, pull)


def _partial(
    combine: Callable[[Tensor, Tensor], Tensor],
    f: Elementwise,
    g: Elementwise,
    alpha: float,
    *,
    by_first: bool,
    key: str,
) -> Elementwise:
    """Derivative of ``combine(f(z), alpha·g(z))`` by its first or second operand, as a function of ``z``."""

    def slope(z: Tensor) -> Tensor:
        left, right = f.call(z.detach()).detach(), g.call(z.detach()).detach()
        varied = (left if by_first else right).clone().requires_grad_()
        with torch.enable_grad():
            y = combine(varied, alpha * right) if by_first else combine(left, alpha * varied)
            return derivative(y, varied)

    return Elementwise(f"slope of {key} by its {'first' if by_first else 'second'}", slope)


def quotient(node: Node, ctx: Context, a: Signal, b: Signal) -> Step:
    """``a / b`` for a size that varies little: ``a · 1/b``, and ``(1/b)' = -1/b²``.

    One that varies is not known this well: were its logarithm normal with variance ``σ²``, ``E 1/b²`` would be
    ``e^{4σ²}/E b²``. That much is in doubt, once for each power of ``1/b²``.
    """
    inverse = _reciprocal(b)
    step = product(node, ctx, a, inverse)
    first = float((b.mean**2).mean())
    varies = math.log(max(float(b.second.mean()) / first, 1.0)) if first > 0 else 1.0

    def pull(g: Gradient) -> list[Flow]:
        flows = []
        for name, back, carries in step.pull(g):
            powers = 2 if name == b.name else 1
            found = back.scaled(inverse.second**2) if name == b.name else back
            flows.append((name, replace(found, doubt=found.doubt + 4 * powers * varies), carries))
        return flows

    divisor = ctx.graph[b.name]
    by_own_sum = b.shape == (*a.shape[:-1], 1) and _is_sum_of(
        ctx.graph[divisor.inputs[0]] if divisor.function == "unsqueeze" else divisor, a
    )
    signal = replace(step.signal, simplex=-1) if by_own_sum else step.signal
    return replace(step, signal=signal, pull=pull)


def _is_sum_of(node: Node, x: Signal) -> bool:
    """Whether the node adds `x` up along its last dimension: divided by that, it sums to one."""
    rank = len(x.shape)
    return node.function == "sum" and node.inputs[:1] == (x.name,) and dims_of(node, rank) == (rank - 1,)


def _reciprocal(b: Signal) -> Signal:
    second = 1 / b.second.clamp_min(1e-30)
    mean = b.mean.sign() * second.sqrt()
    gaussian = replace(b.gaussian(), terms={})
    return replace(gaussian, mean=mean, second=second, far=second, other=second)


def _frame(ctx: Context, a: Signal, b: Signal, shape: tuple[int, ...]) -> Axes:
    """The axes of the operand that has the result's shape, a signal rather than a parameter."""
    fitting = [x for x in (a, b) if x.shape == shape] or [max((a, b), key=lambda x: math.prod(x.shape))]
    chosen = next((x for x in fitting if ctx.is_signal(x.name)), fitting[0])
    axes = chosen.axes
    lead = len(shape) - len(axes)
    return (*((("b", n),) for n in shape[:lead]), *axes)


def _shared(ctx: Context, x: Signal, y: Signal, *, alike: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Covariance of two signals at one element, between sites and between samples; none where they are not `alike`.

    At one element it is a map, for which the correlation is taken as the same everywhere: a number for all places would
    leave less than nothing of ``x - pool(x)`` where `x` is small.
    """
    own, *apart = ctx.shared(x, y).tolist() if alike else [0.0] * 3
    sizes = (x.variance * y.variance).sqrt()
    correlation = min(max(own / max(float(sizes.mean()), 1e-300), -1.0), 1.0)
    far, other = (scalar(k, sizes.dim()) for k in apart)
    return sizes * correlation * _tokens(sizes, x.axes), far, other


def _tokens(sizes: Tensor, axes: Axes) -> Tensor:
    """Where in a sequence what is known on average holds: not at a few tokens of another size than all others."""
    places = [d for d, axis in enumerate(axes) if main_kind(axis) == "s" and sizes.shape[d] > 1]
    if len(places) != 1:
        return scalar(1.0, sizes.dim())
    return like_most(sizes.mean([d for d in range(sizes.dim()) if d != places[0]], keepdim=True)).double()


def total(node: Node, ctx: Context, a: Signal, b: Signal, alpha: float) -> Step:
    """``a + alpha · b``."""
    shape = shape_of(node)
    axes = _frame(ctx, a, b, shape)
    x, y = aligned(a, shape, axes), aligned(b, shape, axes)
    shared = _shared(ctx, x, y, alike=a.shape == b.shape)
    means = 2 * alpha * x.mean * y.mean
    second, far, other = (
        m + alpha**2 * n + means + 2 * alpha * k for m, n, k in zip(x.maps()[1:], y.maps()[1:], shared, strict=True)
    )
    terms = dict(a.terms)
    for name, coefficient in b.terms.items():
        terms[name] = terms.get(name, 0.0) + alpha * coefficient
    qx, qy = float(x.second.mean()), alpha**2 * float(y.second.mean())
    share = qx / max(qx + qy, 1e-300)
    profile = None
    if len(a.shape) == len(b.shape):
        profile = summed([(a.profile, qx), (b.profile, qy)], float(second.mean()) - qx - qy)
    spread, fresh = (share**2 * p + (1 - share) ** 2 * q for p, q in ((a.spread, b.spread), (a.fresh, b.fresh)))
    signal = Signal(
        node.name, shape, axes, x.mean + alpha * y.mean, second.clamp_min(0), far, other,
        mixed([x, y], [1.0, alpha**2]), fitting(profile, shape), terms=_main_terms(ctx, terms), spread=spread,
        fresh=fresh, rows=_rows(a, b, alpha), rank=1 / _overlap(x, y, share), read=a.read, skew=_skewed(x, y, alpha),
        law=law.total(x, y, alpha),
    )  # fmt: skip
    inside = [
        _part(z, scale, other_, float(shared[0].mean())) for z, scale, other_ in ((x, 1.0, alpha), (y, alpha, 1.0))
    ]
    whole = math.sqrt(max(float(signal.variance.mean()), 1e-300))

    def pull(g: Gradient) -> list[Flow]:
        return [
            (operand.name, reduced(replace(g.scaled(scale**2), lean=g.lean * part / whole), operand, shape, axes), True)
            for operand, scale, part in zip((a, b), (1.0, alpha), inside, strict=True)
        ]

    return Step(signal, pull)


def _skewed(x: Signal, y: Signal, alpha: float) -> float:
    """`Signal.skew` of ``x + alpha · y``: third cumulants of independent parts add."""
    one, two = (max(float(z.variance.mean()), 0.0) for z in (x, y))
    whole = max(one + alpha**2 * two, 1e-200)
    return x.skew * (one / whole) ** 1.5 + alpha**3 * y.skew * (two / whole) ** 1.5


def _part(x: Signal, scale: float, other: float, shared: float) -> float:
    """Covariance of a sum ``scale · x + other · y`` with the standardized ``x``."""
    variance = float(x.variance.mean())
    return (scale * variance + other * shared) / math.sqrt(variance) if variance > 0 else 0.0


def _overlap(x: Signal, y: Signal, share: float) -> float:
    """``tr S²/(tr S)²`` for a sum of two covariances that lie towards each other as they may."""
    own = share**2 / x.directions() + (1 - share) ** 2 / y.directions()
    return own + 2 * share * (1 - share) / max(x.channels(), 1)


def product(node: Node, ctx: Context, a: Signal, b: Signal) -> Step:
    """``a · b``."""
    shape = shape_of(node)
    axes = _frame(ctx, a, b, shape)
    x, y = aligned(a, shape, axes), aligned(b, shape, axes)
    shared = _shared(ctx, x, y, alike=a.shape == b.shape)
    means = x.mean * y.mean
    second, far, other = (
        m * n + 2 * k**2 + 4 * k * means for m, n, k in zip(x.maps()[1:], y.maps()[1:], shared, strict=True)
    )
    second = second * _both_large(a, b)
    terms: dict[str, Coefficient] = {node.name: 1.0}
    for operand, partner in ((a, b), (b, a)):
        for name, c in linear_terms(operand.terms, float(partner.mean.mean())).items():
            terms[name] = terms.get(name, 0.0) + c
    rows = None if a.rows is None or b.mean.numel() > 1 else a.rows * b.second
    signal = Signal(
        node.name, shape, axes, means + shared[0], second, far, other, mixed([x, y], [1.0, 1.0]),
        times(fitting(a.profile, shape), fitting(b.profile, shape)),
        terms=terms, spread=a.spread + b.spread, rows=rows, swing=_swing(a, x) + _swing(b, y),
    )  # fmt: skip

    def pull(g: Gradient) -> list[Flow]:
        return [
            (operand.name, reduced(_by_factor(g, partner, operand, shape), operand, shape, axes), True)
            for operand, partner in ((a, y), (b, x))
        ]

    return Step(ctx.register(signal), pull)


def _both_large(a: Signal, b: Signal) -> float:
    """``E a² b²`` over ``E a² E b²``, as far as both are large at the same places of the data."""
    if a.profile is None or b.profile is None or a.profile.dim() != b.profile.dim():
        return 1.0
    return float((even(a.profile) * even(b.profile)).mean())


def _swing(operand: Signal, broadcast: Signal) -> float:
    """``var log g`` over samples of a gate ``g`` that is one number for all sites: ``(E g² - E g g')/E g²``."""
    if operand.shape == broadcast.shape or broadcast.far is not broadcast.second:
        return operand.swing
    second = float(operand.second.mean())
    return operand.swing + max(1 - float(operand.other.mean()) / second, 0.0) if second > 0 else 0.0


def _by_factor(g: Gradient, partner: Signal, operand: Signal, shape: tuple[int, ...]) -> Gradient:
    """``g · partner``; where a gate collects it from many sites, what `g` has in common with the partner adds up.

    After ``relu(x · gate)`` the gradient is there only where ``x`` is positive: ``E (g x)(g' x')`` between two sites is
    that of independent ones, plus the variance of ``x`` times `Gradient.along`.
    """
    collected = operand.shape != shape
    far = g.far * (partner.apart if collected else partner.far)
    if g.along is not None and collected:
        far = far + g.along * partner.variance
    lean = 0.0 if collected or partner.far is not partner.second else g.lean
    profile = times(g.profile, fitting(partner.profile, shape))
    return replace(
        g.moved(g.second * partner.second, far),
        spread=g.spread + partner.spread,
        lean=lean,
        profile=profile,
    )


@rule("glu")
def gated(node: Node, ctx: Context) -> Step:
    """``a · sigmoid(b)`` for the two halves of a tensor, which are channels of their own."""
    x = ctx.first(node)
    dim = int(node.arguments.get("dim", -1)) % len(x.shape)
    gate = of_function(node, ctx, x.gaussian(), aten("sigmoid", {}))
    maps = [x.mean * gate.mean, x.second * gate.second, x.far * gate.far, x.other * gate.other]
    maps = [m if m.shape[dim] == 1 else m.mean(dim, keepdim=True) for m in maps]
    out = replace(with_maps(x, node, resized(x.axes, shape_of(node)), maps), spread=x.spread + gate.spread)

    def pull(g: Gradient) -> list[Flow]:
        by_gate = through(x.gaussian(), aten("sigmoid", {}), Gradient(g.second * x.second, g.far * x.far), ctx)
        second, far = (g.second * gate.second + by_gate.second) / 2, (g.far * gate.far + by_gate.far) / 2
        second, far = (m if m.shape[dim] == 1 else m.mean(dim, keepdim=True) for m in (second, far))
        return [(x.name, g.moved(second, far), True)]

    return Step(ctx.register(out), pull)


def mixed(signals: list[Signal], weights: list[float]) -> Near | None:
    """Closeness of a sum: the parts' closeness, each by what it has above `far`."""
    nears = [x.near for x in signals if x.near is not None]
    if not nears:
        return None
    shape = np.max([n.shape for n in nears if n.ndim == nears[0].ndim], axis=0)
    whole, mass = np.zeros(shape), 0.0
    for x, weight in zip(signals, weights, strict=True):
        above = weight * max(float((x.second - x.far).mean()), 0.0)
        mass += above
        if x.near is not None and x.near.ndim == len(shape):
            whole[tuple(slice(0, n) for n in x.near.shape)] += above * x.near
        else:
            whole[(0,) * len(shape)] += above
    return whole / mass if mass > 0 else None


def _rows(a: Signal, b: Signal, alpha: float) -> Tensor | None:
    """Attention logits plus a bias of their own: products of means along the last dimension add."""
    if a.rows is None:
        return None
    return a.rows + scalar(float(b.mean.mean()) ** 2 * alpha**2, a.rows.dim())


def _main_terms(ctx: Context, terms: dict[str, Coefficient]) -> dict[str, Coefficient]:
    """The sources that matter: those below a ten-thousandth of the largest contribution are dropped."""
    size = {name: float(np.abs(c * c * ctx.leaves[name]).max()) for name, c in terms.items() if name in ctx.leaves}
    least = 1e-4 * max(size.values(), default=0.0)
    return {name: terms[name] for name, value in size.items() if value > least}
