"""Chapter 2: zeros and constants. Units that start the same stay the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from firstlight.experiments.chapter import Chapter, Numbers, claim
from firstlight.experiments.curves import curve_plot, curve_table, entropy, final, learns, runs
from firstlight.experiments.images import Album
from firstlight.experiments.networks import mlp
from firstlight.experiments.starts import planned, starts
from firstlight.initialization import symmetries
from firstlight.report.document import Block, Plot, Series, Table, Text, number
from firstlight.report.lecture_page import Claim
from firstlight.workflows.training import shuffled, train

STARTS = {"zeros": "zeros", "constant 0.01": "constant", "random (Xavier)": "lecture-xavier"}
TONES = {"zeros": "orange", "constant 0.01": "red", "random (Xavier)": "blue"}
SEEN = 256  # samples whose hidden layer is looked at


@dataclass(frozen=True)
class Settings:
    """Of the networks: width, hidden layers of the shallow and the deep one; and of training."""

    width: int
    depths: tuple[int, int]
    steps: int
    every: int
    rates: tuple[float, ...]
    seeds: int


def run(settings: Settings, album: Album, seed: int) -> Numbers:
    """Each start in a shallow and a deep network: loss, rank of the last hidden layer, and what moved."""
    x, labels = album.digits.normalized.flatten(1), album.digits.labels
    found = {}
    for depth in settings.depths:
        sizes = [x.shape[1], *[settings.width] * depth, len(album.digits.classes)]
        for name, scheme in STARTS.items():
            start = starts(lambda: mlp(sizes), x[:2], planned(scheme))  # noqa: B023 - called in this turn only
            numbers: dict[str, Any] = runs(
                start, x, labels,
                steps=settings.steps, rates=settings.rates, seeds=range(seed, seed + settings.seeds),
            )  # fmt: skip
            model = start(seed)
            alike = symmetries(model, x[:64], labels[:64])
            numbers["identical"] = [len(s.groups[0]) / s.units if s.groups and s.permanent else 0.0 for s in alike]
            numbers |= _followed(model, x, labels, settings, numbers["rate"], seed)
            found[f"{_words(depth)}, {name}"] = numbers
    return {"width": settings.width, "depths": list(settings.depths), "chance": entropy(labels), "found": found}


def _followed(
    model: nn.Module, x: Tensor, labels: Tensor, settings: Settings, rate: float, seed: int
) -> dict[str, Any]:
    """Rank of the last hidden layer during training, and the parameters that training moved."""
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    at: list[int] = []
    ranks: list[int] = []

    def watch(step: int, model: nn.Module) -> None:
        if step % settings.every == 0:
            at.append(step)
            ranks.append(_rank(model, x[:: max(1, len(x) // SEEN)]))

    batches = shuffled(x, labels, size=32, steps=settings.steps, seed=seed)
    train(model, batches, rate=rate, watch=watch)
    moved = [name for name, p in model.named_parameters() if not torch.equal(p.detach(), start[name])]
    return {"at": at, "ranks": ranks, "moved": moved, "parameters": list(start)}


@torch.no_grad()
def _rank(model: nn.Module, x: Tensor) -> int:
    """Of the matrix samples × units of the last hidden layer: singular values above a thousandth of the largest."""
    assert isinstance(model, nn.Sequential)
    values = torch.linalg.svdvals(model[:-1](x).double())
    return int((values > 1e-3 * values[0]).sum()) if values[0] > 0 else 0


def judge(numbers: Numbers) -> Sequence[Claim]:
    """What moves from zeros; what a constant is worth; what randomness changes."""
    chance = numbers["chance"]
    zeros, constant, random = (_of(numbers, name) for name in STARTS)
    bias = [run["moved"] == [run["parameters"][-1]] for run in zeros]
    same = [run["identical"] and min(run["identical"]) == 1.0 for run in constant]
    return (
        claim(
            "From all zeros only the last bias learns, in a shallow network and in a deep one",
            all(bias) and all(min(run["final"]) > 0.95 * chance for run in zeros),
            f"moved after training: {'; '.join(', '.join(run['moved']) for run in zeros)}. Final loss "
            f"{' and '.join(final(run) for run in zeros)}; a bias can learn the frequencies of the classes, "
            f"{number(chance, 3)}",
        ),
        claim(
            "From a constant all units of a layer stay one unit, through the whole of training",
            all(same) and all(set(run["ranks"]) == {1} for run in constant),
            f"units with equal weights and equal gradients: all, in every hidden layer; rank of the last hidden layer "
            f"{' and '.join(_range(run['ranks']) for run in constant)} of {numbers['width']}",
        ),
        claim(
            "So a wide layer that starts constant is worth one unit",
            # Less than half of what the same layer learns from random numbers, counted from the loss of chance.
            all(
                chance - min(c["final"]) < (chance - max(r["final"])) / 2 for c, r in zip(constant, random, strict=True)
            ),
            f"final loss {' and '.join(final(run) for run in constant)} (shallow, deep), "
            f"{' and '.join(final(run) for run in random)} from random numbers",
        ),
        claim(
            "Random numbers break the symmetry",
            all(learns(run, chance) and not any(run["identical"]) for run in random)
            and all(min(run["ranks"]) > numbers["width"] // 3 for run in random),
            f"no two units alike; rank {' and '.join(_range(run['ranks']) for run in random)}",
        ),
    )


def _of(numbers: Numbers, start: str) -> list[Mapping[str, Any]]:
    return [run for name, run in numbers["found"].items() if name.endswith(start)]


def _words(depth: int) -> str:
    return f"{depth} hidden layer" + ("s" if depth > 1 else "")


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def show(numbers: Numbers, album: Album) -> Sequence[Block]:
    """Ranks, then curves, of the shallow and the deep network."""
    blocks: list[Block] = [
        Text(
            "Units with equal weights compute the same number and get the same gradient: a step leaves them equal. "
            f"Below, layers of {numbers['width']} tanh units are trained from zeros, from a constant, and from random "
            "numbers."
        )
    ]
    for depth in numbers["depths"]:
        runs_ = {name: numbers["found"][f"{_words(depth)}, {name}"] for name in STARTS}
        blocks += [
            _ranks(runs_, f"{_words(depth)}: how many different units the last one has. Dashed: foreseen, 0 from zeros "
                   "and 1 from a constant, for ever. Points: measured."),
            curve_plot(runs_, TONES, f"{_words(depth)}, trained on {album.digits.what}.", numbers["chance"]),
        ]  # fmt: skip
    moved = tuple((name, ", ".join(run["moved"])) for name, run in numbers["found"].items())
    return (
        *blocks,
        curve_table(numbers["found"], "At the end"),
        Table(("start", "moved by training"), moved, caption="Parameters that training moved", folded=True),
    )


def _ranks(found: Mapping[str, Mapping[str, Any]], caption: str) -> Plot:
    at = next(iter(found.values()))["at"]
    foreseen = {"zeros": 0.0, "constant 0.01": 1.0}
    series = [Series("", TONES[name], (value,) * len(at), "dashed") for name, value in foreseen.items()]
    series += [Series(name, TONES[name], tuple(map(float, run["ranks"])), "points") for name, run in found.items()]
    return Plot(tuple(map(float, at)), tuple(series), "rank of the hidden layer", "step", caption)


CODE = """
import torch
from torch import nn
import firstlight as fl
from firstlight.initialization import symmetries

images = fl.open_source("demo:digits")
x = torch.stack([torch.from_numpy(images.read(k)).float().flatten() / 255 for k in range(0, 1797, 30)])
model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
for scheme in ("constant", "lecture-xavier"):
    fl.initialize(model, x, scheme=scheme)
    print(scheme, [(s.parameter, len(s.groups[0]), s.permanent) for s in symmetries(model, x)])
"""

CHAPTER = Chapter(
    2,
    "Zeros and constants",
    "If all weights start equal, zero or not, the units of a layer compute the same, learn the same and stay the same.",
    Settings(64, (1, 5), 120, 10, (0.01, 0.1, 1.0), 2),
    Settings(256, (1, 5), 400, 20, (0.003, 0.01, 0.03, 0.1, 0.3, 1.0), 3),
    run,
    judge,
    show,
    CODE,
)
