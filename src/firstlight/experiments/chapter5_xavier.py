"""Chapter 5: Xavier, derived line by line, and what the slide's own code would do."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from firstlight.experiments.chapter import Chapter, Numbers, claim
from firstlight.experiments.chapter3_small import inputs
from firstlight.experiments.curves import curve_plot, curve_table, entropy, final, learns, runs, stalls
from firstlight.experiments.images import Album
from firstlight.experiments.networks import mlp
from firstlight.experiments.signal import MARKS, agrees, deviation, histogram_blocks, signal, signal_plot, signal_table
from firstlight.experiments.starts import planned, starts
from firstlight.graph import trace
from firstlight.initialization import SCHEMES
from firstlight.report.document import Block, Code, Text, number
from firstlight.report.lecture_page import Claim
from firstlight.workflows.predicting import derive_layer

DERIVED = 64  # narrow enough for a precise simulation


@dataclass(frozen=True)
class Settings:
    """Of the network that is measured and of those that are trained."""

    width: int
    depth: int
    trained_width: int
    steps: int
    rates: tuple[float, ...]
    seeds: int


def run(settings: Settings, album: Album, seed: int) -> Numbers:
    """The derivation of the second layer; the signal as meant and as printed; training of both."""
    widths = [settings.width] * (settings.depth + 1)

    def build() -> nn.Sequential:
        return mlp(widths, nn.Tanh, head=False)

    batch = inputs(album, settings.width, seed)
    x, labels = album.digits.normalized.flatten(1), album.digits.labels
    sizes = [x.shape[1], *[settings.trained_width] * settings.depth, len(album.digits.classes)]

    def training(scale: float) -> Numbers:
        overrides = {f"{2 * k}.weight": {"std": scale / math.sqrt(d)} for k, d in enumerate(sizes[:-1])}
        return runs(
            starts(lambda: mlp(sizes), x[:2], planned("lecture-xavier", overrides=overrides)), x, labels,
            steps=settings.steps, rates=settings.rates, seeds=range(seed, seed + settings.seeds),
        )  # fmt: skip

    with torch.device("meta"):
        model, example = mlp([DERIVED] * 3, nn.Tanh, head=False), torch.empty(2, DERIVED)
    plan = SCHEMES["lecture-xavier"](trace(model, example))
    derivation = derive_layer(model, example, "2", plan=plan)
    return {
        "width": settings.width,
        "derivation": {
            "text": str(derivation),
            "formula": derivation.by_formula,
            "simulated": derivation.simulated,
            "error": derivation.standard_error,
        },
        "xavier": signal(build, batch, "lecture-xavier", seed),
        "literal": signal(build, batch, "lecture-xavier", seed, 0.001 / math.sqrt(settings.width)),
        "chance": entropy(labels),
        "training": {"randn/√d": training(1.0), "0.001·randn/√d": training(0.001)},
    }


def judge(numbers: Numbers) -> Sequence[Claim]:
    """The formula, the signal, training, and the printed line."""
    d, s, literal, chance = (numbers[name] for name in ("derivation", "xavier", "literal", "chance"))
    off = deviation(s)
    meant, printed = numbers["training"].values()
    last = s["measured"]["images"][-1]
    return (
        claim(
            "var(y) = d·var(w)·var(x) for independent weights and inputs of mean zero",
            abs(d["formula"] - d["simulated"]) < 3 * d["error"],
            f"formula {number(d['formula'], 4)}, simulation {number(d['simulated'], 4)} ± {number(d['error'], 4)}",
        ),
        claim(
            "With std = 1/√d activations keep their size from layer to layer",
            agrees(s) and agrees(s, gradient=True) and last > 0.2,
            f"std {number(s['measured']['images'][0], 3)} after layer 1 and {number(last, 3)} after layer "
            f"{len(s['predicted'])}, within {off:.1%} of theory; tanh itself takes a little at every layer, and less "
            "the smaller the signal",
            only="nearly: 1/√d keeps the sums, and tanh shrinks what it is given" if last < 0.5 else "",
        ),
        claim(
            "The deep network trains",
            learns(meant, chance),
            f"final loss {final(meant)}; chance {number(chance, 3)}",
        ),
        claim(
            "0.001·randn/√d, as the slide prints it, is a slip: it kills the signal",
            literal["measured"]["images"][-1] < 1e-12 and stalls(printed, chance),
            f"every layer shrinks the signal a thousandfold, to {number(literal['measured']['images'][-1], 2)} after "
            f"layer {len(s['predicted'])}; final loss {final(printed)}. Meant is randn/√d",
        ),
    )


def show(numbers: Numbers, album: Album) -> Sequence[Block]:
    """The derivation, signal, histograms, curves."""
    s = numbers["xavier"]
    tones = dict(zip(numbers["training"], ("blue", "orange"), strict=True))
    return (
        Text("How large must the weights be for y = Σ w x to be as large as x? With one layer's numbers:"),
        Code(numbers["derivation"]["text"], "var(y) = d · var(w) · var(x), so var(w) = 1/d"),
        signal_plot((("randn/√d", "blue", s), ("0.001·randn/√d", "orange", numbers["literal"])), "activation",
                    MARKS, log=True),
        *histogram_blocks(s, "randn/√d", "images"),
        signal_table(s, "Layer by layer, randn/√d"),
        signal_table(numbers["literal"], "Layer by layer, 0.001·randn/√d as printed"),
        curve_plot(numbers["training"], tones, f"Training on {album.digits.what}.", numbers["chance"]),
        curve_table(numbers["training"], "At the end"),
    )  # fmt: skip


CODE = """
import torch
from torch import nn
import firstlight as fl
from firstlight.workflows.predicting import derive_layer

model = nn.Sequential(nn.Linear(512, 512), nn.Tanh(), nn.Linear(512, 512), nn.Tanh())
x = torch.randn(16, 512)
report = fl.initialize(model, x, scheme="lecture-xavier")  # randn / sqrt(d)
print(derive_layer(model, x, "2", plan=report.plan))
"""

CHAPTER = Chapter(
    5,
    "Xavier",
    "Between too small and too large lies 1/√d: one line of algebra gives it, and with it the deep network trains.",
    Settings(4096, 6, 256, 120, (0.01, 0.1, 1.0), 2),
    Settings(4096, 6, 1024, 300, (0.01, 0.03, 0.1, 0.3, 1.0), 3),
    run,
    judge,
    show,
    CODE,
)
