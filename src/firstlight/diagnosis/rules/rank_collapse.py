"""FL305."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from firstlight.diagnosis.case import Case, NotChecked
from firstlight.diagnosis.finding import Finding, Repair
from firstlight.diagnosis.flow import flow, learned_scale
from firstlight.diagnosis.places import at_node, at_parameter
from firstlight.diagnosis.rule import Rule
from firstlight.diagnosis.weights import summing
from firstlight.graph import Fan

_FAIL, _WARN = 1e-6, 1e-4  # what is left of the difference between samples
_ITERATIONS, _EXPECTED, _RANK = 8, 3.0, 1.5


class RankCollapse(Rule):
    """Different images become the same vector on their way, or a layer lets a single direction pass.

    **Measured:** one minus the mean cosine between two samples in front of the last layer, against the same at the
    first layer; and the stable rank `‖W‖²_F / ‖W‖²₂` of each weight.

    **Expected:** samples grow alike with depth: in plain ReLU networks the angle between them shrinks in every layer,
    and .84 after 16 layers is normal (Poole et al., 2016; Schoenholz et al., 2017). When a ten-thousandth of the
    difference is left, the rest is a constant that the loss has to learn around (warn); at a millionth it is below what
    float32 resolves after the next sums (fail). A random n×m matrix has a stable rank near `nm/(√n+√m)²` (Marchenko and
    Pastur, 1967); one is a matrix whose units are all multiples of each other.

    **Usual causes:** biases that are large beside the weights, PyTorch's default in deep plain networks; sigmoid, whose
    mean of one half is the same for every image; deep attention without shortcuts (Dong et al., 2021); weights built
    from one vector; a softmax over features; constant or duplicate images.

    **Mends it:** Kaiming's initialization with zero biases; shortcuts; a normalization.
    """

    code = "FL305"
    name = "rank-collapse"
    explains = frozenset({"FL204", "FL401"})

    def examine(self, case: Case) -> Iterator[Finding]:
        """One finding for each weight of rank one, and one for samples that collapse."""
        for name, fan in summing(case).items():
            weight = case.model.get_parameter(name).detach()
            rank, expected = _stable_rank(weight, fan)
            if rank < _RANK and expected > _EXPECTED:
                yield self._flat(case, name, rank, expected)
        yield from self._alike(case)

    def _flat(self, case: Case, name: str, rank: float, expected: float) -> Finding:
        return self.finding(
            "warn",
            title=f"{name} has stable rank {rank:.2f}: all its units are multiples of one feature",
            evidence=f"‖W‖²_F / ‖W‖²₂ = {rank:.2f}; a random matrix of its shape has {expected:.0f}.",
            cause="a weight built from one vector, or one row copied to all",
            fix='fl.initialize(model, example, scheme="auto", seed=0)',
            repair=Repair("initialize", {"parameters": (name,), "scheme": "auto"}),
            **at_parameter(case.graph, name),
        )

    def _alike(self, case: Case) -> Iterator[Finding]:
        alike = {
            n.name: n.units.alike for n in case.run.first.nodes if n.units is not None and n.units.alike is not None
        }
        if not alike:
            raise NotChecked("the likeness of samples was not measured (histograms=False, or a batch of one)")
        signal = flow(case)
        end = _behind(case, signal.cuts[-1].node, alike) if signal.cuts else ""
        first = next(iter(alike))
        if end in ("", first) or alike[first] > 1 - _WARN:
            return
        left = max(1 - alike[end], 0.0) / (1 - alike[first])
        if left > _WARN:
            return
        scale = learned_scale(case)
        culprit = next(name for name, value in alike.items() if (1 - value) / (1 - alike[first]) <= math.sqrt(_WARN))
        predicted = case.predicted(end)
        yield self.finding(
            "note" if scale else "fail" if left < _FAIL else "warn",
            title=f"different images become the same: their mean cosine is {alike[end]:.6f} in front of the last layer",
            evidence=f"one minus the cosine is {1 - alike[first]:.2g} at {first} and {1 - alike[end]:.2g} at {end}: "
            f"{left:.1e} of the difference is left."
            + (
                f" The theory predicts a correlation of {predicted.correlation:.4f} for these weights."
                if predicted
                else ""
            ),
            cause=f"{scale} starts near zero on the only way from image to output, and will grow"
            if scale
            else "biases, or the means of activations, that outweigh what the images differ in",
            fix='fl.initialize(model, example, scheme="auto", seed=0)',
            repair=Repair("initialize", {"parameters": tuple(summing(case)), "scheme": "auto"}),
            **at_node(case.graph, culprit),
        )


def _behind(case: Case, layer: str, alike: dict[str, float]) -> str:
    """The last operation with a known likeness on the way to what `layer` reads."""
    name = case.graph[layer].inputs[0]
    while name not in alike:
        inputs = [n for n in case.graph[name].inputs if n in case.graph.signal]
        if not inputs:
            return ""
        name = max(inputs, key=case.graph.turn)
    return name


def _stable_rank(weight: Tensor, fan: Fan) -> tuple[float, float]:
    """``‖W‖²_F / ‖W‖²₂`` by power iteration, which ends at or below the norm, and the value of a random matrix."""
    rows = weight.flatten(1).float()
    n, m = rows.shape
    expected = n * m / (math.sqrt(n) + math.sqrt(m)) ** 2
    total = float(rows.square().sum())
    if expected <= _EXPECTED or not 0 < total < math.inf or fan.op.startswith("conv_transpose"):
        return expected, expected
    vector = torch.randn(m, generator=torch.Generator().manual_seed(0)).to(rows.device)
    largest = 0.0
    for _ in range(_ITERATIONS):
        image = rows @ (vector / vector.norm())
        largest = float(image.square().sum())
        vector = rows.mT @ image
    return (total / largest if largest > 0 else expected), expected
