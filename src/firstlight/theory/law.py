"""How the elements of a sum are distributed: the whole distribution, where a third cumulant says too little.

``relu(x + y)`` with ``x`` the result of a ReLU and a small ``y`` is nearly ``x`` again: nothing lies far below zero. A
Gaussian of the same mean and variance, or a skewed one, has a sixth of its mass there, which the ReLU would cut off; in
a stream of twenty such sums the mean grows by a half. So a sum keeps the quantiles of its distribution, as
``T(g)`` of a standard normal ``g`` (Nataf's transformation): means over one element are means over ``g``, and those of
two follow Mehler's series in the correlation ``c`` of their ``g``, which is the one for which ``Σ t_k² c^k``, with
``t_k`` the coefficients of ``T``, is the correlation of the sums.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.special import ndtr, ndtri

from firstlight._typing import Floats
from firstlight.theory.gaussian import hermite

if TYPE_CHECKING:
    from firstlight.theory.signal import Signal

_STEP = 0.05
NODES = np.arange(-6.0, 6.0 + _STEP / 2, _STEP)
WEIGHTS = ndtr(NODES + _STEP / 2) - ndtr(NODES - _STEP / 2)
_BELOW = np.cumsum(WEIGHTS) - WEIGHTS / 2
_TERMS = 24
_EDGE = 6.0
_GAUSSIAN = 1e-4  # mean squared distance to the Gaussian, in variances, below which it is one


@dataclass(frozen=True)
class Law:
    """A distribution of mean zero and variance one.

    Attributes:
        values: its quantiles where those of a standard normal are `NODES`.
    """

    values: tuple[float, ...]

    @cached_property
    def quantiles(self) -> Floats:
        """The same as an array."""
        return np.array(self.values)

    def at(self, normal: Floats) -> Floats:
        """The quantiles where those of a standard normal are these."""
        return np.asarray(np.interp(normal, NODES, self.quantiles))

    def normal(self, standard: Floats) -> Floats:
        """Where the quantiles are these, those of a standard normal."""
        return np.asarray(np.interp(standard, self.quantiles, NODES))

    @cached_property
    def _between(self) -> tuple[Floats, Floats]:
        c = np.linspace(-1.0, 1.0, 401)
        series = (WEIGHTS * self.quantiles @ hermite(NODES, _TERMS)) ** 2
        found = np.polynomial.polynomial.polyval(c, series) + max(1 - series.sum(), 0.0) * c**_TERMS
        return np.maximum.accumulate(found / found[-1]), c

    def behind(self, correlation: Floats) -> Floats:
        """Correlation of the normal numbers behind two elements of this `correlation`."""
        return np.asarray(np.interp(correlation, *self._between))


def of(x: "Signal") -> Law | None:
    """The distribution of one element of a signal about its mean; ``None`` for a Gaussian, and where it is not known.

    Elements of photographs are no draws from one distribution: each place has a size of its own, and each channel a
    level that all samples share, which `Signal.profile` and `Signal.anchors` tell.
    """
    base = x.root
    if x.anchors is not None:
        return None
    if x.function is None:
        return x.law
    mean, second, *_ = base.scalars()
    places = NODES if base.law is None else base.law.quantiles
    z = torch.from_numpy(mean + max(second - mean**2, 0.0) ** 0.5 * places)
    return _standardized(_ordered(x.function.call(z).detach().numpy(), WEIGHTS))


def total(one: "Signal", other: "Signal", alpha: float) -> Law | None:
    """The distribution of ``one + alpha · other``, as if they were independent."""
    laws = of(one), of(other)
    if laws == (None, None):
        return None
    sizes = float(one.variance.mean()) ** 0.5, alpha * float(other.variance.mean()) ** 0.5
    (law, size), (law_of_other, size_of_other) = sorted(zip(laws, sizes, strict=True), key=lambda part: part[0] is None)
    found = size * (NODES if law is None else law.quantiles)
    if law_of_other is None:
        return _standardized(_blurred(found, abs(size_of_other)))
    both = found[:, None] + size_of_other * law_of_other.quantiles
    return _standardized(_ordered(both.ravel(), (WEIGHTS[:, None] * WEIGHTS).ravel()))


def _blurred(values: Floats, size: float) -> Floats:
    """Quantiles of what has these values, and a Gaussian of this standard deviation added: its own are all smooth."""
    least, most = values.min() - _EDGE * size, values.max() + _EDGE * size
    places = np.linspace(least, most, 2 * len(NODES))
    if size < (most - least) / len(NODES):  # finer than the places: what is added is too little to be seen
        return _ordered(values, WEIGHTS)
    below = (WEIGHTS * ndtr((places[:, None] - values) / size)).sum(1) / WEIGHTS.sum()
    return np.asarray(np.interp(NODES, ndtri(below.clip(1e-15, 1 - 1e-15)), places))


def joined(parts: "list[Signal]", shares: list[float]) -> Law | None:
    """The distribution of a tensor put together of others, each about its own mean: their quantiles on average."""
    laws = [of(x) for x in parts]
    if all(law is None for law in laws):
        return None
    tables = [share * (NODES if law is None else law.quantiles) for law, share in zip(laws, shares, strict=True)]
    return _standardized(np.sum(tables, 0))


def _ordered(values: Floats, weights: Floats) -> Floats:
    """Quantiles of what has these values with these weights."""
    order = np.argsort(values, kind="stable")
    below = np.cumsum(weights[order]) - weights[order] / 2
    return np.asarray(np.interp(_BELOW, below, values[order]))


def _standardized(quantiles: Floats) -> Law | None:
    whole = WEIGHTS.sum()
    middle = quantiles - (WEIGHTS * quantiles).sum() / whole
    variance = (WEIGHTS * middle**2).sum() / whole
    if not 0 < variance < np.inf:
        return None
    found = middle / variance**0.5
    return None if (WEIGHTS * (found - NODES) ** 2).sum() < _GAUSSIAN else Law(tuple(found.tolist()))
