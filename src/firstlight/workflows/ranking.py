"""Contenders and their order, with the uncertainty that so few seeds leave.

Contenders are compared seed by seed, since those share their batches: the mean difference of final losses follows a
t distribution (Student 1908), and where its 95 % interval holds zero there is no clear difference.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

# A run that ends within 5 % of the loss of knowing the classes' frequencies alone has learned nothing from the images.
_STALLED = 0.95


@dataclass(frozen=True)
class Contender:
    """A way to start, and what became of it.

    Attributes:
        scheme, recipe: how the weights were drawn, and what was done to the pixels.
        rate: the learning rate it trains best with.
        steps: middle of each stretch of steps.
        losses: mean training loss of each stretch, one row for each seed.
        final: mean loss of the last fifth of the steps, one for each seed; infinite where the run diverged.
        state: "trains", "stalls" (no better than the frequencies of the classes) or "diverges", by the worst seed.
        behind: 95 % interval of the difference to the best contender's final loss; None for the best one, for one
            that diverged, and for a single seed.
        place: rank from 1; those without a clear difference to the best of their group share it.
    """

    scheme: str
    recipe: str
    rate: float
    steps: tuple[float, ...]
    losses: tuple[tuple[float, ...], ...]
    final: tuple[float, ...]
    state: str
    behind: tuple[float, float] | None = None
    place: int = 0

    @property
    def name(self) -> str:
        """Scheme and recipe."""
        return f"{self.scheme}, {self.recipe}"

    @property
    def mean(self) -> float:
        """Mean final loss over the seeds."""
        return sum(self.final) / len(self.final)


def state_of(final: Sequence[float], chance: float) -> str:
    """ "trains", "stalls" or "diverges", by the worst of the final losses; `chance` is the loss of not looking."""
    worst = max(final)
    return "diverges" if math.isinf(worst) else "stalls" if worst > _STALLED * chance else "trains"


def ranked(contenders: Sequence[Contender]) -> list[Contender]:
    """By mean final loss; a place is shared until one is clearly behind the first that holds it."""
    ordered = sorted(contenders, key=lambda c: c.mean)
    best, ranked, place, leader = ordered[0], [], 1, ordered[0]
    for k, contender in enumerate(ordered, start=1):
        if k > 1 and _apart(contender, leader):
            place, leader = k, contender
        behind = None if contender is best else interval(contender.final, best.final)
        ranked.append(dataclasses.replace(contender, place=place, behind=behind))
    return ranked


def _apart(contender: Contender, leader: Contender) -> bool:
    if math.isinf(contender.mean) or math.isinf(leader.mean):
        return math.isinf(contender.mean) and not math.isinf(leader.mean)
    between = interval(contender.final, leader.final)
    return between is None or between[0] > 0


def interval(final: Sequence[float], other: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean paired difference, Student's t; None for one pair, or where one is infinite."""
    differences = [a - b for a, b in zip(final, other, strict=True)]
    n = len(differences)
    if n < 2 or not all(math.isfinite(d) for d in differences):
        return None
    mean = sum(differences) / n
    error = math.sqrt(sum((d - mean) ** 2 for d in differences) / (n - 1) / n)
    half = float(stats.t.ppf(0.975, n - 1)) * error
    return mean - half, mean + half
