"""A network → what its signal and gradient should be at every operation, before anything runs."""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor, nn

from firstlight.errors import FirstlightError
from firstlight.graph import Graph, trace
from firstlight.initialization import Plan
from firstlight.theory import Derivation, InputMoments, Prediction, as_they_are, derive, propagate
from firstlight.theory.leaves import Drawn

if TYPE_CHECKING:
    from firstlight.recipe import Recipe
    from firstlight.statistics import Statistics


def predict(
    model: nn.Module,
    example: Any,
    *,
    input_mean: float = 0.0,
    input_second_moment: float = 1.0,
    statistics: "Statistics | None" = None,
    recipe: "Recipe | None" = None,
    images: Tensor | None = None,
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
        statistics: of the images, in units of full scale; takes the place of the two moments.
        recipe: what is done to those images before they go in; without it they go in as they are.
        images: a batch as it goes in, [N, C, H, W]; its moments, and how much its pixels resemble each other, take the
            place of all the above. Smooth images lose less in a pooling than noise does.
        plan: how the weights will be drawn; without one, they are taken as they are.
        mode: "train" or "eval": what batch norm and dropout do.
        graph: of this model, if it was traced before.

    Returns:
        One entry for each operation, and where the signal dies or explodes.

    Raises:
        FirstlightError: slug ``no-such-mode``; ``impossible-moments``, when the mean square is below the square of the
            mean; ``no-such-moments``, for a recipe without statistics or one that differs from pixel to pixel; and what
            tracing raises.
    """
    if mode not in ("train", "eval"):
        raise FirstlightError(
            f"there is no mode {mode!r}", 'choose "train" or "eval"', slug="no-such-mode", call="predict"
        )
    if images is not None:
        inputs = InputMoments.of(images)
    elif statistics is not None or recipe is not None:
        inputs = moments_of(statistics, recipe)
    else:
        _check(input_mean, input_second_moment)
        inputs = InputMoments(input_mean, input_second_moment)
    return propagate(graph or trace(model, example), _drawn(model, plan), inputs=inputs, training=mode == "train")


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


def moments_of(statistics: "Statistics | None", recipe: "Recipe | None") -> InputMoments:
    """Mean and mean square of each channel once `recipe` has been applied to images of these statistics.

    A recipe over channels is an affine map y = A x + b of each pixel: A and b are read off at black and at the unit
    colours, then E y = A E x + b and Cov y = A Cov x Aᵀ.

    Raises:
        FirstlightError: slug ``no-such-moments``.
    """
    if statistics is None:
        raise _no_moments("a recipe alone does not say what images go in", "give statistics= too")
    mean, covariance = statistics.mean, np.asarray(statistics.covariance)
    if recipe is not None:
        colours = np.concatenate([np.zeros((1, len(mean))), np.eye(len(mean))])
        try:
            mapped = np.asarray(recipe(colours[:, None, None, :].astype(np.float32)), np.float64)[:, 0, 0, :]
        except FirstlightError as error:
            raise _no_moments(f"the recipe does not treat all pixels alike: {error.cause}", "give images=") from error
        matrix, shift = (mapped[1:] - mapped[0]).T, mapped[0]
        mean, covariance = matrix @ mean + shift, matrix @ covariance @ matrix.T
    return InputMoments(tuple(mean.tolist()), tuple((np.diagonal(covariance) + mean**2).tolist()))


def _no_moments(cause: str, way_out: str) -> FirstlightError:
    return FirstlightError(cause, way_out, slug="no-such-moments", call="predict")
