"""The lecture's derivation of ``var(y) = d · var(x) · var(w)``, with one layer's own numbers.

Each line states what it uses; whether that holds here is decided from the prediction, and what its failure costs is a
Monte Carlo over the layer alone: inputs of the predicted moments, weights of the predicted moments, nothing shared.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from firstlight.errors import FirstlightError
from firstlight.graph import Graph
from firstlight.graph.fan import fans
from firstlight.theory.inputs import WHITE_NOISE, InputMoments
from firstlight.theory.leaves import Drawn
from firstlight.theory.maps import Context
from firstlight.theory.prediction import WEIGHTED
from firstlight.theory.propagate import walk
from firstlight.theory.signal import Signal

_DRAWS = 200_000


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a derivation.

    Attributes:
        formula: in symbols.
        numbers: the same with this layer's numbers.
        assumption: what it takes for granted; empty for a definition.
        holds: whether that is so here; ``None`` without an assumption.
        because: why it holds, or how it fails.
    """

    formula: str
    numbers: str
    assumption: str = ""
    holds: bool | None = None
    because: str = ""


@dataclass(frozen=True, slots=True)
class Derivation:
    """The derivation for one layer, and what came of it.

    Attributes:
        node: name of the operation.
        parameter: name of its weight.
        lines: in order.
        by_formula: ``d · var(w) · var(x)``, the lecture's result.
        by_second_moment: ``d · var(w) · E x²``, He et al. (2015), eq. 7.
        predicted: second moment that the whole theory predicts for the layer (borders, bias, the weights' mean).
        simulated: second moment in a Monte Carlo over this layer.
        standard_error: of `simulated`.
    """

    node: str
    parameter: str
    lines: tuple[Line, ...]
    by_formula: float
    by_second_moment: float
    predicted: float
    simulated: float
    standard_error: float

    def __str__(self) -> str:
        out = [f"{self.node}, weight {self.parameter}", ""]
        for line in self.lines:
            out += [f"  {line.formula}", f"    {line.numbers}"]
            if line.holds is not None:
                out.append(f"    {'holds' if line.holds else 'FAILS'}: {line.assumption}; {line.because}")
        error = self.by_formula / self.simulated - 1 if self.simulated > 0 else 0.0
        out += [
            "",
            f"  d · var(w) · var(x)  = {self.by_formula:.6g}   ({error:+.1%} of the simulation)",
            f"  d · var(w) · E[x²]   = {self.by_second_moment:.6g}",
            f"  predicted E[y²]      = {self.predicted:.6g}   (with borders, bias and the weights' mean)",
            f"  simulated E[y²]      = {self.simulated:.6g} ± {self.standard_error:.1g}",
        ]
        return "\n".join(out)


def derive(graph: Graph, drawn: Drawn, layer: str, *, inputs: InputMoments = WHITE_NOISE, seed: int = 0) -> Derivation:
    """Derive the variance of the layer's result from its input and its weight.

    Args:
        graph: of the network.
        drawn: mean and second moment of each parameter, as for `propagate`.
        layer: name of an operation with a weight, or of the module that runs it.
        inputs: moments of the data.
        seed: of the Monte Carlo.

    Raises:
        FirstlightError: slug ``no-such-layer``, when nothing of that name multiplies by a weight.
    """
    context, _, _ = walk(graph, drawn, inputs)
    fan = next((f for f in fans(graph) if f.op in WEIGHTED and layer in (f.node, graph[f.node].module)), None)
    if fan is None:
        known = [f.node for f in fans(graph) if f.op in WEIGHTED]
        raise FirstlightError(
            f"no operation or module {layer!r} multiplies its input by a weight",
            f"name one of the {len(known)} that do, such as {', '.join(known[:4])}",
            slug="no-such-layer",
            call="derive",
        )
    node = graph[fan.node]
    x = next(context.signals[name] for name in node.inputs if context.is_signal(name))
    weight = context.signals[
        next(name for role, name in zip(node.roles, node.inputs, strict=True) if role in ("weight", "mat2"))
    ]
    y = context.signals[node.name]
    d = round(fan.fan_in)
    mean_w, second_w = float(weight.mean.mean()), float(weight.second.mean())
    variance_w = max(second_w - mean_w**2, 0.0)
    mean_x, second_x, _, _ = x.scalars()
    variance_x = max(second_x - mean_x**2, 0.0)
    simulated, error = _simulate(x, d, mean_w, variance_w, np.random.default_rng(seed))
    return Derivation(
        node.name, fan.parameter,
        tuple(_lines(context, x, fan.derivation, d, (mean_w, variance_w), (mean_x, second_x))),
        d * variance_w * variance_x, d * variance_w * second_x, float(y.second.mean()), simulated, error,
    )  # fmt: skip


def _lines(
    context: Context, x: Signal, counted: str, d: int, w: tuple[float, float], moments: tuple[float, float]
) -> list[Line]:
    (mean_w, variance_w), (mean_x, second_x) = w, moments
    variance_x = max(second_x - mean_x**2, 0.0)
    zero_w, zero_x = mean_w == 0, abs(mean_x) < 1e-3 * math.sqrt(max(second_x, 1e-300))
    alike = max(float((x.channel_pairs() - x.mean**2).mean()), 0.0) > 1e-9 * second_x
    return [
        Line("y = Σ_k w_k x_k,  k = 1 … d", f"d = {d}: {counted}"),
        Line(
            "var(y) = Σ_k var(w_k x_k)", f"{d} terms", "different terms are uncorrelated", zero_w or not alike,
            "the weights are drawn independently with mean zero, so they are, whatever x is" if zero_w
            else f"the weights have mean {mean_w:.3g}, so what the inputs share adds up",
        ),
        Line(
            "var(w x) = E[w]² var(x) + var(w) E[x]² + var(w) var(x)",
            f"= {mean_w**2 * variance_x:.4g} + {variance_w * mean_x**2:.4g} + {variance_w * variance_x:.4g}",
            "w and x are independent", True, "no weight has been trained on the data yet",
        ),
        Line("E[w] = 0 removes the first term", f"E[w] = {mean_w:.4g}", "the weights have mean zero", zero_w,
             "they do" if zero_w else f"{mean_w**2 * variance_x:.4g} is lost by leaving it out"),
        Line("E[x] = 0 removes the second term", f"E[x] = {mean_x:.4g}", "the inputs have mean zero", zero_x,
             "they do" if zero_x else f"after {_source(context, x)} they do not: E[x²] must stand where var(x) did, "
             f"a factor of {second_x / variance_x if variance_x > 0 else math.inf:.4g}"),
        Line("var(y) = d · var(w) · var(x)",
             f"= {d} · {variance_w:.4g} · {variance_x:.4g} = {d * variance_w * variance_x:.6g}",
             "all terms are equally large", x.second.numel() == 1,
             "they are" if x.second.numel() == 1 else "the input's size depends on the place (border, channel)"),
    ]  # fmt: skip


def _source(context: Context, x: Signal) -> str:
    node: Any = context.graph[x.name]
    return f"{node.op} ({node.name})"


def _simulate(x: Signal, d: int, mean_w: float, variance_w: float, rng: np.random.Generator) -> tuple[float, float]:
    """Second moment of ``Σ w_k x_k`` over fresh weights and inputs that are functions of a Gaussian, and its error."""
    import torch

    base = x.root
    mean, second = float(base.mean.mean()), float(base.second.mean())
    std = math.sqrt(max(second - mean**2, 0.0))
    draws = max(200, _DRAWS // d)
    z = rng.normal(mean, std, (draws, d))
    values = z if x.function is None else x.function.call(torch.from_numpy(z)).detach().numpy()
    y = (values * rng.normal(mean_w, math.sqrt(variance_w), (draws, d))).sum(1)
    return float(np.mean(y**2)), float(np.std(y**2) / math.sqrt(draws))
