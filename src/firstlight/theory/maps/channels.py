"""Channels that differ, behind a function and before a norm of each channel.

What all inputs share gives each channel of a layer a mean of its own, ``m ~ N(0, K̄)``, and with few weights ``w`` its
variance ``v = wᵀ S w`` differs too. After ``f`` it is ``var f(m + z√v)``, whose inverse the norm multiplies the
gradient by, and ``E f'(m + z√v)²`` is what the function passes on: channels that GELU or ReLU has all but closed have
next to no variance, and are divided by that.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from firstlight._typing import Floats
from firstlight.theory.elementwise import Elementwise, moments
from firstlight.theory.maps.filtered import sizes, skews
from firstlight.theory.maps.registry import Context
from firstlight.theory.signal import Signal

_KINDS = 64
_CLOSED = 1e-3  # of the mean variance: a channel with less counts as one with that, as few samples of it are seen


@dataclass(frozen=True)
class Channels:
    """Of kinds of channels that are equally many, [K]: their variances before and after a function, and its slopes.

    Attributes:
        before: of the Gaussian, mean one, where a channel has few weights; ones where it has many.
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

        The gradient by the weights' input has ``w²`` on top, which goes with ``v`` where there are few.
        """
        return float((self.before * self.slopes / self.after).mean() * self.after.mean() / self.slopes.mean())


def channels(base: Signal, f: Elementwise, ctx: Context) -> Channels | None:
    """Of ``f(base)``, where weights have just made `base`; ``None`` elsewhere."""
    if base.taps is None:
        return None
    second = float(base.second.mean())
    level = min(max(base.level(ctx.batch), 0.0), second)
    if base.filters is not None and base.filters.drawn:
        squares, sums, skewed = sizes(base, ctx), base.filters.sums(base.shape[2:]), skews(base, ctx)
        before, means = squares / squares.mean(), sums / max(float(np.mean(sums**2)) ** 0.5, 1e-150)
    else:
        means = ndtri((np.arange(_KINDS) + 0.5) / _KINDS)
        before, skewed = np.ones(_KINDS), np.zeros(_KINDS)
    means, variances = level**0.5 * means, (second - level) * before
    after, slopes = np.empty_like(means), np.empty_like(means)
    for side in (means >= 0, means < 0):  # weights that lower a channel's mean turn what they read, and its skew, over
        if side.any():  # of channels that have no level at all, none is below zero
            found = moments(f, means[side], variances[side], float(np.mean(skewed[side])))
            after[side], slopes[side] = found.second - found.mean**2, found.chi
    after = np.maximum(after, _CLOSED * float(after.mean()))
    return Channels(before, after, slopes) if float(after.mean()) > 0 else None
