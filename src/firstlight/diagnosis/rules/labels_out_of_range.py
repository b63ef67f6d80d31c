"""FL121."""

from collections.abc import Iterator

import torch
from torch import Tensor

from firstlight.diagnosis.case import Case, NotChecked
from firstlight.diagnosis.finding import Finding
from firstlight.diagnosis.rule import Rule
from firstlight.diagnosis.targets import BINARY, Task, task


class LabelsOutOfRange(Rule):
    """Labels name classes that the network has no score for, or probabilities outside 0…1.

    **Measured.** The smallest and the largest label that the loss counts (``ignore_index`` left out), against the
    number of classes; for binary cross-entropy the targets themselves.

    **Expected.** Whole numbers from 0 to classes − 1. Others stop the run on the CPU, and on a GPU they kill it with
    ``device-side assert triggered`` at some later line. Targets of binary cross-entropy lie in 0…1: outside, the loss
    has no lower bound, PyTorch does not complain, and the scores grow for ever.

    **Usual causes.** A head made for another data set; masks stored as 0 and 255; the "void" label 255 of segmentation
    data without ``ignore_index=255``; targets −1 and +1 for a loss that wants 0 and 1.

    **Mends it.** As many outputs as classes, ``mask // 255``, ``ignore_index=255``, ``(target + 1) / 2``.
    """

    code = "FL121"
    name = "labels-out-of-range"

    def examine(self, case: Case) -> Iterator[Finding]:
        """At most one finding."""
        known = task(case)
        if known.loss in BINARY or (known.classes == 1 and known.loss == ""):
            yield from self._probabilities(known.labels)
            return
        indices = known.indices
        if indices is None:
            raise NotChecked("the labels are not indices of classes")
        if known.classes is None:
            raise NotChecked("the number of classes is not known; pass classes=")
        low, high = int(indices.min()), int(indices.max())
        if (low >= 0 and high < known.classes) or known.shift is not None:
            return
        yield self._indices(known, indices, known.classes)

    def _indices(self, known: Task, indices: Tensor, classes: int) -> Finding:
        low, high = int(indices.min()), int(indices.max())
        outside = int(((indices < 0) | (indices >= classes)).sum())
        values = torch.unique(indices).tolist()
        cause, fix = f"the head has {classes} outputs, the data more classes", f"a head with {high + 1} outputs"
        if values in ([0, 255], [255]):
            cause, fix = "the mask is stored as 0 and 255", "mask = mask // 255"
        elif high == 255 and known.labels.dim() > 1:
            cause, fix = "255 marks pixels without a label", "nn.CrossEntropyLoss(ignore_index=255)"
        elif low < 0:
            cause, fix = (
                f"{low} marks samples without a label",
                f"nn.CrossEntropyLoss(ignore_index={low}), or leave them out",
            )
        return self.finding(
            "fail",
            "labels",
            f"labels {low}…{high} for {classes} classes",
            evidence=f"{outside} of {indices.numel()} labels are outside 0…{classes - 1}; {_several(values)}",
            cause=cause,
            fix=fix,
        )

    def _probabilities(self, labels: Tensor) -> Iterator[Finding]:
        y = labels.double()
        low, high = float(y.min()), float(y.max())
        if low >= 0 and high <= 1:
            return
        values = torch.unique(y).tolist()
        cause, fix = "the targets are not probabilities", "scale the targets to 0…1"
        if values == [-1, 1]:
            cause, fix = "the classes are −1 and +1, as for a hinge loss", "target = (target + 1) / 2"
        elif set(values) <= {0, 255}:
            cause, fix = "the mask is stored as 0 and 255", "mask = mask / 255"
        elif all(value == int(value) for value in values):
            cause = "the targets are indices of several classes"
            fix = "nn.CrossEntropyLoss with one output for each class"
        yield self.finding(
            "fail",
            "labels",
            f"targets {low:.4g}…{high:.4g} for binary cross-entropy",
            evidence=f"probabilities lie in 0…1; outside, −t·log p − (1−t)·log(1−p) has no lower bound; "
            f"{_several(values)}",
            cause=cause,
            fix=fix,
        )


def _several(values: list[float]) -> str:
    shown = ", ".join(f"{value:.4g}" for value in values[:8])
    return f"values {shown}" + (" …" if len(values) > 8 else "")
