"""The main job: images and a network → statistics, recipe, weights, and one page that shows the signal flow."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from firstlight._files import write_atomically
from firstlight._typing import Progress
from firstlight.engines import Observer
from firstlight.errors import FirstlightError
from firstlight.graph import Graph, trace
from firstlight.initialization import InitReport
from firstlight.models import open_model, small_cnn
from firstlight.probe import Measurements, probe
from firstlight.recipe import Recipe
from firstlight.report import Document, Sample, prepare_document, to_html
from firstlight.sources import Policy, Source, Stream, Transform, guard
from firstlight.statistics import Statistics
from firstlight.theory import Prediction
from firstlight.workflows.folding import opened_source
from firstlight.workflows.initializing import initialize, save_weights
from firstlight.workflows.predicting import predict
from firstlight.workflows.samples import batch_of, sample_images
from firstlight.workflows.scanning import scan
from firstlight.workflows.views import recipe_views

_SHOWN = 12


@dataclass(frozen=True)
class Prepared:
    """What `prepare` made.

    Attributes:
        statistics, recipe, initialized, prediction, measurements: the results, in the order in which they came about.
        graph: the network's operations.
        labels: what the labels of the probed batch are.
        notes: choices that were made because nothing was said, and what was not done.
        files: where it all lies, by name ("statistics", "recipe", "weights", "report").
    """

    statistics: Statistics
    recipe: Recipe
    initialized: InitReport
    prediction: Prediction
    measurements: Measurements
    graph: Graph
    labels: str
    notes: tuple[str, ...]
    files: dict[str, Path]

    def document(self, samples: Sequence[Sample] = ()) -> Document:
        """The report, with sample images where there are any."""
        return prepare_document(
            self.statistics,
            samples,
            self.recipe,
            self.initialized,
            self.measurements,
            prediction=self.prediction,
            views=recipe_views(self.statistics, samples),
            notes=(f"The graph was {self.graph.how}", *self.notes),
            labels=self.labels,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the arrays that the files hold."""
        return {
            "format": "firstlight.prepare/1",
            "summary": self.statistics.summary(),
            "recipe": str(self.recipe),
            "parameters": [
                dataclasses.asdict(p.decision) | {"measured_std": p.measured_std} for p in self.initialized.parameters
            ],
            "uncovered": list(self.initialized.uncovered),
            "prediction": [dataclasses.asdict(node) for node in self.prediction.nodes],
            "measurements": dataclasses.asdict(self.measurements),
            "labels": self.labels,
            "graph": self.graph.how,
            "notes": list(self.notes),
            "quarantine": [list(entry) for entry in self.statistics.quarantine],
            "files": {name: str(path) for name, path in self.files.items()},
        }


def prepare(
    source: Any = "demo:photos",
    model: str | nn.Module | None = None,
    out: str | os.PathLike[str] = "firstlight-out",
    *,
    resize: int | None = None,
    crop: int | None = None,
    resample: str = "bilinear",
    split: str | None = None,
    all_splits: bool = False,
    alpha: str = "mask",
    orientation: bool = False,
    nodata: float | None = None,
    key: str | None = None,
    batch: int = 64,
    seed: int = 0,
    workers: int | None = None,
    engine: str = "local",
    restart: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """Scan the images, derive a ResNet-style recipe, initialize the network, and send a real batch through it.

    Writes ``statistics.json``, ``recipe.json``, ``weights.safetensors`` and ``report.html`` into `out`. While the scan
    of a path or URL runs, finished blocks are kept in ``OUT.partial``, and the same call goes on from them.

    Args:
        source: anything `open_source` opens, with random access.
        model: a network, or its name for `open_model`; None takes a small CNN of six convolutions.
        out: folder for the four files.
        resize, crop, resample: see `scan`. When the images differ in size and neither is given, 256 and 224.
        split, all_splits, alpha, orientation, nodata, key: see `scan`.
        batch: images in the forward and backward pass.
        seed: chooses those images and draws the weights.
        workers, engine, restart: see `scan`.
        progress: called with (images done, images in all).

    Raises:
        FirstlightError: what `scan`, `open_model`, `initialize` and `probe` raise; slug ``stream-source``
            when the source has no random access.
    """
    with opened_source(source, key) as opened:
        if isinstance(opened, Stream):
            raise FirstlightError(
                "the images are needed twice, and a stream gives them once",
                "save them to a folder, archive or array, or pass a dataset",
                slug="stream-source",
                call="prepare",
            )
        chosen, split_name = guard(opened, split, all_splits, f"prepare({opened.location!r})")
        policy = Policy(alpha, orientation, nodata)
        transform, notes = _common_size(chosen, Observer(policy, Transform(resize, crop, resample)))
        network, classes = _network(model, chosen)
        statistics = scan(
            chosen,
            resize=transform.resize,
            crop=transform.crop,
            resample=resample,
            all_splits=True,
            alpha=alpha,
            orientation=orientation,
            nodata=nodata,
            workers=workers,
            engine=engine,
            # Beside the folder, so that a network that does not run leaves nothing behind. Only of what is named by
            # a path can be told whether it changed.
            checkpoint=f"{os.path.abspath(out)}.partial" if isinstance(source, (str, os.PathLike)) else None,
            restart=restart,
            progress=progress,
        )
        samples = sample_images(chosen, Observer(policy, transform), batch, seed)
    network = network or small_cnn(statistics.channels, max(len(classes), 2))
    result = _with_network(_with_split(statistics, split_name), samples, network, classes, seed, notes, Path(out))
    _write(result, network, samples)
    return result


def _with_network(
    statistics: Statistics,
    samples: list[Sample],
    network: nn.Module,
    classes: list[str],
    seed: int,
    notes: tuple[str, ...],
    out: Path,
) -> Prepared:
    """Recipe, weights, prediction and measurement, once the images are counted and a batch of them is at hand."""
    recipe = Recipe.resnet(statistics)
    inputs = _tensor(recipe, batch_of(samples, statistics.channels, statistics.kind))
    graph = trace(network, inputs)
    initialized = initialize(network, inputs, seed=seed, graph=graph)
    prediction = predict(network, inputs, plan=initialized.plan, graph=graph)
    labels, said = _labels([name for name, _ in samples], classes, graph, seed)
    measurements = probe(network, inputs, labels, graph=graph)
    files = {name: out / file for name, file in _FILES.items()}
    return Prepared(statistics, recipe, initialized, prediction, measurements, graph, said, notes, files)


_FILES = {
    "statistics": "statistics.json",
    "recipe": "recipe.json",
    "weights": "weights.safetensors",
    "report": "report.html",
}


def _write(result: Prepared, network: nn.Module, samples: list[tuple[str, NDArray[Any]]]) -> None:
    """All four files; the page last, so that a page means that everything is there."""
    result.statistics.save(result.files["statistics"])
    result.recipe.save(result.files["recipe"])
    save_weights(network, result.files["weights"], result.initialized)
    write_atomically(result.files["report"], to_html(result.document(samples[:_SHOWN])))


def _common_size(source: Source, observer: Observer) -> tuple[Transform, tuple[str, ...]]:
    """The transform, completed where images of different sizes could not make a batch."""
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


def _network(model: str | nn.Module | None, source: Source) -> tuple[nn.Module | None, list[str]]:
    """The network, None for the default one, and the classes that the folders name."""
    classes = sorted({_class_of(name) for name in source.names} - {""})
    return (open_model(model) if isinstance(model, str) else model), classes


def _class_of(name: str) -> str:
    """The folder an image lies in: the way ImageFolder names classes; empty when there is none."""
    return name.rsplit("/", 2)[-2] if "/" in name else ""


def _labels(names: list[str], classes: list[str], graph: Graph, seed: int) -> tuple[Tensor | None, str]:
    """Integer labels for the batch, and what they are; None when the network's output takes none."""
    output = next((node for node in graph.nodes if node.name == graph.outputs[0]), None)
    shape = output.shape if output is not None and len(graph.outputs) == 1 else None
    if shape is None or len(shape) != 2 or shape[1] < 2:
        return None, "no labels: the output is not one row of scores per image"
    if 2 <= len(classes) <= shape[1]:
        index = {name: k for k, name in enumerate(classes)}
        return torch.tensor([index[_class_of(name)] for name in names]), f"labels: the folders' {len(classes)} classes"
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(shape[1], (len(names),), generator=generator)
    return drawn, "labels: drawn at random, the folders name none that fit"


def _tensor(recipe: Recipe, images: NDArray[Any]) -> Tensor:
    """N×H×W×C raw pixels → N×C×H×W preprocessed."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(recipe(images), 3, 1)))


def _with_split(statistics: Statistics, split: str) -> Statistics:
    return Statistics(statistics.tally, dataclasses.replace(statistics.provenance, split=split))
