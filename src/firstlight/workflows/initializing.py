"""A network → initial weights, each decided from the operation that uses it."""

import os
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from torch import nn

from firstlight import __version__
from firstlight._files import write_atomically
from firstlight.errors import FirstlightError
from firstlight.graph import Graph, trace
from firstlight.initialization import SCHEMES, InitReport, apply, lsuv


def initialize(
    model: nn.Module,
    example: Any,
    *,
    scheme: str = "kaiming",
    seed: int = 0,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    device: torch.device | str | None = None,
    graph: Graph | None = None,
) -> InitReport:
    """Initialize `model` in place from its graph.

    A model on the meta device gets memory and is drawn straight into it; a sharded one is drawn shard by shard.

    Args:
        model: any network.
        example: input as the model takes it; only shapes and types matter, except for "lsuv", which measures on it.
        scheme: "kaiming" (He et al. 2015: std = gain / √fan-in, both taken from the graph), "auto" (sizes solved from
            the predicted signal), "lsuv", or another name in `firstlight.initialization.SCHEMES`.
        seed: of the random numbers; the same seed gives the same weights.
        overrides: changes by pattern of names, ``{"head.*": {"std": 0.01}}``; see `Plan.override`.
        device: where parameters on the meta device get memory.
        graph: of this model, if it was traced before.

    Returns:
        One line per parameter: rule, fan, gain, asked and measured std, reason; and what no rule covered.

    Raises:
        FirstlightError: slug ``no-such-scheme``; and what tracing, overriding and applying raise.
    """
    if scheme not in SCHEMES and scheme != "lsuv":
        raise FirstlightError(
            f"there is no scheme {scheme!r}",
            f"choose one of {', '.join([*SCHEMES, 'lsuv'])}",
            slug="no-such-scheme",
            call="initialize",
        )
    graph = graph or trace(model, example)
    plan = lsuv(graph, model, example, seed=seed) if scheme == "lsuv" else SCHEMES[scheme](graph)
    return apply(plan.override(overrides or {}), model, seed=seed, device=device)


def save_weights(model: nn.Module, path: str | os.PathLike[str], report: InitReport) -> None:
    """Write all parameters and buffers as safetensors, to be loaded with ``strict=True``.

    Every key gets memory of its own: a tied weight is stored under both names, and strict loading finds both.
    """
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    metadata = {"format": "pt", "firstlight": __version__, "scheme": report.plan.scheme, "seed": str(report.seed)}
    write_atomically(path, safetensors.torch.save(state, metadata))
