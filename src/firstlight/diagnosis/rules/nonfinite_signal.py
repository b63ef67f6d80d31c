"""FL308."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from firstlight.diagnosis.case import Case
from firstlight.diagnosis.finding import Finding, Repair
from firstlight.diagnosis.places import at_node, at_parameter
from firstlight.diagnosis.rule import Rule
from firstlight.graph import Node

_BIRTHS = {
    "log": "the logarithm of zero is -inf, of a negative number NaN",
    "log2": "the logarithm of zero is -inf, of a negative number NaN",
    "log10": "the logarithm of zero is -inf, of a negative number NaN",
    "sqrt": "the square root of a negative number is NaN",
    "rsqrt": "one over the square root of zero is inf, of a negative number NaN",
    "div": "a number over zero is inf, and zero over zero NaN",
    "reciprocal": "one over zero is inf",
    "pow": "a power of a negative number, or of zero to a negative exponent, is not finite",
    "exp": "the exponential overflows beyond 88 in float32, 11 in float16",
    "softmax": "all logits of a row are -inf (everything masked)",
    "acos": "the argument is outside -1 to 1",
    "asin": "the argument is outside -1 to 1",
}  # fmt: skip


class NonfiniteSignal(Rule):
    """An operation makes NaN or Inf of finite numbers, and it reaches the output or the loss.

    **Measured:** non-finite elements of every result. From the output, the way is followed back to the first operation
    whose inputs are all finite: there it was born.

    **Expected:** none. An infinity that stays inside, as in a mask of -inf in front of a softmax, is no fault.

    **Usual causes:** log or square root of what can be zero or negative; a division by what can be zero; exp without
    taking the maximum away; float16 beyond 65504; NaN in a loaded weight.

    **Mends it:** clamp the argument (`x.clamp_min(eps).log()`), add an epsilon under the division, use `log_softmax`
    and `logsumexp`, run this operation in float32.
    """

    code = "FL308"
    name = "nonfinite-signal"
    explains = frozenset(
        {"FL204", "FL206", "FL301", "FL302", "FL303", "FL304", "FL305", "FL306", "FL401", "FL402", "FL403", "FL406"}
        | {"FL407", "FL501", "FL502", "FL506", "FL601", "FL602"}
    )

    def examine(self, case: Case) -> Iterator[Finding]:
        """At most one finding."""
        broken = next((n for n, p in _tensors(case) if not bool(p.isfinite().all())), None)
        if broken is not None:
            yield self._parameter(case, broken)
            return
        if not _finite_input(case):
            return
        nonfinite = {node.name: node.nonfinite for node in case.run.first.nodes if node.nonfinite}
        start = next((name for name in case.graph.outputs if _behind(case, name) in nonfinite), None)
        if start is not None:
            yield self._born(case, _birth(case, _behind(case, start), nonfinite), nonfinite)
        elif not torch.isfinite(torch.tensor(case.run.first.loss)):
            yield self.finding(
                "fail",
                "loss",
                f"the loss is {case.run.first.loss} although the network's output is finite",
                evidence="every element of the output is finite, and the loss of it is not.",
                cause="log, division or exp in the loss of a probability of exactly zero, or labels it cannot take",
                fix="compute the loss from logits (cross_entropy, binary_cross_entropy_with_logits), or clamp",
            )

    def _parameter(self, case: Case, name: str) -> Finding:
        return self.finding(
            "fail",
            title=f"{name} itself holds NaN or Inf",
            evidence="a weight that is not finite makes every result it takes part in NaN.",
            cause="a damaged checkpoint, a diverged earlier run, or memory that was never initialized",
            fix='fl.initialize(model, example, scheme="auto", seed=0)',
            repair=Repair("initialize", {"parameters": (name,), "scheme": "auto"}),
            **at_parameter(case.graph, name),
        )

    def _born(self, case: Case, node: Node, nonfinite: dict[str, int]) -> Finding:
        total = max(1, torch.Size(node.shape or ()).numel())
        born = nonfinite[node.name]
        return self.finding(
            "fail",
            title=f"{node.function} makes NaN or Inf of finite numbers: {born} of {total} elements",
            evidence=f"everything {node.name} reads is finite and its result is not; {len(nonfinite)} results carry it "
            "to the output.",
            cause=_BIRTHS.get(node.function, f"the result is beyond what {node.dtype} can hold"),
            fix=f"keep the argument of {node.function} where it is defined (clamp, epsilon), or use float32",
            **at_node(case.graph, node.name),
        )


def _tensors(case: Case) -> Iterator[tuple[str, Tensor]]:
    yield from ((n, p.detach()) for n, p in case.model.named_parameters() if p.is_floating_point() and not p.is_meta)


def _finite_input(case: Case) -> bool:
    leaves = [leaf for leaf in tree_leaves(case.batch) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    return all(bool(leaf.isfinite().all()) for leaf in leaves)


def _behind(case: Case, name: str) -> str:
    """The measured node that `name` is a rearrangement of."""
    seen = {node.name for node in case.run.first.nodes}
    while name not in seen and case.graph[name].inputs:
        name = case.graph[name].inputs[0]
    return name


def _birth(case: Case, name: str, nonfinite: dict[str, int]) -> Node:
    """Follow non-finite inputs back to an operation that has none."""
    while True:
        inputs = [_behind(case, n) for n in case.graph[name].inputs if n in case.graph.signal]
        earlier = next((n for n in inputs if n in nonfinite and n != name), None)
        if earlier is None:
            return case.graph[name]
        name = earlier
