"""Chapter 6: ReLU halves the signal, and √(2/d) makes up for it; 14 to 30 layers in miniature."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from firstlight.experiments.chapter import Chapter, Numbers, claim
from firstlight.experiments.chapter3_small import inputs
from firstlight.experiments.curves import arrival, curve_plot, curve_table, entropy, final, runs
from firstlight.experiments.images import Album
from firstlight.experiments.networks import convs, mlp, plain_convs
from firstlight.experiments.signal import (
    MARKS,
    agrees,
    along,
    deviation,
    histogram_blocks,
    signal,
    signal_plot,
    signal_table,
)
from firstlight.experiments.starts import planned, starts
from firstlight.graph import trace
from firstlight.initialization import SCHEMES
from firstlight.report.document import Block, Code, Table, Text, number
from firstlight.report.lecture_page import Claim
from firstlight.workflows.predicting import derive_layer

XAVIER, HE = "lecture-xavier", "kaiming"
NAMES, TONES = {XAVIER: "Xavier", HE: "Kaiming"}, {"Xavier": "orange", "Kaiming": "blue"}
# He et al. (2015), section 2.2: the std they give for the convolutions of Simonyan and Zisserman's model B, by their
# number of filters; 0.01 instead would make the gradient that reaches conv2 from conv10 1.7·10⁴ times smaller.
PUBLISHED, SHRINKING = {"64": 0.059, "128": 0.042, "256": 0.029, "512": 0.021}, 1.7e4
MODEL_B = (64, 64, 128, 128, 256, 256, 512, 512, 512, 512)


@dataclass(frozen=True)
class Settings:
    """Of the wide network, and of the convolutional ones that are trained."""

    width: int
    depth: int
    draws: int
    depths: tuple[int, int]
    channels: int
    steps: int
    rates: tuple[float, ...]
    seeds: int


def run(settings: Settings, album: Album, seed: int) -> Numbers:
    """Signals of a wide network and of the deepest convolutional one; the published sizes; training."""
    widths = [settings.width] * (settings.depth + 1)
    batch = inputs(album, settings.width, seed)
    pictures, classes = album.pictures, len(album.pictures.classes)
    x = pictures.normalized
    deep = settings.depths[-1]
    noise = torch.randn(x[:16].shape, generator=torch.Generator().manual_seed(seed))
    spread = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:16]]

    def build() -> nn.Sequential:
        return mlp(widths, nn.ReLU, head=False)

    def training(depth: int, scheme: str) -> Numbers:
        return runs(
            starts(lambda: plain_convs(depth, settings.channels, classes), x[:2], planned(scheme)), x, pictures.labels,
            steps=settings.steps, rates=settings.rates, seeds=range(seed, seed + settings.seeds), size=16,
        )  # fmt: skip

    return {
        "width": settings.width,
        "signal": {NAMES[s]: signal(build, batch, s, seed, draws=settings.draws) for s in (XAVIER, HE)},
        "derivation": _derivation(),
        "published": _published(),
        "depths": list(settings.depths),
        "convolutional": {
            NAMES[s]: along(
                lambda: plain_convs(deep, settings.channels, classes), {"noise": noise, "images": spread}, planned(s),
                seed, ("relu",),
            )[0]
            for s in (XAVIER, HE)
        },
        "chance": entropy(pictures.labels),
        "training": {str(d): {NAMES[s]: training(d, s) for s in (XAVIER, HE)} for d in settings.depths},
    }  # fmt: skip


def _derivation() -> str:
    """Of a layer behind a ReLU, where the lecture's second assumption fails."""
    with torch.device("meta"):
        model, example = mlp([64] * 3, nn.ReLU, head=False), torch.empty(2, 64)
    return str(derive_layer(model, example, "2", plan=SCHEMES[HE](trace(model, example))))


def _published() -> dict[str, Any]:
    """The std that the library plans for the convolutions of He et al.'s model B, without drawing one."""
    with torch.device("meta"):
        model = nn.Sequential(*convs(MODEL_B))
        graph = trace(model, torch.empty(1, 3, 32, 32))
    stds = [d.std for d in SCHEMES["kaiming-fan-out"](graph).decisions if d.name.endswith("weight")]
    sizes = dict(zip(map(str, MODEL_B), stds, strict=True))
    return {"std": sizes, "product": math.prod(std / 0.01 for std in stds[1:])}


def judge(numbers: Numbers) -> Sequence[Claim]:
    """The factor one half, its remedy, the published sizes, and training at two depths."""
    xavier, he = numbers["signal"]["Xavier"], numbers["signal"]["Kaiming"]
    published, chance = numbers["published"], numbers["chance"]
    halved = [b / a for a, b in zip(xavier["predicted"], xavier["predicted"][1:], strict=False)]
    off_x, off_h = (deviation(s) for s in (xavier, he))
    sizes = all(round(published["std"][width], 3) == std for width, std in PUBLISHED.items())
    gradient = he["measured gradient"]["images"][0]
    shallow, deep = (numbers["training"][str(depth)] for depth in numbers["depths"])
    first, last = numbers["depths"]
    return (
        claim(
            "ReLU breaks Xavier: every layer halves the mean square",
            agrees(xavier) and all(abs(factor - 0.5**0.5) < 1e-3 for factor in halved),
            f"std times {number(halved[0], 4)} per layer, 1/√2, from {_ends(xavier)}; within {off_x:.1%} of theory",
        ),
        claim(
            "√(2/d) mends it: signal and gradient keep their size",
            agrees(he) and 0.5 < gradient < 2,
            f"std {_ends(he)}, predicted {number(he['predicted'][0], 3)} everywhere, within {off_h:.1%}; the gradient "
            f"arrives at layer 1 as {number(gradient, 2)} times that at the last",
        ),
        claim(
            "He et al.'s own numbers for VGG-B: std 0.059 to 0.021, and 0.01 makes a gradient 1.7·10⁴ times smaller",
            sizes and abs(published["product"] / SHRINKING - 1) < 0.02,
            f"planned for the same layers: {', '.join(number(v, 3) for v in published['std'].values())}; "
            f"{published['product']:.3g} times smaller",
        ),
        _both(f"{first} layers: both train, Kaiming's sooner", shallow, chance),
        claim(
            f"{last} layers: only Kaiming's network trains",
            _trains(deep["Kaiming"], chance) and not _trains(deep["Xavier"], chance),
            _arrivals(deep, chance),
        ),
    )  # fmt: skip


def _both(text: str, found: Mapping[str, Any], chance: float) -> Claim:
    """He et al.'s figure 2; a short run can show that Kaiming's is sooner, and leave open whether Xavier's comes."""
    he, xavier = (arrival(found[name], chance) for name in ("Kaiming", "Xavier"))
    late = "as to which is sooner: Xavier's had not begun to learn when this run ended" if xavier is None else ""
    return claim(text, he is not None and (xavier is None or he < xavier), _arrivals(found, chance), only=late)


def _trains(numbers: Mapping[str, Any], chance: float) -> bool:
    return arrival(numbers, chance) is not None


def _arrivals(found: Mapping[str, Any], chance: float) -> str:
    said = []
    for name, numbers in found.items():
        at = arrival(numbers, chance)
        when = "never leaves chance" if at is None else f"below nine tenths of chance from step {at:.0f}"
        said.append(f"{name} {when}, final loss {final(numbers)}")
    return "; ".join(said)


def _ends(s: Mapping[str, Any]) -> str:
    return f"{number(s['measured']['images'][0], 3)} to {number(s['measured']['images'][-1], 3)}"


def show(numbers: Numbers, album: Album) -> Sequence[Block]:
    """Signals, histograms, the derivation where it fails, the published sizes, training."""
    pairs = [(name, TONES[name], s) for name, s in numbers["signal"].items()]
    conv = [(name, TONES[name], s) for name, s in numbers["convolutional"].items()]
    sizes = tuple(
        (width, number(PUBLISHED[width], 3), number(std, 4)) for width, std in numbers["published"]["std"].items()
    )
    last = numbers["depths"][-1]
    blocks: list[Block] = [
        Text("ReLU sets half of its inputs to zero, and with them half of the mean square: E[relu(y)²] = E[y²]/2. The "
             "derivation of chapter 5 fails at one line, for what comes out of a ReLU has no mean of zero:"),
        Code(numbers["derivation"], "With std = √(2/d) after a ReLU"),
        signal_plot(pairs, "activation", MARKS, log=True),
        *histogram_blocks(numbers["signal"]["Xavier"], "Xavier", "images"),
        *histogram_blocks(numbers["signal"]["Kaiming"], "Kaiming", "images"),
        *(signal_table(s, f"Layer by layer, {name}") for name, s in numbers["signal"].items()),
        Table(("filters", "He et al.", "planned here"), sizes, frozenset({0, 1, 2}), "std = √(2 / (9 · filters))"),
        Text(f"In convolutional networks of {last} layers the same happens, and zero padding takes some of the "
             "signal at the borders besides."),
        signal_plot(conv, "activation", MARKS, log=True),
    ]  # fmt: skip
    for depth, found in numbers["training"].items():
        caption = f"{depth} layers, trained on {album.pictures.what}."
        blocks += [curve_plot(found, TONES, caption, numbers["chance"]), curve_table(found, f"{depth} layers")]
    return tuple(blocks)


CODE = """
import torch
import firstlight as fl
from firstlight.models import small_cnn

model, x = small_cnn(), torch.randn(16, 3, 32, 32)
for scheme in ("lecture-xavier", "kaiming"):
    report = fl.initialize(model, x, scheme=scheme, seed=0)
    for node in fl.predict(model, x, plan=report.plan).nodes:
        if node.op == "relu":
            print(scheme, node.module, f"std {node.forward_std:.3f}")
"""

CHAPTER = Chapter(
    6,
    "ReLU and Kaiming",
    "A rectifier lets half of the signal through, so Xavier's numbers are too small by √2 at every layer; with √(2/d) "
    "very deep networks begin to learn.",
    Settings(4096, 6, 4, (14, 30), 16, 100, (0.003, 0.01), 1),
    Settings(4096, 6, 8, (22, 30), 16, 600, (0.001, 0.003, 0.01), 2),
    run,
    judge,
    show,
    CODE,
)
