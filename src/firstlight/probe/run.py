"""What three optimizer steps on one batch showed: plain frozen values."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from firstlight.graph import Graph
from firstlight.probe.measurements import Measurements


@dataclass(frozen=True, slots=True)
class ParameterStep:
    """One parameter in one step.

    Attributes:
        name: dotted name.
        size: root mean square of the parameter before the step.
        gradient: root mean square of its gradient; None when none arrived.
        zero: share of the gradient's elements that are exactly zero, 0 to 1; 1 without a gradient.
        update: root mean square of its change; 0 for what the optimizer does not hold or has no gradient.
        slope: what the change does to the loss to first order: the sum over elements of gradient times change.
    """

    name: str
    size: float
    gradient: float | None
    zero: float
    update: float
    slope: float


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step.

    Attributes:
        loss: before it.
        parameters: every parameter, in the model's order.
    """

    loss: float
    parameters: tuple[ParameterStep, ...]


@dataclass(frozen=True, slots=True)
class LossCall:
    """One of PyTorch's loss functions, as the user's loss called it in the first step.

    Attributes:
        function: its name in ``torch.nn.functional`` (``"cross_entropy"``).
        input: its first argument, detached.
        target: its second.
        arguments: the others by name, those that are None left out (``{"reduction": "sum"}``).
        node: of the graph that the input is the result of, but for its shape and type; None when the loss computed it
            itself.
        between: functions that the loss itself applied to the model's output on the way (``("softmax",)``), without
            those that change only shape or type.
    """

    function: str
    input: Tensor
    target: Tensor
    arguments: dict[str, Any] = field(default_factory=dict, hash=False)
    node: str | None = None
    between: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OptimizerFacts:
    """The optimizer that made the steps, or, where the run's notes say that it could not, should have made them.

    Attributes:
        name: its class.
        learning_rate: of each parameter it holds, by name.
        given: false when a default one was taken: the caller gave none, or the callable that makes one failed.
        strangers: how many tensors it holds that are no parameters of the model.
    """

    name: str
    learning_rate: dict[str, float]
    given: bool
    strangers: int = 0


@dataclass(frozen=True, slots=True)
class Mixing:
    """Whether a sample's result depends on the other samples of its batch, in eval mode.

    Attributes:
        node: the first operation where it does; None when none does.
        change: largest change of the first sample's result there beside another companion, over its largest element.
    """

    node: str | None
    change: float = 0.0


@dataclass(frozen=True, slots=True)
class Run:
    """Three optimizer steps on one batch, on a copy.

    Attributes:
        graph: the operations that the first step recorded, the loss's own left out.
        first: every operation before the first step, forward and backward.
        last: the same before the last step, for the nodes that had no gradient, or only zeros, at first; None when
            there were no such nodes, or no further step.
        steps: what each step did; one, and a note, where no parameter has a gradient. All forward passes draw the same
            random numbers, so that their losses can be compared.
        final_loss: of the same batch after the last step; None when it could not be computed.
        losses: calls of PyTorch's own loss functions in the first step, those inside the model first; empty for a loss
            made of other parts.
        output: the model's output in the first step, detached (a tensor, or what the model returns).
        optimizer: what made the steps.
        mixing: samples influencing each other; None when it was not looked at.
        frozen: parameters that do not require gradients, in the model's order.
        notes: what could not be measured, and why; one sentence each.
    """

    graph: Graph
    first: Measurements
    last: Measurements | None
    steps: tuple[Step, ...]
    final_loss: float | None
    losses: tuple[LossCall, ...]
    output: Any
    optimizer: OptimizerFacts
    mixing: Mixing | None
    frozen: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
