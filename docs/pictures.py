"""The README's pictures, made by the tool: `make pictures`."""

from pathlib import Path

import torch
from torch import nn

import firstlight as fl
from firstlight.experiments.chapter3_small import inputs
from firstlight.experiments.images import open_album
from firstlight.experiments.networks import mlp, plain_convs
from firstlight.experiments.signal import signal, signal_plot
from firstlight.report.check_page import depth_plots
from firstlight.report.html import chart_svg

FOLDER = Path(__file__).parent / "pictures"
WIDTH, DEPTH, BATCH = 1024, 10, 16


def starts() -> str:
    """Ten tanh layers from three starts: what is predicted before a weight is drawn, and what is then measured."""
    x = inputs(open_album(limit=200, seed=0), WIDTH, 0)
    drawn = tuple(
        (label, tone, signal(lambda: mlp([WIDTH] * (DEPTH + 1), nn.Tanh, head=False), x, scheme, 0, std))
        for label, tone, scheme, std in (
            ("Xavier", "green", "xavier", None),
            ("0.02·randn", "orange", "normal", 0.02),
            ("0.001·randn", "red", "normal", 0.001),
        )
    )
    return chart_svg(signal_plot(drawn, "activation", "", log=True))


def check() -> str:
    """The gradient of thirty plain ReLU layers from Xavier's start, as a check's page shows it."""
    model = plain_convs(30, 64, 10)
    batch = torch.randn(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(BATCH) % 10
    fl.initialize(model, batch[0], scheme="xavier", seed=0)
    found = fl.check(model, batch, nn.functional.cross_entropy)
    assert found.run is not None
    return chart_svg(depth_plots(found.case, found.run)[1])


def main() -> None:
    """Write both."""
    FOLDER.mkdir(exist_ok=True)
    for picture in (starts, check):
        (FOLDER / f"{picture.__name__}.svg").write_text(picture(), encoding="utf-8")


if __name__ == "__main__":
    main()
