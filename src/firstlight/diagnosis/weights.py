"""Weights as the graph uses them: what a layer's standard deviation is, what it should be, and what that does."""

import math
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from firstlight.diagnosis.case import Case
from firstlight.diagnosis.flow import measured, second_moment
from firstlight.graph import Activation, Fan, Graph, Node, fans
from firstlight.graph.vocabulary import NORMALIZATION, SHAPE
from firstlight.theory.gain import GATES, gain
from firstlight.theory.gain import second_moment as activation_moment

# Their results have a size of their own, whatever went in.
_RESETTING = NORMALIZATION | {"softmax", "_softmax", "log_softmax", "one_hot", "sign"}
_BOUNDED = frozenset({"sigmoid", "tanh", "hardsigmoid", "hardtanh", "softsign", "sin", "cos", "erf"})


@dataclass(frozen=True, slots=True)
class Weight:
    """A parameter that an operation sums with, as it is.

    Attributes:
        fan: its fans at its first use.
        size: root mean square of its elements.
        needed: what keeps a second moment of one through the sum and the activation behind it:
            ``gain(activation) / sqrt(fan_in)`` (He et al., 2015, eq. 10).
        factor: what the sum and the activation do to the second moment of the signal, by the numbers they meet here.
        scaling: the operation within the activation that multiplies by a fixed number and does the most of this; None
            where the weights are wrong without it too.
    """

    fan: Fan
    size: float
    needed: float
    factor: float
    scaling: str | None = None

    @property
    def ratio(self) -> float:
        """Size over what is needed."""
        return self.size / self.needed

    @property
    def change(self) -> float:
        """Natural logarithm of `factor`."""
        return math.log(max(self.factor, 1e-30))


def summing(case: Case) -> dict[str, Fan]:
    """Parameters whose rows are the weights of sums over the signal, by name, with their first use.

    Weights that are computed from a parameter (standardized ones, say) have a size of their own and are left out.
    """
    graph = case.graph
    found: dict[str, Fan] = {}
    for fan in fans(graph):
        if fan.op.startswith("embedding") or fan.node not in graph.signal or not _directly(graph, fan):
            continue
        found.setdefault(fan.parameter, fan)
    return found


def _directly(graph: Graph, fan: Fan) -> bool:
    """Whether the operation reads the parameter itself, or a part or a rearrangement of it."""
    return any(_unarranged(graph, name) == fan.parameter for name in graph[fan.node].inputs)


def _unarranged(graph: Graph, name: str) -> str:
    while graph[name].function in SHAPE and graph[name].inputs:
        name = graph[name].inputs[0]
    return name


def inner(case: Case, fans: dict[str, Fan]) -> dict[str, Fan]:
    """Those whose results other layers read: the units of a head have targets of their own that tell them apart."""
    graph = case.graph
    layers = {fan.node for fan in fans.values()}
    read: set[str] = set()
    for node in reversed(graph.operations):
        if node.name in layers or node.name in read:
            read.update(node.inputs)
    return {name: fan for name, fan in fans.items() if fan.node in read}


def weights(case: Case) -> dict[str, Weight]:
    """Every weight that is neither zero nor non-finite, by the node that uses it first."""
    values: dict[str, Tensor] = dict(case.model.named_parameters())
    seen = measured(case)
    found = {}
    for name, fan in summing(case).items():
        size = float(values[name].detach().double().square().mean().sqrt()) if name in values else 0.0
        if not (0 < size < math.inf):
            continue
        activation = None if fan.activation is None or _is_gate(fan.activation) else fan.activation
        result = second_moment(seen[fan.node].first) if fan.node in seen else 1.0
        needed = gain(activation) / math.sqrt(fan.fan_in)
        kept = _kept(activation, result if 0 < result < math.inf else 1.0)
        factor = size**2 * fan.fan_in * kept
        found[fan.node] = Weight(fan, size, needed, factor, _scaling(activation, factor))
    return found


def _scaling(activation: Activation | None, factor: float) -> str | None:
    """The fixed number without which less than half of a deviation would be left, in logarithms.

    The 6 of ``x * relu6(x + 3) / 6`` is none: the rest of the function makes up for it.
    """
    steps = () if activation is None else activation.steps
    changes = {step.name: 2 * math.log(abs(number)) for step in steps if (number := _multiplier(step))}
    most = max(changes, key=lambda name: abs(changes[name]), default=None)
    off = math.log(max(factor, 1e-30))
    return most if most is not None and abs(off - changes[most]) < abs(off) / 2 else None


def _multiplier(node: Node) -> float | None:
    """The number that an operation multiplies its one argument by; None where it does something else."""
    other = node.arguments.get("other")
    if len(node.inputs) != 1 or isinstance(other, bool) or not isinstance(other, int | float) or not other:
        return None
    return {"mul": float(other), "div": 1 / other}.get(node.function)


def _is_gate(activation: Activation) -> bool:
    return activation.function in GATES and not activation.gated


def _kept(activation: Activation | None, variance: float) -> float:
    """``E φ(z)² / E z²`` for a normal z; in steps of a tenth of a decade, for integrals are slow."""
    if activation is None:
        return 1.0
    return _kept_at(activation, round(10 * math.log10(variance)))


@lru_cache(maxsize=4096)
def _kept_at(activation: Activation, decibels: int) -> float:
    variance = 10.0 ** min(max(decibels / 10, -6), 6)
    return activation_moment(activation, variance) / variance


def excess(case: Case, found: dict[str, Weight]) -> dict[str, float]:
    """How far the second moment of each result is from where proper weights would have it: a natural logarithm.

    A sum with weights adds the logarithm of its factor, a normalization takes everything away, a bounded function what
    is too much. Where signals meet, the larger one counts: a residual branch may be as small as it likes.
    """
    graph = case.graph
    off = {node.name: 0.0 for node in graph.nodes if node.kind == "input"}
    for node in graph.operations:
        if node.name not in graph.signal:
            continue
        read = [off[name] for name in _carrying(node) if name in off]
        now = max(read, default=0.0)
        if node.name in found:
            now += found[node.name].change
        elif node.function in _RESETTING:
            now = 0.0
        elif node.function in _BOUNDED:
            now = min(now, 0.0)
        off[node.name] = now
    return off


def _carrying(node: Node) -> tuple[str, ...]:
    """The inputs whose size the result has: of attention, the values."""
    if node.function == "scaled_dot_product_attention":
        return node.inputs[2:3]
    return node.inputs


def relative_updates(case: Case) -> dict[str, float]:
    """Largest update of each weight in one step, over its size, or over ``1/sqrt(fan_in)`` if it starts smaller.

    Weights that get no gradient are left out: that a frozen layer does not move says nothing of the learning rate.
    """
    found: dict[str, float] = {}
    known = summing(case)
    held = case.run.optimizer.learning_rate
    for step in case.run.steps:
        for p in step.parameters:
            if p.name in known and p.name in held and p.gradient is not None:
                ratio = p.update / max(p.size, 1 / math.sqrt(known[p.name].fan_in))
                found[p.name] = ratio if math.isnan(ratio) else max(ratio, found.get(p.name, 0.0))
    return found
