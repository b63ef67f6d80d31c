"""FL123."""

from collections.abc import Iterator

import torch
from torch import Tensor

from firstlight.diagnosis.case import Case, NotChecked
from firstlight.diagnosis.finding import Finding, Repair
from firstlight.diagnosis.rule import Rule
from firstlight.diagnosis.targets import BINARY, CLASSES, DISTANCES, Task, task

_LARGEST = Repair("labels", {"largest": True})


class LabelsEncoded(Rule):
    """The labels are written down in a way that the loss does not read.

    **Measured.** Type and shape of the labels against those of the scores, for the loss in use.

    **Expected.** Cross-entropy takes whole numbers (int64), one for each sample; or, for each sample, probabilities
    that sum to one. Binary cross-entropy and the distances take floating-point targets of the scores' shape. Where the
    shapes differ by an axis of one, ``[N]`` against ``[N, 1]``, a distance broadcasts both to N×N, and every score is
    pulled towards every target: the loss falls to the variance of the targets, and no further.

    **Usual causes.** ``LabelBinarizer`` or ``to_categorical`` kept from another framework; a column of a table read as
    float; ``unsqueeze`` on one side only.

    **Mends it.** ``labels.argmax(1)``, ``labels.long()``, ``labels.float()``, ``scores.squeeze(1)``. One-hot floats
    with cross-entropy are valid, give the same loss as indices, and are only a note.
    """

    code = "FL123"
    name = "labels-encoded"
    explains = frozenset({"FL121", "FL501"})

    def examine(self, case: Case) -> Iterator[Finding]:
        """At most one finding."""
        known = task(case)
        if known.scores is None or not known.loss:
            raise NotChecked(
                "neither the loss nor its first argument is known" if not known.loss else "no scores are known"
            )
        y, ran = known.labels, case.measured is not None
        if known.loss in CLASSES:
            yield from self._for_classes(known, y, known.scores, ran)
        elif known.loss in BINARY | DISTANCES:
            yield from self._for_numbers(known, y, known.scores, ran)

    def _for_classes(self, known: Task, y: Tensor, scores: Tensor, ran: bool) -> Iterator[Finding]:
        whole = not y.is_floating_point()
        if scores.dim() == 2 and y.shape == scores.shape and y.shape[1] > 1:
            if _one_hot(y):
                accepted = ran and known.loss == "cross_entropy"
                yield self._say(
                    known,
                    "note" if accepted else "fail",
                    "one-hot vectors where indices are due",
                    "each row holds a single 1"
                    + ("; the loss is the same, with C times the memory" if accepted else ""),
                    "labels = labels.argmax(dim=1)",
                    _LARGEST,
                )
            elif not whole and (y.sum(1) - 1).abs().max() > 1e-3:
                yield self._say(
                    known,
                    "warn",
                    "rows that do not sum to one where probabilities are due",
                    f"sums {float(y.sum(1).min()):.4g}…{float(y.sum(1).max()):.4g}; several labels for a sample are "
                    "several decisions of yes or no",
                    "nn.BCEWithLogitsLoss()",
                )
        elif not ran and y.dim() == 2 and y.shape == (len(scores), 1):
            yield self._say(
                known, "fail", f"shape {tuple(y.shape)} where ({len(y)},) is due", "", "labels = labels.squeeze(1)"
            )
        elif not ran and y.dtype not in (torch.int64, torch.uint8) and bool((y == y.round()).all()):
            kind = str(y.dtype).removeprefix("torch.")
            yield self._say(
                known, "fail", f"{kind} where int64 is due", "all are whole numbers", "labels = labels.long()"
            )

    def _for_numbers(self, known: Task, y: Tensor, scores: Tensor, ran: bool) -> Iterator[Finding]:
        if known.loss in DISTANCES and y.shape != scores.shape and ran:
            both = tuple(torch.broadcast_shapes(y.shape, scores.shape))
            yield self._say(
                known,
                "fail",
                f"targets {tuple(y.shape)} against scores {tuple(scores.shape)}, broadcast to {both}",
                "every score is compared with the targets of other samples",
                f"target = target.view({', '.join(map(str, scores.shape))})"
                if y.numel() == scores.numel()
                else _SHAPES,
            )
        elif not ran and y.dim() == 1 and scores.dim() == 2 and scores.shape[1] > 1 and not y.is_floating_point():
            yield self._say(
                known,
                "fail",
                "indices where one number for each score is due",
                f"shape {tuple(y.shape)} against {tuple(scores.shape)}",
                f"labels = torch.nn.functional.one_hot(labels, {scores.shape[1]}).float()",
            )
        elif not ran and y.shape != scores.shape:
            say = f"shape {tuple(y.shape)} where {tuple(scores.shape)} is due"
            fix = (
                f"labels = labels.view({', '.join(map(str, scores.shape))})" if y.numel() == scores.numel() else _SHAPES
            )
            yield self._say(known, "fail", say, "", fix)
        elif not ran and not y.is_floating_point():
            kind = str(y.dtype).removeprefix("torch.")
            yield self._say(
                known, "fail", f"{kind} where floating-point targets are due", "", "labels = labels.float()"
            )

    def _say(self, known: Task, severity: str, what: str, why: str, fix: str, repair: Repair | None = None) -> Finding:
        evidence = f"labels {known.labels.dtype} {tuple(known.labels.shape)} for {known.loss}"
        if known.scores is not None:
            evidence += f" with scores {tuple(known.scores.shape)}"
        return self.finding(
            severity,  # type: ignore[arg-type]
            "labels",
            what,
            evidence=f"{evidence}; {why}" if why else evidence,
            cause="the labels come as another loss, or another framework, wants them",
            fix=fix,
            repair=repair,
        )


_SHAPES = "make the last layer and the targets agree in shape"


def _one_hot(y: Tensor) -> bool:
    return bool((((y == 0) | (y == 1)).all()) & (y.sum(dim=1) == 1).all())
