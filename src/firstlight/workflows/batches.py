"""A batch of a source as a network takes it: images of one size, preprocessed, and the labels of their folders."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from firstlight.engines import Observer
from firstlight.errors import FirstlightError
from firstlight.recipe import Recipe
from firstlight.sources import Policy, Source, Stream, Transform, guard
from firstlight.workflows.folding import opened_source
from firstlight.workflows.samples import class_of, sample_images


@dataclass(frozen=True)
class Labels:
    """Labels of a batch.

    Attributes:
        values: [N] integers; None where the network's output takes none.
        what: what they are, for people.
        known: whether the folders name them.
    """

    values: Tensor | None
    what: str
    known: bool = False


@contextmanager
def pictures(
    source: Any, *, key: str | None, split: str | None, all_splits: bool, call: str
) -> Iterator[tuple[Source, str]]:
    """The source, opened, with random access; of it the split that was asked for, and that split's name.

    Raises:
        FirstlightError: slug ``stream-source``, when the source has no random access; and what opening raises.
    """
    with opened_source(source, key) as opened:
        if isinstance(opened, Stream):
            raise FirstlightError(
                "the images are needed twice, and a stream gives them once",
                "save them to a folder, archive or array, or pass a dataset",
                slug="stream-source",
                call=call,
            )
        yield guard(opened, split, all_splits, f"{call}({opened.location!r})")


def common_size(source: Source, observer: Observer) -> tuple[Transform, tuple[str, ...]]:
    """The transform, completed where images of different sizes could not make a batch, and a note that says so."""
    transform = observer.transform
    if transform.crop is not None or isinstance(transform.resize, tuple):
        return transform, ()
    shapes = {pixels.shape[:2] for _, pixels in sample_images(source, observer, 32)}
    if len(shapes) <= 1:
        return transform, ()
    side = transform.resize or 256
    crop = side * 224 // 256
    note = (
        f"The images differ in size: shorter side resized to {side}, center crop {crop} (--resize, --crop change it)."
    )
    return Transform(side, crop, transform.resample), (note,)


def classes_of(source: Source) -> dict[str, int]:
    """Images in each class that the folders name, classes sorted by name; empty when the folders name none."""
    counts = Counter(class_of(name) for name in source.names)
    counts.pop("", None)
    return dict(sorted(counts.items()))


def labels_for(names: list[str], classes: list[str], scores: tuple[int, ...] | None, seed: int) -> Labels:
    """Integer labels for a batch.

    Args:
        names: of the images.
        classes: that the folders name, sorted.
        scores: shape of the network's output; None when it is not a single tensor.
        seed: of labels drawn at random, where the folders name none that fit.
    """
    if scores is None or len(scores) != 2 or scores[1] < 2:
        return Labels(None, "no labels: the output is not one row of scores per image")
    if 2 <= len(classes) <= scores[1]:
        index = {name: k for k, name in enumerate(classes)}
        values = torch.tensor([index[class_of(name)] for name in names])
        return Labels(values, f"labels: the folders' {len(classes)} classes", known=True)
    drawn = torch.randint(scores[1], (len(names),), generator=torch.Generator().manual_seed(seed))
    return Labels(drawn, "labels: drawn at random, the folders name none that fit")


def inputs_of(recipe: Recipe, images: NDArray[Any]) -> Tensor:
    """N×H×W×C raw pixels → N×C×H×W preprocessed."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(recipe(images), 3, 1)))


def observer_for(
    resize: Any, crop: Any, resample: str, alpha: str, orientation: bool, nodata: float | None
) -> Observer:
    """What reads images the way a scan counts them."""
    return Observer(Policy(alpha, orientation, nodata), Transform(resize, crop, resample))
