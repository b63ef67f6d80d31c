"""FL109."""

from collections.abc import Iterator

from firstlight.diagnosis.case import Case
from firstlight.diagnosis.finding import Finding
from firstlight.diagnosis.pixels import channels_first
from firstlight.diagnosis.rule import Rule


class DeadChannel(Rule):
    """A channel has one value in all pixels of all images, while others vary.

    **Measured.** The smallest and the largest value of each channel over the batch.

    **Expected.** They differ. The weights that read a constant channel act as a bias: if it is zero they get no
    gradient at all, otherwise one that says nothing about the image.

    **Usual causes.** An alpha channel (1 everywhere); a satellite band that was never filled; an assignment to a view
    that dropped a channel; a mean subtracted from a channel that holds only it.

    **Mends it.** Leave the channel out, and give the first layer one input less.
    """

    code = "FL109"
    name = "dead-channel"

    def examine(self, case: Case) -> Iterator[Finding]:
        """One finding for all such channels."""
        planes = channels_first(case).transpose(0, 1).flatten(1)
        constant = (planes == planes[:, :1]).all(dim=1)
        if bool(constant.all()) or not bool(constant.any()):
            return
        which = constant.nonzero().flatten().tolist()
        values = [f"{float(planes[channel, 0]):.4g}" for channel in which]
        alpha = which == [3] and len(planes) == 4
        yield self.finding(
            "warn" if alpha else "fail",
            "input",
            f"channel {', '.join(map(str, which))} of {len(planes)} is {', '.join(values)} everywhere",
            evidence=f"over {planes.shape[1]} values each; the other channels vary",
            cause="an alpha channel of opaque images" if alpha else "the channel was never filled, or was overwritten",
            fix="image.convert('RGB') before the transforms"
            if alpha
            else "find where the channel is set, or leave it out",
        )
