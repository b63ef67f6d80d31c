"""Contenders and their order, with the uncertainty that so few seeds leave.

Contenders are compared seed by seed, since those share their batches: the mean difference of final losses follows a
t distribution (Student 1908), and where its 95 % interval holds zero there is no clear difference.
"""

import dataclasses
import math
from collections.abc import Sequence

from scipy import stats

from firstlight.report import Contender

# A run that ends within 5 % of the loss of knowing the classes' frequencies alone has learned nothing from the images.
_STALLED = 0.95


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
