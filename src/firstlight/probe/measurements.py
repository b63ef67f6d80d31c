"""What a probe saw: plain frozen values."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NodeMeasurement:
    """One operation's result on the batch; moments are over all its elements, standard deviations over n.

    Attributes:
        name: the node's name in the graph.
        module: dotted path of the module that ran it.
        op: readable ATen name.
        shape: of the result.
        forward_mean: mean of the result.
        forward_std: standard deviation of the result.
        gradient_std: standard deviation of the loss's gradient by the result; ``None`` where no gradient arrives.
        fraction_zero: share of elements that are exactly zero, 0 to 1.
        nonfinite: number of elements that are infinite or not a number; they are in the moments too.
        gradient_nonfinite: the same for the gradient.
    """

    name: str
    module: str
    op: str
    shape: tuple[int, ...]
    forward_mean: float
    forward_std: float
    gradient_std: float | None
    fraction_zero: float
    nonfinite: int
    gradient_nonfinite: int


@dataclass(frozen=True, slots=True)
class ParameterMeasurement:
    """One parameter on the batch.

    Attributes:
        name: dotted name.
        std: standard deviation of the parameter itself.
        gradient_std: standard deviation of the loss's gradient by it; ``None`` when none arrives.
    """

    name: str
    std: float
    gradient_std: float | None


@dataclass(frozen=True, slots=True)
class Measurements:
    """One forward and backward pass.

    Attributes:
        nodes: floating-point results of operations, in the order they ran; an operation that only rearranges
            its argument is left out, for its numbers are the argument's.
        parameters: every parameter, in the model's order; tied ones once.
        loss: value of the loss.
        loss_kind: which loss it was, in words.
        missing: operations of the given graph that this batch did not run.
    """

    nodes: tuple[NodeMeasurement, ...]
    parameters: tuple[ParameterMeasurement, ...]
    loss: float
    loss_kind: str
    missing: tuple[str, ...]
