"""The kernel of a function of a Gaussian field between blocks of real data, by Mehler's series."""

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from firstlight._typing import Floats
from firstlight.theory.anchors import Anchors
from firstlight.theory.elementwise import Elementwise, moments

_TERMS, _LEVELS = 16, 12


def of_function(base: Anchors, mean: float, f: Elementwise, first: float, second: float, skew: float = 0.0) -> Anchors:
    """E f(z_i) f(z_j) by Mehler's series; its coefficients are interpolated between a few variances.

    A block of uneven sites is no Gaussian of their mean square: its mean is smaller, and what all its pairs share.

    Args:
        base: of ``z``.
        mean: E z.
        f: the function.
        first, second: E f(z) and E f(z)², as its own rule has them.
        skew: of ``z``.
    """
    sizes = base.own.clamp_min(0).sqrt()  # a mean is large where the signal is, as in `mixture.sized`
    means = mean * sizes / sizes.mean().clamp_min(1e-150)
    variance = (base.own - means**2).clamp_min(0)
    root = variance.sqrt().clamp_min(1e-150)
    alike = ((base.values - means[:, None] * means) / (root[:, None] * root)).clamp(-1, 1)
    coefficients, squares = _interpolated(f, means.numpy(), variance.numpy(), skew)
    had = float(coefficients[:, 0].mean())
    if had * first > 0:
        coefficients[:, 0] *= min(first / had, 1.0)
    total = (squares - (coefficients[:, :_TERMS] ** 2).sum(1)).clamp_min(0)  # beyond the series
    total = torch.outer(total.sqrt(), total.sqrt())
    for a in coefficients.T[:_TERMS].flip(0):  # Horner
        total.mul_(alike).addr_(a, a)
    slope = float(coefficients[:, 1].square().mean() / variance.mean().clamp_min(1e-300))  # for small changes of K
    out = replace(base.becoming(total, squares), noise=base.noise * slope**2, lone=(base, mean, f))
    return out.scaled(second) if second > 0 else out


def _interpolated(f: Elementwise, means: Floats, variance: Floats, skew: float) -> tuple[Tensor, Tensor]:
    log = np.log(np.maximum(variance, 1e-12 * max(float(variance.max()), 1e-280)))
    low, high = float(log.min()), float(log.max())
    count = 1 if high - low < 1e-6 else min(_LEVELS, 2 + math.ceil((high - low) / 0.25))
    levels = np.linspace(low, high, count)
    middle = float(np.mean(means) / max(np.sqrt(variance).mean(), 1e-150))
    found = moments(f, middle * np.exp(levels / 2), np.exp(levels), skew)
    table = np.column_stack([found.coefficients, found.second])
    if count == 1:
        rows = np.repeat(table, len(log), 0)
    else:
        place = np.clip((log - low) / (high - low) * (count - 1), 0, count - 1)
        left = np.minimum(place.astype(int), count - 2)
        share = (place - left)[:, None]
        rows = table[left] * (1 - share) + table[left + 1] * share
    return torch.from_numpy(rows[:, :-1].copy()), torch.from_numpy(rows[:, -1].copy())
