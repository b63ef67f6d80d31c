"""FL602."""

import math
from collections.abc import Iterator
from itertools import pairwise

from firstlight.diagnosis.case import Case, NotChecked
from firstlight.diagnosis.finding import Finding, Repair
from firstlight.diagnosis.rule import Rule
from firstlight.diagnosis.weights import relative_updates

_SMALL, _DOUBLED, _NOTICEABLE = 1e-2, 2.0, 1e-5


class LossRises(Rule):
    """The loss of one batch rises, or becomes NaN, over steps that are made to lower it.

    **Measured:** the loss of the same batch, with the same random numbers, before each of three steps and after the
    last, with the optimizer that was given.

    **Expected:** it falls: to first order a small step along the negative gradient cannot do otherwise. If it rises at
    every step although the steps are small (each weight moves by less than a hundredth of its size), the direction is
    wrong (fail). If it doubles, the steps are too long (fail); if it rises a little with long steps, they are probably
    too long (warn). NaN after a finite start is a failure whatever the optimizer.

    **Usual causes:** `maximize=True` or a loss with the wrong sign; a learning rate that is too high; weight decay that
    outweighs the gradient; a gradient scaled or clipped the wrong way.

    **Mends it:** the sign; a tenth of the learning rate.
    """

    code = "FL602"
    name = "loss-rises"

    def examine(self, case: Case) -> Iterator[Finding]:
        """At most one finding."""
        run = case.run
        losses = [step.loss for step in run.steps]
        losses += [] if run.final_loss is None else [run.final_loss]
        if not math.isfinite(losses[0]):
            return
        shown = " → ".join(f"{loss:.4g}" for loss in losses)
        if not all(map(math.isfinite, losses)):
            yield self._finding(
                "fail", f"the loss is not finite any more after {len(losses) - 1} steps: {shown}", shown
            )
            return
        if not run.optimizer.given:
            raise NotChecked("no optimizer was given")
        growth = losses[-1] - losses[0]
        if growth <= _NOTICEABLE * max(abs(losses[0]), 1e-3):
            return
        steady = all(later > earlier for earlier, later in pairwise(losses))
        small = max(relative_updates(case).values(), default=0.0) < _SMALL
        doubled = losses[-1] > _DOUBLED * abs(losses[0]) + losses[0] - abs(losses[0])
        title = f"the loss rises on the batch it is trained on: {shown}"
        if steady and small:
            yield self._finding("fail", title + ", although the steps are small", shown, "wrong direction")
        else:
            yield self._finding("fail" if doubled else "warn", title, shown)

    def _finding(self, severity: str, title: str, shown: str, why: str = "") -> Finding:
        direction = why == "wrong direction"
        return self.finding(
            "fail" if severity == "fail" else "warn",
            "optimizer",
            title,
            evidence=f"{shown}, same batch and same random numbers; a step along the negative gradient lowers it.",
            cause="the steps go up: maximize=True, a negated loss, or gradients with the wrong sign"
            if direction
            else "steps that are too long for this loss",
            fix="check the sign of the loss and maximize=False" if direction else "a tenth of the learning rate",
            repair=None if direction else Repair("learning_rate", {"factor": 0.1}),
        )
