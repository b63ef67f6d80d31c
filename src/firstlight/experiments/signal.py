"""One network's signal, predicted before a weight is drawn and measured after, layer by layer."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import firstlight as fl
from firstlight.experiments.starts import Planner, planned
from firstlight.graph import trace
from firstlight.initialization import apply
from firstlight.probe import probe
from firstlight.report.document import Bars, Block, Plot, Series, Table, number

BINS, SATURATED = 41, 0.99
MARKS = "Line, with its band: predicted. Measured with white noise: points; with images: rings."


def along(
    build: Callable[[], nn.Module],
    inputs: dict[str, Tensor],
    plan: Planner,
    seed: int,
    ops: tuple[str, ...],
) -> tuple[dict[str, Any], nn.Module]:
    """Predict and measure the standard deviation of results along a network, and of the gradient by them.

    The loss is a random direction in the outputs, so that the gradient by the outputs is white noise of size one, as
    the prediction takes it. The network has no memory until it is drawn straight into it from its plan.

    Args:
        build: the network.
        inputs: batches by name, of one shape; mean 0 and mean square 1.
        plan: of its weights, from its graph.
        seed: of the weights and of the direction.
        ops: whose results are looked at.

    Returns:
        Lists with one entry per result, under "predicted", "band", "predicted gradient", "gradient band", and under
        "measured" and "measured gradient" by the name of the batch; and the network.
    """
    with torch.device("meta"):
        model = build()
    example = next(iter(inputs.values()))
    graph = trace(model, example.to("meta"))
    chosen = plan(graph)
    nodes = [n for n in fl.predict(model, example, plan=chosen, graph=graph).nodes if n.op in ops]
    apply(chosen, model, seed=seed, device="cpu")
    measured, gradients = {}, {}
    for name, batch in inputs.items():
        seen = {node.name: node for node in probe(model, batch, loss=_direction(seed)).nodes}
        measured[name] = [seen[node.name].forward_std for node in nodes]
        gradients[name] = [seen[node.name].gradient_std or 0.0 for node in nodes]
    numbers = {
        "predicted": [node.forward_std for node in nodes],
        "band": [node.band for node in nodes],
        "measured": measured,
        "predicted gradient": [node.backward_std or 0.0 for node in nodes],
        "gradient band": [node.backward_band for node in nodes],
        "measured gradient": gradients,
    }
    return numbers, model


def signal(
    build: Callable[[], nn.Sequential],
    inputs: dict[str, Tensor],
    scheme: str,
    seed: int,
    std: float | None = None,
    *,
    draws: int = 1,
) -> dict[str, Any]:
    """`along` the activations of linear layers, and a look at their values.

    A single draw of a ReLU network of n units lies about √(5/n) beside the mean after every layer, and its samples
    do so together; so the std of the first batch is a mean over `draws` of the weights.

    Returns:
        What `along` does, and of the last batch "histograms", "gradient histograms", the share of "saturated"
        activations, predicted too, and the std of the gradient "by weight".
    """
    everything, model = along(build, inputs, planned(scheme, std), seed, ("linear", "tanh", "relu"))
    sums, numbers = _every_second(everything, 0), _every_second(everything, 1)
    assert isinstance(model, nn.Sequential)
    name, batch = next(iter(inputs.items()))
    squares = [[value**2 for value in numbers["measured"][name]]]
    look = _looked_into(model, list(inputs.values())[-1], seed)
    for k in range(1, draws):
        apply(planned(scheme, std)(trace(model, batch)), model, seed=seed + 1000 * k)
        squares.append(_variances(model, batch))
    numbers["measured"][name] = [(sum(layer) / draws) ** 0.5 for layer in zip(*squares, strict=True)]
    return {
        **numbers,
        "predicted saturated": [_saturated(std**2) for std in sums["predicted"]],
        **look,
    }


def _every_second(numbers: Any, first: int) -> Any:
    if isinstance(numbers, dict):
        return {name: _every_second(value, first) for name, value in numbers.items()}
    return numbers[first::2]


def _direction(seed: int) -> Callable[[Tensor], Tensor]:
    def random_direction(output: Tensor) -> Tensor:
        return (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(seed + 1))).sum()

    return random_direction


def _looked_into(model: nn.Sequential, batch: Tensor, seed: int) -> dict[str, Any]:
    """Histograms of what each activation gives and of the gradient by it; how many are saturated; weight gradients."""
    kept: list[Tensor] = []
    value = batch
    for layer in model:
        value = layer(value)
        if not isinstance(layer, nn.Linear):
            value.retain_grad()
            kept.append(value)
    _direction(seed)(value).backward()
    gradients = [v.grad for v in kept if v.grad is not None]
    reach = 4 * max(float(g.std()) for g in gradients) or 1.0
    bounded = all(float(v.detach().abs().max()) <= 1 for v in kept)
    widest = 1.0 if bounded else 4 * max(float(v.detach().std()) for v in kept)
    by_weight = [
        float(p.grad.std()) for name, p in model.named_parameters() if name.endswith("weight") and p.grad is not None
    ]
    model.zero_grad(set_to_none=True)
    return {
        "reach": widest,
        "histograms": [_histogram(v, widest) for v in kept],
        "gradient reach": reach,
        "gradient histograms": [_histogram(g, reach) for g in gradients],
        "saturated": [float((v.detach().abs() > SATURATED).float().mean()) for v in kept],
        "by weight": by_weight,
    }


@torch.no_grad()
def _variances(model: nn.Sequential, batch: Tensor) -> list[float]:
    """Of what each activation gives."""
    found = []
    for layer in model:
        batch = layer(batch)
        if not isinstance(layer, nn.Linear):
            found.append(float(batch.var(correction=0)))
    return found


def _saturated(second_moment: float) -> float:
    """P(|tanh z| > 0.99) for z from N(0, second moment)."""
    return math.erfc(math.atanh(SATURATED) / math.sqrt(2 * second_moment)) if second_moment > 0 else 0.0


def _histogram(values: Tensor, reach: float) -> list[float]:
    """Shares of the values in equal bins from -reach to reach; what lies outside counts at the ends."""
    clipped = values.detach().float().flatten().clamp(-reach, reach)
    counts = torch.histc(clipped, BINS, -reach, reach)
    return [round(float(c), 5) for c in counts / counts.sum()]


def _edges(reach: float) -> tuple[float, ...]:
    return tuple(-reach + 2 * reach * k / BINS for k in range(BINS + 1))


def agrees(numbers: Mapping[str, Any], *, gradient: bool = False, batches: Sequence[str] = ()) -> bool:
    """Whether every measured second moment lies within the band of its prediction, for all batches or those named."""
    key, band = (" gradient", "gradient band") if gradient else ("", "band")
    measured = numbers[f"measured{key}"]
    return all(
        p**2 / (1 + b) <= m**2 <= p**2 * (1 + b)
        for name in batches or measured
        for p, m, b in zip(numbers[f"predicted{key}"], measured[name], numbers[band], strict=True)
    )


def deviation(numbers: Mapping[str, Any], batch: str = "noise") -> float:
    """Largest relative distance of a measured std from its prediction."""
    pairs = zip(numbers["predicted"], numbers["measured"][batch], strict=True)
    return max(abs(m / p - 1) if p > 0 else math.inf for p, m in pairs)


def histogram_blocks(numbers: dict[str, Any], name: str, batch: str) -> list[Block]:
    """Two rows of panels: activations in blue, gradients in orange."""
    forward = tuple(
        (f"layer {k}, std {number(s, 2)}", "blue", tuple(h))
        for k, (h, s) in enumerate(zip(numbers["histograms"], numbers["measured"][batch], strict=True), 1)
    )
    backward = tuple(
        (f"layer {k}, std {number(s, 2)}", "orange", tuple(h))
        for k, (h, s) in enumerate(
            zip(numbers["gradient histograms"], numbers["measured gradient"][batch], strict=True), 1
        )
    )
    reach, widest = numbers["gradient reach"], numbers["reach"]
    return [
        Bars(
            _edges(widest), forward, f"Activations with {name}, between {number(-widest, 2)} and {number(widest, 2)}.",
            small=True,
        ),
        Bars(
            _edges(reach), backward, f"The gradient by them, between {number(-reach, 2)} and {number(reach, 2)}. It "
            "arrives at the last layer with std 1 and travels to the first.", small=True,
        ),
    ]  # fmt: skip


def signal_plot(series: Sequence[tuple[str, str, dict[str, Any]]], what: str, caption: str, *, log: bool) -> Plot:
    """Predicted lines with bands, measured points.

    Args:
        series: (label, tone, numbers of `signal`).
        what: "activation" or "gradient".
        caption: of the figure.
        log: decades.
    """
    suffix = "" if what == "activation" else " gradient"
    band = "band" if what == "activation" else "gradient band"
    drawn: list[Series] = []
    for label, tone, numbers in series:
        line = numbers[f"predicted{suffix}"]
        low = tuple(v / (1 + b) ** 0.5 for v, b in zip(line, numbers[band], strict=True))
        high = tuple(v * (1 + b) ** 0.5 for v, b in zip(line, numbers[band], strict=True))
        drawn.append(Series(label, tone, tuple(line), "line", low, high))
        marks = zip(("points", "rings"), numbers[f"measured{suffix}"].values(), strict=True)
        drawn += [Series("", tone, tuple(values), mark) for mark, values in marks]
    depth = len(series[0][2]["predicted"])
    axis = "standard deviation of the activations" if what == "activation" else "standard deviation of the gradient"
    return Plot(tuple(float(k + 1) for k in range(depth)), tuple(drawn), axis, "layer", caption, log)


def signal_table(numbers: dict[str, Any], caption: str) -> Table:
    """Prediction and measurement of every layer."""
    names = list(numbers["measured"])
    rows = []
    for k, (p, b, g) in enumerate(
        zip(numbers["predicted"], numbers["band"], numbers["predicted gradient"], strict=True)
    ):
        measured = [number(numbers["measured"][name][k]) for name in names]
        gradients = [number(numbers["measured gradient"][name][k]) for name in names]
        saturated = f"{numbers['saturated'][k]:.1%}"
        rows.append((str(k + 1), number(p), f"{(1 + b) ** 0.5 - 1:.0%}", *measured, number(g), *gradients, saturated))
    head = ("layer", "std predicted", "±", *names, "gradient predicted", *names, "|h| > 0.99")
    return Table(head, tuple(rows), frozenset(range(len(head))), caption, folded=True)
