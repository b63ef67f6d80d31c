"""FL601."""

import math
import statistics
from collections.abc import Iterator

from firstlight.diagnosis.case import Case, NotChecked
from firstlight.diagnosis.descent import climbs, learned_before, losses, rises
from firstlight.diagnosis.finding import Finding, Repair
from firstlight.diagnosis.places import several
from firstlight.diagnosis.rule import Rule
from firstlight.diagnosis.weights import relative_updates

_USUAL, _HIGH, _HIGHEST, _LOW, _LOWEST = 1e-3, 0.1, 1.0, 1e-6, 1e-8
_LONE = 1e3  # times the median of the others, for a rate of its own


class UpdateRatio(Rule):
    """The optimizer moves the weights by far too much, or by next to nothing.

    **Measured:** for each weight, the root mean square of its first update, over that of the weight or, for a weight
    that starts small on purpose, over `1/sqrt(fan_in)`; with the optimizer that was given.

    **Expected:** about 10⁻³ (Karpathy, CS231n), 10⁻⁵ to 10⁻² in healthy networks with usual rates. A ratio of one
    replaces the weights in one step (fail); a tenth is too much when the loss rises as well, without having been halved
    before (FL602 says why); so is a rate of its own that is a thousand times the others' and moves its layer a thousand
    times as much (warn). A median below 10⁻⁶ moves the weights by less than a tenth in 10⁵ steps, even if all of them
    agree (warn); below 10⁻⁸ nothing is learned at all (fail).

    **Usual causes:** a learning rate meant for another optimizer; a rate in a parameter group of its own; weight decay
    and rate swapped; a loss summed instead of averaged; a warm-up that starts at zero (then the rate is meant to be
    small, and the warning can be ignored).

    **Mends it:** multiply the learning rate by the factor in the fix.
    """

    code = "FL601"
    name = "update-ratio"
    explains = frozenset({"FL602"})

    def examine(self, case: Case) -> Iterator[Finding]:
        """At most one finding."""
        run = case.run
        if not run.optimizer.given:
            raise NotChecked("no optimizer was given")
        ratios = relative_updates(case)
        if not ratios:
            raise NotChecked("the optimizer holds no weight with a gradient that a layer sums with")
        largest = max(ratios, key=ratios.__getitem__)
        middle = statistics.median(ratios.values())
        seen = losses(case)
        worse = rises(seen) and not learned_before(seen) and not climbs(case)
        if ratios[largest] >= _HIGHEST or (ratios[largest] >= _HIGH and worse) or math.isnan(ratios[largest]):
            over = sorted((n for n, ratio in ratios.items() if not ratio < _HIGH), key=lambda n: n != largest)
            yield self._finding(case, "high", over, ratios[largest], fail=True)
        elif ratios[largest] >= _LONE * middle and _lone_rate(case, largest):
            yield self._finding(case, "high", [largest], ratios[largest], fail=False)
        elif middle < _LOW:
            yield self._finding(case, "low", list(ratios), middle, fail=middle < _LOWEST)

    def _finding(self, case: Case, direction: str, names: list[str], ratio: float, *, fail: bool) -> Finding:
        facts = case.run.optimizer
        rate = next((facts.learning_rate[name] for name in names if name in facts.learning_rate), math.nan)
        factor = _USUAL / ratio if 0 < ratio < math.inf else 1e-3
        moved = f"by {ratio:.1e} of its size" + (" (the median)" if direction == "low" else "")
        return self.finding(
            "fail" if fail else "warn",
            "optimizer",
            f"the learning rate of {rate:g} is far too {direction}: one step moves {several(names, 1)} {moved}",
            evidence=f"{facts.name}; update over weight {ratio:.2e} against about {_USUAL:g}. "
            f"Loss {' → '.join(f'{loss:.4g}' for loss in losses(case))} over {len(case.run.steps)} steps.",
            cause="a rate made for another optimizer or loss"
            if direction == "low" or len(names) > 1
            else f"a rate, or a decay, of its own for {names[0]}",
            fix=f"lr={rate * factor:.1g}, about {factor:.1g} times the present one",
            repair=Repair("learning_rate", {"factor": factor}),
        )


def _lone_rate(case: Case, name: str) -> bool:
    """Whether a parameter's learning rate is far above what most have."""
    rates = case.run.optimizer.learning_rate
    return rates[name] >= _LONE * statistics.median(rates.values())
