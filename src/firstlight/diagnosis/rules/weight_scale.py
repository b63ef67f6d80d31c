"""FL206."""

import math
from collections.abc import Iterator

from firstlight.diagnosis.case import Case
from firstlight.diagnosis.finding import Finding, Repair, Severity
from firstlight.diagnosis.flow import Flow, flow
from firstlight.diagnosis.places import at_node, at_parameter, several
from firstlight.diagnosis.rule import Rule
from firstlight.diagnosis.weights import Weight, excess, weights

_FAIL, _WARN, _NOTE = 8.0, 2.5, 2.0  # decades of the second moment
_OFF = math.log(1.5)  # of a layer that takes part, in the logarithm of its factor
_SATURATED = 0.3


class WeightScale(Rule):
    """The weights of one or many layers are too large or too small for what the graph does with them.

    **Measured:** the root mean square of each weight against `gain / sqrt(fan_in)`, the value that keeps a second
    moment of one through the sum and the activation behind it, with fan and activation taken from the operations; and
    what the deviations add up to along the graph: a normalization takes them away, a residual stream carries on past a
    small branch. Only the total counts, not any single ratio.

    **Expected:** a total near one. He et al. (2015, Fig. 3) trained 22 plain ReLU layers with Xavier's weights, where
    2⁻²² = 2·10⁻⁷ of the second moment is left, and could not train 30, where it is 10⁻⁹. So a factor beyond 10⁸ is a
    failure, beyond 300 a warning, beyond 100 a note. Nothing is said where the run itself shows less than a third of
    it, in decades: then something takes it away again that the graph does not show.

    **Usual causes:** Xavier's std, `sqrt(2 / (fan_in + fan_out))`, in front of ReLU, which needs `sqrt(2 / fan_in)`;
    PyTorch's default, `kaiming_uniform_(a=sqrt(5))`, whose std is 0.41 of what ReLU needs, in deep networks without
    normalization; one std (0.001, 0.01, 1) for layers of every size.

    **Mends it:** Kaiming's initialization for ReLU, Xavier's for tanh, or a normalization behind each layer.
    """

    code = "FL206"
    name = "weight-scale"
    explains = frozenset(
        {"FL301", "FL302", "FL303", "FL304", "FL305", "FL306", "FL401", "FL402", "FL501", "FL506", "FL601", "FL602"}
    )

    def examine(self, case: Case) -> Iterator[Finding]:
        """One finding: the layer that is off the most or, where many are off alike, the first of them."""
        found = weights(case)
        signal = flow(case)
        total, end = _total(case, found, signal)
        upstream = _upstream(case, end)
        culprits = [
            weight
            for node, weight in found.items()
            if node in upstream and weight.change * math.copysign(1, total) > _OFF
        ]
        severity = _severity(total, signal)
        if severity is None or not culprits:
            return
        worst = max(culprits, key=lambda weight: abs(weight.change))
        alone = abs(worst.change) > 0.7 * abs(total)
        chosen = worst if alone else culprits[0]
        if chosen.scaling is None:
            yield self._finding(case, severity, chosen, [] if alone else culprits, total, signal)
        else:
            others = [] if alone else [w.scaling for w in culprits if w.scaling and w is not chosen]
            yield self._scaled(case, severity, chosen, [chosen.scaling, *others], total, signal)

    def _finding(
        self, case: Case, severity: Severity, weight: Weight, alike: list[Weight], total: float, signal: Flow
    ) -> Finding:
        fan = weight.fan
        others = [other.fan.parameter for other in alike if other is not weight]
        logarithms = [math.log(other.ratio) for other in alike or [weight]]
        ratio = math.exp(sum(logarithms) / len(logarithms))
        reader = f"what {fan.activation} needs" if fan.activation else "what keeps the signal"
        which = f"{fan.parameter} and {len(others)} more are" if others else f"{fan.parameter} is"
        effect = f"{math.exp(total):.1e} times the second moment it should have"
        return self.finding(
            severity,
            title=f"the std of {which} {ratio:.2g} of {reader}: the signal ends at {effect}",
            evidence=f"std {weight.size:.3g} against {weight.needed:.3g} = gain / sqrt(fan_in), fan_in "
            f"{fan.fan_in:.4g} ({fan.derivation}); sum and activation multiply the second moment by "
            f"{weight.factor:.2g}. {_seen(signal)}" + (f" Also off: {several(others, 6)}." if others else ""),
            cause=_cause(weight),
            fix='fl.initialize(model, example, scheme="auto", seed=0)',
            repair=Repair("initialize", {"parameters": (fan.parameter, *others), "scheme": "auto"}),
            **at_parameter(case.graph, fan.parameter),
        )

    def _scaled(
        self, case: Case, severity: Severity, weight: Weight, scalings: list[str], total: float, signal: Flow
    ) -> Finding:
        function, number = case.graph[scalings[0]].function, case.graph[scalings[0]].arguments["other"]
        more = f" and {len(scalings) - 1} more" if len(scalings) > 1 else ""
        return self.finding(
            severity,
            title=f"{function} by {number:g} behind {weight.fan.parameter}{more}: the signal ends at "
            f"{math.exp(total):.1e} times the second moment it should have",
            evidence="weights, activation and this number multiply the second moment by "
            f"{weight.factor:.2g}, and would keep it without the number. {_seen(signal)}",
            cause="a fixed factor in forward that no weight makes up for",
            fix=f"take the {function} by {number:g} out, or draw {weight.fan.parameter} with std {weight.needed:.3g}",
            repair=Repair("initialize", {"parameters": (weight.fan.parameter,), "scheme": "auto"}),
            **at_node(case.graph, scalings[0]),
        )


def _seen(signal: Flow) -> str:
    """What the run shows of it."""
    return (
        f"Measured: {_shown(signal.kept_forward)} of the input's second moment reaches the last layer, "
        f"{_shown(signal.kept_gradient)} of the gradient's gets back to the first."
    )


def _total(case: Case, found: dict[str, Weight], signal: Flow) -> tuple[float, str]:
    """The largest deviation that is read by a layer or leaves the network, and the node it is measured at."""
    off = excess(case, found)
    reads = {case.graph[cut.node].inputs[0] for cut in signal.cuts}
    reads |= {name for name in case.graph.outputs if name in off}
    loudest = max((name for name in reads if name in off), key=off.__getitem__, default="")
    last = case.graph[signal.cuts[-1].node].inputs[0] if signal.cuts else ""
    large, small = off.get(loudest, 0.0), off.get(last, 0.0)
    return (large, loudest) if large > -small else (small, last)


def _upstream(case: Case, end: str) -> set[str]:
    """Every node that `end` depends on, and itself."""
    found, waiting = {end}, [end] if end in case.graph else []
    while waiting:
        new = [name for name in case.graph[waiting.pop()].inputs if name not in found]
        found.update(new)
        waiting += new
    return found


def _severity(total: float, signal: Flow) -> Severity | None:
    decades = abs(total) / math.log(10)
    seen = [signal.kept_forward, signal.kept_gradient, signal.loudest]
    shown = max((_decades(value) for value in seen if value is not None), default=0.0)
    if decades < _NOTE or shown < decades / 3:
        return None
    if decades < _WARN:
        return "note"
    return "fail" if decades >= _FAIL else "warn"


def _decades(value: float) -> float:
    return abs(math.log10(value)) if 0 < value < math.inf else math.inf


def _shown(value: float | None) -> str:
    return "an unknown share" if value is None else f"{value:.1e}"


def _cause(weight: Weight) -> str:
    fan = weight.fan
    known = {
        "PyTorch's default, kaiming_uniform_(a=sqrt(5))": 1 / math.sqrt(3 * fan.fan_in),
        "Xavier's std, made for tanh": math.sqrt(2 / (fan.fan_in + fan.fan_out)),
        "the lecture's Xavier, 1/sqrt(fan_in)": 1 / math.sqrt(fan.fan_in),
        "a fixed std of 0.02": 0.02, "a fixed std of 0.01": 0.01, "a fixed std of 0.001": 0.001, "std 1": 1.0,
    }  # fmt: skip
    close = next((name for name, std in known.items() if abs(weight.size / std - 1) < 0.05), "")
    return f"{close}: not for this layer" if close else "weights drawn for a layer of another size or activation"
