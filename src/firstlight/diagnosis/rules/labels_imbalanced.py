"""FL125."""

from collections.abc import Iterator

import numpy as np

from firstlight._typing import Floats
from firstlight.diagnosis.case import Case, NotChecked
from firstlight.diagnosis.finding import Finding, Severity
from firstlight.diagnosis.rule import Rule
from firstlight.diagnosis.targets import task

_EVEN = 0.5
"""Of TheDeepChecker (Ben Braiek & Khomh, TOSEM 2022), which reports a normalized perplexity below it."""


class LabelsImbalanced(Rule):
    """A few classes hold nearly all of the samples.

    **Measured.** The entropy H of the classes' shares, from ``class_counts``, or from the batch when it has five
    samples for each class; then with the upper end of its 99.9 % interval: H plus the bias (C−1)/2N (Miller, 1955) and
    3.1 standard errors √(Σ p·ln²p − H²)/N.

    **Expected.** exp(H) is the number of equally frequent classes with the same entropy. Reported below half of the
    way from one class to all: (exp(H) − 1)/(C − 1) < 0.5, which for two classes is a share of about 13 %. A loss with
    weights for the classes makes up for it, and so does a sampler: with ``class_counts`` that are uneven and a batch
    that is not, it is a note.

    **Usual causes.** It is how the world is; or a class that was not found on disk.

    **Mends it.** A bias in the last layer that starts at the log of the shares (FL506), weights in the loss, or
    ``WeightedRandomSampler``; and a metric other than accuracy.
    """

    code = "FL125"
    name = "labels-imbalanced"

    def examine(self, case: Case) -> Iterator[Finding]:
        """At most one finding."""
        known = task(case)
        counts = None if case.class_counts is None else np.array(case.class_counts, np.float64)
        if counts is None:
            counts = self._of_the_batch(case)
            surplus = (len(counts) - 1) / (2 * counts.sum()) + 3.1 * _error(counts)
        else:
            surplus = 0.0
        if len(counts) < 2 or counts.sum() == 0:
            raise NotChecked("it takes two classes")
        effective = float(np.exp(_entropy(counts) + surplus))
        if (effective - 1) / (len(counts) - 1) >= _EVEN:
            return
        weighted = case.measured is not None and any("weight" in call.arguments for call in case.run.losses)
        severity: Severity = "note" if weighted or self._resampled(case, len(counts)) else "warn"
        shares = counts / counts.sum()
        yield self.finding(
            severity,
            "labels",
            f"{len(counts)} classes are as uneven as {np.exp(_entropy(counts)):.3g} equal ones: "
            f"the largest has {shares.max():.1%}, the smallest {shares.min():.2%}",
            evidence=f"exp(entropy) of {'class_counts' if case.class_counts else 'the batch'}, {len(counts)} expected "
            f"when balanced; always answering class {int(shares.argmax())} is right in {shares.max():.1%} of all cases",
            cause="a rare class, or files of a class that were not found",
            fix=f"nn.CrossEntropyLoss(weight=counts.sum() / (len(counts) * counts)), or a bias at the start (FL506); "
            f"{known.loss or 'the loss'} as it is will first learn the frequencies",
        )

    def _of_the_batch(self, case: Case) -> Floats:
        known = task(case)
        y, classes = known.indices, known.classes
        if classes is None:
            raise NotChecked("the number of classes is not known; pass classes= or class_counts=")
        if y is None or known.labels.dim() > 1:
            raise NotChecked("the labels are not one index each; pass class_counts=")
        if int(y.min()) < 0 or int(y.max()) >= classes:
            raise NotChecked("labels are outside the classes")
        if y.numel() < 5 * classes:
            raise NotChecked(f"a batch of {y.numel()} says little about {classes} classes; pass class_counts=")
        return np.bincount(y.cpu().numpy(), minlength=classes).astype(np.float64)

    def _resampled(self, case: Case, classes: int) -> bool:
        """Whether the batch is more even than the data, beyond chance."""
        if case.class_counts is None:
            return False
        try:
            batch = self._of_the_batch(case)
        except NotChecked:
            return False
        return len(batch) == classes and _entropy(batch) > _entropy(
            np.array(case.class_counts, np.float64)
        ) + 3.1 * _error(batch)


def _entropy(counts: Floats) -> float:
    p = counts[counts > 0] / counts.sum()
    return float(-np.sum(p * np.log(p)))


def _error(counts: Floats) -> float:
    """Standard error of the entropy (Basharin, 1959)."""
    p = counts[counts > 0] / counts.sum()
    return float(np.sqrt(max(np.sum(p * np.log(p) ** 2) - _entropy(counts) ** 2, 0.0) / counts.sum()))
