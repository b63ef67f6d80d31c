"""FL303."""

from collections.abc import Iterator

from firstlight.diagnosis.case import Case, NotChecked
from firstlight.diagnosis.finding import Finding, Repair
from firstlight.diagnosis.flow import measured
from firstlight.diagnosis.places import at_node
from firstlight.diagnosis.rule import Rule
from firstlight.diagnosis.weights import summing

_FAIL, _WARN = 0.9, 0.3
_HEALTHY = {"tanh": "3·10⁻⁵", "sigmoid": "10⁻¹⁶", "hardsigmoid": "0.003"}


class SaturatedUnits(Rule):
    """Activations sit on the flat part of their function, where the slope is zero.

    **Measured:** the share of elements of each tanh, sigmoid or hard sigmoid whose slope is below a thousandth of the
    largest one.

    **Expected:** next to none: for a pre-activation of variance one it is 3·10⁻⁵ for tanh and 0.003 for the hard
    sigmoid. A share s takes that much of the gradient's second moment in each layer, so 0.3 is a warning, 0.9 a
    failure.

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
        before = "" if source is None else f"; what it reads has std {source.first.forward_std:.3g}"
        yield self.finding(
            "fail" if over[first] >= _FAIL else "warn",
            title=f"{over[first]:.0%} of the {function} units' values are on its flat part"
            + (f"; so in {len(over) - 1} more layers" if len(over) > 1 else ""),
            evidence=f"share {over[first]:.3f}{before}. With std 1 it would be {_HEALTHY.get(function, 'near zero')}.",
            cause="what comes in is too large: the weights in front of it, or the input",
            fix='fl.initialize(model, example, scheme="auto", seed=0)',
            victims=tuple(f"{self.code} {case.graph[n].module or n}: {s:.0%} saturated" for n, s in over.items())[1:],
            repair=Repair("initialize", {"parameters": tuple(summing(case)), "scheme": "auto"}),
            **at_node(case.graph, first),
        )
