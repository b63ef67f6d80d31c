"""FL502."""

import math
from collections.abc import Iterator

from firstlight.diagnosis.case import Case
from firstlight.diagnosis.finding import Finding, Repair
from firstlight.diagnosis.rule import Rule
from firstlight.diagnosis.scoring import Head, calls, maker, rows, sums_to_one
from firstlight.probe import LossCall


class SoftmaxBeforeCrossEntropy(Rule):
    """The loss applies softmax to what is a softmax, or a sigmoid, already.

    **Measured.** Whether the scores that ``cross_entropy`` gets are probabilities: none negative, every row summing to
    one. Whether softmax or sigmoid made them, in the model or in the loss.

    **Expected.** Raw scores of any sign. ``cross_entropy`` is log-softmax and negative log-likelihood in one. Fed with
    probabilities, which lie in 0…1, it cannot fall below ln(1 + (C−1)/e) even for perfect answers (1.46 for ten
    classes), and gradients pass two softmaxes, each with a slope of at most 1/2: training runs, slowly, and stops
    early.

    **Usual causes.** ``nn.Softmax`` as the last layer, as Keras wants it; a softmax over the batch (``dim=0``) is
    reported as well.

    **Mends it.** Remove the softmax, and apply it where probabilities are shown.
    """

    code = "FL502"
    name = "softmax-before-cross-entropy"
    explains = frozenset({"FL301", "FL401", "FL501"})

    def examine(self, case: Case) -> Iterator[Finding]:
        """At most one finding for each call."""
        for call in calls(case, "cross_entropy"):
            scores, kind = rows(call.input), call.input.dtype
            place = maker(case, call, "softmax")
            if sums_to_one(scores, 1, kind):
                yield self._squashed(call, "softmax", place or Head("loss"))
            elif place is not None and sums_to_one(scores, 0, kind):
                yield self._squashed(call, "softmax over the batch (dim=0)", place)
            elif (place := maker(case, call, "sigmoid")) is not None:
                yield self._squashed(call, "sigmoid", place)

    def _squashed(self, call: LossCall, what: str, place: Head) -> Finding:
        scores = rows(call.input)
        classes = scores.shape[1]
        # The best that scores in 0…1 can do is 1 for the right class and 0 for the others (sigmoid: the same).
        least = math.log(1 + (classes - 1) / math.e)
        return self.finding(
            "fail",
            place.where,
            f"cross_entropy gets the result of a {what}: its loss cannot fall below {least:.3g}",
            evidence=f"scores {float(scores.min()):.3g}…{float(scores.max()):.3g}, rows sum to "
            f"{float(scores.sum(1).mean()):.4g}; "
            f"raw scores have any sign. ln(1 + {classes - 1}/e) = {least:.3g} is left when every answer is right",
            cause="a last layer from a framework whose loss wants probabilities",
            fix="remove the softmax: nn.CrossEntropyLoss() takes raw scores"
            if place.where == "loss"
            else f"model.{place.where} = nn.Identity()",
            node=place.node,
            source=place.source,
            repair=_repair(what, place),
        )


def _repair(what: str, place: Head) -> Repair | None:
    """The loss that fits the output as it is; nothing undoes a softmax over the batch."""
    if place.where == "loss":
        return Repair("loss", {"loss": "cross_entropy"})
    inside = {"softmax": {"loss": "nll_loss", "of": "log"}, "sigmoid": {"loss": "cross_entropy", "of": "logit"}}
    return Repair("loss", inside[what]) if what in inside else None
