"""FL403."""

from collections.abc import Iterator

from firstlight.diagnosis.case import Case
from firstlight.diagnosis.finding import Finding
from firstlight.diagnosis.places import at_node, at_parameter, module_of, several
from firstlight.diagnosis.rule import Rule
from firstlight.graph import Graph, Node
from firstlight.graph.vocabulary import REARRANGEMENT


class NoGradient(Rule):
    """Parameters that want a gradient and get none.

    **Measured:** parameters with `requires_grad` for which no gradient arrived in any step (none at all, not a small
    one), and on which side of the graph they stand.

    **Expected:** every trainable parameter takes part in the loss. What stands in the way is told apart: the module is
    not used in `forward` (warn); its result is cut off from the loss by a `detach`, by `.data`, by `no_grad`, by NumPy
    or by an operation without a derivative (fail, at the cut); its output is not part of the loss (warn).

    **Usual causes:** a forgotten layer; a `.detach()` or `torch.no_grad()` left over from debugging or from a frozen
    backbone; a round trip through NumPy; comparisons and `argmax` in `forward`; an auxiliary head without its loss.

    **Mends it:** take the cut out; use the module or remove it (DistributedDataParallel stops at unused parameters);
    set `requires_grad_(False)` where nothing is meant to learn.
    """

    code = "FL403"
    name = "no-gradient"
    explains = frozenset({"FL401", "FL402"})

    def examine(self, case: Case) -> Iterator[Finding]:
        """One finding for each cut, one for what is not used, one for what the loss leaves out."""
        silent = _silent(case)
        if not silent:
            return
        graph = case.graph
        lost = _outside(graph)
        if lost is not None:
            yield self._left(case, lost, silent)
            return
        unused = [name for name in silent if name in graph.unreached]
        cut, rest = _cuts(case, [name for name in silent if name not in graph.unreached])
        for node, names in cut.items():
            yield self._cut(case, graph[node], names)
        if rest:
            yield self._ignored(case, rest, all_of_them=len(rest) == len(list(case.model.parameters())))
        if unused:
            yield self._unused(case, unused)

    def _cut(self, case: Case, node: Node, names: list[str]) -> Finding:
        how, fix = _how(node)
        return self.finding(
            "fail",
            title=f"{how} in front of the loss: {len(names)} parameters get no gradient ({several(names)})",
            evidence=f"gradients arrive behind {node.name}, none in front of it in {len(case.run.steps)} steps.",
            cause=how,
            fix=fix,
            victims=tuple(f"{self.code} {m}: gets no gradient" for m in dict.fromkeys(map(module_of, names))),
            **at_node(case.graph, node.name),
        )

    def _left(self, case: Case, node: Node, names: list[str]) -> Finding:
        return self.finding(
            "fail",
            title=f"the signal leaves PyTorch in front of {node.name}: {len(names)} parameters get no gradient",
            evidence="no result depends on the input; a tensor that nothing computed takes its place.",
            cause="a round trip through NumPy, .tolist(), .item() or torch.tensor(...)",
            fix="stay in torch operations; torch.from_numpy and torch.tensor make tensors without a history",
            victims=tuple(f"{self.code} {m}: gets no gradient" for m in dict.fromkeys(map(module_of, names))),
            **at_node(case.graph, node.name),
        )

    def _ignored(self, case: Case, names: list[str], *, all_of_them: bool) -> Finding:
        return self.finding(
            "fail" if all_of_them else "warn",
            title=f"the loss does not depend on {several(names)}",
            evidence="what they compute reaches an output of the model, but no gradient comes from there.",
            cause="an output (of an auxiliary head, say) that the loss leaves out, or a loss that was detached",
            fix="add this output to the loss, or remove its head",
            victims=tuple(f"{self.code} {module_of(name)}: {name} gets no gradient" for name in names[1:]),
            **at_parameter(case.graph, names[0]),
        )

    def _unused(self, case: Case, names: list[str]) -> Finding:
        return self.finding(
            "warn",
            title=f"{several(names)} {'is' if len(names) == 1 else 'are'} not used in forward",
            evidence="no operation on the way to an output reads them.",
            cause="a layer that was replaced or forgotten in forward",
            fix="use it in forward, or remove it",
            victims=tuple(f"{self.code} {module_of(name)}: {name} is not used" for name in names[1:]),
            **at_parameter(case.graph, names[0]),
        )


def _silent(case: Case) -> list[str]:
    frozen = set(case.run.frozen)
    heard = {p.name for step in case.run.steps for p in step.parameters if p.gradient is not None}
    names = dict.fromkeys(p.name for step in case.run.steps for p in step.parameters)
    return [name for name in names if name not in heard and name not in frozen]


def _outside(graph: Graph) -> Node | None:
    """The first operation that computes, when no result depends on an input any more."""
    if any(graph.users(node.name) for node in graph.nodes if node.kind == "input"):
        return None
    return next((node for node in graph.operations if any(graph[n].kind == "constant" for n in node.inputs)), None)


def _cuts(case: Case, names: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Silent parameters by the node that cuts them off, and those that nothing cuts off."""
    graph = case.graph
    lit = {node.name for node in case.run.first.nodes if node.gradient_std is not None}
    attached = _attached(case)
    cut: dict[str, list[str]] = {}
    rest = []
    for name in names:
        edge = _edge(graph, name, lit)
        if edge is None:
            rest.append(name)
        else:
            cut.setdefault(_culprit(graph, edge, attached), []).append(name)
    return cut, rest


def _attached(case: Case) -> set[str]:
    """Operations with a history; one that only rearranges is not measured, and has its argument's."""
    found = {node.name for node in case.run.first.nodes if node.attached}
    for node in case.graph.operations:
        if node.function in REARRANGEMENT - {"detach"} and node.inputs[0] in found:
            found.add(node.name)
    return found


def _edge(graph: Graph, parameter: str, lit: set[str]) -> str | None:
    """The last node behind `parameter` without a gradient, in front of one that has it."""
    waiting, seen = [parameter], {parameter}
    while waiting:
        name = waiting.pop(0)
        for user in graph.users(name):
            if user.name in seen:
                continue
            if user.name in lit:
                if name != parameter:
                    return name
                continue
            seen.add(user.name)
            waiting.append(user.name)
    return None


def _culprit(graph: Graph, name: str, attached: set[str]) -> str:
    """Back over operations without weights, to a detach or to a result that is no floating-point number.

    Otherwise to the last one that was computed without gradients although something that it read wanted one: what comes
    behind it without weights had nothing to pass a gradient to.
    """
    found = name
    while not graph[found].parameters and graph[found].function != "detach" and _is_float(graph[found]):
        before = [source for source in graph[found].inputs if source in graph.signal]
        if not before or graph[before[0]].kind == "input":
            break
        found = before[0]
    if graph[found].function == "detach" or not _is_float(graph[found]):
        return found
    while not graph[name].parameters:
        before = [source for source in graph[name].inputs if source in graph.signal]
        if not before or graph[before[0]].kind == "input" or attached.intersection(before):
            break
        name = before[0]
    return name


def _is_float(node: Node) -> bool:
    return node.dtype is None or node.dtype.startswith(("float", "bfloat", "complex"))


def _how(node: Node) -> tuple[str, str]:
    if node.function == "detach":
        return "detach() cuts the graph", "remove .detach() (or .data) here"
    if not _is_float(node):
        return (
            f"{node.function} has no derivative",
            f"replace {node.function} by a smooth function, or pass the gradient by",
        )
    return (
        f"{node.function} was computed without gradients",
        "remove torch.no_grad() around this part, or freeze its parameters with requires_grad_(False)",
    )
