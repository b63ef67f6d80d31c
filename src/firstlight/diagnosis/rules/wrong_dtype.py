"""FL106."""

from collections.abc import Iterator

import torch
from torch import Tensor

from firstlight.diagnosis.case import Case, NotChecked
from firstlight.diagnosis.door import normalizes_itself
from firstlight.diagnosis.finding import Finding
from firstlight.diagnosis.rule import Rule

_FEW = 12
"""Levels that normalized values in ±3 or so can have as integers; in uint8, −3…−1 come back as 253…255."""


class WrongDtype(Rule):
    """The images are of a number type that the network does not compute in.

    **Measured.** The type of the images and of the first floating-point parameter, and whether the network converts its
    input by itself.

    **Expected.** The same type (float32, or what autocast makes of it). Integers are pixels as they lie in files:
    without a conversion PyTorch refuses them (``expected … Byte but found Float``), and with a bare ``.float()`` they
    arrive as 0…255; normalized values that were cast to integers have a handful of levels left. float64 is what NumPy
    makes of ``array / 255``; the network then refuses them, or, if it was converted as well, computes at a fraction of
    the speed.

    **Usual causes.** ``torch.from_numpy`` on uint8 or float64 arrays; ``PILToTensor`` where ``ToTensor`` was meant.

    **Mends it.** ``images.float() / 255`` and the normalization; ``array.astype("float32")``.
    """

    code = "FL106"
    name = "wrong-dtype"
    explains = frozenset({"FL101", "FL302", "FL303", "FL304", "FL308", "FL402", "FL407", "FL501", "FL601", "FL602"})

    def examine(self, case: Case) -> Iterator[Finding]:
        """At most one finding."""
        images = case.images
        if images is None:
            raise NotChecked("no input is a batch of images with four axes")
        weights = next((p.dtype for p in case.model.parameters() if p.is_floating_point()), None)
        if weights is None:
            raise NotChecked("the network has no floating-point parameter")
        kind, meant = (str(dtype).removeprefix("torch.") for dtype in (images.dtype, weights))
        evidence = f"the images are {kind}, the parameters {meant}"
        if not images.is_floating_point():
            if normalizes_itself(case):
                return
            yield self._integers(images, kind, meant, evidence)
        elif images.dtype != weights and case.measured is None:
            yield self.finding(
                "fail",
                "input",
                f"the images are {kind}, the network computes in {meant}",
                evidence=f"{evidence}, and the network did not run",
                cause="NumPy computes in float64 unless told otherwise" if kind == "float64" else "a cast is missing",
                fix=f"images = images.to(torch.{meant})",
            )
        elif images.dtype == weights == torch.float64:
            yield self.finding(
                "note",
                "input",
                "images and network are float64",
                evidence=f"{evidence}; float32 takes half the memory, and on GPUs it is many times as fast",
                cause="NumPy computes in float64 unless told otherwise",
                fix="model.float(); images = images.float()",
            )

    def _integers(self, images: Tensor, kind: str, meant: str, evidence: str) -> Finding:
        values = torch.unique(images.long())
        low, high, levels = int(values[0]), int(values[-1]), len(values)
        cause = "the images were not converted: PILToTensor or from_numpy without a scaling to 0…1"
        fix = f"images = images.to(torch.{meant}) / {65535 if high > 255 else 255}, then the normalization"
        if low < 0 or levels <= _FEW:
            evidence += f"; {levels} levels are left of 256"
            cause, fix = "normalized values were cast to integers", "cast before the scaling, and never back"
        return self.finding(
            "fail",
            "input",
            f"the images are {kind}, {low}…{high}, and not {meant}",
            evidence=f"{evidence}; integers are pixels before any scaling",
            cause=cause,
            fix=fix,
        )
