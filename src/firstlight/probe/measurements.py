"""What a probe saw: plain frozen values."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LogHistogram:
    """Magnitudes of a tensor's elements on a logarithmic axis, from an even subsample.

    Attributes:
        counts: elements with a magnitude in each half decade from 1e-12 to 1e6, those outside in the outermost ones.
        negative: of those counted, how many are below zero.
        zeros: exact zeros in the subsample, which no logarithm has.
    """

    counts: tuple[int, ...]
    negative: int
    zeros: int


@dataclass(frozen=True, slots=True)
class Units:
    """The units of one activation function, or of one layer, over samples and positions.

    Attributes:
        count: how many there are: the result's channels (axis 1 after convolutions, the last one after linear layers,
            wherever it is moved then).
        dead: units of an activation function that are on its flat part at every sample and position, exactly: 0 for
            ReLU, GELU, SiLU and their like, the lowest value within 1e-3 for ELU; indices. Empty for layers.
        seen: values that were looked at for each unit: samples times positions.
        saturated: share of elements on a flat part of the function (a slope below 1e-3 of its largest one), for
            functions that saturate on both sides (tanh, sigmoid and their like), from an even subsample of 4096; None
            for others.
        alike: mean cosine between the results of two samples, from at most 16 samples at a few positions; 1 when all
            samples look the same, None for a single one or where numbers are not finite.
        rank: exp of the entropy of the spectrum of the units' second moments over samples and positions, over the
            largest value it could have: 0 (no signal) to 1. From at most 128 rows, a row being all units at one
            position of one sample; None where numbers are not finite.
        uniform: mean cosine between the results at two positions of one sample, from the same rows; 1 when all
            positions look the same, None for a single one or where numbers are not finite.
    """

    count: int
    dead: tuple[int, ...] = ()
    seen: int = 0
    saturated: float | None = None
    alike: float | None = None
    rank: float | None = None
    uniform: float | None = None


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
        minimum: smallest element.
        maximum: largest element.
        gradient_max: largest magnitude in the gradient; None where none arrives.
        gradient_zero: share of the gradient's elements that are exactly zero; None where none arrives.
        attached: whether autograd knows how the result was made from something that wants a gradient.
        histogram: of the result's magnitudes, when asked for.
        gradient_histogram: of the gradient's, when asked for.
        units: of activation functions and layers with weights, when asked for.
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
    minimum: float = float("nan")
    maximum: float = float("nan")
    gradient_max: float | None = None
    gradient_zero: float | None = None
    attached: bool = True
    histogram: LogHistogram | None = None
    gradient_histogram: LogHistogram | None = None
    units: Units | None = None


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
