"""A network by its name and images of a source → the same check that a training script would make."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from firstlight._typing import Progress
from firstlight.engines import Observer
from firstlight.errors import FirstlightError
from firstlight.graph import trace
from firstlight.models import open_callable, open_model
from firstlight.recipe import Recipe
from firstlight.recipe.steps import Divide, Subtract
from firstlight.statistics import Statistics
from firstlight.workflows.batches import classes_of, common_size, inputs_of, labels_for, observer_for, pictures
from firstlight.workflows.checking import Check, check
from firstlight.workflows.samples import batch_of, sample_images
from firstlight.workflows.scanning import scan

LOSSES = ("cross-entropy", "bce-with-logits", "mse")
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
PRESETS = ("resnet", "vgg", "alexnet", "zca", "none")
_COUNTED = 2000


def check_source(
    model: str | nn.Module,
    source: Any,
    *,
    recipe: str = "resnet",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    loss: str = "cross-entropy",
    optimizer: str | None = None,
    lr: float = 1e-3,
    resize: Any = None,
    crop: Any = None,
    resample: str = "bilinear",
    split: str | None = None,
    all_splits: bool = False,
    alpha: str = "mask",
    orientation: bool = False,
    nodata: float | None = None,
    key: str | None = None,
    batch: int = 32,
    seed: int = 0,
    workers: int | None = None,
    engine: str = "local",
    progress: Progress | None = None,
) -> Check:
    """Check a network on images whose folders are their classes.

    Args:
        model: a network, or its name for `open_model`.
        source: anything `open_source` opens, with random access.
        recipe: "resnet", "vgg", "alexnet" or "zca" of at most 2,000 of these images, "none" for raw pixels, or a file
            that `Recipe.load` reads.
        mean, std: constants to normalize with instead, in units of full scale.
        loss: "cross-entropy", "bce-with-logits" (one score against the rest for each class), "mse" (scores against
            one-hot labels), or FILE.py:CALLABLE of output and labels (of the output alone where it is not one
            row of scores, and no folders name the classes).
        optimizer: "sgd" (momentum 0.9), "adam" or "adamw"; None leaves what concerns it unchecked.
        lr: its learning rate.
        resize, crop, resample, split, all_splits, alpha, orientation, nodata, key, workers, engine: see `scan`.
        batch: images in the batch.
        seed: chooses those images.
        progress: called with (images done, images in all).

    Raises:
        FirstlightError: what `scan`, `open_model` and `check` raise; slugs ``stream-source``, ``no-such-loss``,
            ``no-such-optimizer``, ``half-normalized`` (a mean without a std, or the other way round).
    """
    _refuse(optimizer, loss, mean, std)
    with pictures(source, key=key, split=split, all_splits=all_splits, call="check") as (chosen, _):
        observer = observer_for(resize, crop, resample, alpha, orientation, nodata)
        transform, _ = common_size(chosen, observer)
        network = open_model(model) if isinstance(model, str) else model
        counts = classes_of(chosen)
        statistics = scan(
            chosen,
            resize=transform.resize,
            crop=transform.crop,
            resample=resample,
            sample=_COUNTED if len(chosen) > _COUNTED else None,
            seed=seed,
            all_splits=True,
            alpha=alpha,
            orientation=orientation,
            nodata=nodata,
            workers=workers,
            engine=engine,
            progress=progress,
        )
        samples = sample_images(chosen, Observer(observer.policy, transform), batch, seed)
    pixels = batch_of(samples, statistics.channels, statistics.kind)
    prepared = _recipe(recipe, mean, std, statistics)
    inputs = inputs_of(prepared, pixels) if prepared is not None else torch.from_numpy(pixels).movedim(3, 1).float()
    scores = _scores(network, inputs)
    names, own = [name for name, _ in samples], ":" in loss
    labels = labels_for(names, list(counts), scores, seed).values
    if own and labels is None and len(counts) > 1:  # it knows what to do with an output that is not one row of scores
        labels = labels_for(names, list(counts), (len(names), len(counts)), seed).values
    found = check(
        network,
        inputs,
        _loss(loss) if own or labels is not None else None,
        labels=labels,
        optimizer=None if optimizer is None else _optimizer(optimizer, lr),
        statistics=statistics,
        recipe=prepared,
        class_counts=tuple(counts.values()) if scores is not None and len(counts) == scores[-1] else None,
    )
    return dataclasses.replace(found, subject=model if isinstance(model, str) else found.subject)


def _refuse(optimizer: str | None, loss: str, mean: object, std: object) -> None:
    if optimizer is not None and optimizer not in OPTIMIZERS:
        raise FirstlightError(
            f"there is no optimizer {optimizer!r}",
            f"choose one of {', '.join(OPTIMIZERS)}",
            slug="no-such-optimizer",
            call="check",
        )
    if loss not in LOSSES and ":" not in loss:
        raise FirstlightError(
            f"there is no loss {loss!r}",
            f"choose one of {', '.join(LOSSES)}, or name FILE.py:CALLABLE",
            slug="no-such-loss",
            call="check",
        )
    if (mean is None) != (std is None):
        raise FirstlightError(
            "a mean needs a std, and a std a mean", "give both --mean and --std", slug="half-normalized", call="check"
        )


def _recipe(name: str, mean: Any, std: Any, statistics: Statistics) -> Recipe | None:
    if mean is not None:
        return dataclasses.replace(Recipe.resnet(statistics), name="given", steps=(Subtract(mean), Divide(std)))
    if name == "none":
        return None
    if name in PRESETS:
        made: Recipe = getattr(Recipe, name)(statistics)
        return made
    return Recipe.load(name)


def _scores(network: nn.Module, inputs: Tensor) -> tuple[int, ...] | None:
    """Shape of the network's output on this batch, as far as it is one tensor; the network is left as it was."""
    graph = trace(network, inputs[:2])
    return graph[graph.outputs[0]].shape if len(graph.outputs) == 1 else None


def _loss(name: str) -> Callable[..., Tensor]:
    if ":" in name:
        return open_callable(name)
    functions: dict[str, Callable[..., Tensor]] = {
        "cross-entropy": functional.cross_entropy,
        "bce-with-logits": lambda output, labels: functional.binary_cross_entropy_with_logits(
            output, functional.one_hot(labels, output.shape[1]).to(output.dtype)
        ),
        "mse": lambda output, labels: functional.mse_loss(
            output, functional.one_hot(labels, output.shape[1]).to(output.dtype)
        ),
    }
    return functions[name]


def _optimizer(name: str, lr: float) -> Callable[..., torch.optim.Optimizer]:
    momentum = {"momentum": 0.9} if name == "sgd" else {}
    return lambda parameters: OPTIMIZERS[name](parameters, lr=lr, **momentum)
