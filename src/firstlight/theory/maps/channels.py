"""Channels of a depthwise convolution that differ in size, behind a function and before a norm of each channel.

With few weights ``w`` to a channel its variance ``v = wᵀ S w`` differs from channel to channel. After ``f`` it is
``var f(z√v)``, whose inverse the norm multiplies the gradient by, and ``E f'(z√v)²`` is what the function passes on: of
GELU, small channels have little variance left and a slope of one half, large ones are divided by more and pass more.
"""

import math
from dataclasses import dataclass

import numpy as np

from firstlight._typing import Floats
from firstlight.theory.elementwise import Elementwise, moments
from firstlight.theory.maps.filtered import sizes
from firstlight.theory.maps.registry import Context
from firstlight.theory.signal import Signal

_BINS = 16


@dataclass(frozen=True)
class Channels:
    """Of kinds of channels that are equally many, [K]: their variances before and after a function, and its slopes.

    Attributes:
        before: of the Gaussian, mean one.
        after: of the function's values.
        slopes: E f'².
    """

    before: Floats
    after: Floats
    slopes: Floats

    @property
    def kept(self) -> float:
        """``E f'²`` where a norm has divided by the variances, over what it is on average."""
        weights = 1 / self.after
        return float((self.slopes * weights).sum() / weights.sum() / self.slopes.mean())

    @property
    def left(self) -> float:
        """``E v f'²/var f`` over ``E f'²/E var f``: one where the function is linear.

        The gradient by the weights' input has ``w²`` on top, which goes with ``v``.
        """
        return float((self.before * self.slopes / self.after).mean() * self.after.mean() / self.slopes.mean())


def channels(base: Signal, f: Elementwise, ctx: Context) -> Channels | None:
    """Of ``f(base)``; ``None`` where `base` is no depthwise convolution."""
    if base.filters is None or not base.filters.drawn or base.taps is None:
        return None
    squares = np.sort(sizes(base, ctx))
    parts = np.array([part.mean() for part in np.array_split(squares, min(_BINS, len(squares)))])
    before = parts / parts.mean()
    found = moments(f, np.zeros(len(before)), before * max(float(base.variance.mean()), 1e-300))
    after = found.second - found.mean**2
    if not bool((after > 1e-12 * after.max()).all()) or not math.isfinite(float(after.sum())):
        return None
    return Channels(before, after, found.chi)
