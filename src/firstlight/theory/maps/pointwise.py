"""Functions applied element by element: to one signal, or to several that follow the same Gaussian.

A chain such as ``x · hardsigmoid(x)``, written out by a network as five operations on ``x``, is one function of the
Gaussian behind it. So every result of an elementwise operation remembers that Gaussian (`Signal.base`) and the whole
function from there, and its moments are taken of the composition. Gradients do the same: the one that reaches the base
is multiplied by the slope of the composition, which the product of the steps' own factors would miss
(``relu(relu(x))`` passes one half, not one quarter).
"""

import math
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from firstlight._typing import Floats
from firstlight.graph import Node
from firstlight.theory.elementwise import IDENTITY, Elementwise, aten, derivative
from firstlight.theory.maps.channels import channels
from firstlight.theory.maps.registry import Context, Flow, Step, linear_terms, rule, shape_of
from firstlight.theory.maps.weights import sharing
from firstlight.theory.mixture import Mixed, fitting, mixed
from firstlight.theory.mixture import times as product
from firstlight.theory.signal import Gradient, Signal

_SAME = ("clone", "contiguous", "detach", "alias", "to", "type_as", "lift_fresh_copy", "float", "_to_copy")
_FUNCTIONS = (
    "relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "gelu", "silu", "mish", "hardswish",
    "hardsigmoid", "hardtanh", "sigmoid", "tanh", "softplus", "log_sigmoid", "softshrink", "hardshrink", "threshold",
    "clamp", "clamp_min", "clamp_max", "abs", "sin", "cos", "erf", "atan", "square", "neg", "exp", "sign", "floor",
    "round", "nan_to_num", "softsign", "cosh", "sinh", "expm1",
)  # fmt: skip
# Functions that a Gaussian would leave the domain of: their argument is positive because it is a size.
_OF_SIZES = frozenset({"sqrt", "rsqrt", "reciprocal", "log", "log1p", "log2"})


def of_function(node: Node, ctx: Context, base: Signal, f: Elementwise) -> Signal:
    """The signal ``f(base)``."""
    found = mixed(base, f)
    back = found.map
    terms = {**linear_terms(base.terms, found.mean_of(found.follows)), node.name: 1.0}
    excess = max(_excess(found, found.fourth, found.second), 0.0)
    signal = Signal(
        node.name, shape_of(node), base.axes, back(found.mean), back(found.second), back(found.far), back(found.other),
        found.near, fitting(found.profile, shape_of(node)), base, f, terms=terms,
        skew=found.skew, spread=base.spread - base.fresh + excess * sharing(base, ctx.batch) / max(1, base.channels()),
        across=None if found.across is None else back(found.across),
        rank=_rank(base, found), read=base.read,
    )  # fmt: skip
    if base.swing:
        # z → z·e^δ with one δ for all sites of a sample: E f moves by δ E z f'(z), which sites share, samples not.
        # E z² has all δ in it, and with it E f².
        signal = replace(signal, far=signal.far + back(found.stretch**2) * base.swing)
    return ctx.register(signal)


def _rank(base: Signal, found: Mixed) -> float:
    """The linear part keeps its directions, ``E f'² v`` of the variance, and the rest has those of all channels."""
    whole = found.mean_of(found.second - found.mean**2)
    share = min(found.mean_of(found.follows**2) * float(base.variance.mean()) / whole, 1.0) if whole > 0 else 1.0
    return 1 / (share**2 / base.directions() + (1 - share**2) / max(base.channels(), 1))


def _excess(found: Mixed, fourth: Floats, second: Floats) -> float:
    """Relative variance of the square of one element, averaged."""
    square = found.mean_of(second**2)
    return found.mean_of(fourth) / square - 1 if square > 0 else 0.0


def through(base: Signal, f: Elementwise, g: Gradient, ctx: Context) -> Gradient:
    """The gradient by `base` of what arrives as `g` at ``f(base)``."""
    found = mixed(base, f, g.profile)
    chi, pair, tilt = (found.map(v) for v in (found.chi, found.slope_far, found.tilt))
    noise = max(_excess(found, found.chi_fourth, found.chi), 0.0) * sharing(base, ctx.batch) / max(1, base.channels())
    factor, lean = found.leaning(g.lean)
    differ = channels(base, f, ctx) if g.tied != 1 else None
    kept, tied = (1.0, 1.0) if differ is None else (differ.kept, g.tied * differ.kept / differ.left)
    second = g.second * chi * factor * kept
    if g.echo is not None:  # the part that goes with f² meets f'² where f is large
        second = second + g.echo * (found.map(found.echo) - chi)
    apart = g.other * found.mean_of(found.slope**2)  # samples have next to nothing in common
    rows = g.rows if _multiple(f) is not None else None
    profile = product(g.profile, found.steep)
    far = g.far * factor**2 * kept
    return Gradient(
        second, far * pair, g.spread + noise, g.doubt, far * tilt, tied, lean=lean, other=apart, rows=rows,
        profile=profile,
    )  # fmt: skip


def apply(node: Node, ctx: Context, x: Signal, f: Elementwise) -> Step:
    """One elementwise function of one signal."""
    whole, base = f.after(x.function), x.root
    signal = replace(of_function(node, ctx, base, whole), steps=((x, slope_of(f, x.function)),))
    factor = _multiple(f)
    if factor is not None:
        rows = None if x.rows is None else x.rows * factor**2
        signal = replace(signal, rows=rows, simplex=x.simplex if factor == 1 else 0, taps=x.taps)

    def pull(g: Gradient) -> list[Flow]:
        return [(base.name, through(base, whole, g, ctx), True), *shown(signal, None, g)]

    return Step(signal, pull)


@lru_cache(maxsize=1024)
def _multiple(f: Elementwise) -> float | None:
    """``c`` of ``f(z) = c z``; ``None`` for any other function."""
    zero, one, minus, three = f.call(torch.tensor([0.0, 1.0, -1.0, 3.0], dtype=torch.float64)).tolist()
    linear = zero == 0 and minus == -one and math.isclose(three, 3 * one, rel_tol=1e-12)
    return float(one) if linear else None


def slope_of(outer: Elementwise, inner: Elementwise | None) -> Elementwise:
    """``outer'(inner(z))`` as a function of ``z``."""
    inside = inner or IDENTITY

    def slope(z: Tensor) -> Tensor:
        y = inside.call(z.detach()).detach().requires_grad_()
        with torch.enable_grad():
            return derivative(outer.call(y), y)

    return Elementwise(f"slope of {outer.key} at {inside.key}", slope)


def times(a: Elementwise, b: Elementwise) -> Elementwise:
    """The product of two functions of one number."""
    f, g = a.call, b.call
    return Elementwise(f"({a.key})({b.key})", lambda z: f(z) * g(z))


def shown(signal: Signal, slope: Elementwise | None, g: Gradient) -> list[Flow]:
    """The gradient by each step between `signal` and its base, when `g` arrives at a function with `slope` by `signal`.

    These gradients are only shown: `through` has already taken all of it to the base.
    """
    flows: list[Flow] = []
    base = signal.root
    for argument, own in signal.steps:
        if argument is base:
            continue
        by_argument = own if slope is None else times(slope, own)
        found = mixed(base, by_argument, g.profile)
        flows += [(argument.name, g.scaled(found.map(found.second)), False), *shown(argument, by_argument, g)]
    return flows


@rule(*_FUNCTIONS)
def function(node: Node, ctx: Context) -> Step | None:
    """Any function of one number that ATen knows."""
    if node.function == "clamp" and len(node.inputs) > 1:
        return _clamped(node, ctx)
    if len(node.inputs) > 1 and node.function != "prelu":
        return None
    x = ctx.first(node)
    slope = float(ctx.signals[node.inputs[1]].mean.mean()) if node.function == "prelu" else None
    return apply(node, ctx, x, aten(node.function, node.arguments, slope))


def _clamped(node: Node, ctx: Context) -> Step | None:
    """Between bounds that are tensors of one number each; an infinite one is none."""
    bounds = dict(node.arguments)
    for role, name in zip(node.roles[1:], node.inputs[1:], strict=True):
        bound = ctx.signals[name]
        if ctx.is_signal(name) or math.prod(bound.shape) != 1:
            return None
        bounds[role] = float(bound.mean)
    finite = {role: value for role, value in bounds.items() if math.isfinite(value)}
    if len(finite) == 2 and finite["min"] >= finite["max"]:
        return None  # bounds whose values nobody has given
    return apply(node, ctx, ctx.first(node), aten("clamp", finite) if finite else IDENTITY)


@rule(*_SAME)
def same(node: Node, ctx: Context) -> Step:
    """Copies and conversions of type."""
    x = ctx.first(node)
    return apply(node, ctx, x, IDENTITY)


@rule("pow")
def power(node: Node, ctx: Context) -> Step | None:
    """A fixed power; a fractional one is of a size."""
    exponent = node.arguments.get("exponent")
    if not isinstance(exponent, int | float) or len(node.inputs) != 1:
        return None
    f = Elementwise(f"pow({exponent})", lambda z: z**exponent)
    return (
        apply(node, ctx, ctx.first(node), f) if float(exponent).is_integer() and exponent > 0 else sized(node, ctx, f)
    )


@rule(*_OF_SIZES)
def of_size(node: Node, ctx: Context) -> Step:
    """Roots, reciprocals and logarithms."""
    return sized(node, ctx, aten(node.function, node.arguments))


def sized(node: Node, ctx: Context, f: Elementwise) -> Step:
    """A function of a positive number that varies little about its mean ``m``: ``f(m)``, and ``f'(m)² v`` about it."""
    x = ctx.first(node)
    centre = x.mean.abs().clamp_min(1e-30).detach().requires_grad_()
    with torch.enable_grad():
        y = f.call(centre)
        (slope,) = torch.autograd.grad(y.sum(), centre)
    value, chi = y.detach(), slope**2
    square = value**2
    maps = [value, *(square + chi * (m - x.mean**2) for m in (x.second, x.far, x.other))]
    mean, second, far, other = maps
    signal = replace(
        x, name=node.name, mean=mean, second=second, far=far, other=other, base=None, function=None,
        steps=(), terms={node.name: 1.0}, rows=None, simplex=False,
    )  # fmt: skip
    return Step(ctx.register(signal), lambda g: [(x.name, g.scaled(chi), True)])
