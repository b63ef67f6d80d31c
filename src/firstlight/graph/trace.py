"""From a model and an example to its graph, by the best way that works."""

import contextlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from firstlight.errors import FirstlightError
from firstlight.graph.export import export, on_meta, quiet, to_meta
from firstlight.graph.ir import Graph
from firstlight.graph.record import record
from firstlight.graph.untouched import kept_random, untouched

# What torch.export says when a branch or a shape depends on a value; no other device would change that.
_NEEDS_VALUES = ("data-dependent", "data dependent", "DataDependent", "aten._local_scalar_dense", "aten.nonzero")


def trace(model: nn.Module, example: Any) -> Graph:
    """The graph of the operations that `model` runs on `example` when it trains.

    The first way is to run a copy of the model that has shapes and no values and note what happens; the second
    ``torch.export`` of it, which takes ten times as long and can follow some code that asks for values; the third the
    same on the model's own device, for models that make tensors there; the fourth, for models whose control flow
    depends on values, is to run `example` once. `Graph.how` says which it was. All give the same nodes. The model is
    traced in train mode and left exactly as it was.

    Args:
        model: any module.
        example: one batch as the model takes it: a tensor, a tuple of positional or a mapping of keyword arguments.
            A small batch is enough; batch normalization wants at least two samples.

    Raises:
        FirstlightError: slug ``model-does-not-run``, when the model fails on the example itself.
    """
    args, kwargs = call_arguments(example)
    reasons = []
    with kept_random():
        with contextlib.suppress(Exception), quiet():
            return record(on_meta(model).train(), to_meta(args), to_meta(kwargs), how="recorded on meta").graph
        try:
            return export(on_meta(model).train(), to_meta(args), to_meta(kwargs), how="torch.export on meta")
        except Exception as error:
            reasons.append(reason(error))
        with untouched(model):
            model.train()
            if not any(sign in reasons[0] for sign in _NEEDS_VALUES):
                try:
                    return export(model, args, kwargs, how=f"torch.export with fake tensors, not on meta: {reasons[0]}")
                except Exception as error:
                    reasons.append(reason(error))
            return _recorded(model, args, kwargs, reasons[-1])


def _recorded(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], why: str) -> Graph:
    try:
        return record(model, args, kwargs, how=f"recorded from one batch, not exported: {why}").graph
    except Exception as error:
        raise does_not_run(error, "trace(model, example)") from error


def does_not_run(error: BaseException, call: str) -> FirstlightError:
    """The error to raise when the model itself raised `error` in `call`."""
    return FirstlightError(
        f"the model does not run on this batch in train mode: {reason(error)}",
        "call model.train() and then the model on the batch yourself; two or more samples of the size it was built for "
        "are what most models want",
        slug="model-does-not-run",
        call=call,
    )


def call_arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments that `example` stands for: a tensor, a tuple or list, or a mapping.

    Raises:
        FirstlightError: slug ``example-not-understood``, for anything else.
    """
    if isinstance(example, Tensor):
        return (example,), {}
    if isinstance(example, Mapping):
        return (), dict(example)
    if isinstance(example, list | tuple):
        return tuple(example), {}
    raise FirstlightError(
        f"an example cannot be a {type(example).__name__}",
        "give one batch: a tensor, a tuple of positional arguments, or a dict of keyword arguments",
        slug="example-not-understood",
    )


def reason(error: BaseException) -> str:
    """The first line of an error that says something, without torch's pages of advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = lines[0] if lines else ""
    return f"{type(error).__name__}: {first[:200]}" if first else type(error).__name__
