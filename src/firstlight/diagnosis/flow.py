"""What is left of the signal, and of its gradient, on the way through the network.

A tensor that is small or has a small gradient says little: a residual branch behind a layer scale of 1e-6 is both, and
nothing is lost, for the stream passes it by. So the network is cut in front of each layer with weights. Everything that
later operations learn of the input crosses such a cut, in one tensor or in several; the largest of them says what the
rest of the network has to work with, and the largest gradient what reaches the layers in front of it.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

from torch import Tensor
from torch.utils._pytree import tree_leaves

from firstlight.diagnosis.case import Case
from firstlight.graph import Fan, fans
from firstlight.graph.vocabulary import REARRANGEMENT
from firstlight.probe import NodeMeasurement


@dataclass(frozen=True, slots=True)
class Cut:
    """What crosses the network just in front of one layer.

    Attributes:
        node: the layer's node, which reads some of it.
        forward: largest mean square among the tensors that are still to be read.
        gradient: largest squared norm of one sample's gradient among them, as of the first step that had any; None
            where none arrives. Norms, for a pooling over n positions hands each a gradient 1/n as large and loses
            nothing by it.
        largest: the tensor that `forward` is of.
    """

    node: str
    forward: float
    gradient: float | None
    largest: str


@dataclass(frozen=True, slots=True)
class Flow:
    """The cuts of one network in the order its layers run, and what leaves it.

    Attributes:
        cuts: one in front of each layer with weights that reads the signal.
        layers: the layers themselves, parallel to `cuts`.
        loudest: largest mean square that one of the layers reads, over that of the input, or over 1 if that is more;
            None without layers.
        loudest_cut: in front of the layer that reads it.
        output: largest mean square among the model's outputs; None when none was measured.
    """

    cuts: tuple[Cut, ...]
    layers: tuple[Fan, ...]
    loudest: float | None
    loudest_cut: Cut | None
    output: float | None

    @property
    def kept_forward(self) -> float | None:
        """Mean square in front of the last layer, over that of the input, or over 1 if that is more; None without two.

        Normalizations bring a signal to 1 whatever came in, so an input of raw bytes is no reason to expect more.
        """
        if len(self.cuts) < 2 or not self.cuts[0].forward > 0:
            return None
        return self.cuts[-1].forward / min(self.cuts[0].forward, 1.0)

    @property
    def kept_gradient(self) -> float | None:
        """Squared gradient in front of the second layer, over that in front of the last; None without three layers."""
        known = [cut.gradient for cut in self.cuts if cut.gradient is not None]
        if len(known) < 2 or not known[-1] > 0:
            return None
        return known[0] / known[-1]


def flow(case: Case) -> Flow:
    """Cut the network of a case in front of each of its layers."""
    graph = case.graph
    layers = {fan.node: fan for fan in reversed(fans(graph)) if fan.node in graph.signal}
    sizes = Sizes(case)
    left = {name: len(graph.users(name)) + (name in graph.outputs) for name in graph.signal}
    crossing = dict.fromkeys(node.name for node in graph.nodes if node.kind == "input" and left[node.name])
    cuts = []
    for node in graph.operations:
        if node.name in layers:
            cuts.append(sizes.cut(node.name, crossing))
        for name in dict.fromkeys(node.inputs):
            left[name] = left.get(name, 0) - 1
            if not left[name]:
                crossing.pop(name, None)
        if left.get(node.name):
            crossing[node.name] = None
    if cuts and cuts[0].gradient is None and sizes.gradient(cuts[0].node) == 0:
        cuts[0] = replace(
            cuts[0], gradient=0.0
        )  # an image has no gradient of its own; its layer's shows that none comes
    outputs = [size for size in (sizes.forward(name) for name in graph.outputs) if size is not None]
    reads = {cut: size for cut in cuts if (size := sizes.forward(graph[cut.node].inputs[0])) is not None}
    loudest = max(reads, key=reads.__getitem__, default=None)
    grown = None if loudest is None else reads[loudest] / max(cuts[0].forward, 1.0)
    return Flow(tuple(cuts), tuple(layers[cut.node] for cut in cuts), grown, loudest, max(outputs, default=None))


class Sizes:
    """How large tensors and their gradients were; the network's inputs among them."""

    def __init__(self, case: Case) -> None:
        tensors = [leaf for leaf in tree_leaves(case.batch) if isinstance(leaf, Tensor)]
        self._measured = measured(case)
        self._samples = next((len(leaf) for leaf in tensors if leaf.dim()), 1)
        squares = [float(leaf.double().square().mean()) for leaf in tensors if leaf.is_floating_point()]
        size = max(squares, default=1.0)
        self._inputs = {node.name: size for node in case.graph.nodes if node.kind == "input"}
        for node in case.graph.operations:
            if node.function in REARRANGEMENT and node.inputs and node.inputs[0] in self._inputs:
                self._inputs[node.name] = size

    def forward(self, name: str) -> float | None:
        """Mean square; None where it was not measured."""
        if name in self._inputs:
            return self._inputs[name]
        return second_moment(self._measured[name].first) if name in self._measured else None

    def gradient(self, name: str) -> float | None:
        """Squared norm of one sample's gradient."""
        node = self._measured[name].awake if name in self._measured else None
        if node is None or node.gradient_std is None:
            return None
        return node.gradient_std**2 * math.prod(node.shape) / self._samples

    def cut(self, node: str, crossing: Iterable[str]) -> Cut:
        """The cut in front of `node`, which these tensors cross."""
        forward = {name: size for name in crossing if (size := self.forward(name)) is not None}
        gradients = {name: size for name in crossing if (size := self.gradient(name)) is not None}
        largest = max(forward, key=forward.__getitem__, default="")
        strongest = max(gradients, key=gradients.__getitem__, default="")
        return Cut(node, forward.get(largest, 0.0), gradients.get(strongest), largest)


def trail(case: Case, start: str) -> tuple[tuple[str, float], ...]:
    """The way back from `start` to the input along the largest signals, the last operation first.

    Returns:
        (node, factor) for each operation on the way: its second moment over that of the largest signal it reads.
    """
    sizes = Sizes(case)
    found = []
    name, size = start, sizes.forward(start)
    while name in case.graph and case.graph[name].kind in ("op", "opaque"):
        read = {n: s for n in case.graph[name].inputs if n in case.graph.signal and (s := sizes.forward(n)) is not None}
        if not read:
            read = {n: math.nan for n in case.graph[name].inputs if n in case.graph.signal}
        if not read:
            break
        source = max(read, key=lambda n: -1.0 if math.isnan(read[n]) else read[n])
        before = read[source]
        if size is not None and before > 0:
            found.append((name, size / before))
        name, size = source, None if math.isnan(before) else before
    return tuple(found)


def gradient_steps(case: Case, signal: Flow) -> tuple[tuple[str, float], ...]:
    """What each operation does to the gradient, where it changes the most between two cuts.

    Returns:
        (node, factor) for the operations between the two neighbouring cuts whose gradients differ the most: squared
        norm of the gradient by what the operation reads, over that by its result.
    """
    known = [cut for cut in signal.cuts if cut.gradient is not None]
    if len(known) < 2:
        return ()
    changes = [
        abs(math.log(max(a.gradient or 0.0, 1e-300)) - math.log(max(b.gradient or 0.0, 1e-300)))
        for a, b in pairwise(known)
    ]
    place = max(range(len(changes)), key=changes.__getitem__)
    first, last = (case.graph.turn(known[k].node) for k in (place, place + 1))
    sizes = Sizes(case)
    found = []
    for node in case.graph.operations:
        after = sizes.gradient(node.name)
        if first <= case.graph.turn(node.name) < last and after:
            before = [g for name in node.inputs if (g := sizes.gradient(name)) is not None]
            if before:
                found.append((node.name, max(before) / after))
    return tuple(found)


def learned_scale(case: Case) -> str:
    """A parameter that multiplies the signal by less than a thousandth and learns; "" when there is none.

    Layer scale, SkipInit and their like start small and grow by the learning rate in each step. Where the only way from
    the image to the output leads through one, its smallness is a choice.
    """
    steps = {p.name: p for step in case.run.steps for p in step.parameters}
    for node in case.graph.operations:
        scale = next((name for _, name in node.parameters), "") if node.function == "mul" else ""
        learns = scale in steps and node.name in case.graph.signal and steps[scale].gradient
        if learns and float(case.model.get_parameter(scale).detach().double().square().mean()) < 1e-6:
            return scale
    return ""


@dataclass(frozen=True, slots=True)
class Measured:
    """One node in the first step, and in the first measured step that had a gradient for it."""

    first: NodeMeasurement
    awake: NodeMeasurement


def measured(case: Case) -> dict[str, Measured]:
    """Measurements by node; an operation that only rearranges its argument has the argument's."""
    run = case.run
    later = {node.name: node for node in (run.last.nodes if run.last is not None else ())}
    found = {
        node.name: Measured(node, node if node.gradient_max else later.get(node.name, node)) for node in run.first.nodes
    }
    for node in case.graph.operations:
        if node.name not in found and node.function in REARRANGEMENT and node.inputs[:1] and node.inputs[0] in found:
            found[node.name] = found[node.inputs[0]]
    return found


def second_moment(node: NodeMeasurement) -> float:
    """Mean square of a result."""
    return node.forward_mean**2 + node.forward_std**2
