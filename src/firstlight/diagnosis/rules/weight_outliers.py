"""FL204."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from scipy.special import log_ndtr
from torch import Tensor

from firstlight.diagnosis.case import Case
from firstlight.diagnosis.finding import Finding, Repair
from firstlight.diagnosis.places import at_parameter
from firstlight.diagnosis.rule import Rule
from firstlight.diagnosis.weights import summing

_CHANCE = 1e-9  # of one healthy weight beyond the bound
_FEWEST = 256  # weights, for the spread of the middle half to be known
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
    explains = frozenset({"FL206", "FL302", "FL303", "FL402", "FL602"})

    def examine(self, case: Case) -> Iterator[Finding]:
        """One finding for each weight with outliers, the most dominant first."""
        found = []
        for name in summing(case):
            tail = _tail(case.model.get_parameter(name).detach().double().flatten())
            if tail is not None:
                found.append((name, tail))
        for name, tail in sorted(found, key=lambda pair: -pair[1].share):
            count = case.model.get_parameter(name).numel()
            yield self.finding(
                "warn" if tail.share > _DOMINANT else "note",
                title=f"{tail.count} of {count} weights of {name} are outliers, the farthest at {tail.farthest:.0f} "
                f"standard deviations; they hold {tail.share:.0%} of its squared size",
                evidence=f"the middle half has a spread of {tail.spread:.3g}; {count} normal numbers of that spread "
                f"reach {tail.bound:.1f} standard deviations once in {1 / _CHANCE:.0g} layers.",
                cause="a few weights that do not come from the distribution of the others",
                fix='fl.initialize(model, example, scheme="auto", seed=0)',
                repair=Repair("initialize", {"parameters": (name,), "scheme": "auto"}),
                **at_parameter(case.graph, name),
            )


@dataclass(frozen=True, slots=True)
class _Tail:
    count: int
    farthest: float
    share: float
    spread: float
    bound: float


def _tail(values: Tensor) -> _Tail | None:
    """What lies beyond the bound; None where nothing does, or where more than half of the weights are equal."""
    if values.numel() < _FEWEST or not bool(values.isfinite().all()):
        return None
    centre = values[:: max(1, values.numel() >> 20)].median()
    distances = (values - centre).abs()
    spread = float(distances[:: max(1, values.numel() >> 20)].median()) / 0.6745  # Φ⁻¹(3/4)
    # The spread itself is known to 1.17/√n; seven of its standard errors are allowed for.
    bound = _bound(values.numel()) * (1 + 7 * 1.17 / math.sqrt(values.numel()))
    beyond = distances > bound * spread
    if spread == 0 or not bool(beyond.any()):
        return None
    share = float(values[beyond].square().sum() / values.square().sum())
    return _Tail(int(beyond.sum()), float(distances.max()) / spread, share, spread, bound)


def _bound(count: int) -> float:
    """The t at which ``2 n Φ(-t)`` is `_CHANCE`, by bisection."""
    low, high = 1.0, 40.0
    wanted = math.log(_CHANCE / (2 * count))
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if log_ndtr(-middle) > wanted else (low, middle)
    return high
