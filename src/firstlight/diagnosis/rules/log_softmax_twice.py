"""FL503."""

from collections.abc import Iterator

from firstlight.diagnosis.case import Case
from firstlight.diagnosis.finding import Finding, Repair
from firstlight.diagnosis.rule import Rule
from firstlight.diagnosis.scoring import Head, calls, maker, rows, sums_to_one


class LogSoftmaxTwice(Rule):
    """The loss applies log-softmax to log-probabilities, or log-softmax ran over the batch.

    **Measured.** Whether exp of the scores sums to one in every row (over the classes), or in every column (over the
    samples).

    **Expected.** Raw scores for ``cross_entropy``. Log-softmax leaves log-probabilities as they are, ln Σ exp(ln p) =
    0, so a second one changes neither loss nor gradient: a note. Over the batch it is a fault: the scores of one sample
    then depend on the others, each class is shared out among the samples, and the loss is about ln N instead of ln C.

    **Usual causes.** ``nn.LogSoftmax`` with ``nn.CrossEntropyLoss`` where ``nn.NLLLoss`` was meant; ``dim=0``, or no
    ``dim`` for tensors of one or three axes.

    **Mends it.** ``nn.NLLLoss`` after ``LogSoftmax(dim=1)``, or no log-softmax and ``nn.CrossEntropyLoss``.
    """

    code = "FL503"
    name = "log-softmax-twice"
    explains = frozenset({"FL501"})

    def examine(self, case: Case) -> Iterator[Finding]:
        """At most one finding for each call."""
        for call in calls(case, "cross_entropy", "nll_loss"):
            likelihoods, kind = rows(call.input).exp(), call.input.dtype
            place = maker(case, call, "log_softmax")
            if sums_to_one(likelihoods, 1, kind):
                if call.function == "cross_entropy":
                    yield self._again(place or Head("loss"))
            elif place is not None and sums_to_one(likelihoods, 0, kind):
                yield self._over_the_batch(place, call.function)

    def _again(self, place: Head) -> Finding:
        return self.finding(
            "note",
            place.where,
            "cross_entropy gets log-probabilities: log-softmax runs twice",
            evidence="exp of the scores sums to 1 in every row; the second log-softmax changes nothing, for ln Σ "
            "exp(ln p) = 0",
            cause="nn.CrossEntropyLoss where nn.NLLLoss belongs to nn.LogSoftmax",
            fix="nn.NLLLoss(), or no log-softmax before nn.CrossEntropyLoss()",
            node=place.node,
            source=place.source,
            repair=Repair("loss", {"loss": "cross_entropy" if place.where == "loss" else "nll_loss"}),
        )

    def _over_the_batch(self, place: Head, function: str) -> Finding:
        return self.finding(
            "fail",
            place.where,
            "log-softmax runs over the batch and not over the classes",
            evidence="exp of the scores sums to 1 over the samples; over the classes is expected, so that each "
            "sample has "
            f"probabilities of its own before {function}",
            cause="dim=0, or no dim",
            fix="log_softmax(dim=1)",
            node=place.node,
            source=place.source,
            repair=Repair("loss", {"loss": "cross_entropy"}) if place.where == "loss" else None,
        )
