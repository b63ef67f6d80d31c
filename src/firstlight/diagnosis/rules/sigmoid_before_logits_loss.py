"""FL504."""

import math
from collections.abc import Iterator

from firstlight.diagnosis.case import Case
from firstlight.diagnosis.finding import Finding, Repair, Severity
from firstlight.diagnosis.rule import Rule
from firstlight.diagnosis.scoring import Head, calls, maker

_FEWEST = 64


class SigmoidBeforeLogitsLoss(Rule):
    """A loss that applies the sigmoid itself gets the result of a sigmoid.

    **Measured.** Whether a sigmoid or a softmax made the scores, in the model or in the loss. Where that cannot be
    seen: whether all of at least 64 scores lie in 0…1 with a mean between 0.3 and 0.7; a warning.

    **Expected.** Raw scores of any sign. A sigmoid of what is in 0…1 lies in 0.5…0.73: a negative example costs at
    least ln 2, a positive one at least 0.313, and the slope is a quarter of what it was.

    **Usual causes.** ``BCELoss`` replaced by ``BCEWithLogitsLoss`` (or by a focal loss, which is built on it) without
    removing ``nn.Sigmoid``.

    **Mends it.** Remove the sigmoid, and apply it where probabilities are shown.
    """

    code = "FL504"
    name = "sigmoid-before-logits-loss"
    explains = frozenset({"FL301", "FL401", "FL501", "FL506"})

    def examine(self, case: Case) -> Iterator[Finding]:
        """At most one finding for each call."""
        for call in calls(case, "binary_cross_entropy_with_logits"):
            place = maker(case, call, "sigmoid", "softmax", "hardsigmoid")
            low, high, mean = (float(f()) for f in (call.input.min, call.input.max, call.input.double().mean))
            severity: Severity = "fail"
            inside = place is not None and place.where != "loss"
            if place is None:
                if call.input.numel() < _FEWEST or not (low > 0 and high < 1 and 0.3 < mean < 0.7):
                    continue
                severity, place = "warn", Head("loss")
            yield self.finding(
                severity,
                place.where,
                f"binary_cross_entropy_with_logits gets probabilities, {low:.3g}…{high:.3g}",
                evidence="raw scores have any sign; a second sigmoid leaves 0.5…0.73, so a negative example costs "
                "at least "
                f"ln 2 = {math.log(2):.3g}",
                cause="the sigmoid was kept when the loss with logits came in",
                fix="remove the sigmoid: nn.BCEWithLogitsLoss() takes raw scores"
                if place.where == "loss"
                else f"model.{place.where} = nn.Identity()",
                node=place.node,
                source=place.source,
                repair=Repair("loss", {"loss": "binary_cross_entropy" if inside else call.function}),
            )
