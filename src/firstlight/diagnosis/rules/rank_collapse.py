"""FL305."""

import math
from collections.abc import Iterator

from firstlight.diagnosis.case import Case, NotChecked
from firstlight.diagnosis.finding import Finding, Repair
from firstlight.diagnosis.flow import flow, learned_scale
from firstlight.diagnosis.matrices import one_direction
from firstlight.diagnosis.places import at_node, at_parameter
from firstlight.diagnosis.rule import Rule
from firstlight.diagnosis.weights import inner, summing
from firstlight.graph import fans

_FAIL, _WARN = 1e-6, 1e-4  # what is left of the difference between samples


class RankCollapse(Rule):
    """Different images, or the places of one, become the same vector, or a layer lets a single direction pass.

    **Measured:** one minus the mean cosine between two samples in front of the last layer, against the same at the
    first layer; the same between two positions of one image; and the stable rank `‖W‖²_F / ‖W‖²₂` of each weight.

    **Expected:** samples grow alike with depth: in plain ReLU networks the angle between them shrinks in every layer,
    and .84 after 16 layers is normal (Poole et al., 2016; Schoenholz et al., 2017). When a ten-thousandth of the
    difference is left, the rest is a constant that the loss has to learn around (warn); at a millionth it is below what
    float32 resolves after the next sums (fail). A random n×m matrix has a stable rank near `nm/(√n+√m)²` (Marchenko and
    Pastur, 1967); one is a matrix whose units are all multiples of each other. The positions of one image differ as
    images do; attention without a shortcut makes them equal within a few layers (Dong et al., 2021), which is reported
    where most layers see a ten-thousandth of the difference or less.

    **Usual causes:** biases that are large beside the weights, PyTorch's default in deep plain networks; sigmoid, whose
    mean of one half is the same for every image; deep attention without shortcuts (Dong et al., 2021); weights built
    from one vector; a softmax over features; constant or duplicate images.

    **Mends it:** Kaiming's initialization with zero biases; shortcuts; a normalization.
    """

    code = "FL305"
    name = "rank-collapse"
    explains = frozenset({"FL304", "FL401"})

    def examine(self, case: Case) -> Iterator[Finding]:
        """One finding for each weight of rank one, and one for samples that collapse."""
        for name, fan in summing(case).items():
            weight = case.model.get_parameter(name).detach()
            flat = one_direction(weight, fan)
            if flat is not None:
                yield self._flat(case, name, *flat)
        yield from self._one_place(case)
        yield from self._alike(case)

    def _flat(self, case: Case, name: str, rank: float, expected: float) -> Finding:
        return self.finding(
            "warn",
            title=f"{name} has stable rank {rank:.2f}: all its units are multiples of one feature",
            evidence=f"‖W‖²_F / ‖W‖²₂ = {rank:.2f}; a random matrix of its shape has {expected:.0f}.",
            cause="a weight built from one vector, or one row copied to all",
            fix='fl.initialize(model, example, scheme="auto", seed=0)',
            repair=Repair("initialize", {"parameters": (name,), "scheme": "auto"}),
            exact=True,
            **at_parameter(case.graph, name),
        )

    def _one_place(self, case: Case) -> Iterator[Finding]:
        found = _collapse(case)
        if found is None:
            return
        node, left, layers = found
        yield self.finding(
            "fail" if left < _FAIL else "warn",
            title=f"all positions of an image become the same vector, and {layers} layers work on copies of it",
            evidence=f"one minus the mean cosine between two positions falls to {left:.1e} of what it is at the first "
            "layer.",
            cause="attention whose weights are nearly equal, without a shortcut beside it, is a mean over positions",
            fix="x = x + attention(norm(x)): add what went in to what comes out",
            **at_node(case.graph, node),
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


def _collapse(case: Case) -> tuple[str, float, int] | None:
    """Where the positions of an image become one, how much of their difference is left, and in how many layers.

    Only where this is so in every layer from there on that sees several positions, and in most of all such layers: one
    branch may well hand the same to all positions. Layers whose results leave the network are not counted: a bias may
    be all that they say before training.
    """
    layers = inner(case, {fan.node: fan for fan in fans(case.graph)})
    seen = [
        (node.name, 1 - node.units.uniform)
        for node in case.run.first.nodes
        if node.name in layers and node.units is not None and node.units.uniform is not None
    ]
    if not seen or seen[0][1] < _WARN:
        return None
    left = [max(apart, 0.0) / seen[0][1] for _, apart in seen]
    start = len(left)
    while start and left[start - 1] <= _WARN:
        start -= 1
    flat = len(left) - start
    if flat < 2 or 2 * flat < len(left):
        return None
    most = max(left[start:])
    while left[start - 1] <= math.sqrt(_WARN):
        start -= 1
    return seen[start][0], most, flat


def _behind(case: Case, layer: str, alike: dict[str, float]) -> str:
    """The last operation with a known likeness on the way to what `layer` reads."""
    name = case.graph[layer].inputs[0]
    while name not in alike:
        inputs = [n for n in case.graph[name].inputs if n in case.graph.signal]
        if not inputs:
            return ""
        name = max(inputs, key=case.graph.turn)
    return name
