"""Start the head at what is known before training: how frequent the classes are.

A network that knows nothing but the labels' frequencies ``p`` does best to predict them, and its loss is then their
entropy. With logits ``b + z`` and small ``z`` it does so from the start when ``b = log p`` under a softmax, up to a
shift that changes nothing, and ``b = log(p / (1 - p))`` under sigmoids (Lin et al., "Focal Loss for Dense Object
Detection", 2017, section 4.1, with π for p). Without it the first hundred steps go into learning these numbers, and
where one class is rare, its many opposites drown its gradient meanwhile.

``z`` costs ``½ (Var z - Var Σ p z)`` nats on top, so the head's weights are made a tenth as large as the scheme has
them: half a hundredth of a nat at most, and the gradient by the layers below is small and not zero.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

from firstlight.errors import FirstlightError
from firstlight.graph import Fan, Graph, fans
from firstlight.graph.walk import origin
from firstlight.initialization.plan import Decision, Plan

Head: TypeAlias = Literal["softmax", "sigmoid"]

_SMALLER = 0.1
_AXIS = {"linear": -1, "addmm": -1}  # of the result that holds the outputs; a convolution's is 1
_NEVER_SEEN = 0.5  # images of a class without any: its logarithm is finite


def with_prior(
    plan: Plan, graph: Graph, class_counts: Sequence[float], head: Head = "softmax", samples: float | None = None
) -> Plan:
    """The plan with the bias of each head at the classes' frequencies, and its weight a tenth as large.

    Args:
        plan: of any scheme.
        graph: of the network.
        class_counts: images (or anchors, or pixels) of each class, in the order of the outputs; a class without any
            counts as half of one.
        head: what turns the outputs into probabilities: "softmax", or "sigmoid" for one decision per output.
        samples: images in all, where an image may have several classes or none ("sigmoid" only); their sum otherwise.

    Raises:
        FirstlightError: slug ``class-counts`` (negative, none at all, fewer than two for a softmax, more than
            samples), ``no-head`` (no output has as many channels as there are classes), ``head-without-bias``.
    """
    _check(class_counts, head, samples)
    bias = prior_bias(class_counts, head, samples)
    changed: dict[str, Decision] = {}
    decisions = {decision.name: decision for decision in plan.decisions}
    for fan in heads(graph, len(class_counts)):
        name = _bias_of(graph, fan)
        shown = ", ".join(f"{value:.3g}" for value in bias[:4]) + (", …" if len(bias) > 4 else "")
        formula = "log p" if head == "softmax" else "log(p/(1-p))"
        changed[name] = Decision(
            name, "prior", "constant", 0.0, 0.0, None, None, None,
            f"{formula} of the classes' frequencies under a {head}: {shown}", values=bias,
        )  # fmt: skip
        weight = decisions.get(fan.parameter)
        if weight is not None and weight.std > 0:
            gain = None if weight.gain is None else weight.gain * _SMALLER
            why = f"{weight.reason}; × {_SMALLER:g}, for the bias to decide at the start"
            changed[fan.parameter] = dataclasses.replace(weight, std=weight.std * _SMALLER, gain=gain, reason=why)
    made = tuple(changed.pop(d.name, d) for d in plan.decisions) + tuple(changed.values())
    return Plan(plan.scheme, made, tuple(name for name in plan.uncovered if name not in {d.name for d in made}))


def prior_bias(class_counts: Sequence[float], head: Head, samples: float | None = None) -> tuple[float, ...]:
    """The logits that predict the frequencies: for a softmax with mean zero, which is as good as any other shift."""
    counts = [max(float(count), _NEVER_SEEN) for count in class_counts]
    if head == "softmax":
        logs = [math.log(count) for count in counts]
        return tuple(value - math.fsum(logs) / len(logs) for value in logs)
    whole = float(samples) if samples is not None else math.fsum(class_counts)
    return tuple(math.log(count / max(whole - count, _NEVER_SEEN)) for count in counts)


def heads(graph: Graph, classes: int) -> tuple[Fan, ...]:
    """The last weight on the way to each output of the network that gives one number per class, each once.

    Raises:
        FirstlightError: slug ``no-head``, when no output has one.
    """
    weights = {fan.node: fan for fan in fans(graph) if not fan.op.startswith("embedding")}
    last = [found for output in graph.outputs if (found := _last(graph, output, weights)) is not None]
    fitting = {fan.parameter: fan for fan in last if _outputs(graph, fan) == classes}
    if not fitting:
        seen = (
            ", ".join(f"{fan.parameter} has {_outputs(graph, fan)}" for fan in last) or "no weight leads to an output"
        )
        raise FirstlightError(
            f"there are {classes} classes and no head with {classes} outputs: {seen}",
            "give one count per output, in the outputs' order, or build the network for this many classes",
            slug="no-head",
            call="initialize(class_counts=...)",
        )
    return tuple(fitting.values())


def _last(graph: Graph, output: str, weights: dict[str, Fan]) -> Fan | None:
    """The weighted operation that comes last among those that `output` depends on."""
    behind, waiting = {output}, [output]
    while waiting:
        for name in graph[waiting.pop()].inputs:
            if name not in behind:
                behind.add(name)
                waiting.append(name)
    return max((weights[n] for n in behind & weights.keys()), key=lambda fan: graph.turn(fan.node), default=None)


def _outputs(graph: Graph, fan: Fan) -> int:
    shape = graph[fan.node].shape or (0, 0)
    return shape[_AXIS.get(fan.op, 1 if len(shape) > 1 else 0)] if fan.op != "matmul" else shape[-1]


def _bias_of(graph: Graph, fan: Fan) -> str:
    node = graph[fan.node]
    name = node.input_for("self" if fan.op == "addmm" else "bias")
    found = None if name is None else origin(graph, name)
    if found is None:
        raise FirstlightError(
            f"the head {fan.parameter} has no bias to hold the classes' frequencies",
            "build it with a bias, or leave class_counts out",
            slug="head-without-bias",
            call="initialize(class_counts=...)",
        )
    return found.name


def _check(class_counts: Sequence[float], head: str, samples: float | None) -> None:
    counts = [float(count) for count in class_counts]
    cause = ""
    if head not in get_args(Head):
        cause = f"there is no head {head!r}; it is {' or '.join(get_args(Head))}"
    elif not counts or sum(counts) <= 0 or not all(0 <= count < math.inf for count in counts):
        cause = f"class counts {counts[:6]} are not the sizes of classes"
    elif head == "softmax" and len(counts) < 2:
        cause = "a softmax over one class has nothing to decide"
    elif samples is not None and (head == "softmax" or max(counts) > samples):
        cause = f"{samples:g} samples are fewer than one class has" if head == "sigmoid" else "samples go with sigmoids"
    elif head == "sigmoid" and samples is None and len(counts) == 1:
        cause = "the share of one class is unknown without the number of samples"
    if cause:
        raise FirstlightError(
            cause,
            "give one count per class, none negative; for sigmoids also samples=, the number of images in all",
            slug="class-counts",
            call="initialize(class_counts=..., head=...)",
        )
