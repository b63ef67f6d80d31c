"""FL110."""

from collections.abc import Iterator

import torch
from torch import Tensor

from firstlight.diagnosis.case import Case, NotChecked
from firstlight.diagnosis.finding import Finding
from firstlight.diagnosis.rule import Rule


class NonfiniteInput(Rule):
    """An input holds NaN or infinity.

    **Measured.** Every floating-point input, element by element.

    **Expected.** Finite numbers. One NaN in one image makes the loss of the batch NaN, and with it every weight after
    the first step; batch normalization spreads it to all samples already in the forward pass.

    **Usual causes.** Nodata values of satellite and medical images; a division by the std of a constant channel; the
    logarithm of zero; 16-bit floats above 65,504.

    **Mends it.** ``torch.nan_to_num`` with a value that means "unknown" in your data, or a mask.
    """

    code = "FL110"
    name = "nonfinite-input"
    explains = frozenset({"FL308", "FL407", "FL501", "FL601", "FL602"})

    def examine(self, case: Case) -> Iterator[Finding]:
        """One finding for each such input."""
        from torch.utils._pytree import tree_leaves

        inputs = [x for x in tree_leaves(case.batch) if isinstance(x, Tensor) and x.is_floating_point()]
        if not inputs:
            raise NotChecked("no input is a floating-point tensor")
        for tensor in inputs:
            bad = ~torch.isfinite(tensor)
            count = int(bad.sum())
            if not count:
                continue
            nan = int(torch.isnan(tensor).sum())
            rows = bad.flatten(1).any(dim=1).nonzero().flatten().tolist() if tensor.dim() > 1 else []
            yield self.finding(
                "fail",
                "input",
                f"{count} of {tensor.numel()} input values are not finite",
                evidence=f"{nan} NaN and {count - nan} infinite, in samples {rows[:8]}; any of them makes the loss NaN",
                cause="nodata values, a division by the std of a constant channel, or an overflow of 16-bit floats",
                fix="images = torch.nan_to_num(images, nan=0.0), if zero means unknown in your data",
            )
