"""How the lecture's networks start: a scheme becomes a plan on a graph, and a plan becomes weights."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from firstlight.graph import Graph, trace
from firstlight.initialization import SCHEMES, Plan, apply, lsuv

Planner: TypeAlias = Callable[[Graph], Plan]


def planned(
    scheme: str, std: float | None = None, *, overrides: Mapping[str, Mapping[str, Any]] | None = None
) -> Planner:
    """The plan of a scheme; with one std for every weight, or with `overrides` by name, where that is given."""
    changes = overrides or ({} if std is None else {"*.weight": {"std": std}})
    return lambda graph: SCHEMES[scheme](graph).override(changes)


def sized(std: float) -> Planner:
    """Weights of sums normal with one std, whatever they are called; norms and biases as they should be."""

    def plan(graph: Graph) -> Plan:
        decided = SCHEMES["normal"](graph)
        return decided.override({d.name: {"std": std} for d in decided.decisions if d.std > 0})

    return plan


def starts(build: Callable[[], nn.Module], example: Tensor, plan: Planner) -> Callable[[int], nn.Module]:
    """From a seed to the network with weights drawn by the plan; the network is traced once."""
    with torch.device("meta"):
        graph = trace(build(), example.to("meta"))
    decided = plan(graph)

    def start(seed: int) -> nn.Module:
        model = build()
        apply(decided, model, seed=seed)
        return model

    return start


def measured_starts(build: Callable[[], nn.Module], batch: Tensor) -> Callable[[int], nn.Module]:
    """The same for LSUV, which measures the sizes on a batch."""
    graph = trace(build(), batch)

    def start(seed: int) -> nn.Module:
        model = build()
        apply(lsuv(graph, model, batch, seed=seed), model, seed=seed)
        return model

    return start
