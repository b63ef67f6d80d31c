"""Solve the sizes of the weights on this very graph, so that every sum gives a signal of the size wanted of it.

A rule such as Kaiming's looks at one layer and its nonlinearity. What reaches the layer is another matter: padding
thins the border, pooling averages correlated pixels, sums add up, a nonlinearity leaves a mean behind, attention mixes.
The theory predicts the second moment ``m`` of every sum from all of these; each weight is scaled by ``√(wanted / m)``,
where upstream changes are taken into account as they go: the second moment at a weight's input will change by a known
factor ``c`` when the weights before it change, so the factor is ``√(wanted / (m c))``. That is exact where operations
between two weights are homogeneous (ReLU, pooling, norms) and is repeated for the others.

Wanted is 1, with two exceptions. A residual stream with ``L`` branches gives each of them ``1/L``, so that the stream
ends near 2 at any depth (Zhang et al. 2019; Radford et al. 2019 scale by ``1/√L`` likewise); a branch that ends in a
batch norm gets a zero scale there (Goyal et al. 2017), and one that ends in LayerScale is small already.
"""

import dataclasses
import math
from collections.abc import Mapping

from firstlight.graph import Fan, Graph, Node, fans
from firstlight.graph.vocabulary import NORMALIZATION
from firstlight.initialization.branches import Branch, branches
from firstlight.initialization.plan import Decision, Plan
from firstlight.initialization.schemes.kaiming import kaiming
from firstlight.theory import forward

_ROUNDS, _CLOSE = 3, 0.02


def auto(graph: Graph) -> Plan:
    """Plan weights whose sums have the size wanted of them, as the theory predicts on this graph.

    A weight whose result the theory does not understand, or predicts to be nothing (behind a scale that starts at
    zero), keeps its Kaiming size, and its reason says so.
    """
    start, found = kaiming(graph), branches(graph)
    # A weight norm's direction has no say in the size of the result; its magnitude follows from Kaiming's.
    sums = {fan.parameter: fan for fan in reversed(fans(graph)) if fan.parameter in graph[fan.node].inputs}
    weights = {d.name: sums[d.name] for d in start.decisions if d.rule == "kaiming" and d.name in sums}
    wanted = dict.fromkeys(weights, 1.0) | budget(found)
    decisions = {d.name: d for d in start.decisions}
    factors, predicted = dict.fromkeys(weights, 1.0), dict[str, float]()
    for _ in range(_ROUNDS):
        predicted = _predicted(graph, decisions, factors)
        steps = _corrections(graph, predicted, weights, wanted)
        factors = {name: factor * steps.get(name, 1.0) for name, factor in factors.items()}
        if all(abs(step - 1) < _CLOSE for step in steps.values()):
            break
    zero = {b.norm for b in found if b.norm is not None and _users_are(graph, b.norm, "batch_norm")}
    solved = {name for name, fan in weights.items() if predicted.get(fan.node, 0.0) > 0}
    made = []
    for d in start.decisions:
        if d.name in zero:
            why = "scale of the batch norm that ends a residual branch: zero, the block starts as its shortcut"
            made.append(dataclasses.replace(d, rule="zero-residual", mean=0.0, reason=why))
        elif d.name in weights:
            made.append(_sized(d, weights[d.name], factors[d.name], wanted[d.name], solved=d.name in solved))
        else:
            made.append(d)
    return Plan("auto", tuple(made), start.uncovered)


def _sized(decision: Decision, fan: Fan, factor: float, wanted: float, *, solved: bool) -> Decision:
    if not solved:
        return dataclasses.replace(decision, reason=f"{decision.reason}; no prediction here, so as Kaiming has it")
    std = decision.std * factor
    share = "" if wanted == 1 else f", 1/{1 / wanted:g} as one of the stream's branches"
    return dataclasses.replace(
        decision, rule="auto", std=std, gain=std * math.sqrt(fan.fan_in),
        reason=f"{decision.reason}; predicted second moment of the result {wanted:.3g}{share}",
    )  # fmt: skip


def budget(found: tuple[Branch, ...]) -> dict[str, float]:
    """What the end of each branch may add to a stream of second moment one."""
    return {branch.weights[-1]: 1 / len(found) for branch in found if branch.norm is None}


def _users_are(graph: Graph, name: str, function: str) -> bool:
    return all(user.function == function for user in graph.users(name))


def _predicted(graph: Graph, decisions: Mapping[str, Decision], factors: Mapping[str, float]) -> dict[str, float]:
    """Second moment of each operation's result; nodes the theory does not understand are left out."""
    drawn = {name: (d.mean, d.mean**2 + (d.std * factors.get(name, 1.0)) ** 2) for name, d in decisions.items()}
    _, steps = forward(graph, drawn)
    return {
        name: float(step.signal.second.mean())
        for name, step in steps.items()
        if name in graph.signal and not step.opaque
    }


def _corrections(
    graph: Graph, predicted: Mapping[str, float], weights: Mapping[str, Fan], wanted: Mapping[str, float]
) -> dict[str, float]:
    """Factor for each weight, given how the second moment before it will change when the weights before it do."""
    by_node = {fan.node: name for name, fan in weights.items()}
    change: dict[str, float] = {}
    steps: dict[str, float] = {}
    for node in graph.operations:
        if node.name not in graph.signal:
            continue
        before = _handed_on(graph, node, predicted, change)
        name, moment = by_node.get(node.name), predicted.get(node.name, 0.0)
        if name is not None and moment > 0:
            steps[name] = math.sqrt(wanted[name] / (moment * before))
            change[node.name] = wanted[name] / moment
        else:
            reused = [steps[p] for _, p in node.parameters if p in steps]
            change[node.name] = before * math.prod(step**2 for step in reused)
    return steps


def _handed_on(graph: Graph, node: Node, predicted: Mapping[str, float], change: Mapping[str, float]) -> float:
    """Factor by which the second moment of `node` changes with those of what it reads, its own weight aside."""
    read = [name for name in node.inputs if name in graph.signal]
    if node.function in NORMALIZATION or not read:
        return 1.0
    changes = [change.get(name, 1.0) for name in read]
    if node.function in ("add", "sub", "rsub", "cat"):
        sizes = [predicted.get(name, 1.0) for name in read]
        total = sum(sizes)
        return sum(s * c for s, c in zip(sizes, changes, strict=True)) / total if total > 0 else 1.0
    if node.function == "mul":
        return math.prod(changes)
    return changes[-1] if node.function == "scaled_dot_product_attention" else changes[0]
