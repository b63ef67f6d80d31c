"""Chapter 7: families of architecture, what each needs, and what BatchNorm and shortcuts change."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from firstlight.experiments.chapter import Chapter, Numbers, claim
from firstlight.experiments.curves import curve_plot, entropy, final, learns, runs, stalls
from firstlight.experiments.images import Album, Images
from firstlight.experiments.networks import FAMILIES, normed_mlp, perceptron, residual_mlp
from firstlight.experiments.signal import MARKS, agrees, along, signal_plot
from firstlight.experiments.starts import planned, sized, starts
from firstlight.report.document import Block, Table, Text, number
from firstlight.report.lecture_page import Claim

SMALL, HE = "0.01·randn", "Kaiming"
PLANS = {SMALL: sized(0.01), HE: planned("kaiming")}
DEEP = ("AlexNet", "VGG", "ResNet")
WITHOUT, WITH = "without BatchNorm", "with BatchNorm"
NORM_PRICE = math.pi / (math.pi - 1)  # of the gradient's mean square per layer: Yang et al. (2019), for ReLU


@dataclass(frozen=True)
class Settings:
    """Of training, and of the networks in which BatchNorm and shortcuts are measured."""

    steps: int
    rates: tuple[float, ...]
    seeds: int
    depth: int
    blocks: int
    width: int
    stream_width: int


def run(settings: Settings, album: Album, seed: int) -> Numbers:
    """Every family with and without BatchNorm from two starts; the gradient under BatchNorm; the residual stream."""
    images, x = album.pictures, album.pictures.normalized
    classes = len(images.classes)

    def training(family: str, norm: bool, start: str) -> Numbers:
        return runs(
            starts(lambda: FAMILIES[family](classes, norm), x[:8], PLANS[start]), x, images.labels,
            steps=settings.steps, rates=settings.rates, seeds=range(seed, seed + settings.seeds),
        )  # fmt: skip

    zero = runs(
        starts(lambda: perceptron(classes, False), x[:2], planned("zeros")), x, images.labels,
        steps=settings.steps, rates=settings.rates, seeds=range(seed, seed + settings.seeds),
    )  # fmt: skip
    found = {
        f"{family} {WITH if norm else WITHOUT}, {start}": training(family, norm, start)
        for family in FAMILIES
        for norm in (False, True)
        for start in PLANS
        if not (family == "perceptron" and norm)
    }
    return {
        "chance": entropy(images.labels),
        "zero": zero,
        "training": found,
        "norm": _normed(images, settings, seed),
        "forgiving": _forgiving(images, settings, seed),
        "stream": _streams(settings, seed),
    }


def _batches(images: Images, count: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = images.normalized[torch.randperm(len(images.normalized), generator=generator)[:count]].flatten(1)
    return {"noise": torch.randn(x.shape, generator=generator), "images": x}


def _normed(images: Images, settings: Settings, seed: int) -> dict[str, Any]:
    """The gradient along a network of linear maps, BatchNorm and ReLU."""
    batches = _batches(images, 64, seed)
    inputs = batches["images"].shape[1]
    return along(
        lambda: normed_mlp(inputs, settings.width, settings.depth), batches, planned("kaiming"), seed, ("relu",)
    )[0]


def _forgiving(images: Images, settings: Settings, seed: int) -> dict[str, list[float]]:
    """The last activation's std for weights of 0.01, 0.1 and 1, behind BatchNorm and without it."""
    batches = _batches(images, 64, seed)
    inputs = batches["images"].shape[1]

    def last(norm: bool, std: float) -> float:
        def build() -> nn.Sequential:
            network = normed_mlp(inputs, settings.width, 5)
            return network if norm else nn.Sequential(*(m for m in network if not isinstance(m, nn.BatchNorm1d)))

        return float(along(build, batches, sized(std), seed, ("relu",))[0]["measured"]["images"][-1])

    return {name: [last(norm, std) for std in (0.01, 0.1, 1.0)] for name, norm in ((WITHOUT, False), (WITH, True))}


def _streams(settings: Settings, seed: int) -> dict[str, Any]:
    """The residual stream after every block."""
    noise = torch.randn(2, 64, settings.stream_width, generator=torch.Generator().manual_seed(seed))
    batches = {"noise": noise[0], "images": noise[1]}
    return {
        name: along(lambda: residual_mlp(settings.stream_width, settings.blocks, norm), batches, planned(scheme), seed,  # noqa: B023
                    ("add",))[0]
        for name, norm, scheme in ((WITHOUT, False, "kaiming"), (WITH, True, "kaiming"), ("auto", False, "auto"))
    }  # fmt: skip


def judge(numbers: Numbers) -> Sequence[Claim]:
    """Family by family, then BatchNorm's gift and price, then the shortcut's."""
    chance, training = numbers["chance"], numbers["training"]
    small = {f: training[f"{f} {WITHOUT}, {SMALL}"] for f in DEEP}
    he = {f: training[f"{f} {WITHOUT}, {HE}"] for f in DEEP}
    normed = {f: training[f"{f} {WITH}, {SMALL}"] for f in DEEP}
    slow = [f for f in DEEP if not learns(normed[f], chance)]
    norm, forgiving, stream = numbers["norm"], numbers["forgiving"], numbers["stream"]
    steps = len(norm["predicted gradient"]) - 1
    grown = {
        name: (gradient[0] / gradient[-1]) ** (2 / steps)
        for name, gradient in (("predicted", norm["predicted gradient"]), *norm["measured gradient"].items())
    }
    per_block = {n: (s["measured"]["noise"][-1] / s["measured"]["noise"][0]) ** 2 for n, s in stream.items()}
    blocks = len(stream[WITH]["predicted"])
    return (
        claim(
            "A perceptron may start anywhere, even at zero",
            learns(numbers["zero"], chance),
            f"final loss {final(numbers['zero'])} from zeros, {final(training[f'perceptron {WITHOUT}, {HE}'])} from "
            f"Kaiming; chance {number(chance, 3)}. One layer has no units that could be the same",
        ),
        claim(
            "Without BatchNorm, AlexNet-, VGG- and ResNet-style networks need Kaiming",
            all(learns(he[f], chance) for f in DEEP) and any(stalls(small[f], chance) for f in DEEP),
            "; ".join(f"{f}: {final(small[f])} from {SMALL}, {final(he[f])} from {HE}" for f in DEEP),
            only=_those([f for f in DEEP if stalls(small[f], chance)]),
        ),
        claim(
            "With BatchNorm the size of the weights no longer matters to the signal",
            _spread(forgiving[WITH]) < 1.05 and _spread(forgiving[WITHOUT]) > 100,
            f"weights of std 0.01, 0.1 and 1 give a last layer of std {_row(forgiving[WITH])} with BatchNorm, "
            f"{_row(forgiving[WITHOUT])} without",
        ),
        claim(
            f"So with BatchNorm they train from {SMALL} too",
            len(slow) < len(DEEP),
            "; ".join(f"{f}: {final(normed[f])}" for f in DEEP),
            only=f"where every layer has one: {' and '.join(slow)} ends in linear layers without" if slow else "",
        ),
        claim(
            "BatchNorm has a price: behind it the gradient's mean square grows by π/(π-1) = 1.467 per layer",
            abs(grown["noise"] / NORM_PRICE - 1) < 0.1,
            f"predicted {number(grown['predicted'], 3)}, measured {number(grown['noise'], 3)} with noise and "
            f"{number(grown['images'], 3)} with images, over {steps + 1} layers",
            only=""
            if agrees(norm, gradient=True, batches=("noise",))
            else "as a rate: the gradient of some layer lies outside the band of its width",
        ),
        claim(
            "A shortcut adds: the stream doubles at every block, or grows by one behind BatchNorm",
            all(agrees(s) for s in stream.values()),
            f"mean square grows {number(per_block[WITHOUT], 0)} times over {blocks - 1} blocks without BatchNorm (2^"
            f"{blocks - 1} = {2 ** (blocks - 1):,}), {number(per_block[WITH], 1)} times with it ({blocks + 1}/2), "
            f"{number(per_block['auto'], 2)} times where auto gives each branch 1/{blocks}",
        ),
    )


def _those(stalled: Sequence[str]) -> str:
    return "" if len(stalled) == len(DEEP) else f"for {' and '.join(stalled)}: the others begin to learn from less"


def _spread(values: Sequence[float]) -> float:
    return max(values) / min(values)


def _row(values: Sequence[float]) -> str:
    return ", ".join(number(value, 2) for value in values)


def show(numbers: Numbers, album: Album) -> Sequence[Block]:
    """A table of families, curves of the deep ones, the gradient under BatchNorm, the stream."""
    rows = []
    for family in FAMILIES:
        cells = [
            final(numbers["training"][key]) if (key := f"{family} {norm}, {start}") in numbers["training"] else "–"
            for norm in (WITHOUT, WITH)
            for start in PLANS
        ]
        rows.append((family, *cells))
    head = ("family", f"{SMALL}", HE, f"{SMALL}, BatchNorm", f"{HE}, BatchNorm")
    blocks: list[Block] = [
        Text("Five families, small enough for images of 32×32, from two starts, with and without BatchNorm."),
        Table(head, tuple(rows), frozenset(range(1, 5)), f"Final loss; chance is {number(numbers['chance'], 3)}"),
    ]
    tones = {SMALL: "orange", HE: "blue", f"{SMALL}, BatchNorm": "red", f"{HE}, BatchNorm": "violet"}
    for family in ("VGG", "ResNet"):
        found = {
            start + ("" if norm == WITHOUT else ", BatchNorm"): numbers["training"][f"{family} {norm}, {start}"]
            for norm in (WITHOUT, WITH)
            for start in PLANS
        }
        caption = f"{family}-style, trained on {album.pictures.what}."
        blocks.append(curve_plot(found, tones, caption, numbers["chance"]))
    stream = numbers["stream"]
    return (
        *blocks,
        Text("BatchNorm divides the signal by its size, and the gradient with it: behind a ReLU that is more than the "
             "ReLU takes, and the gradient grows towards the input."),
        signal_plot((("gradient", "orange", numbers["norm"]),), "gradient", MARKS, log=True),
        Text("Shortcuts carry the signal past the layers, and every block adds to it. (Two batches of white noise.)"),
        signal_plot(((WITHOUT, "orange", stream[WITHOUT]), (WITH, "violet", stream[WITH]),
                     ("auto", "blue", stream["auto"])), "activation",
                    "After every block. Line, with its band: predicted. Points and rings: measured.", log=True),
    )  # fmt: skip


CODE = """
import torch
import torch.nn as nn
import firstlight as fl

def network(norm):
    between = [nn.BatchNorm1d(256), nn.ReLU()] if norm else [nn.ReLU()]
    return nn.Sequential(*[m for _ in range(20) for m in (nn.Linear(256, 256), *between)])

x = torch.randn(64, 256)
for norm in (False, True):
    model = network(norm)
    report = fl.initialize(model, x, scheme="kaiming")
    print(norm, "gradient x", fl.predict(model, x, plan=report.plan).chi, "per layer")
"""

CHAPTER = Chapter(
    7,
    "Families of architecture",
    "A perceptron needs nothing, a plain deep network needs the right numbers, and BatchNorm and shortcuts were "
    "invented to need them less.",
    Settings(40, (0.003, 0.03), 1, 20, 12, 256, 1024),
    Settings(100, (0.001, 0.003, 0.01, 0.03), 2, 20, 12, 512, 1024),
    run,
    judge,
    show,
    CODE,
)
