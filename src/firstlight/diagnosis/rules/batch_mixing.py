"""FL406."""

from collections.abc import Iterator

from firstlight.diagnosis.case import Case, NotChecked
from firstlight.diagnosis.finding import Finding
from firstlight.diagnosis.places import at_node
from firstlight.diagnosis.rule import Rule


class BatchMixing(Rule):
    """The result for one image depends on the other images of its batch.

    **Measured:** the network in eval mode on the first sample alone, beside a companion and, where that makes a
    difference, beside another one; the first operation whose result for the first sample changes with the companion,
    if the output does too. (Numbers alone: another order of summation changes them as well, a little.)

    **Expected:** no change. In training, batch normalization mixes samples on purpose; in eval mode it uses running
    statistics and mixes nothing. One without running statistics does (warn); anything else is a mistake (fail): the
    prediction for an image changes with its neighbours.

    **Usual causes:** a `reshape` or `view` that was meant to be a `transpose`; softmax, mean or normalization over axis
    0; attention over the batch because of `batch_first=False`.

    **Mends it:** name the axis that is meant.

    **Source:** the test by gradients in A. Karpathy, "A recipe for training neural networks" (2019).
    """

    code = "FL406"
    name = "batch-mixing"

    def examine(self, case: Case) -> Iterator[Finding]:
        """At most one finding."""
        mixing = case.run.mixing
        if mixing is None:
            raise NotChecked(next((n for n in case.run.notes if "mix" in n), "it needs two or more samples"))
        if mixing.node is None:
            return
        function = case.graph[mixing.node].function if mixing.node in case.graph else "an operation"
        batch_norm = function == "batch_norm"
        yield self.finding(
            "warn" if batch_norm else "fail",
            title=f"{function} mixes the samples of a batch: other neighbours change the first result by "
            f"{mixing.change:.2g} of its size",
            evidence="in eval mode, with the first sample the same and its companion replaced; nothing should change.",
            cause="batch normalization without running statistics"
            if batch_norm
            else "an axis mistake: a reshape across the batch, or a sum, softmax or attention over axis 0",
            fix="track_running_stats=True"
            if batch_norm
            else f"let {function} work within each sample (dim=1 or later)",
            **at_node(case.graph, mixing.node),
        )
