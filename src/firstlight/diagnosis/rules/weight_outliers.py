"""FL204."""

from collections.abc import Iterator

from firstlight.diagnosis.case import Case
from firstlight.diagnosis.finding import Finding, Repair
from firstlight.diagnosis.matrices import CHANCE, one_direction, tail
from firstlight.diagnosis.places import at_parameter
from firstlight.diagnosis.rule import Rule
from firstlight.diagnosis.weights import summing

_DOMINANT = 0.1  # share of a layer's squared size that a few weights must have to change what it computes


class WeightOutliers(Rule):
    """A few weights are far larger than the distribution of the others allows.

    **Measured:** the distance of each weight from the mean, in units of the spread of the middle half, which outliers
    do not widen; and the share of the layer's squared size that is theirs.

    **Expected:** of n normal numbers, the largest exceeds t standard deviations with a chance of at most 2n·Φ(-t); the
    bound is where that is one in 10⁹ (8 for ten million weights). Uniform and truncated weights stay far below it.
    Outliers that hold more than a tenth of the squared size decide what the layer computes (warn); fewer are a note:
    PyTorch's `trunc_normal_` cuts at ±2, not at two standard deviations, and once in ten million draws returns the cut
    itself, 100 standard deviations for a std of 0.02.

    **Usual causes:** a damaged or partly loaded checkpoint; a unit mistake in one slice of a packed weight; weights
    after a diverged run; several distributions in one tensor.

    **Mends it:** draw the weight again, or reload it.
    """

    code = "FL204"
    name = "weight-outliers"
    explains = frozenset(
        {"FL206", "FL301", "FL302", "FL303", "FL304", "FL305", "FL306", "FL401", "FL402", "FL501", "FL601", "FL602"}
    )
    exact = True

    def examine(self, case: Case) -> Iterator[Finding]:
        """One finding for each weight with outliers, the most dominant first."""
        found = []
        for name, fan in summing(case).items():
            weight = case.model.get_parameter(name).detach()
            beyond = tail(weight)
            # Products of normal numbers have heavy tails: a matrix of one direction is FL305's.
            if beyond is not None and one_direction(weight, fan) is None:
                found.append((name, beyond))
        for name, beyond in sorted(found, key=lambda pair: -pair[1].share):
            count = case.model.get_parameter(name).numel()
            yield self.finding(
                "warn" if beyond.share > _DOMINANT else "note",
                title=f"{beyond.count} of {count} weights of {name} are outliers, the farthest at "
                f"{beyond.farthest:.0f} standard deviations; they hold {beyond.share:.0%} of its squared size",
                evidence=f"the middle half has a spread of {beyond.spread:.3g}; {count} normal numbers of that spread "
                f"reach {beyond.bound:.1f} standard deviations once in {1 / CHANCE:.0g} layers.",
                cause="a few weights that do not come from the distribution of the others",
                fix='fl.initialize(model, example, scheme="auto", seed=0)',
                repair=Repair("initialize", {"parameters": (name,), "scheme": "auto"}),
                **at_parameter(case.graph, name),
            )
