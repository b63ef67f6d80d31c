"""Random numbers as a function of a key and a position: Philox4x32-10 and the inverse of the normal distribution.

Philox (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011) enciphers a counter, so the
number at any position is computed directly, without those before it. One element of a tensor takes one 32-bit number:

    group of 64 elements g = i // 64,  lane l = i % 64 // 16,  counter c = 16 g + i % 16,  number = philox(c)[l]

The four words of 16 consecutive counters fill one group, so that 16 counters go through the rounds side by side and
every store is a whole vector. A number ``n`` stands for the uniform ``u = (n + 1/2) / 2³²``, never 0 or 1.

Everything else follows by inversion, one number for one element, nothing ever rejected. With ``x = 2u - 1``, the normal
quantile is ``z = √2 erfinv(x)``, and ``z / x`` is a smooth function of ``w = -log((1 - x)(1 + x))`` (Giles,
"Approximating the erfinv function", 2010): a polynomial in ``w`` below 5, in ``√w`` above. The ones here are Chebyshev
fits to ``scipy.special.ndtri``; together with a logarithm of their own, in float32 without fused operations, they give
the same bits on every processor. ``|z|`` reaches 6.33. A truncated normal is the same with ``x`` drawn between
``2Φ(low) - 1`` and ``2Φ(high) - 1``.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

GROUP = 64
_LANES = 16
_TILE = 16 * GROUP  # elements worked on at a time: four kilobytes, which stay in the first cache

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10

_M0, _M1 = np.uint64(MULTIPLIERS[0]), np.uint64(MULTIPLIERS[1])
_W0, _W1 = np.uint64(WEYL[0]), np.uint64(WEYL[1])
_MASK, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)

# z/x as a polynomial, lowest power first: in (w - 2.5) / 2.5, and in (√w - middle of [√5, 4.75]) / half its length.
CENTRE = (
    2.1233134, 0.87200505, -0.036923248, -0.027681578, 0.01206202, -0.0006868147, -0.0011956916, 0.0004041928,
    5.0203547e-05, -4.823711e-05,
)  # fmt: skip
TAIL = (
    4.707165, 1.7906367, 0.007417345, -0.0059033828, 0.003957789, -0.0029656764, 0.0024232296, -0.0019349251,
    0.0007651908, 0.00031809614, -0.00027866807,
)  # fmt: skip
TAIL_START = 5.0
_ROOT_LOW, _ROOT_HIGH = TAIL_START**0.5, 4.75
TAIL_MIDDLE, TAIL_HALF = (_ROOT_HIGH + _ROOT_LOW) / 2, (_ROOT_HIGH - _ROOT_LOW) / 2

# log(1 + f) = f - f²/2 + f³ Q(f) for 1 + f between √½ and √2.
_LOG = tuple(
    np.float32(q)
    for q in (
        0.3333333134651184, -0.24999989569187164, 0.20000708103179932, -0.1666848063468933, 0.14249935746192932,
        -0.12411050498485565, 0.11661511659622192, -0.115712009370327, 0.07149753719568253,
    )
)  # fmt: skip
_CENTRE, _TAIL = tuple(np.float32(c) for c in CENTRE), tuple(np.float32(c) for c in TAIL)
_ONE, _HALF_F, _LN2 = np.float32(1), np.float32(0.5), np.float32(np.log(2))
_START, _MIDDLE, _SCALE = np.float32(TAIL_START), np.float32(TAIL_MIDDLE), np.float32(1 / TAIL_HALF)
_CENTRE_SHIFT, _CENTRE_SCALE = np.float32(2.5), np.float32(1 / 2.5)
_SQRT_HALF_BITS = np.int32(0x3F3504F3)


@njit(nogil=True, cache=True)
def words(key: int, first: int, groups: int, out: NDArray[np.uint32]) -> None:
    """The 32-bit numbers of elements ``64 first`` to ``64 (first + groups)`` into `out`, at least that long.

    Args:
        key: 64 bits; the low half is Philox's first key word.
        first: index of the first group of 64 elements.
        groups: how many.
        out: receives them.
    """
    k0, k1 = np.uint64(key) & _MASK, np.uint64(key) >> _HALF
    for g in range(groups):
        base = (np.uint64(first) + np.uint64(g)) * np.uint64(_LANES)
        at = g * 64
        for b in range(_LANES):
            counter = base + np.uint64(b)
            c0, c1, c2, c3 = counter & _MASK, counter >> _HALF, np.uint64(0), np.uint64(0)
            a0, a1 = k0, k1
            for _ in range(10):
                p0, p1 = c0 * _M0, c2 * _M1
                c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ a0, p1 & _MASK, (p0 >> _HALF) ^ c3 ^ a1, p0 & _MASK
                a0, a1 = (a0 + _W0) & _MASK, (a1 + _W1) & _MASK
            out[at + b] = np.uint32(c0)
            out[at + 16 + b] = np.uint32(c1)
            out[at + 32 + b] = np.uint32(c2)
            out[at + 48 + b] = np.uint32(c3)


@njit(nogil=True, cache=True)
def _quantiles(
    raw: NDArray[np.uint32], n: int, low: float, step: float, x: NDArray[np.float32], w: NDArray[np.float32],
    y: NDArray[np.float32], y_bits: NDArray[np.int32],
) -> None:  # fmt: skip
    """Standard normal quantiles at ``x = low + step · (number + 1/2)`` into `y`; `y_bits` is the memory of `y`.

    Five short loops: a processor works on several turns of a loop at once, and on more of them the shorter they are.
    """
    for i in range(n):
        wide = low + step * (np.float64(raw[i]) + 0.5)
        x[i] = np.float32(wide)
        y[i] = np.float32((1.0 - wide) * (1.0 + wide))
    for i in range(n):
        exponent = (y_bits[i] - _SQRT_HALF_BITS) >> np.int32(23)
        y_bits[i] = y_bits[i] - (exponent << np.int32(23))
        raw[i] = np.uint32(exponent + np.int32(256))
    for i in range(n):
        f = y[i] - _ONE
        q = _LOG[8]
        q = q * f + _LOG[7]
        q = q * f + _LOG[6]
        q = q * f + _LOG[5]
        q = q * f + _LOG[4]
        q = q * f + _LOG[3]
        q = q * f + _LOG[2]
        q = q * f + _LOG[1]
        q = q * f + _LOG[0]
        exponent = np.float32(np.int32(raw[i]) - np.int32(256))
        w[i] = max(-(exponent * _LN2 + (f - _HALF_F * f * f + f * f * f * q)), np.float32(0))
    for i in range(n):
        t = (w[i] - _CENTRE_SHIFT) * _CENTRE_SCALE
        c = _CENTRE[9]
        c = c * t + _CENTRE[8]
        c = c * t + _CENTRE[7]
        c = c * t + _CENTRE[6]
        c = c * t + _CENTRE[5]
        c = c * t + _CENTRE[4]
        c = c * t + _CENTRE[3]
        c = c * t + _CENTRE[2]
        c = c * t + _CENTRE[1]
        y[i] = c * t + _CENTRE[0]
    for i in range(n):
        s = (np.sqrt(w[i]) - _MIDDLE) * _SCALE
        d = _TAIL[10]
        d = d * s + _TAIL[9]
        d = d * s + _TAIL[8]
        d = d * s + _TAIL[7]
        d = d * s + _TAIL[6]
        d = d * s + _TAIL[5]
        d = d * s + _TAIL[4]
        d = d * s + _TAIL[3]
        d = d * s + _TAIL[2]
        d = d * s + _TAIL[1]
        d = d * s + _TAIL[0]
        y[i] = x[i] * (y[i] if w[i] < _START else d)


@njit(nogil=True, cache=True)
def fill_normal(
    out: NDArray[np.float32], key: int, starts: NDArray[np.int64],
    low: float, step: float, least: float, most: float, shift: float, scale: float,
) -> None:  # fmt: skip
    """Normal numbers, cut at quantiles, for runs of neighbouring elements.

    Args:
        out: R×L; row ``r`` receives elements ``starts[r]`` to ``starts[r] + L``.
        key: 64 bits.
        starts: R positions in the whole tensor.
        low: ``2Φ(lower bound) - 1``; -1 without a bound.
        step: ``2 (Φ(upper bound) - Φ(lower bound)) / 2³²``.
        least: lower bound in standard deviations, against the last bit of rounding.
        most: upper bound likewise.
        shift: added to every number.
        scale: times which it is taken.
    """
    raw = np.empty(_TILE, np.uint32)
    x, w, y = np.empty(_TILE, np.float32), np.empty(_TILE, np.float32), np.empty(_TILE, np.float32)
    y_bits = y.view(np.int32)
    lowest, highest = np.float32(least), np.float32(most)
    shift32, scale32 = np.float32(shift), np.float32(scale)
    for r in range(len(starts)):
        start, stop = starts[r], starts[r] + out.shape[1]
        at = start
        while at < stop:
            first = at // 64
            groups = min(16, (stop + 63) // 64 - first)
            words(key, first, groups, raw)
            _quantiles(raw, groups * 64, low, step, x, w, y, y_bits)
            skip = at - first * 64
            count = min(stop, (first + groups) * 64) - at
            z, part = y[skip : skip + count], out[r, at - start : at - start + count]  # whole arrays make whole vectors
            for i in range(count):
                part[i] = min(max(z[i], lowest), highest) * scale32 + shift32
            at += count


@njit(nogil=True, cache=True)
def fill_uniform(out: NDArray[np.float32], key: int, starts: NDArray[np.int64], low: float, high: float) -> None:
    """Uniform numbers between `low` and `high`; the rest as in `fill_normal`."""
    raw = np.empty(_TILE, np.uint32)
    step = (high - low) / 4294967296.0
    for r in range(len(starts)):
        start, stop = starts[r], starts[r] + out.shape[1]
        at = start
        while at < stop:
            first = at // 64
            groups = min(16, (stop + 63) // 64 - first)
            words(key, first, groups, raw)
            skip = at - first * 64
            count = min(stop, (first + groups) * 64) - at
            u, part = raw[skip : skip + count], out[r, at - start : at - start + count]
            for i in range(count):
                part[i] = np.float32(low + step * (np.float64(u[i]) + 0.5))
            at += count
