"""FL404."""

from collections.abc import Iterator

from firstlight.diagnosis.case import Case
from firstlight.diagnosis.finding import Finding, Repair, Severity
from firstlight.diagnosis.places import at_parameter, code, module_of, several
from firstlight.diagnosis.rule import Rule
from firstlight.diagnosis.weights import summing


class FrozenParameter(Rule):
    """Layers do not learn because their weights do not require gradients.

    **Measured:** `requires_grad` of every weight that an operation sums with, in the order in which they run.

    **Expected:** all trained; or, on purpose, all frozen up to a point (fine-tuning, a frozen patch embedding) or most
    of them (adapters): those are notes. A frozen layer between trained ones, in a network that is otherwise trained,
    looks like an accident (warn). When nothing is left to train, nothing is (fail). Tables that are computed once
    (positions, blur kernels) are no weights of sums and are not counted.

    **Usual causes:** `requires_grad_(False)` in a helper that matched one name too many; a layer taken from another
    network that had been frozen.

    **Mends it:** `requires_grad_(True)`, before the optimizer is made.
    """

    code = "FL404"
    name = "frozen-parameter"

    def examine(self, case: Case) -> Iterator[Finding]:
        """At most one finding, at the first layer that looks frozen by accident."""
        fans = summing(case)
        names = sorted(fans, key=lambda name: case.graph.turn(fans[name].node))
        frozen = [name for name in names if name in set(case.run.frozen)]
        if not frozen:
            return
        severity, culprits, what = _judged(names, frozen)
        first = culprits[0]
        yield self.finding(
            severity,
            title=f"{what}: {several(culprits)}",
            evidence=f"{len(frozen)} of {len(names)} weights have requires_grad=False.",
            cause="fine-tuning, if it is meant" if severity == "note" else "requires_grad_(False) on one name too many",
            fix=f"{code(module_of(first))}.requires_grad_(True)",
            victims=tuple(f"{self.code} {module_of(name)}: {name} is frozen" for name in culprits[1:]),
            repair=None if severity == "note" else Repair("train", {"parameters": tuple(culprits)}),
            **at_parameter(case.graph, first),
        )


def _judged(names: list[str], frozen: list[str]) -> tuple[Severity, list[str], str]:
    """How bad, which weights, and in what words."""
    if len(frozen) == len(names):
        return "fail", frozen, "no layer is trained"
    trained = next(k for k, name in enumerate(names) if name not in frozen)
    inside = [name for name in frozen if name in names[trained:]]
    if not inside:
        return "note", frozen, f"the first {len(frozen)} of {len(names)} layers are frozen"
    if 2 * len(frozen) > len(names):
        return "note", frozen, f"{len(frozen)} of {len(names)} layers are frozen"
    return "warn", inside, "frozen between layers that are trained"
