"""What a rule is given and what it returns; the table of rules."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias, TypeVar

import numpy as np
from torch import Tensor

from firstlight.graph import Graph, Node
from firstlight.theory.axes import Axes
from firstlight.theory.signal import Coefficient, Gradient, Leaf, Signal

Flow: TypeAlias = tuple[str, Gradient, bool]
"""Gradient that arrives at a node; false when it only shows the node's own, and another path carries it on."""

Pull: TypeAlias = Callable[[Gradient], Iterable[Flow]]


@dataclass(frozen=True, slots=True)
class Step:
    """One operation: what comes out, and how a gradient goes back through it.

    Attributes:
        signal: the result.
        pull: from the gradient by the result to gradients by nodes before it.
        local: variance of log(second moment) that this result adds to what it was given (`Signal.spread`).
        opaque: why the moments were only passed through; empty when a rule computed them.
    """

    signal: Signal
    pull: Pull
    local: float = 0.0
    opaque: str = ""


@dataclass
class Context:
    """What rules share during one walk over a graph.

    Attributes:
        graph: the network.
        batch: samples in the example.
        training: whether batch norm and dropout are in train mode.
        signals: what is known of each node so far.
        leaves: covariances of each independent source, by source.
    """

    graph: Graph
    batch: int
    training: bool
    signals: dict[str, Signal] = field(default_factory=dict)
    leaves: dict[str, Leaf] = field(default_factory=dict)

    def of(self, node: Node, role: str) -> Signal | None:
        """The signal that plays `role` in `node`."""
        name = node.input_for(role)
        return None if name is None else self.signals[name]

    def first(self, node: Node) -> Signal:
        """The signal that `node` reads first."""
        return self.signals[node.inputs[0]]

    def is_signal(self, name: str) -> bool:
        """Whether the node depends on the network's input."""
        return name in self.graph.signal

    def register(self, signal: Signal) -> Signal:
        """Note the covariances of a signal that is a source of its own, or of the part of it that is.

        That part is what the known sources leave over, below zero too: the signal's covariance with itself then is what
        its maps say, and ``x - x`` is nothing.
        """
        if signal.name not in self.leaves and signal.name in signal.terms:
            total = signal.covariances()
            rest = {k: c for k, c in signal.terms.items() if k != signal.name}
            known = sum((c * c * self.leaves[k] for k, c in rest.items()), np.zeros(3))
            self.leaves[signal.name] = total - known
        return signal

    def shared(self, a: Signal, b: Signal) -> Leaf:
        """Covariance of two signals at one element, between sites, between samples, from the sources they share."""
        few, many = (a.terms, b.terms) if len(a.terms) <= len(b.terms) else (b.terms, a.terms)
        found = np.zeros(3)
        for name, coefficient in few.items():
            if name in many and name in self.leaves:
                found = found + coefficient * many[name] * self.leaves[name]
        return found


Rule: TypeAlias = Callable[[Node, Context], Step | None]
"""May return ``None`` when it does not understand this use of the operation."""

RULES: dict[str, Rule] = {}
_Entry = TypeVar("_Entry")


def rule(*functions: str) -> Callable[[Rule], Rule]:
    """Enter a rule for these ATen functions."""
    return entered(RULES, functions)


def entered(table: dict[str, _Entry], functions: Sequence[str]) -> Callable[[_Entry], _Entry]:
    """A decorator that puts what it decorates into `table`, under each of these functions."""

    def enter(found: _Entry) -> _Entry:
        table.update(dict.fromkeys(functions, found))
        return found

    return enter


def shape_of(node: Node) -> tuple[int, ...]:
    """Shape of the node's result, empty when it has several."""
    return node.shape or ()


def dims_of(node: Node, rank: int) -> tuple[int, ...]:
    """The dimensions that an operation on a tensor of this rank is taken over; all when it names none."""
    chosen = node.arguments.get("dim")
    listed = range(rank) if chosen in (None, ()) else (chosen,) if isinstance(chosen, int) else chosen
    return tuple(int(d) % rank for d in listed)


def with_maps(signal: Signal, node: Node, axes: Axes, maps: Iterable[Tensor]) -> Signal:
    """A fresh signal for `node` with the given mean, second, far and other; keeps closeness and spread."""
    mean, second, far, other = maps
    return replace(
        signal, name=node.name, shape=shape_of(node), axes=axes, mean=mean, second=second, far=far, other=other,
        base=None, function=None, steps=(), terms={node.name: 1.0}, rows=None,
        simplex=0, balanced=False, across=None, skew=0.0, law=None, swing=0.0, fresh=0.0, profile=None,
        anchors=None, filters=None,
    )  # fmt: skip


def linear_terms(terms: Mapping[str, Coefficient], factor: Coefficient) -> dict[str, Coefficient]:
    """Coefficients after multiplication by `factor`; what has become negligible is dropped."""
    return {name: c * factor for name, c in terms.items() if np.abs(c * factor).max() > 1e-12}
