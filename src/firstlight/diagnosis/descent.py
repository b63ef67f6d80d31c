"""What the steps did to the loss of the batch that they were made on."""

from firstlight.diagnosis.case import Case

_LEARNED, _NOTICEABLE, _ALONG = 0.5, 1e-5, 0.1


def losses(case: Case) -> list[float]:
    """Loss of the batch before each step and, where it could be computed, after the last one."""
    run = case.run
    return [step.loss for step in run.steps] + ([] if run.final_loss is None else [run.final_loss])


def rises(values: list[float]) -> bool:
    """Whether the last one is above the first by more than rounding; NaN counts as above."""
    return not values[-1] - values[0] <= _NOTICEABLE * max(abs(values[0]), 1e-3)


def learned_before(values: list[float]) -> bool:
    """Whether more than half of the loss was gone in between, so that a rise came after the batch had been learned."""
    return values[0] > 0 and min(values) < _LEARNED * values[0]


def climbs(case: Case) -> bool:
    """Whether the first step goes up the gradient, so that the loss rises by design, however short the step is.

    By the cosine between gradient and change, over all parameters: 1 for gradient ascent, mean over root mean square
    of the gradient for its signs, which Adam takes first; near zero where a step is all weight decay.
    """
    slope = most = 0.0
    for p in case.run.steps[0].parameters:
        slope += p.slope
        most += case.model.get_parameter(p.name).numel() * (p.gradient or 0.0) * p.update
    return slope > _ALONG * most
