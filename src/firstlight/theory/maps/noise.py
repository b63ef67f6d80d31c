"""Chance: dropout, stochastic depth, and the random masks that networks draw by hand.

A kept element is divided by the keep rate, so the mean stays and the second moment becomes ``q/(1-p)``; products of two
elements stay as they are when their masks are drawn apart, and become ``K/(1-p)`` when they share one. The gradient
meets the same mask.
"""

from dataclasses import replace

from firstlight.graph import Node
from firstlight.theory.axes import guess
from firstlight.theory.maps.pointwise import same
from firstlight.theory.maps.registry import Context, Flow, Step, linear_terms, rule, shape_of, with_maps
from firstlight.theory.signal import Gradient, fresh, scalar


@rule("dropout", "dropout2d", "dropout3d", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
def dropout(node: Node, ctx: Context) -> Step | None:
    """Element by element, or whole channels of a sample at once."""
    x = ctx.first(node)
    rate = float(node.arguments.get("p", 0.0))
    if not ctx.training or rate == 0 or not node.arguments.get("train", True):
        return same(node, ctx)
    keep = max(1 - rate, 1e-9)
    whole_channels = node.function != "dropout" and node.function != "alpha_dropout"
    second, far = x.second / keep, x.far / keep if whole_channels else x.far
    out = with_maps(x, node, x.axes, [x.mean, second, far, x.other])
    out = ctx.register(replace(out, terms={**linear_terms(x.terms, 1.0), node.name: 1.0}, profile=x.profile))

    def pull(g: Gradient) -> list[Flow]:
        back = g.moved(g.second / keep, g.far / keep if whole_channels else g.far)
        return [(x.name, back, True)]

    return Step(out, pull)


@rule("bernoulli", "rand", "rand_like", "randn", "randn_like", "normal", "uniform")
def drawn(node: Node, ctx: Context) -> Step:
    """Fresh random numbers: one draw for each element."""
    p = node.arguments.get("p", 0.5)
    mean, second = {
        "bernoulli": (float(p), float(p)) if isinstance(p, int | float) else (0.5, 0.5),
        "rand": (0.5, 1 / 3), "rand_like": (0.5, 1 / 3),
        "uniform": (0.5, 1 / 3),
    }.get(node.function, (0.0, 1.0))  # fmt: skip
    shape = shape_of(node)
    rank = len(shape)
    square = scalar(mean**2, rank)
    axes = guess(shape, ctx.batch)
    signal = fresh(
        node.name, shape, axes, mean=scalar(mean, rank), second=scalar(second, rank), far=square, other=square
    )
    return Step(ctx.register(signal), lambda g: [])
