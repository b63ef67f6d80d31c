"""A network → initial weights, each decided from the operation that uses it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import safetensors.torch
import torch
from torch import nn

from firstlight import __version__
from firstlight._files import write_atomically
from firstlight.errors import FirstlightError
from firstlight.graph import Graph, trace
from firstlight.initialization import (
    SCHEMES,
    Head,
    InitReport,
    Plan,
    apply,
    auto,
    identical_units,
    lsuv,
    with_prior,
)  # fmt: skip
from firstlight.theory import as_they_are


def initialize(
    model: nn.Module,
    example: Any,
    *,
    scheme: str = "auto",
    seed: int = 0,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    class_counts: Sequence[float] | None = None,
    head: Head = "softmax",
    samples: float | None = None,
    device: torch.device | str | None = None,
    graph: Graph | None = None,
) -> InitReport:
    """Initialize `model` in place from its graph.

    A model on the meta device gets memory and is drawn straight into it; a sharded one is drawn shard by shard.

    Args:
        model: any network.
        example: input as the model takes it; only shapes and types matter, except for "lsuv", which measures on it.
        scheme: "auto" (sizes solved from the predicted signal), "kaiming" (He et al. 2015: std = gain / √fan-in, both
            taken from the graph), "lsuv", or another name in `firstlight.initialization.SCHEMES`.
        seed: of the random numbers; the same seed gives the same weights.
        overrides: changes by pattern of names, ``{"head.*": {"std": 0.01}}``; see `Plan.override`.
        class_counts: images of each class, in the order of the outputs: the head starts out predicting these
            frequencies; see `firstlight.initialization.with_prior`.
        head: with class counts, what makes probabilities of the outputs: "softmax" or "sigmoid".
        samples: with class counts under sigmoids, images in all; the sum of the counts when not given.
        device: where parameters on the meta device get memory.
        graph: of this model, if it was traced before.

    Returns:
        One line per parameter: rule, fan, gain, asked and measured std, reason; what no rule covered; running
        statistics that were reset; and warnings, such as layers whose units would stay equal for ever.

    Raises:
        FirstlightError: slug ``no-such-scheme``; ``identical-units``, when "auto" comes out so; and what tracing,
            overriding, `with_prior` and applying raise.
    """
    if scheme not in SCHEMES and scheme != "lsuv":
        raise FirstlightError(
            f"there is no scheme {scheme!r}",
            f"choose one of {', '.join([*SCHEMES, 'lsuv'])}",
            slug="no-such-scheme",
            call="initialize",
        )
    graph = graph or trace(model, example)
    plan = _planned(scheme, graph, model, example, seed)
    if class_counts is not None:
        plan = with_prior(plan, graph, class_counts, head, samples)
    plan = plan.override(overrides or {})
    warnings = _warnings(graph, plan)
    return replace(apply(plan, model, seed=seed, device=device), warnings=warnings)


def _planned(scheme: str, graph: Graph, model: nn.Module, example: Any, seed: int) -> Plan:
    if scheme == "lsuv":
        return lsuv(graph, model, example, seed=seed)
    with torch.device("cpu"):  # the theory computes; a default device of meta is meant for the model
        return auto(graph, as_they_are(model, weights=False)) if scheme == "auto" else SCHEMES[scheme](graph)


def _warnings(graph: Graph, plan: Plan) -> tuple[str, ...]:
    """Layers whose units stay equal, and what is uncovered.

    Raises:
        FirstlightError: slug ``identical-units``, when a plan that nobody asked to be so makes units equal for ever.
    """
    said = []
    equal = identical_units(graph, plan)
    if equal:
        text = f"the units of each layer that {_some(equal)} write to start equal and stay equal: it has one unit"
        asked = {d.name for d in plan.decisions if d.rule == "override"}
        if plan.scheme == "auto" and asked.isdisjoint(equal):
            raise FirstlightError(
                text,
                "choose another scheme, or override these weights: {name: {'distribution': 'normal', 'std': 0.02}}",
                slug="identical-units",
                call="initialize(scheme='auto')",
            )
        said.append(text)
    for name in plan.uncovered:
        readers = ", ".join(sorted({user.op for user in graph.users(name)}))
        why = f"it is used by {readers}, and no rule says how it starts" if readers else "no output depends on it"
        said.append(f"{name} keeps its values: {why}")
    return tuple(said)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def save_weights(model: nn.Module, path: str | os.PathLike[str], report: InitReport) -> None:
    """Write all parameters and buffers as safetensors, to be loaded with ``strict=True``.

    Every key gets memory of its own: a tied weight is stored under both names, and strict loading finds both.
    """
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    metadata = {"format": "pt", "firstlight": __version__, "scheme": report.plan.scheme, "seed": str(report.seed)}
    write_atomically(path, safetensors.torch.save(state, metadata))
