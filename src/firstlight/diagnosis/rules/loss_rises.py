"""FL602."""

import math
from collections.abc import Iterator
from itertools import pairwise

from firstlight.diagnosis.case import Case, NotChecked
from firstlight.diagnosis.descent import climbs, learned_before, losses, rises
from firstlight.diagnosis.finding import Finding, Repair, Severity
from firstlight.diagnosis.rule import Rule
from firstlight.diagnosis.weights import relative_updates

_SMALL, _DOUBLED = 1e-2, 2.0
_EVIDENCE = "{}, same batch and same random numbers; a step along the negative gradient lowers it."


class LossRises(Rule):
    """The loss of one batch rises, or becomes NaN, over steps that are made to lower it.

    **Measured:** the loss of the same batch, with the same random numbers, before each of three steps and after the
    last, with the optimizer that was given.

    **Expected:** it falls: to first order a small step along the negative gradient cannot do otherwise. If it rises and
    the first step went along the gradient, or it rises at every step although these are small (each weight moves by
    less than a hundredth of its size), the direction is wrong (fail). If it doubles, the steps are too long (fail); if
    it rises a little with long steps, they are probably too long (warn). NaN after a finite start is a failure whatever
    the optimizer.

    **What three steps on one batch cannot say:** that training will diverge. Momentum goes on along gradients of steps
    before: Adam's first moment keeps 0.9 of its length in each step while the gradient of a batch that has been learned
    is next to nothing, and so it climbs out of the minimum on the other side. With a new batch in each step there is no
    such minimum to leave. So a rise that comes after the loss had fallen by more than half is a warning, however high:
    the direction was right, and steps of this length did learn.

    **Usual causes:** `maximize=True` or a loss with the wrong sign; a learning rate that is too high; weight decay that
    outweighs the gradient; a gradient scaled or clipped the wrong way.

    **Mends it:** the sign; a tenth of the learning rate.
    """

    code = "FL602"
    name = "loss-rises"

    def examine(self, case: Case) -> Iterator[Finding]:
        """At most one finding."""
        seen = losses(case)
        if not math.isfinite(seen[0]):
            return
        shown = " → ".join(f"{loss:.4g}" for loss in seen)
        if not all(map(math.isfinite, seen)):
            yield self._too_long("fail", f"the loss is not finite any more after {len(seen) - 1} steps: {shown}", shown)
            return
        if not case.run.optimizer.given:
            raise NotChecked("no optimizer was given")
        if not rises(seen):
            return
        title = f"the loss rises on the batch it is trained on: {shown}"
        small = max(relative_updates(case).values(), default=0.0) < _SMALL
        doubled = seen[-1] > _DOUBLED * abs(seen[0]) + seen[0] - abs(seen[0])
        if climbs(case):
            yield self._turned_around(title + "; the first step goes up the gradient", shown)
        elif small and all(later > earlier for earlier, later in pairwise(seen)):
            yield self._turned_around(title + ", although the steps are small", shown)
        else:
            yield self._too_long("fail" if doubled and not learned_before(seen) else "warn", title, shown)

    def _turned_around(self, title: str, shown: str) -> Finding:
        return self.finding(
            "fail",
            "optimizer",
            title,
            evidence=_EVIDENCE.format(shown),
            cause="the steps go up: maximize=True, a negated loss, or gradients with the wrong sign",
            fix="check the sign of the loss and maximize=False",
        )

    def _too_long(self, severity: Severity, title: str, shown: str) -> Finding:
        return self.finding(
            severity,
            "optimizer",
            title,
            evidence=_EVIDENCE.format(shown),
            cause="steps that are too long for this loss",
            fix="a tenth of the learning rate",
            repair=Repair("learning_rate", {"factor": 0.1}),
        )
