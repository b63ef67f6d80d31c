"""FL201."""

from collections.abc import Iterator

from firstlight.diagnosis.case import Case, NotChecked
from firstlight.diagnosis.finding import Finding, Repair
from firstlight.diagnosis.places import at_parameter
from firstlight.diagnosis.rule import Rule
from firstlight.diagnosis.weights import inner, summing
from firstlight.probe import Symmetry, symmetries


class SymmetricUnits(Rule):
    """Units of one layer have the same incoming weights, so they compute the same number.

    **Measured:** equal rows of each weight with its bias; then three steps of gradient descent on a copy, on this batch
    and this loss. Units that also receive equal gradients are equal for ever: the layer has one unit there, whatever
    its width (fail). Units that the steps tell apart started badly but recover (warn).

    **Expected:** no two rows of a random matrix are equal. A layer of zeros that wakes up is no fault and is not
    counted; see FL202. Nor is a head, whose units have targets of their own.

    **Usual causes:** constant or zero weights; one row copied to all; a layer widened by copying its units without
    noise, with the weights that read them copied too.

    **Mends it:** draw the weights at random; after widening, add noise to one copy.

    **Source:** the symmetry problem of the lecture; Goodfellow, Bengio and Courville, *Deep Learning* (2016), 8.4.
    """

    code = "FL201"
    name = "symmetric-units"
    explains = frozenset({"FL301", "FL304", "FL305", "FL401"})
    exact = True

    def examine(self, case: Case) -> Iterator[Finding]:
        """One finding for each weight with equal units, permanent ones first."""
        fans = inner(case, summing(case))
        try:
            found = symmetries(case.model, case.batch, case.labels, case.loss)
        except Exception as error:
            raise NotChecked(f"the network could not be trained by plain steps: {error}") from error
        zero = {name for name, p in case.model.named_parameters() if not bool(p.detach().any())}
        relevant = [s for s in found if s.parameter in fans and (s.permanent or s.parameter not in zero)]
        for symmetry in sorted(relevant, key=lambda s: not s.permanent):
            yield self._finding(case, symmetry)

    def _finding(self, case: Case, symmetry: Symmetry) -> Finding:
        alike = sum(len(group) for group in symmetry.groups)
        left = symmetry.units - alike + len(symmetry.groups)
        parameter = symmetry.parameter
        stay = "receive equal gradients and stay equal" if symmetry.permanent else "are told apart by their gradients"
        return self.finding(
            "fail" if symmetry.permanent else "warn",
            title=f"{alike} of {symmetry.units} units of {parameter} are copies of each other: {left} are left"
            + (", for ever" if symmetry.permanent else " until training tells them apart"),
            evidence=f"rows {', '.join(map(str, symmetry.groups[0][:6]))} are equal; over three steps they {stay}. "
            "No two rows of a random matrix are equal, and only random weights tell units apart.",
            cause="constant or copied weights, here and in the layers that read these units"
            if symmetry.permanent
            else "copied or constant weights in this layer",
            fix='fl.initialize(model, example, scheme="auto", seed=0)',
            repair=Repair("initialize", {"parameters": (parameter,), "scheme": "auto"}),
            **at_parameter(case.graph, parameter),
        )
