"""FL122."""

from collections.abc import Iterator

from firstlight.diagnosis.case import Case, NotChecked
from firstlight.diagnosis.finding import Finding, Repair
from firstlight.diagnosis.rule import Rule
from firstlight.diagnosis.targets import task


class LabelsShifted(Rule):
    """The labels count from one, or from minus one, and not from zero.

    **Measured.** The smallest and the largest label against the number of classes C.

    **Expected.** 0…C−1. Labels 1…C have the right number of different values and the wrong first one. A network with
    C+1 outputs takes them as they are, and its first class never occurs: that is no fault and is not reported.

    **Usual causes.** Annotations of MATLAB's time (Oxford Flowers, Stanford Cars, COCO's categories) count from one;
    −1 is the first class after one subtraction too many.

    **Mends it.** ``labels - 1``, once, where the annotations are read.
    """

    code = "FL122"
    name = "labels-shifted"
    explains = frozenset({"FL121"})

    def examine(self, case: Case) -> Iterator[Finding]:
        """At most one finding."""
        known = task(case)
        if known.indices is None or known.classes is None:
            raise NotChecked("it takes indices of classes, and the number of classes")
        shift = known.shift
        if shift is None:
            return
        low, high = int(known.indices.min()), int(known.indices.max())
        yield self.finding(
            "fail",
            "labels",
            f"labels {low}…{high} for {known.classes} classes: they start at {low} and not at 0",
            evidence=f"{known.classes} classes are 0…{known.classes - 1}; of {known.indices.numel()} labels none is 0 "
            f"and some are {high}"
            if shift < 0
            else f"{known.classes} classes are 0…{known.classes - 1}, and some labels are −1",
            cause="annotations that count from one" if shift < 0 else "one was subtracted once too often",
            fix=f"labels = labels {'-' if shift < 0 else '+'} 1",
            repair=Repair("labels", {"shift": shift}),
        )
