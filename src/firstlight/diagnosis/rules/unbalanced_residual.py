"""FL306."""

from collections.abc import Iterator
from dataclasses import dataclass

from firstlight.diagnosis.case import Case, NotChecked
from firstlight.diagnosis.finding import Finding, Repair
from firstlight.diagnosis.flow import measured, second_moment, trail
from firstlight.diagnosis.places import at_node
from firstlight.diagnosis.rule import Rule
from firstlight.diagnosis.weights import summing

_FAIL, _WARN = 1e6, 100.0


class UnbalancedResidual(Rule):
    """A residual branch drowns the stream that it is added to.

    **Measured:** at each sum of a tensor with something computed from it, the branch's second moment over the stream's.

    **Expected:** at most about one; a branch may be as small as it likes (zero-initialized scales, layer scale of 10⁻⁶,
    SkipInit), for the stream then passes untouched, and the first branches of a pre-norm network may be several times
    its embedding. Beyond 100 (ten standard deviations) the shortcut is no shortcut any more: what came before is lost
    in the rounding of what was added, forward and backward.

    **Usual causes:** a scale of the branch drawn at the wrong size; weights too large at its end; a branch without the
    normalization it was made for; an embedding that is far too small.

    **Mends it:** start the branch's last scale at zero or at 1/√(number of branches).

    **Source:** De and Smith, "Batch normalization biases residual blocks towards the identity" (2020); Zhang et al.,
    "Fixup initialization" (2019).
    """

    code = "FL306"
    name = "unbalanced-residual"
    explains = frozenset({"FL302", "FL305", "FL402"})

    def examine(self, case: Case) -> Iterator[Finding]:
        """One finding: the loudest branch, with other loud ones as its victims."""
        sums = _sums(case)
        if not sums:
            raise NotChecked("there are no residual branches")
        loud = sorted((s for s in sums if s.ratio > _WARN), key=lambda s: -s.ratio)
        if not loud:
            return
        worst = loud[0]
        way = [step for step in trail(case, worst.branch) if case.graph.turn(step[0]) > case.graph.turn(worst.stream)]
        node = max(way, key=lambda step: step[1])[0] if way else worst.branch
        parameters = dict(case.graph[node].parameters).values()
        known = summing(case)
        yield self.finding(
            "fail" if worst.ratio > _FAIL else "warn",
            title=f"the branch that ends at {worst.node} has {worst.ratio:.1e} times the second moment of its stream"
            + (f"; {len(loud) - 1} more drown theirs" if len(loud) > 1 else ""),
            evidence=f"stream {worst.size:.2g}, branch {worst.ratio * worst.size:.2g}; {case.graph[node].function} in "
            f"{case.graph[node].module or 'the model'} adds the most. A branch that starts at or below its stream "
            "leaves the shortcut open.",
            cause="the last weight or scale of the branch is too large, or its normalization is missing",
            fix='fl.initialize(model, example, scheme="auto", seed=0)',
            victims=tuple(
                f"{self.code} {case.graph[s.node].module or s.node}: its branch has {s.ratio:.1e} of its stream"
                for s in loud[1:]
            ),
            repair=Repair("initialize", {"parameters": tuple(p for p in parameters if p in known), "scheme": "auto"}),
            **at_node(case.graph, node),
        )


@dataclass(frozen=True, slots=True)
class _Sum:
    node: str
    stream: str
    branch: str
    size: float
    ratio: float


def _sums(case: Case) -> list[_Sum]:
    """Sums of two signals of which one is computed from the other."""
    graph, seen = case.graph, measured(case)
    bit = {name: 1 << k for k, name in enumerate(graph.signal)}
    behind: dict[str, int] = {}
    found = []
    for node in graph.nodes:
        if node.name not in graph.signal:
            continue
        read = [name for name in node.inputs if name in graph.signal]
        behind[node.name] = bit[node.name]
        for name in read:
            behind[node.name] |= behind[name]
        if node.function != "add" or len(read) != 2 or any(name not in seen for name in read):
            continue
        for stream, branch in (read, read[::-1]):
            size = second_moment(seen[stream].first)
            if stream != branch and behind[branch] & bit[stream] and size > 0:
                ratio = second_moment(seen[branch].first) / size
                found.append(_Sum(node.name, stream, branch, size, ratio))
    return found
