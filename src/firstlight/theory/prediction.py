"""What a prediction says: plain frozen values."""

import math
from dataclasses import dataclass, field
from functools import cached_property

from firstlight._text import short, table

WEIGHTED = frozenset(
    {"linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "addmm"}
)
_DEAD, _EXPLODED = 1e-6, 1e6


@dataclass(frozen=True, slots=True)
class NodePrediction:
    """What one operation's result should be, over the draw of weights and data.

    Attributes:
        name: the node's name in the graph.
        module: dotted path of the module that runs it.
        op: readable ATen name.
        shape: of the result; empty when there are several.
        forward_mean: mean over all elements.
        forward_second_moment: mean square over all elements.
        backward_second_moment: mean square of the gradient by it, in units of that by the network's outputs; ``None``
            where no gradient arrives.
        band: relative half-width of the 95 % band of `forward_second_moment` at this width and batch: one draw should
            lie between ``m/(1+band)`` and ``m (1+band)``.
        backward_band: the same for `backward_second_moment`, and of what corrections for real data leave in doubt.
        gain: `forward_second_moment` over that of the first signal it reads; ``None`` without one.
        correlation: of one channel in two samples, uncentred: E z z' / E z².
        opaque: the moments were only passed through.
        reason: why, when they were.
    """

    name: str
    module: str
    op: str
    shape: tuple[int, ...]
    forward_mean: float
    forward_second_moment: float
    backward_second_moment: float | None
    band: float
    backward_band: float
    gain: float | None
    correlation: float
    opaque: bool
    reason: str = ""

    @property
    def forward_std(self) -> float:
        """Standard deviation over all elements."""
        return math.sqrt(max(self.forward_second_moment - self.forward_mean**2, 0.0))

    @property
    def backward_std(self) -> float | None:
        """Root of `backward_second_moment`: gradients have mean zero."""
        return None if self.backward_second_moment is None else math.sqrt(max(self.backward_second_moment, 0.0))


@dataclass(frozen=True)
class Prediction:
    """A network's signal before any weight is drawn.

    Attributes:
        nodes: operations that depend on the input, in the order they run.
        inputs: second moments of the inputs, by node name.
        notes: what was assumed and what could not be said, one sentence each.
    """

    nodes: tuple[NodePrediction, ...]
    inputs: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        head = ("operation", "shape", "mean", "std", "gradient", "band", "")
        rows = [
            (n.name, "×".join(map(str, n.shape)), short(n.forward_mean), short(n.forward_std), short(n.backward_std),
             f"{n.band:.0%}", n.reason)
            for n in self.nodes
        ]  # fmt: skip
        return "\n".join([table(head, rows), *self.notes])

    @cached_property
    def _by_name(self) -> dict[str, NodePrediction]:
        return {node.name: node for node in self.nodes}

    def __getitem__(self, name: str) -> NodePrediction:
        return self._by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    @property
    def opaque(self) -> tuple[NodePrediction, ...]:
        """Nodes whose moments were only passed through."""
        return tuple(node for node in self.nodes if node.opaque)

    @cached_property
    def layers(self) -> tuple[NodePrediction, ...]:
        """Operations with weights."""
        return tuple(node for node in self.nodes if node.op in WEIGHTED)

    @property
    def growth(self) -> float | None:
        """Factor of the forward second moment per layer with weights, the geometric mean from first to last."""
        return _per_layer([node.forward_second_moment for node in self.layers])

    @property
    def chi(self) -> float | None:
        """Factor of the gradient's squared norm per layer towards the input; above 1 gradients explode with depth.

        In a plain network of one width and activation it is the χ of Poole et al. (2016). Norms, because a pooling
        over n positions hands each of them a gradient 1/n as large and loses nothing by it.
        """
        found = [
            node.backward_second_moment * math.prod(node.shape[1:])
            for node in self.layers
            if node.backward_second_moment is not None
        ]
        return _per_layer(found[::-1])

    @property
    def depth_scale(self) -> float | None:
        """Layers over which the gradient's second moment changes by e: ``1/|ln χ|`` (Schoenholz et al., 2017)."""
        if self.chi is None:
            return None
        return math.inf if self.chi == 1 else 1 / abs(math.log(self.chi))

    @property
    def turning_points(self) -> tuple[tuple[str, str], ...]:
        """``(node, what happens)`` from where on the signal is dead or has exploded, forward and backward."""
        start = max(self.inputs.values(), default=1.0) or 1.0
        forward = [(node.name, node.forward_second_moment / start) for node in self.nodes]
        backward = [
            (node.name, node.backward_second_moment)
            for node in reversed(self.nodes)
            if node.backward_second_moment is not None
        ]
        found = [(*_from_where(forward), "forward signal"), (*_from_where(backward), "gradient")]
        return tuple((name, f"the {what} {how}") for name, how, what in found if name)


def _per_layer(values: list[float]) -> float | None:
    if len(values) < 2 or min(values[0], values[-1]) <= 0:
        return None
    return float((values[-1] / values[0]) ** (1 / (len(values) - 1)))


def _from_where(values: list[tuple[str, float]]) -> tuple[str, str]:
    """The node from which on everything is dead, or has exploded; a branch that starts at zero is neither."""
    for how, gone in (("dies", lambda v: not v > _DEAD), ("explodes", lambda v: not v < _EXPLODED)):
        name = ""
        for candidate, value in reversed(values):
            if not gone(value):
                break
            name = candidate
        if name:
            return name, how
    return "", ""
