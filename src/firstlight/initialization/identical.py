"""Layers whose units a plan makes equal for ever, told from the plan and the graph alone, before anything is drawn.

Swap two units of a layer: exchange their incoming weights, their outgoing weights and whatever else belongs to them.
The network computes the same. If the swap also changes no *number*, the gradients of the two are equal as well, so
training cannot tell them apart, now or later. That is so when every weight that writes to the layer and every weight
that reads it is constant, and so is all else on the way (scales, biases).

Units are followed through what leaves them as they are (nonlinearities, norms, pooling, sums, shapes), which ties
signals into one layer; where the network's input or output is in it, its units have different meanings and are not
alike. What only ties more together (a grouped convolution, a product of signals) can hide a symmetry and never invents
one.
"""

from firstlight.graph import Graph, fans
from firstlight.graph.walk import uses
from firstlight.initialization.plan import Decision, Plan


def identical_units(graph: Graph, plan: Plan) -> tuple[str, ...]:
    """Names of the weights that write to a hidden layer whose units start equal and stay equal.

    For a layer's units in part equal, and for what a network's own code does, `symmetries` runs the model.
    """
    weights = {f.node: f.parameter for f in fans(graph) if int(graph[f.node].arguments.get("groups", 1)) == 1}
    layers = _Layers()
    for node in graph.operations:
        read = [name for name in node.inputs if name in graph.signal]
        if node.name in graph.signal and node.name not in weights:
            layers.join([node.name, *read])
    equal = {d.name for d in plan.decisions if _constant(d)}
    different = {layers.of(name) for name in graph.outputs}
    different |= {layers.of(node.name) for node in graph.nodes if node.kind == "input"}
    writers: dict[str, list[str]] = {}
    for name, parameter in weights.items():
        if name not in graph.signal:
            continue
        layer, behind = layers.of(name), [n for n in graph[name].inputs if n in graph.signal]
        writers.setdefault(layer, []).append(parameter)
        if parameter not in equal:
            different |= {layer, *(layers.of(n) for n in behind)}
    for given in graph.parameters:
        if given.name not in equal:
            places = [node.name for node, _, _ in uses(graph, given.name) if node.name in graph.signal]
            different |= {layers.of(name) for name in places}
    found = (name for layer, names in writers.items() if layer not in different for name in names)
    return tuple(dict.fromkeys(found))


def _constant(decision: Decision) -> bool:
    return decision.distribution == "constant" and decision.values is None


class _Layers:
    """Signals that hold the same units, joined as they are found to (union-find)."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def of(self, name: str) -> str:
        """The layer's representative."""
        while (parent := self._parent.setdefault(name, name)) != name:
            self._parent[name] = self._parent[parent]
            name = parent
        return name

    def join(self, names: list[str]) -> None:
        """Put all into one layer."""
        first = self.of(names[0])
        for name in names[1:]:
            self._parent[self.of(name)] = first
