"""FL124."""

from collections.abc import Iterator

import numpy as np
import torch

from firstlight.diagnosis.case import Case, NotChecked
from firstlight.diagnosis.finding import Finding
from firstlight.diagnosis.rule import Rule
from firstlight.diagnosis.targets import Task, task

_DOUBT = 0.001


class LabelsEqual(Rule):
    """All samples of the batch have the same label.

    **Measured.** The number of different labels, and the probability that a batch drawn at random has a single one:
    Σ p_k^N with the shares p_k of the classes, from ``class_counts``, or as if all were equally frequent.

    **Expected.** More than one, at p < 0.001. With two equal classes that needs ten samples, with a class of 99 % it
    is never reported. Maps of labels count as one sample each, for neighbouring pixels are not drawn independently.
    A network whose batches hold one class each learns to answer with the last class it saw.

    **Usual causes.** A loader without ``shuffle=True`` on a data set that is sorted by class, as ``ImageFolder`` is; a
    label taken from the wrong column.

    **Mends it.** ``DataLoader(..., shuffle=True)``.
    """

    code = "FL124"
    name = "labels-equal"
    explains = frozenset({"FL125", "FL506"})

    def examine(self, case: Case) -> Iterator[Finding]:
        """At most one finding."""
        known = task(case)
        y = known.labels
        if len(y) < 2:
            raise NotChecked("one sample has one label")
        rows = y.reshape(len(y), -1)
        if y.is_floating_point() and not bool((y == y.round()).all()):
            chance = 0.0  # measured numbers never repeat by chance
        else:
            chance = float(np.sum(_shares(case, known) ** len(y)))
        if not bool((rows == rows[0]).all()) or chance >= _DOUBT:
            return
        value = f"{float(rows[0, 0]):.4g}" if len(torch.unique(rows)) == 1 else "the same vector"
        yield self.finding(
            "fail",
            "labels",
            f"all {len(y)} labels are {value}",
            evidence=f"a batch drawn at random would have a single label with probability {chance:.2g}",
            cause="the loader does not shuffle a data set that is sorted by class, or labels come from a wrong column",
            fix="DataLoader(dataset, batch_size=..., shuffle=True)",
        )


def _shares(case: Case, known: Task) -> np.ndarray:
    """Of each class in the training set; two equal classes, the most cautious guess, when nothing is known."""
    if case.class_counts is not None and sum(case.class_counts) > 0:
        return np.array(case.class_counts) / sum(case.class_counts)
    classes = max(2, known.classes or 2)
    return np.full(classes, 1 / classes)
