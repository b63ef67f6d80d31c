"""What a practitioner asks next: which start and which preprocessing train this network best on these images?

Short training runs of the same network on the same batches. Each contender, a scheme with a recipe, gets the same
number of tries to find its learning rate on the first seed (`RATES`, a third of the steps each); the best one then
trains all seeds. How they are ranked: `ranking`.
"""

import copy
import dataclasses
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from firstlight import __version__
from firstlight._files import to_json, write_atomically
from firstlight._text import short, table
from firstlight._typing import Progress
from firstlight.engines import Observer
from firstlight.errors import FirstlightError
from firstlight.graph import Graph, trace
from firstlight.graph.untouched import kept_random
from firstlight.initialization import SCHEMES, Plan, apply
from firstlight.models import open_model
from firstlight.recipe import Recipe
from firstlight.report import Contender, Document, compare_document, to_html
from firstlight.statistics import Statistics
from firstlight.workflows.batches import classes_of, common_size, inputs_of, observer_for, pictures
from firstlight.workflows.kept import keep, load
from firstlight.workflows.ranking import ranked, state_of
from firstlight.workflows.samples import batch_of, class_of, sample_images
from firstlight.workflows.scanning import scan
from firstlight.workflows.training import Curve, shuffled, train

RATES = (0.001, 0.003, 0.01, 0.03, 0.1)
RECIPES = ("none", "scale", "vgg", "resnet", "alexnet", "pca", "zca")
_POINTS = 40


@dataclass(frozen=True)
class Comparison:
    """Contenders, the best first.

    Attributes:
        contenders: with their places.
        chance: loss of knowing the classes' frequencies alone, in nats.
        subject, data: which network, which images, for people.
        settings: steps, batch, seeds, rates.
        verdict: the ranking in one sentence.
    """

    contenders: tuple[Contender, ...]
    chance: float
    subject: str
    data: str
    settings: dict[str, Any]

    @property
    def verdict(self) -> str:
        """The ranking in one sentence."""
        trained = [c for c in self.contenders if c.state == "trains"]
        if not trained:
            return "None of them trains."
        best = [c.name for c in trained if c.place == 1]
        stalled = [c.name for c in self.contenders if c.state != "trains"]
        lost = f" Not trained: {'; '.join(stalled)}." if stalled else ""
        if len(best) == 1 and len(self.settings["seeds"]) == 1:
            return f"Lowest loss: {best[0]}; one seed cannot say whether by chance.{lost}"
        if len(best) == len(trained) > 1:
            return f"No clear difference between those that train: {'; '.join(best)}.{lost}"
        return f"Best: {'; '.join(best)}{' (no clear difference)' if len(best) > 1 else ''}.{lost}"

    def __str__(self) -> str:
        head = ("", "start", "final loss", "rate", "")
        rows = [(str(c.place), c.name, short(c.mean), short(c.rate), c.state) for c in self.contenders]
        return f"{self.verdict}\n{table(head, rows)}"

    @property
    def document(self) -> Document:
        """The report as plain values."""
        fields = {name: getattr(self, name) for name in ("chance", "subject", "data", "settings")}
        return compare_document(self.contenders, self.verdict, **fields)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"format": "firstlight.compare/1", "firstlight": __version__, "verdict": self.verdict} | (
            dataclasses.asdict(self)
        )


def compare(
    model: str | nn.Module,
    source: Any,
    out: str | os.PathLike[str] | None = None,
    *,
    schemes: Sequence[str] = ("normal(0.01)", "xavier", "kaiming", "auto"),
    recipes: Sequence[str] = ("resnet",),
    steps: int = 300,
    seeds: int = 3,
    batch: int = 32,
    limit: int = 4096,
    rates: Sequence[float] = RATES,
    resize: Any = None,
    crop: Any = None,
    resample: str = "bilinear",
    split: str | None = None,
    all_splits: bool = False,
    alpha: str = "mask",
    orientation: bool = False,
    nodata: float | None = None,
    key: str | None = None,
    seed: int = 0,
    workers: int | None = None,
    engine: str = "local",
    progress: Progress | None = None,
) -> Comparison:
    """Train a network from several starts on several preprocessings, and rank them.

    Args:
        model: a network, which is copied, or its name for `open_model`.
        source: images whose folders are their classes, with random access.
        out: folder for compare.html and compare.json; finished runs are kept there, and the same call goes on.
        schemes: names of `firstlight.initialization.SCHEMES`, with a number where one fits: "normal(0.01)",
            "constant(0.1)".
        recipes: of "none" (raw pixels), "scale" (0…1), "vgg", "resnet", "alexnet", "pca", "zca".
        steps: of each run.
        seeds: runs of each contender; seeds share their batches across contenders.
        batch: images in a batch.
        limit: images at most, kept in memory.
        rates: learning rates that each contender may try, of stochastic gradient descent with momentum 0.9.
        resize, crop, resample, split, all_splits, alpha, orientation, nodata, key, workers, engine: see `scan`.
        seed: chooses the images; run k uses seed + k for weights and order.
        progress: called with (runs done, runs in all).

    Raises:
        FirstlightError: slugs ``no-such-scheme``, ``no-such-recipe``, ``no-classes``, ``too-few-outputs``,
            ``stream-source``; and what `scan` and `trace` raise.
    """
    _refuse(schemes, recipes)
    with pictures(source, key=key, split=split, all_splits=all_splits, call="compare") as (chosen, _):
        observer = observer_for(resize, crop, resample, alpha, orientation, nodata)
        transform, _ = common_size(chosen, observer)
        classes = list(classes_of(chosen))
        if len(classes) < 2:
            raise _error(
                f"{chosen.location!r} does not say what its images show: fewer than two folders hold them",
                "put the images of each class into a folder of its own",
                "no-classes",
            )
        found = sample_images(chosen, Observer(observer.policy, transform), limit, seed)
        location = chosen.location
    found.sort(key=lambda pair: pair[0])
    channels = max(image.shape[2] for _, image in found)
    pixels = batch_of(found, channels, "uint16" if any(image.dtype == np.uint16 for _, image in found) else "uint8")
    labels = torch.tensor([classes.index(class_of(name)) for name, _ in found])
    network = open_model(model) if isinstance(model, str) else model
    subject = model if isinstance(model, str) else type(model).__name__
    arena = _Arena(network, pixels, labels, scan(pixels, workers=workers, engine=engine), batch, steps, seed)
    arena.check(len(classes))
    folder = None if out is None else Path(out) / ".runs"
    runs = _Runs(arena, folder, _identity(network, pixels, labels, batch, steps), progress)
    trials = list(product(schemes, recipes))
    runs.total = len(trials) * (len(rates) + seeds)
    contenders = ranked([_contend(runs, *trial, rates, seeds) for trial in trials])
    settings = {"steps": steps, "batch": batch, "images": len(pixels), "seeds": list(range(seed, seed + seeds)),
                "rates": list(rates)}  # fmt: skip
    result = Comparison(tuple(contenders), arena.chance, subject, location, settings)
    if out is not None:
        write_atomically(Path(out) / "compare.json", to_json(result.to_dict()))
        write_atomically(Path(out) / "compare.html", to_html(result.document))
    return result


@dataclass(frozen=True, eq=False)
class _Arena:
    """What all contenders share."""

    model: nn.Module
    pixels: NDArray[Any]
    labels: Tensor
    statistics: Statistics
    batch: int
    steps: int
    seed: int

    @property
    def chance(self) -> float:
        """Entropy of the classes' frequencies, in nats: the loss of the best answer that does not look."""
        shares = self.labels.bincount().double() / len(self.labels)
        return float(-(shares[shares > 0] * shares[shares > 0].log()).sum())

    def check(self, classes: int) -> None:
        shape = self.graph[self.graph.outputs[0]].shape if len(self.graph.outputs) == 1 else None
        if shape is None or len(shape) != 2 or shape[1] < classes:
            said = "several results" if shape is None else "×".join(map(str, shape))
            raise _error(
                f"the images have {classes} classes, and the network gives {said}",
                f"build it with {classes} outputs, one row of scores for each image",
                "too-few-outputs",
            )

    @cached_property
    def graph(self) -> Graph:
        return trace(self.model, self.inputs(_recipe("resnet", self.statistics), self.pixels[:2]))

    @staticmethod
    def inputs(recipe: Recipe | None, pixels: NDArray[Any]) -> Tensor:
        if recipe is None:
            return torch.from_numpy(np.ascontiguousarray(pixels.astype(np.float32))).movedim(3, 1)
        return inputs_of(recipe, pixels)

    def run(self, scheme: str, recipe: str, rate: float, seed: int, steps: int) -> Curve:
        model = copy.deepcopy(self.model)
        prepared = _recipe(recipe, self.statistics)
        apply(_plan(scheme, self.graph), model, seed=seed)
        with kept_random():
            torch.manual_seed(seed)  # of dropout
            return train(model, self._batches(prepared, steps, seed), rate=rate)

    def _batches(self, recipe: Recipe | None, steps: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        indices = torch.arange(len(self.labels))
        for chosen, labels in shuffled(indices, self.labels, size=self.batch, steps=steps, seed=seed):
            yield self.inputs(recipe, self.pixels[chosen.numpy()]), labels


class _Runs:
    """Runs that are made once and then kept."""

    def __init__(self, arena: _Arena, folder: Path | None, identity: str, progress: Progress | None) -> None:
        self.arena, self.folder, self.identity, self.progress = arena, folder, identity, progress
        self.done, self.total = 0, 0

    def __call__(self, scheme: str, recipe: str, rate: float, seed: int, steps: int) -> Curve:
        text = json.dumps([self.identity, scheme, recipe, rate, seed, steps])
        name = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
        path = None if self.folder is None else self.folder / f"{name}.json"
        kept = None if path is None else load(path)
        if kept is None:
            curve = self.arena.run(scheme, recipe, rate, seed, steps)
            kept = [None if math.isnan(loss) else loss for loss in curve.loss]
            if path is not None:
                keep(path, kept)
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)
        return Curve(tuple(math.nan if loss is None else float(loss) for loss in kept), rate)


def _contend(runs: _Runs, scheme: str, recipe: str, rates: Sequence[float], seeds: int) -> Contender:
    arena = runs.arena
    tries = {rate: runs(scheme, recipe, rate, arena.seed, max(arena.steps // 3, 1)).final for rate in rates}
    rate = min(rates, key=lambda r: tries[r])
    curves = [runs(scheme, recipe, rate, arena.seed + k, arena.steps) for k in range(seeds)]
    final = tuple(curve.final for curve in curves)
    steps = curves[0].binned(_POINTS)[0]
    losses = tuple(tuple(curve.binned(_POINTS)[1]) for curve in curves)
    return Contender(scheme, recipe, rate, tuple(steps), losses, final, state_of(final, arena.chance))


def _recipe(name: str, statistics: Statistics) -> Recipe | None:
    return None if name == "none" else getattr(Recipe, name)(statistics)


_WITH_NUMBER: dict[str, str] = {"normal": "std", "constant": "value"}


def _plan(scheme: str, graph: Graph) -> Plan:
    name, number = _parsed(scheme)
    options = {} if number is None else {_WITH_NUMBER[name]: number}
    return partial(SCHEMES[name], **options)(graph)


def _parsed(scheme: str) -> tuple[str, float | None]:
    found = re.fullmatch(r"([\w-]+)(?:\(([\d.e+-]+)\))?", scheme.strip())
    name, number = found.groups() if found else (scheme, None)
    if name not in SCHEMES or (number is not None and name not in _WITH_NUMBER):
        raise _error(
            f"there is no scheme {scheme!r}", f"choose among {', '.join(SCHEMES)}; normal(STD), constant(VALUE)",
            "no-such-scheme",
        )  # fmt: skip
    return name, None if number is None else float(number)


def _refuse(schemes: Sequence[str], recipes: Sequence[str]) -> None:
    for scheme in schemes:
        _parsed(scheme)
    for recipe in recipes:
        if recipe not in RECIPES:
            raise _error(f"there is no recipe {recipe!r}", f"choose among {', '.join(RECIPES)}", "no-such-recipe")
    if not schemes or not recipes:
        raise _error("there is nothing to compare", "name at least one scheme and one recipe", "no-such-scheme")


def _identity(network: nn.Module, pixels: NDArray[Any], labels: Tensor, batch: int, steps: int) -> str:
    """A name for everything that decides a run's numbers besides its own settings."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{__version__} {torch.__version__} {batch} {steps} {network}".encode())
    digest.update(np.ascontiguousarray(pixels).tobytes() + labels.numpy().tobytes())
    return digest.hexdigest()


def _error(cause: str, way_out: str, slug: str) -> FirstlightError:
    return FirstlightError(cause, way_out, slug=slug, call="compare")
