"""Weights as numbers and as matrices: outliers, and how many directions there are."""

import math
from dataclasses import dataclass

import torch
from scipy.special import log_ndtr
from torch import Tensor

from firstlight.graph import Fan

CHANCE = 1e-9  # of one healthy weight beyond the bound
_FEWEST = 256  # weights, for the spread of the middle half to be known
_ITERATIONS, _EXPECTED, _RANK = 8, 3.0, 1.5


@dataclass(frozen=True, slots=True)
class Tail:
    """What lies beyond the bound.

    Attributes:
        count: weights beyond it.
        farthest: distance of the farthest from the median, in units of `spread`.
        share: of the squared size of all weights that is theirs.
        spread: standard deviation of a normal distribution with this middle half.
        bound: in units of `spread`.
    """

    count: int
    farthest: float
    share: float
    spread: float
    bound: float


def tail(weight: Tensor) -> Tail | None:
    """What lies beyond the bound; None where nothing does, or where more than half of the weights are equal."""
    values = weight.double().flatten()
    known = _known(values)
    if known is None:
        return None
    distances, spread, bound = known
    beyond = distances > bound * spread
    if not bool(beyond.any()):
        return None
    share = float(values[beyond].square().sum() / values.square().sum())
    return Tail(int(beyond.sum()), float(distances.max()) / spread, share, spread, bound)


def without_tail(weight: Tensor) -> Tensor:
    """The same weights with zero in place of those beyond the bound."""
    known = _known(weight.double().flatten())
    if known is None:
        return weight
    distances, spread, bound = known
    return torch.where((distances > bound * spread).view_as(weight), 0, weight)


def _known(values: Tensor) -> tuple[Tensor, float, float] | None:
    """Distances from the median, the spread of the middle half and the bound; None where there is no spread."""
    if values.numel() < _FEWEST or not bool(values.isfinite().all()):
        return None
    few = slice(None, None, max(1, values.numel() >> 20))
    distances = (values - values[few].median()).abs()
    spread = float(distances[few].median()) / 0.6745  # Φ⁻¹(3/4)
    if spread == 0:
        return None
    # The spread itself is known to 1.17/√n; seven of its standard errors are allowed for.
    return distances, spread, _bound(values.numel()) * (1 + 7 * 1.17 / math.sqrt(values.numel()))


def _bound(count: int) -> float:
    """The t at which ``2 n Φ(-t)`` is `CHANCE`, by bisection."""
    low, high = 1.0, 40.0
    wanted = math.log(CHANCE / (2 * count))
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if log_ndtr(-middle) > wanted else (low, middle)
    return high


def one_direction(weight: Tensor, fan: Fan) -> tuple[float, float] | None:
    """Stable rank and that of a random matrix of this shape, where the units are multiples of one feature; else None.

    A few outliers have a direction of their own, whatever the rest is, and are no reason to say so of all units: it
    must hold without them too.
    """
    rank, expected = _stable_rank(weight, fan)
    if expected <= _EXPECTED or rank >= _RANK or _stable_rank(without_tail(weight), fan)[0] >= _RANK:
        return None
    return rank, expected


def _stable_rank(weight: Tensor, fan: Fan) -> tuple[float, float]:
    """``‖W‖²_F / ‖W‖²₂`` by power iteration, which ends at or below the norm, and the value of a random matrix."""
    rows = weight.flatten(1).float()
    n, m = rows.shape
    expected = n * m / (math.sqrt(n) + math.sqrt(m)) ** 2
    total = float(rows.square().sum())
    if expected <= _EXPECTED or not 0 < total < math.inf or fan.op.startswith("conv_transpose"):
        return expected, expected
    vector = torch.randn(m, generator=torch.Generator().manual_seed(0)).to(rows.device)
    largest = 0.0
    for _ in range(_ITERATIONS):
        image = rows @ (vector / vector.norm())
        largest = float(image.square().sum())
        vector = rows.mT @ image
    return (total / largest if largest > 0 else expected), expected
