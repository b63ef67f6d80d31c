"""A network → initial weights, each decided from the operation that uses it."""

import os
from typing import Any

import safetensors.torch
from torch import nn

from firstlight import __version__
from firstlight._files import write_atomically
from firstlight.errors import FirstlightError
from firstlight.graph import Graph, trace
from firstlight.initialization import InitReport, apply, kaiming

_SCHEMES = {"kaiming": kaiming}


def initialize(
    model: nn.Module, example: Any, *, scheme: str = "kaiming", seed: int = 0, graph: Graph | None = None
) -> InitReport:
    """Initialize `model` in place from its graph.

    Args:
        model: any network.
        example: input as the model takes it; only shapes and types matter.
        scheme: "kaiming" (He et al. 2015: std = gain / √fan-in, both taken from the graph).
        seed: of the random numbers; the same seed gives the same weights.
        graph: of this model, if it was traced before.

    Returns:
        One line per parameter: rule, fan, gain, asked and measured std, reason; and what no rule covered.

    Raises:
        FirstlightError: slug ``no-such-scheme``; and what tracing and applying raise.
    """
    if scheme not in _SCHEMES:
        raise FirstlightError(
            f"there is no scheme {scheme!r}",
            f"choose one of {', '.join(_SCHEMES)}",
            slug="no-such-scheme",
            call="initialize",
        )
    return apply(_SCHEMES[scheme](graph or trace(model, example)), model, seed=seed)


def save_weights(model: nn.Module, path: str | os.PathLike[str], report: InitReport) -> None:
    """Write all parameters and buffers as safetensors, to be loaded with ``strict=True``.

    Every key gets memory of its own: a tied weight is stored under both names, and strict loading finds both.
    """
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    metadata = {"format": "pt", "firstlight": __version__, "scheme": report.plan.scheme, "seed": str(report.seed)}
    write_atomically(path, safetensors.torch.save(state, metadata))
