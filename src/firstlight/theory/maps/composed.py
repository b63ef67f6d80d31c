"""Operations that are two in one: a product, and what it is added to."""

from collections.abc import Callable
from dataclasses import replace

from firstlight.graph import Node
from firstlight.theory.elementwise import Elementwise
from firstlight.theory.maps.arithmetic import product, quotient, total
from firstlight.theory.maps.attention import matmul
from firstlight.theory.maps.pointwise import apply
from firstlight.theory.maps.registry import Context, Flow, Step, rule
from firstlight.theory.signal import Gradient, Signal


def _first(node: Node, ctx: Context) -> Node:
    """The first of the two operations, for which the graph has no node."""
    name = f"{node.name}, product"
    ctx.leaves.pop(name, None)  # of an earlier visit
    return replace(node, name=name)


def _then(made: Step, second: Callable[[Signal], Step]) -> Step:
    """The second operation after the first; its gradient goes on through the first."""
    outer = second(made.signal)

    def pull(g: Gradient) -> list[Flow]:
        flows: list[Flow] = []
        for name, back, carries in outer.pull(g):
            flows += made.pull(back) if name == made.signal.name else [(name, back, carries)]
        return flows

    return replace(outer, pull=pull, local=made.local)


@rule("addcmul", "addcdiv")
def scaled_product(node: Node, ctx: Context) -> Step | None:
    """``x + value · a · b``, or ``x + value · a / b``."""
    x, a, b = (ctx.of(node, role) for role in ("self", "tensor1", "tensor2"))
    value = node.arguments.get("value", 1)
    if x is None or a is None or b is None:
        return None
    join = quotient if node.function == "addcdiv" else product
    return _then(join(_first(node, ctx), ctx, a, b), lambda y: total(node, ctx, x, y, float(value)))


@rule("addmm", "baddbmm")
def biased_product(node: Node, ctx: Context) -> Step | None:
    """``β x + α a b``: a matrix product with its bias; `x` counts for nothing where ``β`` is zero."""
    x, beta, alpha = ctx.of(node, "self"), float(node.arguments["beta"]), float(node.arguments["alpha"])
    made = matmul(_first(node, ctx), ctx)
    if x is None or made is None or beta not in (0, 1):
        return None
    if beta == 0:
        return _then(made, lambda y: apply(node, ctx, y.gaussian(), Elementwise(f"*{alpha}", lambda z: alpha * z)))
    return _then(made, lambda y: total(node, ctx, x, y, alpha))
