"""Walk a graph forward with moments of signals, then backward with moments of gradients."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TypeAlias

import torch

from firstlight.graph import Graph, Node
from firstlight.theory.axes import guess, resized
from firstlight.theory.inputs import WHITE_NOISE, InputMoments
from firstlight.theory.leaves import Drawn, leaf
from firstlight.theory.maps import RULES, Context, Step
from firstlight.theory.maps.anchored import follow
from firstlight.theory.maps.filtered import filtered
from firstlight.theory.maps.registry import Flow, shape_of, with_maps
from firstlight.theory.mixture import fitted, fitting
from firstlight.theory.prediction import NodePrediction, Prediction
from firstlight.theory.signal import Gradient, Signal, scalar

# Beyond finite width: integrals over finite data, and correlations that a rule leaves out.
_FLOOR, _BACKWARD_FLOOR = 0.05, 0.08
# A variance of the logarithm from which on the band holds every number there is; exp overflows somewhat later.
_NOTHING_IS_KNOWN = 1e5


def propagate(
    graph: Graph,
    drawn: Drawn,
    *,
    inputs: InputMoments = WHITE_NOISE,
    training: bool = True,
) -> Prediction:
    """Predict every node of `graph`.

    Args:
        graph: of the network, from `trace`.
        drawn: mean and second moment of the elements of each parameter and buffer, by name.
        inputs: moments of the data; white noise when nothing is said.
        training: batch norm and dropout as in training; otherwise as in evaluation.

    Returns:
        One entry for each operation that depends on an input. An operation without a rule, or used in a way its rule
        does not know, is opaque: it hands the moments of its first signal on, and says so.
    """
    context, steps, gradients = walk(graph, drawn, inputs, training)
    nodes = tuple(
        _describe(node, steps[node.name], gradients.get(node.name), context)
        for node in graph.operations
        if node.name in graph.signal
    )
    given = {n.name: inputs.average for n in graph.nodes if n.kind == "input"}
    return Prediction(nodes, given, tuple(_notes(graph, nodes)))


def walk(
    graph: Graph, drawn: Drawn, inputs: InputMoments = WHITE_NOISE, training: bool = True
) -> tuple[Context, dict[str, Step], dict[str, Gradient]]:
    """The two passes themselves, with everything they know: maps over sites and channels, sources, correlations.

    Args:
        graph: of the network.
        drawn: mean and second moment of the elements of each parameter and buffer, by name.
        inputs: moments of the data.
        training: whether batch norm and dropout are in train mode.

    Returns:
        The context with a signal for each node, the step of each operation, and the gradient by each node.
    """
    context, steps = forward(graph, drawn, inputs, training)
    return context, steps, _backward(graph, steps, context)


Settle: TypeAlias = Callable[[Node, Step], Mapping[str, tuple[float, float]]]
"""Asked after each operation: which parameters are to have another mean and second moment; none, to go on."""


def forward(
    graph: Graph,
    drawn: Drawn,
    inputs: InputMoments = WHITE_NOISE,
    training: bool = True,
    settle: Settle | None = None,
) -> tuple[Context, dict[str, Step]]:
    """The first pass alone, for those who ask for no gradient; see `walk`.

    Args:
        graph, drawn, inputs, training: as for `walk`.
        settle: may change parameters when it sees a result; that operation is then computed again with them.
    """
    context, known = Context(graph, _batch(graph), training), dict(drawn)
    steps: dict[str, Step] = {}

    def visit(node: Node) -> None:
        context.leaves.pop(node.name, None)
        if node.kind in ("op", "opaque"):
            steps[node.name] = _step(node, context)
            context.signals[node.name] = steps[node.name].signal
        else:
            context.signals[node.name] = context.register(leaf(node, known, context.batch, inputs))

    for node in graph.nodes:
        visit(node)
        if settle is not None and node.name in steps and (change := settle(node, steps[node.name])):
            known.update(change)
            for stale in (*_made_of(graph, change, node), node):
                visit(stale)
    return context, steps


def _made_of(graph: Graph, parameters: Iterable[str], end: Node) -> list[Node]:
    """The parameters and what is computed from them without an input before `end`, such as their parts, in order."""
    waiting, found = list(parameters), set(parameters)
    while waiting:
        for user in graph.users(waiting.pop()):
            before = graph.turn(user.name) < graph.turn(end.name)
            if before and user.name not in graph.signal and user.name not in found:
                found.add(user.name)
                waiting.append(user.name)
    return [graph[name] for name in sorted(found, key=graph.turn)]


def _batch(graph: Graph) -> int:
    return next((node.shape[0] for node in graph.nodes if node.kind == "input" and node.shape), 1)


def _step(node: Node, context: Context) -> Step:
    known = RULES.get(node.function) if node.kind == "op" else None
    if known is None:
        return _opaque(node, context, f"no rule for {node.op}")
    try:
        step = known(node, context)
        wrong = "does not know this use" if step is None else _wrong(step)
        if step is not None and not wrong:
            return _carried(node, context, step)
    except (RuntimeError, IndexError, ValueError, KeyError, TypeError, ArithmeticError) as error:
        wrong = f"does not know this use: {type(error).__name__}: {error}"
    return _opaque(node, context, f"the rule for {node.op} {wrong}")


def _wrong(step: Step) -> str:
    """Why moments cannot be right; empty when they can."""
    if not all(bool(torch.isfinite(m).all()) for m in step.signal.maps()):
        return "gave a moment that is not finite"
    return "gave a negative second moment" if float(step.signal.second.min()) < 0 else ""


def _carried(node: Node, context: Context, step: Step) -> Step:
    """With what goes along beside the moments: spread, the kernel of real data, filters of channels."""
    signal = follow(node, context, step.signal)
    signal = replace(signal, spread=signal.spread + step.local, fresh=signal.fresh + step.local)
    if signal.anchors is not None and signal.terms.get(node.name) is not None:
        context.leaves.pop(node.name, None)  # a source of its own, whose covariances the anchors have set
        context.register(signal)
    return filtered(node, context, replace(step, signal=signal))


def _opaque(node: Node, context: Context, reason: str) -> Step:
    """Hand the moments of the largest signal read on, each averaged over the tensor."""
    context.leaves.pop(node.name, None)  # what the rule has noted before it failed
    read = [context.signals[name] for name in node.inputs]
    moving = [x for x in read if context.is_signal(x.name)] or read
    shape = shape_of(node)
    rank = len(shape)
    if not moving:
        zero, one = scalar(0.0, rank), scalar(1.0, rank)
        signal = Signal(node.name, shape, guess(shape, context.batch), zero, one, zero, zero, terms={node.name: 1.0})
        return Step(context.register(signal), lambda g: [], opaque=reason)
    x = max(moving, key=lambda s: math.prod(s.shape))
    axes = resized(x.axes, shape) if len(x.shape) == rank else guess(shape, context.batch)
    maps = [scalar(value, rank) for value in x.scalars()]
    signal = context.register(replace(with_maps(x, node, axes, maps), near=None))
    back = (1,) * len(x.shape)

    def pull(g: Gradient) -> list[Flow]:
        second, far = (m.mean().reshape(back) for m in (g.second, g.far))
        return [(x.name, g.moved(second, far), True)]

    return Step(signal, pull, opaque=reason)


def _backward(graph: Graph, steps: dict[str, Step], context: Context) -> dict[str, Gradient]:
    """Gradients that carry on (live) and gradients that only show, from the outputs to the inputs."""
    live: dict[str, Gradient] = {}
    shown: dict[str, Gradient] = {}
    for name in dict.fromkeys(graph.outputs):
        node = graph[name]
        if name in graph.signal and (node.dtype or "").startswith(("float", "bfloat")):
            rank = len(node.shape or ())
            live[name] = Gradient(scalar(1.0, rank), scalar(0.0, rank))
    for node in reversed(graph.operations):
        step = steps[node.name]
        if node.name in live:
            _deliver(step.pull(live[node.name]), live, shown, context)
    return {
        name: live[name] + shown[name] if name in live and name in shown else live.get(name) or shown[name]
        for name in {**live, **shown}
    }


def _deliver(flows: Iterable[Flow], live: dict[str, Gradient], shown: dict[str, Gradient], context: Context) -> None:
    for name, gradient, carries in flows:
        if context.is_signal(name):
            target = live if carries else shown
            shape = context.signals[name].shape
            second, far = (fitted(m, shape) for m in (gradient.second, gradient.far))
            gradient = replace(gradient, second=second, far=far, profile=fitting(gradient.profile, shape))
            target[name] = target[name] + gradient if name in target else gradient


def _describe(node: Node, step: Step, gradient: Gradient | None, context: Context) -> NodePrediction:
    signal = step.signal
    mean, second, _, other = signal.scalars()
    first = context.signals[node.inputs[0]] if node.inputs else None
    before = float(first.second.mean()) if first is not None and context.is_signal(first.name) else 0.0
    back, back_band = None, 0.0
    if gradient is not None:
        back = float(gradient.second.mean())
        back_band = _band(gradient.spread + signal.spread, math.hypot(_BACKWARD_FLOOR, gradient.doubt))
    return NodePrediction(
        name=node.name,
        module=node.module,
        op=node.op,
        shape=node.shape or (),
        forward_mean=mean,
        forward_second_moment=second,
        backward_second_moment=back,
        band=_band(signal.spread),
        backward_band=back_band,
        gain=second / before if before > 0 else None,
        correlation=other / second if second > 0 else 0.0,
        opaque=bool(step.opaque),
        reason=step.opaque,
    )


def _band(spread: float, floor: float = _FLOOR) -> float:
    """Relative half-width that holds 95 % of a log-normal with this variance of its logarithm."""
    return math.expm1(1.96 * math.sqrt(min(max(spread, 0.0) + floor**2, _NOTHING_IS_KNOWN)))


def _notes(graph: Graph, nodes: tuple[NodePrediction, ...]) -> Iterable[str]:
    yield "weights are taken as independent of each other and of the data, with the mean and variance they have"
    if graph.unreached:
        yield f"{len(graph.unreached)} parameters take part in nothing: {', '.join(graph.unreached[:5])}"
    opaque = [node for node in nodes if node.opaque]
    for node in opaque:
        yield f"{node.name} is opaque: {node.reason}"
