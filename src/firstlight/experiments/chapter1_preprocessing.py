"""Chapter 1: what preprocessing does to real pixels, and what a network makes of it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

import firstlight as fl
from firstlight.experiments.chapter import Chapter, Numbers, claim
from firstlight.experiments.curves import curve_plot, entropy, final, runs, sooner
from firstlight.experiments.images import Album, Images
from firstlight.experiments.networks import small_convs
from firstlight.experiments.starts import planned, starts
from firstlight.recipe import Recipe
from firstlight.report import recipe_section
from firstlight.report.document import Block, Table, Text, number
from firstlight.report.lecture_page import Claim
from firstlight.workflows.views import recipe_views

PATCH, SHOWN = 5, 6
BYTES, RAW, ALEX, VGG, RESNET, ZCA = (
    "raw 0…255", "raw 0…1", "− mean image", "− channel mean", "mean and std", "whitened"
)  # fmt: skip
TONES = {BYTES: "red", RAW: "orange", ALEX: "green", VGG: "gray", RESNET: "blue", ZCA: "violet"}


@dataclass(frozen=True)
class Settings:
    """Of training."""

    steps: int
    rates: tuple[float, ...]
    seeds: int


def run(settings: Settings, album: Album, seed: int) -> Numbers:
    """Moments of the pixels after each recipe; the cost of each; the same small network trained behind each."""
    images = album.pictures
    recipes, costs = _recipes(images)
    inputs = {name: images.through(recipe) for name, recipe in recipes.items()}
    inputs = {BYTES: inputs[RAW] * 255} | inputs

    def training(x: Tensor) -> Numbers:
        return runs(
            starts(lambda: small_convs(len(images.classes)), x[:2], planned("kaiming")), x, images.labels,
            steps=settings.steps, rates=settings.rates, seeds=range(seed, seed + settings.seeds),
        )  # fmt: skip

    return {
        "moments": _moments(images),
        "costs": costs,
        "chance": entropy(images.labels),
        "training": {name: training(x) for name, x in inputs.items()},
    }


def _recipes(images: Images) -> tuple[dict[str, Recipe], dict[str, dict[str, float]]]:
    """Each recipe, and what it costs: numbers to store, multiplications per image, seconds to fit."""
    size = images.pixels[0].size
    patch = PATCH * PATCH * 3
    fits: dict[str, tuple[Callable[[], Recipe], int, int]] = {
        RAW: (lambda: Recipe.scale(fl.scan(images.pixels, workers=1)), 0, size),
        ALEX: (lambda: Recipe.alexnet(fl.scan(images.pixels, workers=1)), size, 0),
        VGG: (lambda: Recipe.vgg(fl.scan(images.pixels, workers=1)), 3, 0),
        RESNET: (lambda: Recipe.resnet(fl.scan(images.pixels, workers=1)), 6, size),
        ZCA: (lambda: Recipe.zca(fl.fit(images.pixels, over="patches", size=PATCH, workers=1)), patch * patch + patch,
              size * patch),
    }  # fmt: skip
    recipes, costs = {}, {}
    for name, (fit, stored, multiplications) in fits.items():
        start = time.perf_counter()
        recipes[name] = fit()
        seconds = time.perf_counter() - start
        costs[name] = {"stored": stored, "multiplications": multiplications, "seconds": seconds}
    return recipes, costs


def _moments(images: Images) -> dict[str, float]:
    """How far the results of the recipes are from what their names promise."""
    s = images.statistics

    def through(recipe: Recipe) -> tuple[Any, Any]:
        values = recipe(images.pixels).reshape(-1, 3).astype(np.float64)
        return values.mean(axis=0), np.cov(values.T, bias=True)

    identity = np.eye(3)
    mean, _ = through(Recipe.vgg(s))
    _, scaled = through(Recipe.resnet(s))
    _, rotated = through(Recipe.pca(s))
    _, white = through(Recipe.zca(s, epsilon=0))
    spread = np.sqrt(np.outer(np.diag(rotated), np.diag(rotated)))
    return {
        "mean": float(np.abs(mean).max()),
        "std": float(np.abs(np.sqrt(np.diag(scaled)) - 1).max()),
        "correlation": float(np.abs((rotated / spread) * (1 - identity)).max()),
        "before": float(np.abs(s.covariance / np.outer(s.std, s.std) * (1 - identity)).max()),
        "white": float(np.abs(white - identity).max()),
    }


def judge(numbers: Numbers) -> Sequence[Claim]:
    """The five clouds, convergence, and the price of whitening."""
    m, training, costs = numbers["moments"], numbers["training"], numbers["costs"]
    white, plain, raw = training[ZCA], training[RESNET], training[RAW]
    dearer = costs[ZCA]["multiplications"] / costs[RESNET]["multiplications"]
    centred = [training[name] for name in (ALEX, VGG, RESNET)]
    clear = all(sooner(run, other) for run in centred for other in (raw, training[BYTES]))
    return (
        claim(
            "Centring, normalizing, decorrelating and whitening do to pixels what their names say",
            max(m["mean"], m["std"], m["correlation"], m["white"]) < 1e-3,
            f"largest mean {number(m['mean'], 2)}; std off 1 by {number(m['std'], 2)}; correlation of colours "
            f"{number(m['before'], 3)} before and {number(m['correlation'], 2)} after; whitened covariance off the "
            f"identity by {number(m['white'], 2)}",
        ),
        claim(
            "A network converges sooner on centred pixels than on raw ones",
            all(_average(run) < _average(training[BYTES]) for run in centred),
            f"mean loss over the run {_mean(training[BYTES])} on 0…255, {_mean(raw)} on 0…1, against "
            f"{_mean(training[ALEX])}, {_mean(training[VGG])} and {_mean(plain)} without mean image, channel mean, "
            "and mean and std",
            only="" if clear else "on average and against 0…255: divided by 255, pixels do about as well uncentred",
        ),
        claim(
            "Dividing by the std helps beyond centring",
            _average(plain) < _average(training[VGG]),
            f"mean loss {_mean(plain)} with mean and std, {_mean(training[VGG])} with the mean alone",
            only="" if sooner(plain, training[VGG]) else "on average: single seeds overlap",
        ),
        claim(
            "PCA and whitening cost more than they bring",
            dearer > 10,
            f"{dearer:.0f} times the multiplications of mean and std and {costs[ZCA]['stored']:,} numbers instead of "
            f"{costs[RESNET]['stored']} for {PATCH}×{PATCH} patches; mean loss {_mean(white)}, not {_mean(plain)}",
            only="by their cost: on these images whitening did make it converge sooner" if sooner(white, plain) else "",
        ),
    )


def _average(numbers: Numbers) -> float:
    return float(np.mean(numbers["mean"]))


def _mean(numbers: Numbers) -> str:
    return number(_average(numbers), 3)


def show(numbers: Numbers, album: Album) -> Sequence[Block]:
    """The recipes on real images, then curves and costs."""
    images = album.pictures
    order = np.random.default_rng(0).permutation(len(images.pixels))
    views = recipe_views(images.statistics, [(str(k), images.pixels[k]) for k in order[:SHOWN]])
    rows = tuple(
        (
            name,
            f"{costs['stored']:,}",
            f"{costs['multiplications']:,}",
            number(costs["seconds"], 2),
            _mean(numbers["training"][name]),
            final(numbers["training"][name]),
            f"{numbers['training'][name]['rate']:g}",
        )
        for name, costs in numbers["costs"].items()
    )
    head = (
        "recipe",
        "numbers stored",
        "multiplications per image",
        "seconds to fit",
        "mean loss",
        "final loss",
        "rate",
    )
    return (
        *(recipe_section(views).blocks if views is not None else ()),
        Text(
            "What does a network make of it? The same three convolutions with ReLU, the same batches, and for every "
            "recipe the best of the same learning rates."
        ),
        curve_plot(numbers["training"], TONES, f"Training on {images.what}.", numbers["chance"]),
        Table(head, rows, frozenset(range(1, 7)), "What each recipe costs, and brings"),
    )


CODE = """
import firstlight as fl

images = fl.open_source("demo:photos")
stats = fl.scan("demo:photos", workers=1)
pixels = images.read(0)                           # uint8, 32 x 32 x 3
for recipe in (
    fl.Recipe.alexnet(stats),                     # minus the mean image
    fl.Recipe.vgg(stats),                         # minus the mean of each channel
    fl.Recipe.resnet(stats),                      # and divided by its std
    fl.Recipe.zca(stats),                         # colours whitened
    fl.Recipe.zca(fl.fit("demo:photos", over="patches", size=5, workers=1)),
):
    print(recipe(pixels).mean(axis=(0, 1)), recipe)
"""

CHAPTER = Chapter(
    1,
    "Preprocessing",
    "Images are centred, by a mean image (AlexNet) or a mean per channel (VGG), often divided by their std (ResNet), "
    "and rarely decorrelated or whitened.",
    Settings(60, (0.001, 0.01, 0.03, 0.1), 3),
    Settings(200, (0.0001, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3), 5),
    run,
    judge,
    show,
    CODE,
)
