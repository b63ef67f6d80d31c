"""FL303."""

from collections.abc import Iterator

from firstlight.diagnosis.case import Case, NotChecked
from firstlight.diagnosis.finding import Finding, Repair
from firstlight.diagnosis.flow import Sizes, measured
from firstlight.diagnosis.places import at_node, at_parameter
from firstlight.diagnosis.rule import Rule
from firstlight.diagnosis.weights import Weight, summing, weights
from firstlight.graph.vocabulary import SHAPE

_FAIL, _WARN = 0.9, 0.3
_HEALTHY = {"tanh": "3·10⁻⁵", "sigmoid": "10⁻¹⁶", "hardsigmoid": "0.003"}


class SaturatedUnits(Rule):
    """Activations sit on the flat part of their function, where the slope is zero.

    **Measured:** the share of elements of each tanh, sigmoid or hard sigmoid whose slope is below a thousandth of the
    largest one.

    **Expected:** next to none: for a pre-activation of variance one it is 3·10⁻⁵ for tanh and 0.003 for the hard
    sigmoid. A share s takes that much of the gradient's second moment in each layer, so 0.3 is a warning, 0.9 a
    failure. The culprit is the layer in front where its weights do more than half of it, in decades of the second
    moment, and otherwise the activation.

    **Usual causes:** weights too large for the fan-in; an input that is not normalized; a bias far from zero; a factor
    in front of the activation.

    **Mends it:** Xavier's initialization; normalized input; a normalization in front of the activation.

    **Source:** Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks" (2010).
    """

    code = "FL303"
    name = "saturated-units"
    explains = frozenset({"FL305", "FL401", "FL402", "FL501", "FL601", "FL602"})

    def examine(self, case: Case) -> Iterator[Finding]:
        """One finding: the first layer that saturates, with the others as its victims."""
        seen = [(node.name, node.units) for node in case.run.first.nodes if node.units is not None]
        shares = {name: units.saturated for name, units in seen if units.saturated is not None}
        if not seen:
            raise NotChecked("units were not measured (histograms=False)")
        over = {name: share for name, share in shares.items() if share >= _WARN}
        if not over:
            return
        first = next(iter(over))
        function = case.graph[first].function
        source = measured(case).get(case.graph[first].inputs[0])
        loud = _too_large(case, first)
        before = "" if source is None else f"; what it reads has std {source.first.forward_std:.3g}"
        yield self.finding(
            "fail" if over[first] >= _FAIL else "warn",
            title=f"{over[first]:.0%} of the {function} units' values are on its flat part"
            + (f"; so in {len(over) - 1} more layers" if len(over) > 1 else ""),
            evidence=f"share {over[first]:.3f}{before}. With std 1 it would be {_HEALTHY.get(function, 'near zero')}.",
            cause="what comes in is too large: the weights in front of it, or the input"
            if loud is None
            else f"std {loud.size:.3g} of {loud.fan.parameter}, against {loud.needed:.3g} = gain / sqrt(fan_in)",
            fix='fl.initialize(model, example, scheme="auto", seed=0)',
            victims=tuple(f"{self.code} {case.graph[n].module or n}: {s:.0%} saturated" for n, s in over.items())[1:],
            repair=Repair("initialize", {"parameters": tuple(summing(case)), "scheme": "auto"}),
            **(at_node(case.graph, first) if loud is None else at_parameter(case.graph, loud.fan.parameter)),
        )


def _too_large(case: Case, activation: str) -> Weight | None:
    """The weight right in front of an activation, if it makes more of what is read there than the layer's input does.

    With a second moment m in, and n weights of mean square w for each unit, it is ``n w m``: the larger factor, n w or
    m, is to blame, where it is above one.
    """
    found, graph = weights(case), case.graph
    name = graph[activation].inputs[0]
    while name not in found:
        if graph[name].function not in SHAPE or not graph[name].inputs:
            return None
        name = graph[name].inputs[0]
    weight = found[name]
    came = Sizes(case).forward(graph[name].inputs[0])
    made = weight.size**2 * weight.fan.fan_in
    return weight if came is not None and made > max(came, 1.0) else None
