"""A network → what its signal and gradient should be at every operation, before anything runs."""

from typing import Any, Literal

from torch import nn

from firstlight.errors import FirstlightError
from firstlight.graph import Graph, trace
from firstlight.initialization import Plan
from firstlight.theory import Prediction, as_they_are, propagate


def predict(
    model: nn.Module,
    example: Any,
    *,
    input_mean: float = 0.0,
    input_second_moment: float = 1.0,
    plan: Plan | None = None,
    mode: Literal["train", "eval"] = "train",
    graph: Graph | None = None,
) -> Prediction:
    """Predict mean, variance and gradient of every operation of `model`.

    Args:
        model: any network.
        example: input as the model takes it; its shapes and its number of samples matter, its values do not.
        input_mean: mean of the elements of the input, after preprocessing.
        input_second_moment: their mean square; 1 for normalized images.
        plan: how the weights will be drawn; without one, they are taken as they are.
        mode: "train" or "eval": what batch norm and dropout do.
        graph: of this model, if it was traced before.

    Raises:
        FirstlightError: slug ``no-such-mode``; ``impossible-moments``, when the mean square is below the square of the
            mean; and what tracing raises.
    """
    if mode not in ("train", "eval"):
        raise FirstlightError(
            f"there is no mode {mode!r}", 'choose "train" or "eval"', slug="no-such-mode", call="predict"
        )
    if not input_second_moment >= input_mean**2:
        raise FirstlightError(
            f"a mean square of {input_second_moment:g} is less than the square of the mean {input_mean:g}",
            "give the mean of the squared input: std² + mean²",
            slug="impossible-moments",
            call="predict",
        )
    drawn = as_they_are(model)
    for decision in plan.decisions if plan is not None else ():
        drawn[decision.name] = (decision.mean, decision.mean**2 + decision.std**2)
    return propagate(
        graph or trace(model, example),
        drawn,
        input_mean=input_mean,
        input_second_moment=input_second_moment,
        training=mode == "train",
    )
