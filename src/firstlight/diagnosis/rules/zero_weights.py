"""FL202."""

from collections.abc import Iterator

from firstlight.diagnosis.case import Case
from firstlight.diagnosis.finding import Finding, Repair
from firstlight.diagnosis.places import at_parameter, code, module_of, several
from firstlight.diagnosis.rule import Rule
from firstlight.diagnosis.weights import summing


class ZeroWeights(Rule):
    """All weights of a layer are zero, and training does not wake it up.

    **Measured:** weights that are zero throughout, and their gradients in each of three steps on a copy.

    **Expected:** a zero layer is no fault in itself: the last layer of a residual branch, or the head, may start at
    zero (Goyal et al., 2017; Zhang et al., "Fixup", 2019), receives a gradient at once and wakes the layers before it
    in the next step. Nothing is said of these. A layer whose gradient is zero in all three steps never moves: nothing
    passes forward, and nothing back.

    **Usual causes:** `nn.init.zeros_` on weights that were meant to be biases; all layers at zero, where each waits for
    the next; a zero layer in front of ReLU, whose slope at zero is zero; parameters made by `torch.zeros` or
    `torch.empty` and never drawn.

    **Mends it:** draw the weights of this layer at random; keep zero for biases and for the end of a residual branch.
    """

    code = "FL202"
    name = "zero-weights"
    explains = frozenset({"FL201", "FL301", "FL304", "FL305", "FL401", "FL402", "FL601"})
    exact = True

    def examine(self, case: Case) -> Iterator[Finding]:
        """One finding: the first layer that stays asleep, with the others as its victims."""
        fans = summing(case)
        zero = [n for n, p in case.model.named_parameters() if n in fans and p.requires_grad and not bool(p.any())]
        asleep = [name for name in zero if not _awake(case, name)]
        if not asleep:
            return
        asleep.sort(key=lambda name: case.graph.turn(fans[name].node))
        first = asleep[0]
        yield self.finding(
            "fail",
            title=f"all weights of {first} are zero and get no gradient in three steps: it never wakes up"
            + (f"; so are those of {several(asleep[1:])}" if asleep[1:] else ""),
            evidence="largest weight 0; gradient exactly 0 in every step. A zero layer at the end of a residual branch "
            "or in the head would have received a gradient in the first.",
            cause="weights set to zero, here and around it, or in front of an activation that is flat at zero",
            fix=f'nn.init.kaiming_normal_({code(module_of(first))}.weight, nonlinearity="relu")',
            victims=tuple(f"{self.code} {module_of(name)}: all weights of {name} are zero too" for name in asleep[1:]),
            repair=Repair("initialize", {"parameters": tuple(asleep), "scheme": "auto"}),
            **at_parameter(case.graph, first),
        )


def _awake(case: Case, name: str) -> bool:
    steps = [p for step in case.run.steps for p in step.parameters if p.name == name]
    return any(p.gradient is not None and p.gradient > 0 for p in steps)
