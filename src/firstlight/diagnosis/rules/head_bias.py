"""FL506."""

from collections.abc import Iterator

import torch
from torch import Tensor

from firstlight.diagnosis.case import Case, NotChecked
from firstlight.diagnosis.finding import Finding, Repair, Severity
from firstlight.diagnosis.rule import Rule
from firstlight.diagnosis.scoring import Head, calls, each, head, rows
from firstlight.probe import LossCall

_GAIN, _SHARE = 0.1, 0.5
"""Nats that are worth a note, and the part of the loss that is worth a warning: half of it is about frequencies."""
_MOST = 0.9
"""The same part of a squared error, as in FL501: targets in 0…1, as images have, are off by one or two std."""
_FEWEST = 5
"""Samples for each class that the batch must have to know their shares; the usual rule for counts in a χ² test."""


class HeadBias(Rule):
    """The last layer's bias does not start at what is known about the labels.

    **Measured.** How much the first loss would fall if the bias of the last layer held the log of the classes' shares
    (for binary losses ln(p/(1−p)), for the squared error the mean of the targets): both losses are computed from the
    scores of the batch, with labels distributed as ``class_counts`` says, or as in the batch where it has five samples
    of each class on average; from a batch, the bias of the estimate (C−1)/2N is taken off.

    **Expected.** Little. With scores near zero the loss is ln C, with the right bias it is the entropy H of the shares;
    ln C − H is what the first steps spend on frequencies, with gradients that say nothing about images. With one
    positive in a hundred that is 92 % of the loss, and the reason for the bias of Lin et al. (Focal loss, 2017, §3.3).
    More than 0.1 is a note, more than half of the loss a warning. Balanced classes, a bias that is set, and a loss with
    weights that balance the classes are clean.

    **Usual causes.** The bias starts at zero, which is right for balanced classes only.

    **Mends it.** ``head.bias`` = log of the shares, before the first step.
    """

    code = "FL506"
    name = "head-bias"

    def examine(self, case: Case) -> Iterator[Finding]:
        """At most one finding for each call of a loss."""
        functions = ("cross_entropy", "nll_loss", "binary_cross_entropy_with_logits", "mse_loss")
        reasons = []
        for call in calls(case, *functions):
            try:
                yield from self._call(case, call)
            except NotChecked as reason:
                reasons.append(reason)
        if len(reasons) == len(case.run.losses):
            raise reasons[0]

    def _call(self, case: Case, call: LossCall) -> Iterator[Finding]:
        if call.input.dim() < 2 or not bool(torch.isfinite(call.input).all()):
            raise NotChecked("the scores are not one row for each sample")
        scores = rows(call.input)
        if call.function == "mse_loss":
            yield from self._mean_of_targets(case, call, scores)
        elif call.function == "binary_cross_entropy_with_logits":
            yield from self._rate(case, call, scores)
        else:
            yield from self._shares(case, call, scores)

    def _shares(self, case: Case, call: LossCall, scores: Tensor) -> Iterator[Finding]:
        if call.arguments.get("reduction") == "none" and not _is_mean(case, call):
            raise NotChecked("the loss chooses or weighs the samples itself, so their shares are not what it sees")
        counts = _counts(case, call, scores.shape[1])
        surplus = 0.0 if case.class_counts is not None else (scores.shape[1] - 1) / (2 * float(counts.sum()))
        weight = call.arguments.get("weight")
        if weight is not None:
            counts = counts * weight.double().cpu()
        shares = (counts + 0.5) / (counts + 0.5).sum()  # half a sample more each, so that no log is infinite
        bias = shares.log()

        def loss(z: Tensor) -> float:
            return float((torch.logsumexp(z, 1) - z @ shares).mean())

        now, then = loss(scores), loss(scores + bias)
        what = f"shares from {float(shares.min()):.2%} to {float(shares.max()):.2%}"
        yield from self._gain(case, call, now, then + surplus, bias - bias.mean(), what)

    def _rate(self, case: Case, call: LossCall, scores: Tensor) -> Iterator[Finding]:
        if call.target.shape != call.input.shape or "pos_weight" in call.arguments:
            raise NotChecked("the targets have another shape than the scores, or the positives are weighted")
        targets = rows(call.target)
        n = len(call.target)
        if n < 2 * _FEWEST:
            raise NotChecked(f"a batch of {n} says little about frequencies")
        rate = (targets.sum(0) + 0.5) / (len(targets) + 1)
        bias = torch.log(rate / (1 - rate))

        def loss(z: Tensor) -> float:
            return float((torch.nn.functional.softplus(z) - z * rate).mean())

        what = f"positive rates from {float(rate.min()):.2%} to {float(rate.max()):.2%}"
        yield from self._gain(case, call, loss(scores), loss(scores + bias) + 1 / (2 * n), bias, what)

    def _mean_of_targets(self, case: Case, call: LossCall, scores: Tensor) -> Iterator[Finding]:
        if call.target.shape != call.input.shape or len(call.target) < 2 * _FEWEST:
            raise NotChecked("the targets have another shape than the scores, or are too few")
        targets = rows(call.target)
        now = float((scores - targets).square().mean())
        bias = targets.mean(0) - scores.mean(0)
        then = float((scores + bias - targets).square().mean())
        doubt = float(targets.var(0).mean()) / len(call.target)
        # Squared errors have the targets' unit: only the share of the loss has a meaning.
        share = (now - then - 3 * doubt) / now if now > 0 else 0.0
        if share > _SHARE:
            mean = f"targets have mean {float(targets.mean()):.4g}"
            severity: Severity = "warn" if share > _MOST else "note"
            yield self._finding(call, head(case, call), severity, now, then, targets.mean(0), mean)

    def _gain(self, case: Case, call: LossCall, now: float, then: float, bias: Tensor, what: str) -> Iterator[Finding]:
        gain = now - then
        if gain > _GAIN:
            severity: Severity = "warn" if gain > _SHARE * now else "note"
            yield self._finding(call, head(case, call), severity, now, then, bias, what)

    def _finding(
        self, call: LossCall, place: Head, severity: Severity, now: float, then: float, bias: Tensor, what: str
    ) -> Finding:
        layer = place.where if place.where != "loss" else "head"
        shown = ", ".join(f"{value:.3g}" for value in bias[:4].tolist()) + (", …" if len(bias) > 4 else "")
        repair = Repair("bias", {"parameter": place.bias, "values": bias.tolist()}) if place.bias else None
        return self.finding(
            severity,
            place.where,
            f"the right bias would take the first loss from {now:.3g} to {then:.3g}",
            evidence=f"{what}; computed for {call.function} from the scores of this batch, {1 - then / now:.0%} of "
            "the loss "
            "is about frequencies that are known beforehand",
            cause="the bias of the last layer starts at zero" if place.bias else "the last layer has no bias",
            fix=f"with torch.no_grad(): model.{layer}.bias.copy_(torch.tensor([{shown}]))"
            if place.bias
            else "give the last layer a bias, and start it at the log of the classes' shares",
            node=place.node,
            source=place.source,
            repair=repair,
        )


def _is_mean(case: Case, call: LossCall) -> bool:
    """Whether the loss that was differentiated is the mean of what this call gave for each sample."""
    mean = float(each(call, plain=False).mean())
    return abs(case.run.steps[0].loss - mean) <= 1e-3 * abs(mean)


def _counts(case: Case, call: LossCall, classes: int) -> Tensor:
    """Samples of each class, in the training set or in the batch."""
    if case.class_counts is not None:
        if len(case.class_counts) != classes:
            raise NotChecked(f"class_counts has {len(case.class_counts)} numbers, the scores have {classes} classes")
        return torch.tensor(case.class_counts, dtype=torch.float64)
    if call.target.is_floating_point() or call.target.dim() != 1:
        raise NotChecked("the labels are not one index each; pass class_counts=")
    y = call.target[call.target != int(call.arguments.get("ignore_index", -100))].long().cpu()
    if len(y) < _FEWEST * classes:
        raise NotChecked(f"a batch of {len(y)} says little about the shares of {classes} classes; pass class_counts=")
    return torch.bincount(y, minlength=classes).double()
