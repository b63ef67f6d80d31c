"""Short, fair training runs: one loop for every comparison, the same batches for every competitor."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Curve:
    """One training run.

    Attributes:
        loss: of each step's batch before the step; nan from the first loss on that is no finite number.
        rate: the learning rate.
    """

    loss: tuple[float, ...]
    rate: float

    @property
    def final(self) -> float:
        """Mean loss of the last fifth of the steps; infinite when the run diverged."""
        last = self.loss[-max(1, len(self.loss) // 5) :]
        mean = sum(last) / len(last)
        return mean if math.isfinite(mean) else math.inf

    def binned(self, points: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(step, mean loss) of at most `points` equal stretches; losses of single batches are noisy."""
        size = math.ceil(len(self.loss) / points)
        stretches = [self.loss[k : k + size] for k in range(0, len(self.loss), size)]
        middles = tuple(k * size + (len(part) - 1) / 2 for k, part in enumerate(stretches))
        return middles, tuple(sum(part) / len(part) for part in stretches)


def train(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    rate: float,
    momentum: float = 0.9,
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
    watch: Callable[[int, nn.Module], None] | None = None,
) -> Curve:
    """Train `model` in place by stochastic gradient descent, one step per batch.

    Args:
        model: with its initial weights.
        batches: (inputs, labels) of each step; see `shuffled`.
        rate: learning rate, the same at every step.
        momentum: of the descent.
        loss: of (outputs, labels).
        watch: called with (steps done, model) before the first step and after each.

    Returns:
        The loss of every step. A run whose loss is no longer finite stops, and the rest of its curve is nan.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum)
    model.train()
    losses: list[float] = []
    if watch is not None:
        watch(0, model)
    for inputs, labels in batches:
        if losses and not math.isfinite(losses[-1]):
            losses.append(math.nan)
            continue
        optimizer.zero_grad(set_to_none=True)
        value = loss(model(inputs), labels)
        losses.append(float(value.detach()))
        if not math.isfinite(losses[-1]):
            losses[-1] = math.nan
            continue
        value.backward()
        optimizer.step()
        if watch is not None:
            watch(len(losses), model)
    return Curve(tuple(losses), rate)


def shuffled(inputs: Tensor, labels: Tensor, *, size: int, steps: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches for `steps` steps: every sample once in each pass, passes shuffled by `seed`; the same for all who ask.

    Args:
        inputs, labels: the samples, first dimension N.
        size: samples in a batch; a last, smaller part of a pass is left out. At most N.
        steps: batches in all.
        seed: of the order.
    """
    generator = torch.Generator().manual_seed(seed)
    size = min(size, len(inputs))
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < size:
            order = torch.randperm(len(inputs), generator=generator)
        chosen, order = order[:size], order[size:]
        yield inputs[chosen], labels[chosen]


def tuned(run: Callable[[float, int], Curve], *, rates: Sequence[float], seeds: Sequence[int]) -> tuple[Curve, ...]:
    """One run per seed at the rate of `rates` that gives the first seed the lowest final loss.

    Every competitor gets the same number of tries, so none is judged by a rate that suits another.
    """
    tries = {rate: run(rate, seeds[0]) for rate in rates}
    best = min(rates, key=lambda rate: tries[rate].final)
    return (tries[best], *(run(best, seed) for seed in seeds[1:]))
