"""FL203."""

from collections.abc import Iterator

from torch import Tensor

from firstlight.diagnosis.case import Case, NotChecked
from firstlight.diagnosis.finding import Finding, Repair
from firstlight.diagnosis.places import at_parameter, code, module_of, several
from firstlight.diagnosis.rule import Rule
from firstlight.diagnosis.weights import inner, summing
from firstlight.probe import symmetries


class ConstantWeights(Rule):
    """All weights of a layer have one value, so all its units are one unit.

    **Measured:** the spread of each weight that an operation sums with, relative to its mean; and three steps of
    gradient descent on a copy, which show whether its units ever become different.

    **Expected:** random weights. Behind a constant layer one number is left of the signal: the sum of what came in,
    in every channel. Where the layers that read it are constant too, the units get equal gradients and stay one unit
    for ever (fail); otherwise training tells them apart slowly (warn).

    **Usual causes:** `nn.init.constant_` or `nn.init.ones_` on a weight, often meant for a normalization's scale;
    a custom layer whose weight is `torch.ones`.

    **Mends it:** draw the weights at random; keep constants for scales and biases.

    **Source:** the symmetry problem of the lecture; Goodfellow, Bengio and Courville, *Deep Learning* (2016), 8.4.
    """

    code = "FL203"
    name = "constant-weights"
    explains = frozenset({"FL201", "FL206", "FL301", "FL302", "FL303", "FL304", "FL305", "FL306", "FL401", "FL402"})
    exact = True

    def examine(self, case: Case) -> Iterator[Finding]:
        """One finding: the first constant layer, with the others as its victims."""
        fans = summing(case)
        constant = {
            name: float(p.detach().flatten()[0])
            for name, p in case.model.named_parameters()
            if name in fans and p.shape[0] > 1 and p[0].numel() > 1 and _constant(p.detach().double())
        }
        if not constant:
            return
        try:
            found = {s.parameter: s for s in symmetries(case.model, case.batch, case.labels, case.loss)}
        except Exception as error:
            raise NotChecked(f"the network could not be trained by plain steps: {error}") from error
        permanent = [name for name in inner(case, fans) if name in constant and name in found and found[name].permanent]
        names = sorted(constant, key=lambda name: (name not in permanent, case.graph.turn(fans[name].node)))
        first, others = names[0], names[1:]
        parameter = case.model.get_parameter(first)
        yield self.finding(
            "fail" if permanent else "warn",
            title=f"every weight of {first} is {constant[first]:.3g}: its {parameter.shape[0]} units are one unit"
            + (" and stay it for ever" if first in permanent else ", until training tells them apart")
            + (f"; so it is in {several(others)}" if others else ""),
            evidence=f"standard deviation 0 over {parameter.numel()} weights; over three steps its units "
            + ("receive equal gradients" if first in permanent else "receive different gradients")
            + ". Random weights would make every unit compute something else.",
            cause="weights filled with one number, as is right for biases and scales only",
            fix=f'nn.init.kaiming_normal_({code(module_of(first))}.weight, nonlinearity="relu")',
            victims=tuple(f"{self.code} {module_of(n)}: every weight of {n} is {constant[n]:.3g}" for n in others),
            repair=Repair("initialize", {"parameters": tuple(names), "scheme": "auto"}),
            **at_parameter(case.graph, first),
        )


def _constant(values: Tensor) -> bool:
    return bool(values.std() <= 1e-6 * values.mean().abs()) and bool(values.any())
