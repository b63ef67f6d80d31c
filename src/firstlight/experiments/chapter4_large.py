"""Chapter 4: too large. The units saturate; where the gradient goes is less simple than the slide says."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from firstlight.experiments.chapter import Chapter, Numbers, claim
from firstlight.experiments.chapter3_small import inputs
from firstlight.experiments.curves import curve_plot, curve_table, entropy, final, runs
from firstlight.experiments.images import Album
from firstlight.experiments.networks import mlp
from firstlight.experiments.signal import MARKS, agrees, deviation, histogram_blocks, signal, signal_plot, signal_table
from firstlight.experiments.starts import planned, starts
from firstlight.report.document import Block, Plot, Series, Text, number
from firstlight.report.lecture_page import Claim


@dataclass(frozen=True)
class Settings:
    """Of the network that is measured, of the narrower ones that are swept, and of those that are trained."""

    width: int
    depth: int
    std: float
    swept_width: int
    gains: tuple[float, ...]
    trained_width: int
    steps: int
    rates: tuple[float, ...]
    seeds: int


def run(settings: Settings, album: Album, seed: int) -> Numbers:
    """The signal at one std; saturation and gradient over a sweep of std·√d; training."""
    depth = settings.depth

    def of(width: int, std: float) -> Numbers:
        widths = [width] * (depth + 1)
        return signal(lambda: mlp(widths, nn.Tanh, head=False), inputs(album, width, seed), "normal", seed, std)

    sweep = [of(settings.swept_width, gain / math.sqrt(settings.swept_width)) for gain in settings.gains]
    gain = settings.std * math.sqrt(settings.width)
    x, labels = album.digits.normalized.flatten(1), album.digits.labels
    sizes = [x.shape[1], *[settings.trained_width] * depth, len(album.digits.classes)]

    def training(gain: float) -> Numbers:
        """Every hidden layer at this std·√d, as in the network that is measured."""
        overrides = {f"{2 * k}.weight": {"std": gain / math.sqrt(sizes[k])} for k in range(depth + 1)}
        return runs(
            starts(lambda: mlp(sizes), x[:2], planned("normal", overrides=overrides)), x, labels,
            steps=settings.steps, rates=settings.rates, seeds=range(seed, seed + settings.seeds),
        )  # fmt: skip

    return {
        "std": settings.std,
        "gain": gain,
        "signal": of(settings.width, settings.std),
        "gains": list(settings.gains),
        "sweep": {
            "predicted saturated": [s["predicted saturated"][-1] for s in sweep],
            "saturated": [s["saturated"][-1] for s in sweep],
            "predicted gradient": [s["predicted gradient"][0] for s in sweep],
            "gradient": [s["measured gradient"]["images"][0] for s in sweep],
        },
        "chance": entropy(labels),
        "training": {f"std·√d = {number(g, 1)}": training(g) for g in (1.0, gain, 4 * gain)},
    }


def judge(numbers: Numbers) -> Sequence[Claim]:
    """Saturation, the gradient unit by unit and as a whole, and learning."""
    s = numbers["signal"]
    off = deviation(s)
    saturated, foreseen = s["saturated"][-1], s["predicted saturated"][-1]
    first = s["measured gradient"]["images"][0]
    vanishes = first < 0.1
    follows = agrees(s, gradient=True)
    xavier, large, larger = numbers["training"].values()
    already, far = (min(start["final"]) > max(xavier["final"]) for start in (large, larger))
    return (
        claim(
            f"{numbers['std']:g}·randn drives the units into saturation",
            agrees(s) and saturated > 0.25 and abs(saturated - foreseen) < 0.03,
            f"{saturated:.0%} of the activations of the last layer beyond ±0.99, predicted {foreseen:.0%}; std "
            f"{number(s['measured']['images'][-1], 3)}, predicted {number(s['predicted'][-1], 3)} (within {off:.1%})",
        ),
        claim(
            "Saturated, the gradients are zero again",
            saturated > 0.25 and (vanishes or follows),
            f"{saturated:.0%} of the units pass on less than 2 % of their gradient, but the rest stand behind large "
            f"weights: the gradient arrives at layer 1 as {number(first, 2)} times that at the last, "
            f"predicted {number(s['predicted gradient'][0], 2)}",
            only="" if vanishes else "unit by unit: the gradient as a whole grows from layer to layer instead",
        ),
        claim(
            "Too large a start learns worse than std = 1/√d",
            far,
            f"final loss {final(large)} and {final(larger)} at {number(numbers['gain'], 1)} and "
            f"{number(4 * numbers['gain'], 1)}; {final(xavier)} at std·√d = 1, each at its best rate",
            only="" if already else f"far beyond: at {number(numbers['gain'], 1)} not every seed ends above",
        ),
    )


def show(numbers: Numbers, album: Album) -> Sequence[Block]:
    """Histograms, the sweep, curves."""
    s, sweep = numbers["signal"], numbers["sweep"]
    ticks = tuple(f"{g:g}" for g in numbers["gains"])
    x = tuple(math.log2(g) for g in numbers["gains"])
    tones = dict(zip(numbers["training"], ("blue", "orange", "red"), strict=True))
    return (
        Text(
            f"The same network with std {numbers['std']:g}: std·√d = {number(numbers['gain'], 1)} instead of 1. Most "
            "sums are far out where tanh is flat."
        ),
        *histogram_blocks(s, f"{numbers['std']:g}·randn", "images"),
        Plot(
            x,
            (
                Series("saturated", "blue", tuple(sweep["predicted saturated"])),
                Series("", "blue", tuple(sweep["saturated"]), "points"),
            ),
            "share of the last layer beyond ±0.99", "std·√d",
            "Line: predicted. Points: measured on images. The larger the weights, the more units are flat.",
            ticks=ticks,
        ),
        Plot(
            x,
            (
                Series("gradient", "orange", tuple(sweep["predicted gradient"])),
                Series("", "orange", tuple(sweep["gradient"]), "points"),
            ),
            "gradient at layer 1, in units of that at the last layer", "std·√d",
            "Flat units pass nothing on, but those in between stand behind large weights. Below 1 the gradient "
            "vanishes, above it explodes: the edge of chaos (chapter 8).", log=True, ticks=ticks,
        ),
        signal_plot((("gradient", "orange", s),), "gradient", MARKS, log=True),
        signal_table(s, "Layer by layer"),
        curve_plot(numbers["training"], tones, f"Training on {album.digits.what}.", numbers["chance"]),
        curve_table(numbers["training"], "At the end"),
    )  # fmt: skip


CODE = """
import torch
from torch import nn
import firstlight as fl

layers = [layer for _ in range(6) for layer in (nn.Linear(512, 512), nn.Tanh())]
model, x = nn.Sequential(*layers), torch.randn(16, 512)
for gain in (0.5, 1.0, 3.2, 12.8):  # std * sqrt(d)
    fl.initialize(model, x, scheme="normal", overrides={"*.weight": {"std": gain / 512**0.5}})
    saturated = (model(x).abs() > 0.99).float().mean()
    print(gain, f"{saturated:.0%} saturated, gradient x{fl.predict(model, x).chi:.2f} per layer")
"""

CHAPTER = Chapter(
    4,
    "Too large",
    "Larger weights do not repair it: tanh saturates, and a saturated unit has no slope to learn from.",
    Settings(4096, 6, 0.05, 1024, (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0), 256, 120, (0.001, 0.01, 0.1), 2),
    Settings(4096, 6, 0.05, 1024, (0.25, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0, 8.0, 16.0, 32.0), 1024, 300,
             (0.001, 0.003, 0.01, 0.03, 0.1), 3),
    run,
    judge,
    show,
    CODE,
)  # fmt: skip
