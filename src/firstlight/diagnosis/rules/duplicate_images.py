"""FL108."""

from collections import Counter
from collections.abc import Iterator

import torch

from firstlight.diagnosis.case import Case
from firstlight.diagnosis.finding import Finding, Severity
from firstlight.diagnosis.pixels import channels_first
from firstlight.diagnosis.rule import Rule


class DuplicateImages(Rule):
    """The batch holds the same image more than once.

    **Measured.** Images that are equal in every bit; constant ones are left to FL107.

    **Expected.** None: a batch is drawn without replacement, and augmentation makes even repeated images differ. When
    all are the same, a batch teaches no more than one image. Single pairs are a note, since data sets do hold
    duplicates and samplers with weights repeat rare classes; half of the batch is a warning.

    **Usual causes.** ``__getitem__`` that ignores its index; one buffer that is filled again for every sample;
    ``expand`` or a broadcast where a stack was meant.

    **Mends it.** Check that ``dataset[0]`` and ``dataset[1]`` differ, and that they still do after ``list(dataset)``.
    """

    code = "FL108"
    name = "duplicate-images"
    explains = frozenset({"FL124", "FL304", "FL305", "FL307"})

    def examine(self, case: Case) -> Iterator[Finding]:
        """At most one finding."""
        flat = channels_first(case).detach().flatten(1).cpu()
        if len(flat) < 2:
            return
        varied = [row for row in flat if bool((row != row[0]).any())]
        counts = Counter(row.contiguous().view(torch.uint8).numpy().tobytes() for row in varied)
        extra, total = len(varied) - len(counts), len(flat)
        if not extra:
            return
        severity: Severity = "fail" if len(counts) == 1 else "warn" if 2 * len(counts) <= total else "note"
        yield self.finding(
            severity,
            "input",
            f"{len(counts)} different images in a batch of {total}",
            evidence=f"{extra} images equal another one in every bit, the most frequent {max(counts.values())} times; "
            "drawn without replacement, all differ",
            cause="a data set that ignores its index or hands out one buffer again and again",
            fix="assert not torch.equal(dataset[0][0], dataset[1][0])",
        )
