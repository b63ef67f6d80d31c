"""Solve the sizes of the weights on this very graph, so that every sum gives a signal of the size wanted of it.

A rule such as Kaiming's looks at one layer and its nonlinearity. What reaches the layer is another matter: padding
thins the border, pooling averages correlated pixels, sums add up, a nonlinearity leaves a mean behind, attention mixes.
The theory predicts the second moment ``m`` of every sum from all of these. A sum with zero bias is linear in its
weight, so making the weight ``√(wanted / m)`` times as large gives the second moment wanted, exactly; done in the order
in which the network runs, on the way, one pass settles every layer, each on what really reaches it.

Wanted is 1, but for what ends a residual branch. A stream with ``L`` branches gives each of them ``1/L``, so that it
ends near 2 at any depth (Zhang et al. 2019; Radford et al. 2019 scale by ``1/√L`` likewise):

* a branch that ends in a weight gets that weight sized for ``1/L``;
* one that ends in a batch norm starts at zero, by the scale of that norm (Goyal et al. 2017);
* one that ends in another norm, which would bring any weight back to one, gets ``√(1/L)`` as the scale of that norm;
* one that ends in LayerScale is small already.
"""

import dataclasses
import math
from collections.abc import Mapping

from firstlight.graph import Fan, Graph, Node, fans
from firstlight.initialization.branches import End, branches
from firstlight.initialization.plan import Decision, Plan
from firstlight.initialization.schemes.kaiming import kaiming
from firstlight.theory import forward
from firstlight.theory.leaves import Drawn
from firstlight.theory.maps import Step

_CLOSE = 0.02
_CREDIBLE = 1e8  # a sum of Kaiming's size further from one than this was not understood, whatever the theory says


def auto(graph: Graph, buffers: Drawn | None = None) -> Plan:
    """Plan weights whose sums have the size wanted of them, as the theory predicts on this graph.

    A weight whose result the theory does not understand, predicts to be nothing (behind a scale that starts at zero) or
    finds not to depend on its size (a standardized weight) keeps its Kaiming size, and its reason says so. A weight
    that is used several times is settled by its first use. Inputs are taken to have mean zero and variance one.

    Args:
        graph: the network.
        buffers: mean and second moment of the elements of each buffer, by name; one that is not given counts as zero.
    """
    start, share = kaiming(graph), wanted(graph)
    decided = {d.name: _ended(d, share[d.name], graph) if d.name in share else d for d in start.decisions}
    first: dict[str, Fan] = {}
    for fan in fans(graph):
        if fan.parameter in decided and decided[fan.parameter].rule == "kaiming":
            first.setdefault(fan.parameter, fan)
    sizes = _settled(graph, decided, first, share, buffers or {})
    made = (_sized(d, first[d.name], sizes.get(d.name), share) if d.name in first else d for d in decided.values())
    return Plan("auto", tuple(made), start.uncovered)


@dataclasses.dataclass(frozen=True, slots=True)
class Share:
    """What the end of a residual branch may add to a stream of second moment one.

    Attributes:
        end: what sets the branch's size.
        of: how many share the one.
    """

    end: End
    of: int


def wanted(graph: Graph) -> dict[str, Share]:
    """The share of each parameter that ends a residual branch; of any other weight's result, 1 is wanted."""
    found = branches(graph)
    return {end.parameter: Share(end, len(found) * len(branch.ends)) for branch in found for end in branch.ends}


def _ended(decision: Decision, share: Share, graph: Graph) -> Decision:
    """The decision for the scale of a norm that ends a branch; weights are sized later, LayerScale stays."""
    if share.end.is_weight or share.end.function == "mul" or decision.distribution != "constant":
        return decision
    norm = share.end.function
    if norm == "batch_norm" and all(user.function == "batch_norm" for user in graph.users(decision.name)):
        why = "scale of the batch norm that ends a residual branch: zero, the block starts as its shortcut"
        return dataclasses.replace(decision, rule="zero-residual", mean=0.0, reason=why)
    why = f"scale of the {norm} that ends one of the stream's residual branches: √(1/{share.of})"
    return dataclasses.replace(decision, rule="auto", mean=decision.mean / math.sqrt(share.of), reason=why)


def _settled(
    graph: Graph, decided: Mapping[str, Decision], first: Mapping[str, Fan], share: Mapping[str, Share], buffers: Drawn
) -> dict[str, float]:
    """Standard deviation of each weight whose result came out as wanted."""
    drawn = {name: (d.mean, d.mean**2 + d.std**2) for name, d in decided.items()}
    by_node = {fan.node: name for name, fan in first.items()}
    std: dict[str, float] = {}

    def settle(node: Node, step: Step) -> dict[str, tuple[float, float]]:
        name = by_node.get(node.name)
        moment = float(step.signal.second.mean())
        if name is None or name in std or step.opaque or not 1 / _CREDIBLE < moment < _CREDIBLE:
            return {}
        std[name] = decided[name].std * math.sqrt(_goal(name, share) / moment)
        return {name: (0.0, std[name] ** 2)}

    _, steps = forward(graph, {**buffers, **drawn}, settle=settle)
    reached = {
        name: float(steps[fan.node].signal.second.mean()) / _goal(name, share)
        for name, fan in first.items()
        if fan.node in steps
    }
    return {name: size for name, size in std.items() if abs(reached.get(name, 0.0) - 1) < _CLOSE}


def _goal(name: str, share: Mapping[str, Share]) -> float:
    return 1 / share[name].of if name in share and share[name].end.is_weight else 1.0


def _sized(decision: Decision, fan: Fan, std: float | None, share: Mapping[str, Share]) -> Decision:
    if std is None:
        return dataclasses.replace(decision, reason=f"{decision.reason}; no prediction here, so as Kaiming has it")
    goal = _goal(decision.name, share)
    part = "" if goal == 1 else f", 1/{1 / goal:g} as one of the stream's branches"
    return dataclasses.replace(
        decision, rule="auto", std=std, gain=std * math.sqrt(fan.fan_in),
        reason=f"{decision.reason}; predicted second moment of the result {goal:.3g}{part}",
    )  # fmt: skip
