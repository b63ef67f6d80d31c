"""How constants can be wrong, as hypotheses: each predicts the numbers somebody who made that mistake would hold.

A hypothesis is an order of channels, a factor of range and a kind of std, any of them wrong or right. Errors are
measured in units that do not depend on the hypothesis: (given − predicted)/predicted std for a mean, given/predicted
− 1 for a std. Their likelihood has two equal halves: constants of these very images (only rounding, and 0.1 % for
another decoder or resize), and constants of another sample of the same kind of images (the confidence interval of
the mean; of the std, 1.5/√(2n), the error of a std from n independent images of somewhat heavy tails). Every
deviation has a prior of 0.2; "something else" has a prior of 0.05 and, for each number, the density of errors that
spread over one std: photographs of another kind differ by a part of that.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from firstlight._typing import Floats

if TYPE_CHECKING:
    from firstlight.statistics import Statistics

_DEVIATION = np.log(0.2)
_ELSE = np.log(0.05)
_SAME = 1e-3


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """One way in which constants may have come about.

    Attributes:
        faults: short names of what is wrong; empty when nothing is.
        mean, std: what the constants would be.
        posterior: log of prior times likelihood, then, once all are known, the share of it, 0…1.
    """

    faults: tuple[str, ...]
    mean: Floats
    std: Floats
    posterior: float = 0.0


def best(stats: "Statistics", mean: Floats | None, std: Floats | None) -> Hypothesis:
    """The most probable hypothesis, with its probability among all of them."""
    alike = all(np.ptp(given) == 0 for given in (mean, std) if given is not None)
    tried = [h for h in _all(stats, std is not None) if alike or h.faults != ("channels-alike",)]
    scored = [(h, _log_posterior(h, stats, mean, std)) for h in tried]
    scored.append((Hypothesis(("unexplained",), stats.mean, stats.std), float(_ELSE)))
    scores = np.array([score for _, score in scored])
    weights = np.exp(scores - scores.max())
    winner = int(weights.argmax())
    found = scored[winner][0]
    same = sum(weight for (h, _), weight in zip(scored, weights, strict=True) if h.faults == found.faults)
    return Hypothesis(found.faults, found.mean, found.std, float(same / weights.sum()))


def factors(kind: str) -> dict[str, float]:
    """Wrong factors of range by fault, for statistics in units of full scale (floats: their own)."""
    if kind == "float":
        return {"range-0-1-for-0-255": 1 / 255, "range-0-255-for-0-1": 255.0, "divided-by-65535": 1 / 65535}
    if kind == "uint16":
        names = ("range-raw-for-0-1", "sixteen-bit-by-255", "divided-twice", "by-255-more")
        return dict(zip(names, (65535.0, 257.0, 1 / 65535, 1 / 255), strict=True))
    return {"range-0-255-for-0-1": 255.0, "divided-twice": 1 / 255}


def _all(stats: "Statistics", with_std: bool) -> Iterator[Hypothesis]:
    """Every combination of an order, a range and a kind of std, and a few that stand for themselves."""
    mean, std, own = stats.mean, stats.std, stats.per_image_std
    orders: dict[str, slice] = {"": slice(None)}
    if stats.channels == 3:
        orders["bgr-for-rgb"] = slice(None, None, -1)
    kinds = {"": std, "averaged-std": own} if with_std else {"": std}
    for (order, turn), (scale, factor), (kind, spread) in product(
        orders.items(), {"": 1.0, **factors(stats.kind)}.items(), kinds.items()
    ):
        faults = tuple(name for name in (order, scale, kind) if name)
        yield Hypothesis(faults, mean[turn] * factor, spread[turn] * factor)
    if stats.channels == 3:
        yield Hypothesis(("channels-mixed",), mean, std[::-1])
        yield Hypothesis(("channels-mixed",), mean[::-1], std)
    if stats.channels > 1:
        alike = np.full(stats.channels, mean.mean())
        pooled = np.sqrt(np.mean(std**2 + mean**2) - mean.mean() ** 2)
        yield Hypothesis(("channels-alike",), alike, np.full(stats.channels, pooled))
        yield Hypothesis(("channels-alike",), alike, np.full(stats.channels, std.mean()))
    if stats.kind != "float":
        yield Hypothesis(("range-minus-1-to-1",), 2 * mean - 1, 2 * std)
    if with_std:
        for factor in {1.0, float(stats.full_scale)}:
            wrong = () if factor == 1 else ("range-0-255-for-0-1" if factor == 255 else "range-raw-for-0-1",)
            yield Hypothesis(("variance-for-std", *wrong), mean * factor, (std * factor) ** 2)
            yield Hypothesis(("root-of-std", *wrong), mean * factor, np.sqrt(std * factor))
        yield Hypothesis(("inverse-of-std",), mean, 1 / np.maximum(std, 1e-12))
        yield Hypothesis(("mean-and-std-swapped",), std, mean)
        yield Hypothesis(("mean-and-std-ranges-differ",), mean * stats.full_scale, std)
        yield Hypothesis(("mean-and-std-ranges-differ",), mean, std * stats.full_scale)


def _log_posterior(h: Hypothesis, stats: "Statistics", mean: Floats | None, std: Floats | None) -> float:
    images = max(stats.count, 1)
    half_widths = np.nan_to_num(stats.confidence, nan=1.0) / np.maximum(stats.std, 1e-12)
    errors, rounding, sampling = [], [], []
    unit = np.maximum(np.abs(h.std), 1e-12)
    if mean is not None:
        errors.append((mean - h.mean) / unit)
        rounding.append(_half_unit(mean) / unit)
        sampling.append(np.minimum(half_widths / 1.96 * np.sqrt(2), 0.5))
    if std is not None:
        errors.append(std / unit - 1)
        rounding.append(_half_unit(std) / unit)
        sampling.append(np.full(len(std), min(1.5 * np.sqrt(2 / (2 * images)), 0.5)))
    error, digits, other = (np.concatenate(parts) for parts in (errors, rounding, sampling))
    same = np.sqrt(digits**2 / 3 + _SAME**2)
    alternatives = np.logaddexp(_log_normal(error, same), _log_normal(error, np.sqrt(same**2 + other**2)))
    return float(alternatives + np.log(0.5) + len(h.faults) * _DEVIATION)


def _log_normal(error: Floats, sigma: Floats) -> float:
    return float(np.sum(-0.5 * (error / sigma) ** 2 - np.log(sigma) - 0.5 * np.log(2 * np.pi)))


def _half_unit(values: Floats) -> float:
    """Half a unit of the last decimal that any of the numbers shows."""
    decimals = max(len(f"{value:.10f}".rstrip("0").partition(".")[2]) for value in values)
    return float(0.5 * 10.0 ** -max(decimals, 1))
