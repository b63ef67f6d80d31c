"""The main job: images and a network → statistics, recipe, weights, and one page that shows the signal flow."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import nn

from firstlight._files import write_atomically
from firstlight._typing import Progress
from firstlight.engines import Observer
from firstlight.errors import FirstlightError
from firstlight.graph import Graph, trace
from firstlight.initialization import InitReport
from firstlight.models import open_model, small_cnn
from firstlight.probe import Measurements
from firstlight.recipe import Recipe
from firstlight.report import Document, Sample, prepare_document, to_html
from firstlight.statistics import Statistics
from firstlight.theory import Prediction
from firstlight.workflows.batches import classes_of, common_size, inputs_of, labels_for, observer_for, pictures
from firstlight.workflows.checking import Check, check
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
        statistics, recipe, initialized, prediction, checked: the results, in the order in which they came about.
        graph: the network's operations.
        labels: what the labels of the probed batch are.
        notes: choices that were made because nothing was said, and what was not done.
        files: where it all lies, by name ("statistics", "recipe", "weights", "report").
    """

    statistics: Statistics
    recipe: Recipe
    initialized: InitReport
    prediction: Prediction
    checked: Check
    graph: Graph
    labels: str
    notes: tuple[str, ...]
    files: dict[str, Path]

    @property
    def ok(self) -> bool:
        """Whether nothing was found that will keep the network from training as meant."""
        return self.checked.ok

    @property
    def measurements(self) -> Measurements:
        """Every operation on the probed batch."""
        return self.checked.case.run.first

    def document(self, samples: Sequence[Sample] = ()) -> Document:
        """The report, with sample images where there are any."""
        return prepare_document(
            self.statistics,
            samples,
            self.recipe,
            self.initialized,
            self.measurements,
            self.checked.diagnosis,
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
            "findings": [dataclasses.asdict(finding) for finding in self.checked.findings],
            "not_checked": [list(entry) for entry in self.checked.not_checked],
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
    sample: int | None = None,
    masks: Any = None,
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
    """Scan the images, derive a ResNet-style recipe, initialize the network, and check it on a real batch.

    Where the images lie in one folder per class and the network has one output per class, its head starts at the
    classes' frequencies.

    Writes ``statistics.json``, ``recipe.json``, ``weights.safetensors`` and ``report.html`` into `out`. While the scan
    of a path or URL runs, finished blocks are kept in ``OUT.partial``, and the same call goes on from them.

    Args:
        source: anything `open_source` opens, with random access.
        model: a network, or its name for `open_model`; None takes a small CNN of six convolutions.
        out: folder for the four files.
        resize, crop, resample: see `scan`. When the images differ in size and neither is given, 256 and 224.
        sample, masks: leave images or pixels out of the statistics, see `scan`.
        split, all_splits, alpha, orientation, nodata, key: see `scan`.
        batch: images in the forward and backward pass.
        seed: chooses the sample and those images, and draws the weights.
        workers, engine, restart: see `scan`.
        progress: called with (images done, images in all).

    Raises:
        FirstlightError: what `scan`, `open_model`, `initialize` and `probe` raise; slug ``stream-source``
            when the source has no random access.
    """
    with pictures(source, key=key, split=split, all_splits=all_splits, call="prepare") as (chosen, split_name):
        observer = observer_for(resize, crop, resample, alpha, orientation, nodata)
        transform, notes = common_size(chosen, observer)
        network = open_model(model) if isinstance(model, str) else model
        classes = classes_of(chosen)
        statistics = scan(
            chosen,
            resize=transform.resize,
            crop=transform.crop,
            resample=resample,
            sample=sample,
            masks=masks,
            seed=seed,
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
        samples = sample_images(chosen, Observer(observer.policy, transform), batch, seed)
    network = network or small_cnn(statistics.channels, max(len(classes), 2))
    result = _with_network(_with_split(statistics, split_name), samples, network, classes, seed, notes, Path(out))
    _write(result, network, samples)
    return result


def _with_network(
    statistics: Statistics,
    samples: list[Sample],
    network: nn.Module,
    classes: dict[str, int],
    seed: int,
    notes: tuple[str, ...],
    out: Path,
) -> Prepared:
    """Recipe, weights, prediction and measurement, once the images are counted and a batch of them is at hand."""
    recipe = Recipe.resnet(statistics)
    inputs = inputs_of(recipe, batch_of(samples, statistics.channels, statistics.kind))
    graph = trace(network, inputs)
    counts = _counts(classes, _output_shape(graph))
    try:
        initialized = initialize(network, inputs, seed=seed, graph=graph, class_counts=counts)
    except FirstlightError as error:
        if error.slug not in _HEADLESS:
            raise
        notes = (*notes, f"The head does not start at the classes' frequencies: {error.cause}.")
        initialized = initialize(network, inputs, seed=seed, graph=graph)
    prediction = predict(network, inputs, images=inputs, plan=initialized.plan, graph=graph)
    labels = labels_for([name for name, _ in samples], list(classes), _output_shape(graph), seed)
    checked = check(network, inputs, labels=labels.values, statistics=statistics, recipe=recipe, class_counts=counts)
    files = {name: out / file for name, file in _FILES.items()}
    return Prepared(statistics, recipe, initialized, prediction, checked, graph, labels.what, notes, files)


_HEADLESS = {"no-head", "head-without-bias"}  # what was not asked for by name is not refused
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


def _counts(classes: dict[str, int], scores: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """Images of each class, where the network has one output per class and nothing else."""
    fits = scores is not None and len(scores) == 2 and len(classes) == scores[1] >= 2
    return tuple(classes.values()) if fits else None


def _output_shape(graph: Graph) -> tuple[int, ...] | None:
    return graph[graph.outputs[0]].shape if len(graph.outputs) == 1 else None


def _with_split(statistics: Statistics, split: str) -> Statistics:
    return Statistics(statistics.tally, dataclasses.replace(statistics.provenance, split=split))
