"""A network → what its signal and gradient should be at every operation, before anything runs."""

from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from firstlight.errors import FirstlightError
from firstlight.graph import Graph, trace
from firstlight.initialization import Plan
from firstlight.theory import Derivation, InputMoments, Prediction, as_they_are, derive, propagate
from firstlight.theory.leaves import Drawn

if TYPE_CHECKING:
    from firstlight.statistics import Statistics


def predict(
    model: nn.Module,
    example: Any,
    *,
    input_mean: float = 0.0,
    input_second_moment: float = 1.0,
    statistics: "Statistics | None" = None,
    plan: Plan | None = None,
    mode: Literal["train", "eval"] = "train",
    graph: Graph | None = None,
) -> Prediction:
    """Predict mean, second moment and gradient of every operation of `model`.

    Args:
        model: any network.
        example: input as the model takes it; its shapes and its number of samples matter, its values do not.
        input_mean: mean of the elements of the input, after preprocessing.
        input_second_moment: their mean square; 1 for normalized images.
        statistics: of images that go in as they are, in units of full scale; takes the place of the two moments.
        plan: how the weights will be drawn; without one, they are taken as they are.
        mode: "train" or "eval": what batch norm and dropout do.
        graph: of this model, if it was traced before.

    Returns:
        One entry for each operation, and where the signal dies or explodes.

    Raises:
        FirstlightError: slug ``no-such-mode``; ``impossible-moments``, when the mean square is below the square of the
            mean; and what tracing raises.
    """
    if mode not in ("train", "eval"):
        raise FirstlightError(
            f"there is no mode {mode!r}", 'choose "train" or "eval"', slug="no-such-mode", call="predict"
        )
    mean, second = (input_mean, input_second_moment) if statistics is None else _pixels(statistics)
    _check(mean, second)
    return propagate(
        graph or trace(model, example),
        _drawn(model, plan),
        inputs=InputMoments(mean, second),
        training=mode == "train",
    )


def derive_layer(
    model: nn.Module,
    example: Any,
    layer: str,
    *,
    input_mean: float = 0.0,
    input_second_moment: float = 1.0,
    plan: Plan | None = None,
    graph: Graph | None = None,
) -> Derivation:
    """The lecture's derivation of ``var(y) = d · var(x) · var(w)`` with the numbers of one layer of `model`.

    Args:
        layer: name of a module with a weight, or of its node in the graph; the others as for `predict`.

    Raises:
        FirstlightError: slug ``no-such-layer``; ``impossible-moments``; and what tracing raises.
    """
    _check(input_mean, input_second_moment)
    inputs = InputMoments(input_mean, input_second_moment)
    return derive(graph or trace(model, example), _drawn(model, plan), layer, inputs=inputs)


def _check(mean: float, second: float) -> None:
    if not second >= mean**2:
        raise FirstlightError(
            f"a mean square of {second:g} is less than the square of the mean {mean:g}",
            "give the mean of the squared input: std² + mean²",
            slug="impossible-moments",
            call="predict",
        )


def _drawn(model: nn.Module, plan: Plan | None) -> Drawn:
    drawn = as_they_are(model)
    for decision in plan.decisions if plan is not None else ():
        drawn[decision.name] = (decision.mean, decision.mean**2 + decision.std**2)
    return drawn


def _pixels(statistics: "Statistics") -> tuple[float, float]:
    mean, std = statistics.mean, statistics.std
    return float(mean.mean()), float((mean**2 + std**2).mean())
