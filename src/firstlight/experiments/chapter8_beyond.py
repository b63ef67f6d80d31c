"""Chapter 8: beyond the lecture: solved and measured sizes, other nonlinearities, chaos, transformers."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import firstlight as fl
from firstlight.experiments.chapter import Chapter, Numbers, claim
from firstlight.experiments.curves import curve_plot, curve_table, entropy, final, learns, runs, stalls
from firstlight.experiments.images import Album, Images
from firstlight.experiments.networks import VisionTransformer, mlp, plain_convs, residual_convs
from firstlight.experiments.signal import MARKS, agrees, along, deviation, signal_plot
from firstlight.experiments.starts import Planner, measured_starts, planned, sized, starts
from firstlight.initialization import audit_init
from firstlight.probe import probe
from firstlight.report.document import Block, Plot, Series, Table, Text, number
from firstlight.report.lecture_page import Claim

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "silu": nn.SiLU}
PLAIN, TRAINED = ("kaiming", "auto", "lsuv", "orthogonal"), ("kaiming", "auto", "lsuv")
RESIDUAL = ("kaiming", "fixup", "auto")
TONES = {"kaiming": "orange", "auto": "blue", "lsuv": "green", "orthogonal": "violet", "fixup": "green"}


@dataclass(frozen=True)
class Settings:
    """Of each of the five parts, and of training."""

    width: int
    depth: int
    gains: tuple[float, ...]
    chaos_depth: int
    plain_depth: int
    blocks: int
    transformer_depth: int
    steps: int
    rates: tuple[float, ...]
    seeds: int


def run(settings: Settings, album: Album, seed: int) -> Numbers:
    """Gains of other nonlinearities, the edge of chaos, schemes on plain and residual networks, a transformer."""
    images = album.pictures
    classes, x = len(images.classes), images.normalized

    def training(scheme: str, residual: bool) -> Numbers:
        def build() -> nn.Module:
            plain = plain_convs(settings.plain_depth, 16, classes)
            return residual_convs(settings.blocks, 16, classes) if residual else plain

        return runs(
            _starts(build, x[:64], scheme), x, images.labels, steps=settings.steps, rates=settings.rates,
            seeds=range(seed, seed + settings.seeds), size=16,
        )  # fmt: skip

    return {
        "gains": {name: _gain(settings, kind, seed) for name, kind in ACTIVATIONS.items()},
        "chaos": _chaos(settings, album.digits, seed),
        "chance": entropy(images.labels),
        "profiles": {scheme: _profile(settings, images, scheme, seed) for scheme in PLAIN},
        "plain": {scheme: training(scheme, False) for scheme in TRAINED},
        "residual": {scheme: training(scheme, True) for scheme in RESIDUAL},
        "blocks": settings.blocks,
        "transformer": _transformer(settings, images, seed),
    }


def _gain(settings: Settings, kind: type[nn.Module], seed: int) -> dict[str, Any]:
    """Every activation with ReLU's √2, with the gain of its own nonlinearity at every layer, and with auto's sizes."""
    generator = torch.Generator().manual_seed(seed)
    batches = {name: torch.randn(16, settings.width, generator=generator) for name in ("noise", "images")}
    widths = [settings.width] * (settings.depth + 1)

    def of(plan: Any) -> dict[str, Any]:
        return along(lambda: mlp(widths, kind, head=False), batches, plan, seed, (kind.__name__.lower(),))[0]

    return {
        "√2": of(planned("kaiming", math.sqrt(2 / settings.width))),
        "own gain": of(planned("kaiming")),
        "auto": of(planned("auto")),
    }


def _chaos(settings: Settings, images: Images, seed: int) -> dict[str, Any]:
    """A deep tanh network on both sides of std·√d = 1: the gradient at its first layer, and training."""
    x, labels = images.normalized.flatten(1), images.labels
    width, depth = settings.width // 4, settings.chaos_depth
    generator = torch.Generator().manual_seed(seed)
    batches = {name: torch.randn(16, width, generator=generator) for name in ("noise", "images")}
    sizes = [x.shape[1], *[width] * depth, len(images.classes)]
    found: dict[str, Any] = {"depth": depth, "gains": list(settings.gains), "chance": entropy(labels), "training": {}}
    found["predicted"], found["measured"] = [], []

    def training(plan: Planner) -> Numbers:
        return runs(
            starts(lambda: mlp(sizes), x[:2], plan), x, labels,
            steps=settings.steps, rates=(0.01, 0.1), seeds=range(seed, seed + settings.seeds),
        )  # fmt: skip

    for gain in settings.gains:
        plan = sized(gain / math.sqrt(width))
        s = along(lambda: mlp([width] * (depth + 1), nn.Tanh, head=False), batches, plan, seed, ("tanh",))[0]
        found["predicted"].append(s["predicted gradient"][0])
        found["measured"].append(s["measured gradient"]["noise"][0])
        found["training"][f"{gain:g}"] = training(plan)
    return found


def _starts(build: Callable[[], nn.Module], batch: Tensor, scheme: str) -> Callable[[int], nn.Module]:
    return measured_starts(build, batch) if scheme == "lsuv" else starts(build, batch, planned(scheme))


def _profile(settings: Settings, images: Images, scheme: str, seed: int) -> list[float]:
    """The std of every sum of a plain convolutional network, on images."""
    x = images.normalized[torch.randperm(len(images.normalized), generator=torch.Generator().manual_seed(seed))[:64]]
    model = _starts(lambda: plain_convs(settings.plain_depth, 16, len(images.classes)), x, scheme)(seed)
    return [node.forward_std for node in probe(model, x).nodes if node.op in ("conv2d", "linear")]


def _transformer(settings: Settings, images: Images, seed: int) -> dict[str, Any]:
    """The residual stream of a vision transformer, and the copies in PyTorch's own one."""
    x: Tensor = images.normalized[:: max(1, len(images.normalized) // 16)][:16]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    batches = {"noise": noise, "images": x}

    def build() -> nn.Module:
        return VisionTransformer(len(images.classes), 64, settings.transformer_depth)

    model = build()
    before = _copies(model)
    fl.initialize(model, x, scheme="auto", seed=seed)
    streams = {scheme: along(build, batches, planned(scheme), seed, ("add",))[0] for scheme in ("kaiming", "auto")}
    return {"copies": before, "copies after": _copies(model), "stream": streams}


def _copies(model: nn.Module) -> int:
    """Parameters that the audit finds to be copies of another."""
    return sum("cop" in finding for finding in audit_init(model).findings)


def judge(numbers: Numbers) -> Sequence[Claim]:
    """Each of the five parts."""
    gains, chaos, profiles = numbers["gains"], numbers["chaos"], numbers["profiles"]
    chance, plain, residual = numbers["chance"], numbers["plain"], numbers["residual"]
    kept = {
        f"{name}, {kind}": found["measured"]["noise"][-1] / found["measured"]["noise"][0]
        for name, kinds in gains.items()
        for kind, found in kinds.items()
    }
    stays = [value for name, value in kept.items() if name.endswith("auto")]
    shrinks = [value for name, value in kept.items() if name.endswith("√2")]
    foreseen = all(agrees(found, batches=("noise",)) for kinds in gains.values() for found in kinds.values())
    ends = dict(chaos["training"])
    best = min(ends, key=lambda gain: max(ends[gain]["final"]))
    off = {name: max(abs(math.log(std)) for std in profile[:-1]) for name, profile in profiles.items()}
    transformer = numbers["transformer"]
    streams = list(transformer["stream"].values())
    worst = max(deviation(s) for s in streams)
    return (
        claim(
            "GELU and SiLU need numbers of their own: ReLU's √2 lets the signal die, auto keeps it",
            all(1 / 3 < v < 3 for v in stays) and all(v < 1 / 3 for v in shrinks),
            f"std after {len(gains['gelu']['auto']['predicted'])} layers over that after the first: "
            + "; ".join(f"{name} {number(value, 2)}" for name, value in kept.items()),
            only="" if foreseen else "within a factor of three: the balance is unstable, and a draw drifts from it",
        ),
        claim(
            f"A {chaos['depth']}-layer tanh network trains near the edge of chaos, std·√d = 1, and not far from it",
            0.9 <= float(best) <= 1.6 and learns(ends[best], chaos["chance"])
            and all(stalls(ends[gain], chaos["chance"]) for gain in (next(iter(ends)), list(ends)[-1])),
            "; ".join(f"{gain}: {final(r)}" for gain, r in ends.items()) + f"; chance {number(chaos['chance'], 3)}",
        ),
        claim(
            "auto and LSUV hold the signal where Kaiming loses it at the borders",
            max(off["auto"], off["lsuv"]) < off["kaiming"],
            "largest distance of a layer's std from 1, as a factor: "
            + ", ".join(f"{name} {number(math.exp(v), 2)}" for name, v in off.items()),
        ),
        claim(
            "The plain network trains from all three",
            all(learns(r, chance) for r in plain.values()),
            "; ".join(f"{name}: {final(r)}" for name, r in plain.items()),
        ),
        claim(
            f"A residual network of {numbers['blocks']} blocks without BatchNorm trains better from fixup and auto",
            max(_mean(residual["fixup"]), _mean(residual["auto"])) < _mean(residual["kaiming"]),
            "; ".join(f"{name}: {final(r)}" for name, r in residual.items()),
        ),
        claim(
            "A vision transformer's stream grows as predicted, and auto keeps it near one",
            worst < 0.2 and streams[-1]["measured"]["noise"][-1] < 2,
            "; ".join(f"{name}: std {number(s['measured']['noise'][-1], 2)} at the end, predicted "
                      f"{number(s['predicted'][-1], 2)}" for name, s in transformer["stream"].items()),
            only="" if all(agrees(s, batches=("noise",)) for s in streams)
            else f"within {worst:.0%}: with so few units some additions lie outside the band",
        ),
        claim(
            "PyTorch's own encoder starts with copies of one layer; initialize makes them differ",
            transformer["copies"] > 0 and transformer["copies after"] == 0,
            f"{transformer['copies']} parameters are copies as constructed, {transformer['copies after']} afterwards",
        ),
    )  # fmt: skip


def _mean(numbers: Mapping[str, Any]) -> float:
    return float(sum(numbers["mean"]) / len(numbers["mean"]))


def show(numbers: Numbers, album: Album) -> Sequence[Block]:
    """One figure for each part."""
    gains, chaos = numbers["gains"], numbers["chaos"]
    tones = {"√2": "orange", "own gain": "gray", "auto": "blue"}
    depth = len(next(iter(numbers["profiles"].values())))
    stream = numbers["transformer"]["stream"]
    rows = tuple(
        (f"{gain:g}", number(p, 2), number(m, 2), final(chaos["training"][f"{gain:g}"]))
        for gain, p, m in zip(chaos["gains"], chaos["predicted"], chaos["measured"], strict=True)
    )
    return (
        Text("The gain of a nonlinearity is 1/√E[φ(z)²] for a standard normal z: √2 for ReLU, 1.53 for GELU, 1.68 for "
             "SiLU. It is right only where the sum has size one, and the first one has not; auto solves for that. "
             "(Two batches of white noise.)"),
        *(
            signal_plot(
                [(kind, tones[kind], found) for kind, found in kinds.items()], "activation",
                f"{name.upper() if name == 'gelu' else 'SiLU'}. Line, with its band: predicted. Points and rings: "
                "measured.", log=True,
            )
            for name, kinds in gains.items()
        ),
        Text(f"Deep tanh networks have two phases. Below std·√d = 1 every gradient fades, above it every gradient "
             f"grows; only near the edge does it cross {chaos['depth']} layers."),
        Plot(
            tuple(math.log2(g) for g in chaos["gains"]),
            (Series("gradient", "orange", tuple(chaos["predicted"])),
             Series("", "orange", tuple(chaos["measured"]), "points")),
            f"gradient at layer 1, in units of that at layer {chaos['depth']}", "std·√d",
            "Line: predicted. Points: measured.", log=True, ticks=tuple(f"{g:g}" for g in chaos["gains"]),
        ),
        Table(("std·√d", "gradient predicted", "measured", "final loss"), rows, frozenset(range(4)),
              f"{chaos['depth']} layers, trained on {album.digits.what}"),
        Text(f"A plain convolutional network of {depth} layers. Kaiming looks at one layer at a time; auto solves the "
             "sizes on the whole graph, padding and pooling included; LSUV measures them on a batch."),
        Plot(tuple(float(k + 1) for k in range(depth)),
             (Series("wanted", "gray", (1.0,) * depth, "dashed"),
              *(Series(name, TONES[name], tuple(p)) for name, p in numbers["profiles"].items())),
             "standard deviation of every sum, on images", "layer", "Measured on images.", log=True),
        curve_plot(numbers["plain"], TONES, f"{depth} plain layers, trained on {album.pictures.what}.",
                   numbers["chance"]),
        curve_plot(numbers["residual"], TONES, f"{numbers['blocks']} residual blocks without BatchNorm.",
                   numbers["chance"]),
        curve_table(numbers["residual"], "Residual network, at the end"),
        Text("A vision transformer: 64 tokens, pre-norm blocks; after every addition to its stream:"),
        signal_plot((("Kaiming", "orange", stream["kaiming"]), ("auto", "blue", stream["auto"])), "activation", MARKS,
                    log=True),
    )  # fmt: skip


CODE = """
import torch
from torch import nn
import firstlight as fl

layers = [m for _ in range(20) for m in (nn.Linear(256, 256), nn.GELU())]
model, x = nn.Sequential(*layers), torch.randn(16, 256)
for scheme in ("torch-default", "kaiming", "auto", "lsuv"):
    fl.initialize(model, x, scheme=scheme)
    print(scheme, model(x).std().item(), fl.predict(model, x).nodes[-1].forward_std)
"""

CHAPTER = Chapter(
    8,
    "Beyond the lecture",
    "The same arithmetic answers what came later: sizes solved on the whole graph, other nonlinearities, very deep "
    "networks, transformers.",
    Settings(1024, 20, (0.7, 0.9, 1.0, 1.2, 2.0, 4.0), 30, 30, 12, 6, 40, (0.003, 0.01), 1),
    Settings(
        1024, 20, (0.5, 0.7, 0.9, 1.0, 1.1, 1.2, 1.5, 2.0, 3.0, 4.0), 40, 30, 20, 12, 250, (0.001, 0.003, 0.01), 2
    ),
    run,
    judge,
    show,
    CODE,
)
