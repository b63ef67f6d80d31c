"""FL107."""

from collections.abc import Iterator

from firstlight.diagnosis.case import Case
from firstlight.diagnosis.finding import Finding, Severity
from firstlight.diagnosis.pixels import channels_first
from firstlight.diagnosis.rule import Rule


class ConstantImages(Rule):
    """Images without content: each channel has one value everywhere.

    **Measured.** Images whose pixels are all equal in every channel.

    **Expected.** None. A constant image holds no information about its label. When all are, the loader is broken; some
    may be blank slices or failed decodes, and are a warning from half of the batch on.

    **Usual causes.** A decoder that returns zeros on failure; integer division (``images // 255``); a crop outside the
    image; a cast to integers after scaling to 0…1.

    **Mends it.** Look at ``dataset[i]`` before and after each transform.
    """

    code = "FL107"
    name = "constant-images"
    explains = frozenset({"FL101", "FL108", "FL109", "FL305", "FL304"})

    def examine(self, case: Case) -> Iterator[Finding]:
        """At most one finding."""
        flat = channels_first(case).flatten(2)
        constant = (flat == flat[..., :1]).all(dim=2).all(dim=1)
        count, total = int(constant.sum()), len(flat)
        if not count or flat.shape[2] == 1:
            return
        severity: Severity = "fail" if count == total else "warn" if 2 * count >= total else "note"
        value = float(flat[constant][0, 0, 0])
        yield self.finding(
            severity,
            "input",
            f"{count} of {total} images are constant",
            evidence=f"all pixels of a channel are equal in images {constant.nonzero().flatten().tolist()[:8]} "
            f"(the first is {value:.4g}); an image without differences says nothing about its label",
            cause="a failed decode, an integer division, or a crop outside the image",
            fix=f"look at dataset[i] for i = {int(constant.nonzero()[0])} of this batch, step by step",
        )
