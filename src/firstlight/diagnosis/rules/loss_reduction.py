"""FL505."""

import math
from collections.abc import Iterator

from torch import Tensor

from firstlight.diagnosis.case import Case, NotChecked
from firstlight.diagnosis.finding import Finding, Repair
from firstlight.diagnosis.rule import Rule
from firstlight.diagnosis.scoring import each

_CLOSE = 1e-3
_LOSSES = (
    "cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits", "mse_loss", "l1_loss",
    "smooth_l1_loss", "huber_loss",
)  # fmt: skip


class LossReduction(Rule):
    """The loss of a batch is a sum over its samples, or was divided once too often.

    **Measured.** The loss that was differentiated, against the mean and the sum of the losses of the samples, computed
    again without a reduction.

    **Expected.** The mean. The gradient of a sum over N samples is N times as long, so that the learning rate means
    something else for every batch size and for the last, shorter batch; learning rates from elsewhere are N times too
    large. Divided by N once more, they are N times too small. Only a loss that is one call of PyTorch's own is judged.

    **Usual causes.** ``reduction="sum"``, or ``reduction="none"`` and ``.sum()``; ``loss / len(batch)`` of a mean.

    **Mends it.** ``reduction="mean"``.
    """

    code = "FL505"
    name = "loss-reduction"
    explains = frozenset({"FL402", "FL601", "FL602"})
    exact = True

    def examine(self, case: Case) -> Iterator[Finding]:
        """At most one finding."""
        calls = case.run.losses
        if len(calls) != 1 or calls[0].function not in _LOSSES or calls[0].input.numel() == 0:
            raise NotChecked("the loss is not one call of one of PyTorch's own losses")
        call, value = calls[0], case.run.steps[0].loss
        losses = each(call, plain=False)
        mean, total, samples = float(losses.mean()), float(losses.sum()), len(call.input)
        weights = call.arguments.get("weight")
        if weights is not None and call.function in ("cross_entropy", "nll_loss"):
            raise NotChecked("the loss weighs the classes, so its mean is not that of the samples")
        if len(losses) < 2 or not all(math.isfinite(x) and x != 0 for x in (value, mean)):
            return
        plain = {key: item for key, item in call.arguments.items() if not isinstance(item, Tensor)}
        repair = Repair("loss", {"loss": call.function, "arguments": plain | {"reduction": "mean"}})
        if abs(value / total - 1) <= _CLOSE:
            yield self.finding(
                "warn",
                "loss",
                f"the loss is the sum over {len(losses)} terms, {total:.4g}, and not their mean, {mean:.4g}",
                evidence=f"the gradient is {len(losses)} times that of the mean, and grows with the batch",
                cause='reduction="sum", or a sum after reduction="none"',
                fix='reduction="mean"; or divide the learning rate by the batch size, and keep that size',
                repair=repair,
            )
        elif samples > 1 and abs(value * samples / mean - 1) <= _CLOSE:
            yield self.finding(
                "note",
                "loss",
                f"the loss is the mean over the batch, {mean:.4g}, divided by the batch size {samples} once more",
                evidence=f"{value:.4g} was differentiated; the gradient is a {samples}th of that of the mean",
                cause="a division by len(batch) after a mean, if it is not for the accumulation of gradients",
                fix="leave out the division",
                repair=repair,
            )
