"""What the rules look at: everything that was gathered about one network, its batch and its loss."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from firstlight.graph import Graph
from firstlight.probe import Run
from firstlight.theory import NodePrediction, Prediction

if TYPE_CHECKING:
    from firstlight.recipe import Recipe
    from firstlight.statistics import Statistics


class NotChecked(Exception):
    """A rule could not be applied to this case; the reason is one sentence that says what it would need."""


@dataclass(frozen=True)
class Case:
    """One network as it will be trained, and what three steps of it showed.

    Attributes:
        model: as it was given; rules read it and change nothing.
        batch: as the model takes it, without the labels.
        labels: of the batch; None when there are none.
        loss: callable of output and labels; None when the most natural one was taken.
        measured: what three steps showed; None when the model did not run. Rules read `run` instead.
        prediction: what the theory expects, for the input's own moments; None when it could not be made.
        classes: number of classes, where it is known (from the labels' source; otherwise from the head).
        class_counts: images per class in the whole training set, when they were given.
        statistics: of the training images before preprocessing, when they were given.
        recipe: the preprocessing that was meant, when it was given.
        mean: the constants that were declared for normalization, units of full scale; None when there are none.
        std: the same.
        reasons: why something is missing, by the name of the attribute.
    """

    model: nn.Module
    batch: Any
    labels: Tensor | None
    loss: Callable[..., Tensor] | None
    measured: Run | None
    prediction: Prediction | None = None
    classes: int | None = None
    class_counts: tuple[int, ...] | None = None
    statistics: "Statistics | None" = None
    recipe: "Recipe | None" = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)

    @property
    def run(self) -> Run:
        """What three steps showed; `run.first.nodes` carry the names of the graph.

        Raises:
            NotChecked: when the model did not run.
        """
        if self.measured is None:
            raise NotChecked(self.reasons.get("run", "the model did not run"))
        return self.measured

    @property
    def graph(self) -> Graph:
        """The network's operations as the first step recorded them; raises `NotChecked` as `run` does."""
        return self.run.graph

    @cached_property
    def images(self) -> Tensor | None:
        """The batch's images, ``[N, C, H, W]`` in whatever layout and type they came; None when no input has four axes.

        The batch's first tensor of four axes.
        """
        from torch.utils._pytree import tree_leaves

        return next((leaf for leaf in tree_leaves(self.batch) if isinstance(leaf, Tensor) and leaf.dim() == 4), None)

    @cached_property
    def shared(self) -> dict[str, Any]:
        """What one rule works out and others need as well, by name."""
        return {}

    def predicted(self, node: str) -> NodePrediction | None:
        """What the theory says of a node; None where it says nothing, or only passed the moments through."""
        if self.prediction is None or node not in self.prediction:
            return None
        found = self.prediction[node]
        return None if found.opaque else found

    def source(self, node: str) -> str | None:
        """``file:line`` of a node."""
        return self.graph[node].source if node in self.graph else None
