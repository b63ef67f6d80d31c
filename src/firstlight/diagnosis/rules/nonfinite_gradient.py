"""FL407."""

import math
from collections.abc import Iterator

from firstlight.diagnosis.case import Case
from firstlight.diagnosis.finding import Finding
from firstlight.diagnosis.places import at_node
from firstlight.diagnosis.rule import Rule
from firstlight.graph.vocabulary import REARRANGEMENT

_SLOPES = {
    "sqrt": "its slope at zero is infinite",
    "rsqrt": "its slope at zero is infinite",
    "norm": "the slope of a length is 0/0 at zero",
    "linalg_vector_norm": "the slope of a length is 0/0 at zero",
    "std": "the slope of a standard deviation is 0/0 where all values are equal",
    "div": "the slope of a quotient is infinite where the divisor is zero",
    "pow": "the slope of a power below one is infinite at zero",
    "log": "its slope at zero is infinite",
    "atan2": "its slope at (0, 0) is not defined",
    "acos": "its slope at ±1 is infinite",
    "asin": "its slope at ±1 is infinite",
    "where": "a branch that is not taken has a non-finite slope, and zero times infinity is NaN",
}


class NonfiniteGradient(Rule):
    """The forward pass is finite and the gradient is not.

    **Measured:** non-finite elements of the gradient by every result and every parameter. The culprit is the operation
    whose result still has a finite gradient and whose argument has not.

    **Expected:** none: the first step with such a gradient fills the weights with NaN.

    **Usual causes:** a square root, a length or a standard deviation of exactly zero; `torch.where` around a branch
    that is not finite; float16 gradients beyond 65504.

    **Mends it:** an epsilon under the root (`(x + eps).sqrt()`); clamp in front of `torch.where`, not behind it.
    """

    code = "FL407"
    name = "nonfinite-gradient"
    explains = frozenset({"FL401", "FL402", "FL601", "FL602"})

    def examine(self, case: Case) -> Iterator[Finding]:
        """At most one finding."""
        first = case.run.first
        if not math.isfinite(first.loss):
            return
        broken = {node.name for node in first.nodes if node.gradient_nonfinite}
        if not broken:
            broken = {
                p.name for p in case.run.steps[0].parameters if p.gradient is not None and not math.isfinite(p.gradient)
            }
        if not broken:
            return
        last = max(broken, key=case.graph.turn)
        user = _user(case, last, broken)
        if user is None:
            yield self.finding(
                "fail", "loss", "the loss is finite and its gradient is not",
                evidence=f"the gradient by {last}, which the loss reads, is not finite.",
                cause="a root, division or logarithm in the loss where its argument is zero",
                fix="add an epsilon, or clamp the argument",
            )  # fmt: skip
            return
        function = case.graph[user].function
        yield self.finding(
            "fail",
            title=f"the backward pass of {function} makes NaN or Inf of a finite gradient",
            evidence=f"the gradient by {user} is finite, the one by what it reads is not; the forward pass is finite "
            f"throughout. {len(broken)} results and parameters are affected.",
            cause=_SLOPES.get(function, "an infinite slope where it is used, or an overflow"),
            fix=f"keep the argument of {function} away from there: add an epsilon or clamp it",
            **at_node(case.graph, user),
        )


def _user(case: Case, name: str, broken: set[str]) -> str | None:
    """The operation that reads `name`, past rearrangements; the last of them, for its backward pass ran first."""
    users = [user for user in case.graph.users(name) if user.name not in broken]
    if not users:
        return None
    user = users[-1]
    while user.function in REARRANGEMENT and case.graph.users(user.name):
        user = case.graph.users(user.name)[-1]
    return user.name
