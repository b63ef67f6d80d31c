"""Training runs of the lecture: from curves to numbers, from numbers to a figure."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from firstlight.report.document import Plot, Series, Table, number
from firstlight.workflows.training import Curve, shuffled, train, tuned

_POINTS = 30
_BEGINS = 0.9  # of the loss of chance


def runs(
    start: Callable[[int], nn.Module],
    inputs: Tensor,
    labels: Tensor,
    *,
    steps: int,
    rates: Sequence[float],
    seeds: Sequence[int],
    size: int = 32,
) -> dict[str, Any]:
    """Train the network that `start` gives for each seed, at the best of `rates`.

    Returns:
        "rate", "steps", "losses" (one list per seed, in stretches of steps), "final" (one per seed), and "mean" loss
        over all steps, which is small for a run that converges early; a loss above that of chance counts as chance.
    """

    def run(rate: float, seed: int) -> Curve:
        return train(start(seed), shuffled(inputs, labels, size=size, steps=steps, seed=seed), rate=rate)

    top = entropy(labels)
    curves = tuned(run, rates=rates, seeds=seeds)
    return {
        "rate": curves[0].rate,
        "steps": list(curves[0].binned(_POINTS)[0]),
        "losses": [list(curve.binned(_POINTS)[1]) for curve in curves],
        "final": [curve.final for curve in curves],
        "mean": [sum(v if v < top else top for v in curve.loss) / steps for curve in curves],
    }


def curve_plot(found: Mapping[str, Mapping[str, Any]], tones: Mapping[str, str], caption: str, chance: float) -> Plot:
    """Mean over seeds, bands from the lowest to the highest, and the loss of knowing only the classes' frequencies.

    A loss above 1.6 times that is drawn there, so that a run that begins badly does not flatten the others.
    """
    longest = max((numbers["steps"] for numbers in found.values()), key=len)
    series = [Series("chance", "gray", (chance,) * len(longest), "dashed")]
    for name, numbers in found.items():
        columns = [[min(v, 1.6 * chance) for v in column] for column in zip(*numbers["losses"], strict=True)]
        mean = tuple(sum(column) / len(column) for column in columns)
        low, high = tuple(min(column) for column in columns), tuple(max(column) for column in columns)
        series.append(Series(name, tones[name], mean, "line", low, high))
    top = f" Bands: from the lowest to the highest of {len(columns[0])} seeds." if len(columns[0]) > 1 else ""
    return Plot(tuple(longest), tuple(series), "loss (cross-entropy)", "step", caption + top)


def curve_table(found: Mapping[str, Mapping[str, Any]], caption: str) -> Table:
    """Final loss and rate of each."""
    rows = tuple((name, final(numbers), f"{numbers['rate']:g}") for name, numbers in found.items())
    return Table(("start", "final loss", "learning rate"), rows, frozenset({1, 2}), caption)


def final(numbers: Mapping[str, Any]) -> str:
    """Mean final loss and its range over the seeds, or that it is not finite."""
    values = numbers["final"]
    gone = sum(not math.isfinite(value) for value in values)
    if gone:
        return "diverges" if gone == len(values) else f"{gone} of {len(values)} seeds diverge"
    mean = number(sum(values) / len(values), 3)
    return mean if len(values) == 1 else f"{mean} ({number(min(values), 3)} … {number(max(values), 3)})"


def sooner(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether the first converged sooner whatever the seed: each of its mean losses is below each of the second's."""
    return max(first["mean"]) < min(value for value in second["mean"])


def arrival(numbers: Mapping[str, Any], chance: float) -> float | None:
    """The step from which on the mean over seeds is first below nine tenths of the loss of chance; None if never."""
    for step, column in zip(numbers["steps"], zip(*numbers["losses"], strict=True), strict=True):
        if sum(column) / len(column) < _BEGINS * chance:
            return float(step)
    return None


def learns(numbers: Mapping[str, Any], chance: float) -> bool:
    """Whether every seed ends below nine tenths of the loss of chance: it has begun to learn, however slowly."""
    return max(numbers["final"]) < _BEGINS * chance


def stalls(numbers: Mapping[str, Any], chance: float) -> bool:
    """Whether every seed ends within 5 % of the loss of chance, or above it: nothing but frequencies was learned."""
    return min(numbers["final"]) > 0.95 * chance


def entropy(labels: Tensor) -> float:
    """Loss of the best answer that does not look at the image: the entropy of the classes' frequencies, in nats."""
    shares = labels.bincount().double() / len(labels)
    return float(-(shares[shares > 0] * shares[shares > 0].log()).sum())
