"""FL501."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from firstlight.diagnosis.case import Case
from firstlight.diagnosis.finding import Finding, Repair, Severity
from firstlight.diagnosis.rule import Rule
from firstlight.diagnosis.scoring import amplifier, calls, each, head, maker, rows, sums_to_one
from firstlight.probe import LossCall

_NAT = 1.0
"""The right class gets e times less probability than a guess would give it."""
_MSE_WARN, _MSE_FAIL = 10.0, 100.0
"""Nine tenths, and ninety-nine hundredths, of the loss are an offset or a scale that one constant takes away."""
_FEWEST = 4


class LossAtStart(Rule):
    """The first loss is far from what a network that knows nothing has.

    **Measured.** The loss of each sample in the first step, without weights of classes and without label smoothing
    (which change its mean only when scores and labels are related), and its standard error s over the samples.

    **Expected.** Before training, scores and labels are independent. Cross-entropy is then E ln Σ exp(z_k) − E z_y, for
    scores of spread σ over the classes about ln C + σ²/2 (exact for normal scores and many classes), so ln C when the
    scores are small. Every nat above is confidence in wrong answers that training first has to take back. Reported
    from one nat (mean − 3s > ln C + 1) as a warning, from twice ln C and one nat more as a fault; binary losses with
    C = 2. A loss *below* the entropy of the labels by more than 3s means that the network knows them already: it is
    trained, or the labels are in its input; a note. ``nll_loss`` reads log-probabilities: of raw scores it makes −z_y,
    which has no lower bound. A mean squared error is E(z − t)², that of the best constant is the variance of the
    targets: reported from 10 times that, a fault from 100.

    A loss that is the negative of what PyTorch's function gave is climbed instead of descended: a fault.

    **Usual causes.** A last layer drawn too large; features that grow with depth; targets that were not standardized;
    ``NLLLoss`` without ``log_softmax``.

    **Mends it.** A last layer with small weights (std 0.01, or zero) and the bias of FL506; targets with mean 0, std 1.
    """

    code = "FL501"
    name = "loss-at-start"
    explains = frozenset({"FL506", "FL601", "FL602"})

    def examine(self, case: Case) -> Iterator[Finding]:
        """One finding for the sign, and at most one for each call of a loss."""
        found = calls(
            case, "cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits", "mse_loss"
        )
        yield from self._wrong_sign(case, found)
        for call in found:
            if call.input.shape[:1] != call.target.shape[:1] or not bool(torch.isfinite(call.input).all()):
                continue
            if call.function == "mse_loss":
                yield from self._squared(case, call)
            elif call.function == "nll_loss" and not sums_to_one(rows(call.input).exp(), 1, call.input.dtype):
                yield self._not_log_probabilities(case, call)
            else:
                yield from self._entropy(case, call)

    def _wrong_sign(self, case: Case, found: tuple[LossCall, ...]) -> Iterator[Finding]:
        """The loss is the negative of what PyTorch's function gave, and none of these functions is ever negative."""
        loss = case.run.steps[0].loss
        values = [getattr(functional, call.function)(call.input, call.target, **call.arguments) for call in found]
        given = float(sum(value.double().sum() for value in values if value.numel() == 1))
        if loss < 0 < given and abs(loss + given) <= 1e-3 * given:
            names = " and ".join(sorted({call.function for call in found}))
            yield self.finding(
                "fail",
                "loss",
                f"the loss is {loss:.4g}: {names} gave {given:.4g}, and its sign was turned around",
                evidence=f"{names} is never negative; steps against the gradient of its negative make it larger",
                cause="a minus sign, from a formula to be maximized",
                fix="return the loss as PyTorch gives it, without the minus sign",
            )

    def _entropy(self, case: Case, call: LossCall) -> Iterator[Finding]:
        losses = each(call)
        if len(losses) < _FEWEST:
            return
        binary = call.function.startswith("binary")
        classes = 2 if binary else rows(call.input).shape[1]
        mean, error, guess = float(losses.mean()), _error(call, losses), math.log(classes)
        if mean - 3 * error > guess + _NAT:
            yield self._too_large(case, call, mean, error, classes)
        elif mean + 3 * error < _labels_entropy(call, binary):
            yield self.finding(
                "note",
                "loss",
                f"loss at the start is {mean:.3g}, below the {_labels_entropy(call, binary):.3g} of a network that "
                "knows "
                "nothing",
                evidence="the labels' own entropy is the least that an answer without looking can reach; "
                f"±{3 * error:.2g} "
                f"over {len(losses)} samples",
                cause="the network is trained already, or the labels are in its input",
                fix="nothing, if the network is pretrained; otherwise look for the label among the inputs",
            )

    def _too_large(self, case: Case, call: LossCall, mean: float, error: float, classes: int) -> Finding:
        guess = math.log(classes)
        place = amplifier(case, call)
        severity: Severity = "fail" if mean - 3 * error > 2 * guess + _NAT else "warn"
        scores = rows(call.input)
        spread = float(scores.std(dim=1).mean()) if call.function == "cross_entropy" else float(scores.std())
        alone = f", which alone make about ln {classes} + σ²/2 = {guess + spread**2 / 2:.3g}" if spread < 2 else ""
        return self.finding(
            severity,
            place.where,
            f"loss at the start is {mean:.3g}, not ln {classes} = {guess:.3g}",
            evidence=f"scores of spread σ = {spread:.3g}{alone}; scores near zero would give {guess:.3g}; "
            f"±{3 * error:.2g} over the samples",
            cause="the last layer, or the features that it reads, are too large"
            if place == head(case, call)
            else "the scores are multiplied after the last layer",
            fix=_small(place.where) if place == head(case, call) else f"leave out the factor in model.{place.where}",
            node=place.node,
            source=place.source,
        )

    def _not_log_probabilities(self, case: Case, call: LossCall) -> Finding:
        scores = rows(call.input)
        probabilities = sums_to_one(scores, 1, call.input.dtype)
        what = "probabilities" if probabilities else "raw scores"
        place = maker(case, call, "softmax") if probabilities else None
        inside = place is not None and place.where != "loss"
        return self.finding(
            "fail",
            place.where if place else "loss",
            f"nll_loss reads {what}: the loss at the start is {float(each(call).mean()):.3g}, not ln "
            f"{scores.shape[1]} = {math.log(scores.shape[1]):.3g}",
            evidence="log-probabilities have exp summing to 1 in each row, here to "
            f"{float(scores.exp().sum(1).mean()):.4g}; "
            + (
                "−p has no gradient like −log p" if probabilities else "−z has no lower bound: the scores grow for ever"
            ),
            cause="log_softmax is missing" if not probabilities else "softmax where log_softmax is meant",
            fix="nn.CrossEntropyLoss() on the raw scores, or log_softmax(dim=1) before nn.NLLLoss()",
            repair=Repair("loss", {"loss": "nll_loss", "of": "log"} if inside else {"loss": "cross_entropy"}),
        )

    def _squared(self, case: Case, call: LossCall) -> Iterator[Finding]:
        if call.input.shape != call.target.shape or len(call.target) < _FEWEST:
            return
        z, t = rows(call.input), rows(call.target)
        loss, least = float((z - t).square().mean()), float(t.var(dim=0, correction=0).mean())
        if least == 0 or loss < _MSE_WARN * least:
            return
        offset = float((z.mean(0) - t.mean(0)).square().mean())
        far = offset > loss / 2
        place = head(case, call)
        answer: dict[str, Any] = {"node": place.node, "source": place.source}
        yield self.finding(
            "fail" if loss >= _MSE_FAIL * least else "warn",
            place.where,
            f"squared error at the start is {loss:.3g}, {loss / least:.3g} times the variance of the targets",
            evidence=f"targets have mean {float(t.mean()):.4g} and variance {least:.3g}, outputs mean "
            f"{float(z.mean()):.4g} and "
            f"variance {float(z.var(dim=0, correction=0).mean()):.3g}; the best constant has a loss of {least:.3g}",
            cause="the targets are far from zero, where the outputs start"
            if far
            else "the outputs are larger than the targets",
            fix="target = (target - mean) / std, with those of the training set" if far else _small(place.where),
            **answer,
        )


def _error(call: LossCall, losses: Tensor) -> float:
    """Standard error of the mean; the sample is the unit, for its positions and classes are not independent."""
    samples = len(call.input) if call.input.dim() > 1 else 1
    if losses.numel() % samples == 0 and samples > 1:
        losses = losses.reshape(samples, -1).mean(1)
    return float(losses.std() / math.sqrt(len(losses))) if len(losses) > 1 else math.inf


def _labels_entropy(call: LossCall, binary: bool) -> float:
    """Entropy of the labels' shares in this batch; of each output by itself for binary losses."""
    if binary:
        p = rows(call.target).mean(0).clamp(0, 1)
        return float((torch.special.entr(p) + torch.special.entr(1 - p)).mean())
    if call.target.is_floating_point():
        return float(torch.special.entr(rows(call.target).mean(0)).sum())
    counts = torch.unique(call.target, return_counts=True)[1].double()
    return float(torch.special.entr(counts / counts.sum()).sum())


def _small(where: str) -> str:
    layer = where if where != "loss" else "head"
    return f"nn.init.normal_(model.{layer}.weight, std=0.01); nn.init.zeros_(model.{layer}.bias)"
