"""What the lab computes: one network of the reader's choice, its signal predicted and measured, and 200 steps of it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from firstlight.errors import FirstlightError
from firstlight.experiments.images import Images, open_album
from firstlight.graph import Graph, trace
from firstlight.initialization import SCHEMES, apply
from firstlight.probe import run_steps
from firstlight.recipe import Recipe
from firstlight.report.document import Plot, Ridges, Series, number
from firstlight.theory import NodePrediction, Prediction
from firstlight.workflows.predicting import predict
from firstlight.workflows.training import Curve, shuffled, train

NONLINEARITIES: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "sigmoid": nn.Sigmoid,
    "leaky relu": nn.LeakyReLU, "none": nn.Identity,
}  # fmt: skip
PREPROCESSING = ("none", "scale", "vgg", "alexnet", "resnet")
START = ("normal", "lecture-xavier", "xavier", "lecun", "kaiming", "orthogonal", "auto", "constant", "zeros")
LOW, HIGH = -12, 6  # decades of `LogHistogram`
_BATCH, _IMAGES, _QUANTILES = 128, 1024, 4096


@dataclass(frozen=True)
class Settings:
    """What the reader chose.

    Attributes:
        depth: layers before the head, 1 to 40.
        width: units of each, 8 to 2048.
        nonlinearity: a key of `NONLINEARITIES`.
        scheme: one of `START`.
        scale: factor on every weight that the scheme draws.
        batch_norm: after every linear layer.
        residual: whether every layer but the first adds its input.
        preprocessing: one of `PREPROCESSING`.
        seed: of the weights.

    Raises:
        FirstlightError: slug ``bad-setting``, when a number lies outside.
    """

    depth: int = 10
    width: int = 512
    nonlinearity: str = "tanh"
    scheme: str = "xavier"
    scale: float = 1.0
    batch_norm: bool = False
    residual: bool = False
    preprocessing: str = "resnet"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (("depth", 1, 40), ("width", 8, 2048), ("scale", 0, 1e3)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise FirstlightError(
                    f"{name} {value:g} is out of range", f"choose {low} to {high:g}", slug="bad-setting", call="lab"
                )


def parse_scale(text: str) -> float:
    """The number in a text field.

    Raises:
        FirstlightError: slug ``bad-setting``.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise FirstlightError(
            f"{text!r} is no factor", "give a number such as 1 or 0.5", slug="bad-setting", call="lab"
        )
    return value


class Stack(nn.Module):
    """Linear layers of one width, each with its nonlinearity, and ten scores."""

    def __init__(self, settings: Settings, inputs: int) -> None:
        super().__init__()
        s = settings
        self.residual = s.residual
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Linear(inputs if k == 0 else s.width, s.width),
                nn.BatchNorm1d(s.width) if s.batch_norm else nn.Identity(),
                NONLINEARITIES[s.nonlinearity](),
            )
            for k in range(s.depth)
        )
        self.head = nn.Linear(s.width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """[N, …] → [N, 10]."""
        value = images.flatten(1)
        for k, layer in enumerate(self.layers):
            value = value + layer(value) if self.residual and k else layer(value)
        scores: Tensor = self.head(value)
        return scores


@dataclass(frozen=True)
class Reading:
    """One network's signal.

    Attributes:
        activations, gradients: histograms of every layer, predicted and measured.
        depth: standard deviations along depth, predicted as lines and measured as points.
        stds: (predicted, measured) of every layer's result.
    """

    activations: Ridges
    gradients: Ridges
    depth: Plot
    stds: tuple[tuple[float, float], ...]


def measure(settings: Settings) -> Reading:
    """Predict and measure every layer on a batch of scikit-learn's digits."""
    images = inputs(settings.preprocessing)[:_BATCH]
    model = start(settings)
    run = run_steps(model, images, loss=_direction, steps=1, mixing=False)
    said = predict(
        model,
        images,
        input_mean=float(images.mean()),
        input_second_moment=float(images.square().mean()),
        graph=run.graph,
    )
    seen = {node.name: node for node in run.first.nodes}
    results = _results(run.graph, settings)
    measured = [seen[name] for name in results]
    predicted = [said[name] for name in results]
    forward, backward = [], []
    for k, (node, expected) in enumerate(zip(measured, predicted, strict=True), start=1):
        shape = _expected(run.graph, said, node.name, settings)
        back = _gaussian(0.0, expected.backward_std or 0.0)
        forward.append((f"layer {k}", f"std {number(node.forward_std, 3)}", _counts(node.histogram), _log_bins(shape)))
        gradient = "none" if node.gradient_std is None else f"std {number(node.gradient_std, 3)}"
        backward.append((f"layer {k}", gradient, _counts(node.gradient_histogram), _log_bins(back)))
    return Reading(
        _ridges(forward, "activations", "blue"),
        _ridges(backward, "gradients by them", "orange"),
        _along(measured, predicted),
        tuple((p.forward_std, m.forward_std) for p, m in zip(predicted, measured, strict=True)),
    )


def trained(settings: Settings, *, rate: float = 0.05, steps: int = 200) -> Curve:
    """Stochastic gradient descent from this start, on batches of 32 digits."""
    data = inputs(settings.preprocessing)
    batches = shuffled(data, digits().labels[: len(data)], size=32, steps=steps, seed=settings.seed)
    return train(start(settings), batches, rate=rate)


def curve_plot(curve: Curve, chance: float = math.log(10)) -> Plot:
    """Loss along steps, and that of guessing; what lies above three times it is cut."""
    steps, losses = curve.binned(50)
    shown = tuple(min(v, 3 * chance) if math.isfinite(v) else None for v in losses)
    series = (Series("guessing", "gray", (chance,) * len(steps), "dashed"), Series("loss", "blue", shown))
    said = "The run diverged." if math.isinf(curve.final) else f"Final loss {number(curve.final, 3)}."
    return Plot(steps, series, "loss (cross-entropy)", "step", said)


@lru_cache(maxsize=1)
def digits() -> Images:
    """scikit-learn's digits, 8×8."""
    return open_album(limit=_IMAGES, seed=0).digits


@lru_cache(maxsize=len(PREPROCESSING))
def inputs(preprocessing: str) -> Tensor:
    """All digits, N×1×8×8, preprocessed."""
    pixels = torch.from_numpy(digits().pixels).movedim(3, 1)
    if preprocessing == "none":
        return pixels.float()
    made: Recipe = getattr(Recipe, preprocessing)(digits().statistics)
    return digits().through(made)


def start(settings: Settings) -> Stack:
    """The network with the weights of the scheme, each times the scale."""
    with torch.device("meta"):
        model = Stack(settings, 64)
    plan = SCHEMES[settings.scheme](_graph(settings))
    apply(plan, model, seed=settings.seed, device="cpu")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("weight") and parameter.dim() == 2:
                parameter.mul_(settings.scale)
    return model


@lru_cache(maxsize=64)
def _traced(depth: int, width: int, nonlinearity: str, batch_norm: bool, residual: bool) -> Graph:
    settings = Settings(depth, width, nonlinearity, batch_norm=batch_norm, residual=residual)
    with torch.device("meta"):
        return trace(Stack(settings, 64), torch.zeros(_BATCH, 1, 8, 8))


def _graph(s: Settings) -> Graph:
    return _traced(s.depth, s.width, s.nonlinearity, s.batch_norm, s.residual)


def _direction(output: Tensor) -> Tensor:
    """A random direction in the scores: the gradient by them is white noise of size one, as the prediction takes it."""
    return (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(1))).sum()


def _results(graph: Graph, settings: Settings) -> list[str]:
    """The last operation of each layer: the sum with its input where there is one."""
    into = [node for node in graph.operations if node.module.startswith("layers.")]
    last: dict[str, str] = {}
    for node in into:
        last[node.module.split(".")[1]] = node.name
    if settings.residual:
        sums = [node.name for node in graph.operations if node.function == "add" and node.module == ""]
        return [last["0"], *sums]
    return list(last.values())


def _expected(graph: Graph, said: Prediction, name: str, settings: Settings) -> Tensor:
    """Equally likely values of a layer's result: the nonlinearity of a normal variable, or a normal sum."""
    node = graph[name]
    if node.function == "add":
        return _gaussian(said[name].forward_mean, said[name].forward_std)
    if settings.nonlinearity == "none":
        return _gaussian(said[name].forward_mean, said[name].forward_std)
    before: NodePrediction = said[node.inputs[0]]
    function: Callable[[Tensor], Tensor] = NONLINEARITIES[settings.nonlinearity]()
    return function(_gaussian(before.forward_mean, before.forward_std))


def _gaussian(mean: float, std: float) -> Tensor:
    chances = (torch.arange(_QUANTILES, dtype=torch.float64) + 0.5) / _QUANTILES
    return mean + std * torch.special.ndtri(chances)


def _log_bins(values: Tensor) -> tuple[float, ...]:
    """Counts of magnitudes in half decades, zeros left out; those outside count at the ends."""
    sizes = values[values != 0].abs().log10()
    bins = ((sizes - LOW) * 2).floor().clamp(0, 2 * (HIGH - LOW) - 1).long()
    return tuple(float(c) for c in torch.bincount(bins, minlength=2 * (HIGH - LOW)))


def _counts(histogram: Any) -> tuple[float, ...]:
    return () if histogram is None else tuple(float(c) for c in histogram.counts)


def _ridges(rows: list[tuple[str, str, tuple[float, ...], tuple[float, ...]]], what: str, tone: str) -> Ridges:
    # A few of thousands far out would squeeze all others to the right.
    filled = [k for row in rows for part in row[2:] for k, count in enumerate(part) if count > 0.002 * sum(part)]
    filled = filled or [20, 26]
    first, last = min(filled) // 2 * 2, (max(filled) // 2 + 1) * 2
    cut = tuple((label, value, a[first:last], b[first:last]) for label, value, a, b in rows)
    names = (("measured", tone), ("predicted", "gray"))
    return Ridges(LOW + first // 2, LOW + last // 2, names, cut, f"Magnitudes of {what}, layer by layer.")


def _along(measured: list[Any], predicted: list[NodePrediction]) -> Plot:
    x = tuple(float(k + 1) for k in range(len(measured)))
    series = (
        Series("activation", "blue", tuple(p.forward_std for p in predicted)),
        Series("", "blue", tuple(m.forward_std for m in measured), "points"),
        Series("gradient", "orange", tuple(p.backward_std for p in predicted)),
        Series("", "orange", tuple(m.gradient_std for m in measured), "points"),
    )
    return Plot(x, series, "standard deviation", "layer", "Lines: predicted. Points: measured.", log=True)
