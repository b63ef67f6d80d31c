"""Chapter 3: small random numbers, fine for a shallow network and nothing for a deep one."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from firstlight.experiments.chapter import Chapter, Numbers, claim
from firstlight.experiments.curves import curve_plot, curve_table, entropy, final, learns, runs, stalls
from firstlight.experiments.images import Album
from firstlight.experiments.networks import mlp
from firstlight.experiments.signal import MARKS, agrees, deviation, histogram_blocks, signal, signal_plot, signal_table
from firstlight.experiments.starts import planned, starts
from firstlight.report.document import Block, Text, number
from firstlight.report.lecture_page import Claim

BATCH = 16


@dataclass(frozen=True)
class Settings:
    """Of the network that is measured (width, depth) and of those that are trained."""

    width: int
    depth: int
    std: float
    trained_width: int
    steps: int
    rates: tuple[float, ...]
    seeds: int


def inputs(album: Album, width: int, seed: int) -> dict[str, torch.Tensor]:
    """The lecture's own input, white noise, and real images of as many pixels."""
    noise = torch.randn(BATCH, width, generator=torch.Generator().manual_seed(seed))
    return {"noise": noise, "images": album.pictures.vectors(BATCH, round(width**0.5))}


def run(settings: Settings, album: Album, seed: int) -> Numbers:
    """The signal of one wide network; training of a deep and a shallow one, and of the deep one from Xavier."""
    widths = [settings.width] * (settings.depth + 1)
    x, labels = album.digits.normalized.flatten(1), album.digits.labels
    classes = len(album.digits.classes)

    def training(hidden: int, scheme: str) -> Numbers:
        sizes = [x.shape[1], *[settings.trained_width] * hidden, classes]
        std = settings.std if scheme == "normal" else None
        return runs(
            starts(lambda: mlp(sizes), x[:2], planned(scheme, std)), x, labels,
            steps=settings.steps, rates=settings.rates, seeds=range(seed, seed + settings.seeds),
        )  # fmt: skip

    return {
        "width": settings.width,
        "std": settings.std,
        "signal": signal(
            lambda: mlp(widths, nn.Tanh, head=False), inputs(album, settings.width, seed), "normal", seed, settings.std
        ),
        "chance": entropy(labels),
        "training": {
            f"{settings.depth} layers, {settings.std:g}·randn": training(settings.depth, "normal"),
            f"1 layer, {settings.std:g}·randn": training(1, "normal"),
            f"{settings.depth} layers, Xavier": training(settings.depth, "lecture-xavier"),
        },
    }


def judge(numbers: Numbers) -> Sequence[Claim]:
    """The lecture's sentence, part by part."""
    s, chance = numbers["signal"], numbers["chance"]
    deep, shallow, _ = numbers["training"].values()
    off = deviation(s)
    factor = numbers["std"] * numbers["width"] ** 0.5
    depth = len(s["predicted"])
    return (
        claim(
            f"{numbers['std']:g}·randn shrinks the signal of a {depth}-layer tanh network layer by layer",
            agrees(s) and s["measured"]["images"][-1] < 1e-3,
            f"std·√d = {number(factor, 3)} per layer; std {number(s['measured']['images'][0], 3)} after layer 1, "
            f"{number(s['measured']['images'][-1], 3)} after layer {depth}, predicted {number(s['predicted'][-1], 3)}; "
            f"with white noise every layer is within {off:.1%} of theory",
        ),
        claim(
            "The gradients are all but zero too",
            agrees(s, gradient=True) and max(s["by weight"]) < 1e-3,
            f"a gradient of std 1 at layer {depth} arrives at layer 1 as "
            f"{number(s['measured gradient']['images'][0], 2)} (predicted {number(s['predicted gradient'][0], 2)}); "
            f"by the weights it is at most {number(max(s['by weight']), 2)}",
        ),
        claim(
            "So the deep network does not learn",
            stalls(deep, chance),
            f"final loss {final(deep)} at the best of the tried rates; knowing only the frequencies of the classes "
            f"gives {number(chance, 3)}",
        ),
        claim(
            "A shallow network is fine with the same numbers",
            learns(shallow, chance),
            f"one hidden layer: final loss {final(shallow)}",
        ),
    )


def show(numbers: Numbers, album: Album) -> Sequence[Block]:
    """Signal and gradient by layer, histograms, curves."""
    s, std = numbers["signal"], f"{numbers['std']:g}"
    names = list(numbers["training"])
    tones = dict(zip(names, ("orange", "green", "blue"), strict=True))
    return (
        Text(
            f"Each of {len(s['predicted'])} layers computes h = tanh(Wh) with {numbers['width']:,} units, on {BATCH} "
            f"inputs at once: white noise, as in the lecture, and real images of {numbers['width']:,} pixels."
        ),
        signal_plot(
            ((f"{std}·randn", "blue", s),), "activation",
            MARKS, log=True,
        ),
        *histogram_blocks(s, f"{std}·randn", "images"),
        signal_table(s, "Layer by layer"),
        curve_plot(
            numbers["training"], tones, f"Training on {album.digits.what}, momentum 0.9, each at the best of the same "
            "learning rates.", numbers["chance"],
        ),
        curve_table(numbers["training"], "At the end"),
    )  # fmt: skip


CODE = """
import torch
from torch import nn
import firstlight as fl

layers = [layer for _ in range(6) for layer in (nn.Linear(4096, 4096), nn.Tanh())]
with torch.device("meta"):  # no memory is needed to know what will happen
    model = nn.Sequential(*layers).to("meta")
x = torch.empty(16, 4096, device="meta")
plan = fl.initialization.SCHEMES["normal"](fl.trace(model, x))  # 0.001 * randn
for node in fl.predict(model, x, plan=plan).nodes:
    if node.op == "tanh":
        print(node.name, node.forward_std, node.backward_std)
"""

CHAPTER = Chapter(
    3,
    "Small random numbers",
    "Weights drawn as 0.001·randn break the symmetry and serve a shallow network; in a deep one every layer makes the "
    "signal smaller, the gradient with it, and nothing is learned.",
    Settings(4096, 6, 0.001, 256, 120, (0.01, 0.1, 1.0), 2),
    Settings(4096, 6, 0.001, 1024, 300, (0.01, 0.03, 0.1, 0.3, 1.0), 3),
    run,
    judge,
    show,
    CODE,
)
