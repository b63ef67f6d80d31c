"""The inner loops, compiled by numba. They take and return bare arrays and hold no lock.

Integer pixels are only ever counted, added and multiplied as integers, so a kernel's answer does not
depend on the order in which it sees the pixels. The float kernel adds in one fixed order.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

Ints = NDArray[np.int64]

# Pixels in one step of the byte kernel. Their products then fill whole vector registers.
_ROW = 16

# Rows that a 32-bit lane can add before it could overflow: 2³² / 255².
_ROWS_PER_FLUSH = 66_051


def count(images: NDArray[np.generic], counts: Ints) -> tuple[Ints, Ints]:
    """Count every value of some images, and their sums and cross products, exactly and in one pass.

    Args:
        images: N×P×C, uint8 or uint16, contiguous, P < 2³¹ pixels.
        counts: C×B, B = 256 or 65,536; the values of all images are added to it.

    Returns:
        per image the sums N×C and products N×C×C (symmetric), int64.
    """
    n, p, c = images.shape
    sums = np.zeros((n, c), np.int64)
    products = np.zeros((n, c, c), np.int64)
    if images.dtype == np.uint8:
        _byte_kernel(c)(images.reshape(n, p * c), counts, sums, products)
    else:
        _count_words(images, counts, sums, products)
    for row in range(1, c):
        products[:, row, :row] = products[:, :row, row]
    return sums, products


@cache
def _byte_kernel(channels: int) -> Callable[..., None]:
    """Build the kernel for 8-bit pixels of so many channels, a constant to the compiler.

    An image's own histogram gives Σx and Σx². Two tables take turns: neighbouring pixels are often equal,
    and a bin that is written twice in a row must wait for its own store.

    For Σxy the pixels are one stream y with period C. The product of channels c and c+d of one pixel is
    y[k]·y[k+d] with k ≡ c (mod C), so one multiplication of the stream with itself shifted by d gives every
    pair at distance d, with contiguous loads and no shuffling. Lanes with c+d ≥ C would pair neighbouring
    pixels; they are computed and left out. Counting waits for stores and multiplying does not, so one loop
    does both in little more than the time of the first.
    """
    width = _ROW * channels
    step = 2 * channels

    def count_bytes(streams, counts, sums, products):  # type: ignore[no-untyped-def]
        local = np.zeros((2, channels, 256), np.uint32)
        lanes = np.zeros((channels, width), np.uint32)
        for i in range(streams.shape[0]):
            stream = streams[i]
            at, rows = 0, 0
            local[:] = 0
            while at + width + channels - 1 <= stream.shape[0]:
                for j in range(0, width, step):
                    for c in range(channels):
                        local[0, c, stream[at + j + c]] += 1
                    for c in range(channels):
                        local[1, c, stream[at + j + channels + c]] += 1
                for d in range(1, channels):
                    for j in range(width):
                        lanes[d, j] += np.uint32(np.uint16(stream[at + j]) * np.uint16(stream[at + j + d]))
                at += width
                rows += 1
                if rows == _ROWS_PER_FLUSH:
                    _flush(lanes, products[i])
                    rows = 0
            _flush(lanes, products[i])
            while at < stream.shape[0]:  # the last few pixels, one by one
                for c in range(channels):
                    local[0, c, stream[at + c]] += 1
                    for d in range(c + 1, channels):
                        products[i, c, d] += np.int64(stream[at + c]) * np.int64(stream[at + d])
                at += channels
            _close(local, counts, sums[i], products[i])

    # numba's cache on disk tells kernels apart by name alone: two of one name can be loaded as one another.
    count_bytes.__qualname__ = f"count_bytes_{channels}"
    compiled: Callable[..., None] = njit(nogil=True, cache=True)(count_bytes)
    return compiled


@njit(nogil=True, cache=True)
def _flush(lanes, products):  # type: ignore[no-untyped-def]
    """Move what the lanes C×W hold (row d: pairs at distance d) to products C×C."""
    channels = lanes.shape[0]
    for d in range(1, channels):
        for c in range(channels - d):
            total = np.int64(0)
            for j in range(c, lanes.shape[1], channels):
                total += np.int64(lanes[d, j])
            products[c, c + d] += total
    lanes[:] = 0


@njit(nogil=True, cache=True)
def _close(local, counts, sums, products):  # type: ignore[no-untyped-def]
    """Move an image's own tables 2×C×256 to counts C×256, and its Σx and Σx² to sums C and products C×C."""
    for c in range(local.shape[1]):
        s = np.int64(0)
        q = np.int64(0)
        for v in range(256):
            n = np.int64(local[0, c, v]) + np.int64(local[1, c, v])
            counts[c, v] += n
            s += n * v
            q += n * (v * v)
        sums[c] += s
        products[c, c] += q


@njit(nogil=True, cache=True)
def _count_words(images, counts, sums, products):  # type: ignore[no-untyped-def]
    """The same for 16-bit pixels, N×P×C: products need 32 bits and their sums 64, so there are no short lanes."""
    n, p, channels = images.shape
    for i in range(n):
        for j in range(p):
            for c in range(channels):
                value = np.int64(images[i, j, c])
                counts[c, images[i, j, c]] += 1
                sums[i, c] += value
                for d in range(c, channels):
                    products[i, c, d] += value * np.int64(images[i, j, d])


@njit(nogil=True, cache=True)
def observe_masked(images, valid, counts, complete, pixels, sums, squares, joint_sums, products):  # type: ignore[no-untyped-def]
    """N images with excluded values: N×P×C values, N×P×C validity; adds into everything after them.

    A channel's own statistics (counts C×B; pixels, sums, squares N×C) use its valid values; joint_sums
    (N×C) and products (N×C×C) use the `complete` (N) pixels that are valid in every channel.
    """
    n, p, c = images.shape
    for i in range(n):
        for j in range(p):
            whole = True
            for k in range(c):
                if valid[i, j, k]:
                    value = np.int64(images[i, j, k])
                    counts[k, images[i, j, k]] += 1
                    pixels[i, k] += 1
                    sums[i, k] += value
                    squares[i, k] += value * value
                else:
                    whole = False
            if whole:
                complete[i] += 1
                for k in range(c):
                    joint_sums[i, k] += np.int64(images[i, j, k])
                    for m in range(c):
                        products[i, k, m] += np.int64(images[i, j, k]) * np.int64(images[i, j, m])


@njit(nogil=True, cache=True)
def add_to_mean_image(images, sums, squares, lane):  # type: ignore[no-untyped-def]
    """Add N images (N×D uint8 or uint16) to per-position sums and sums of squares (D int64).

    Walks a strip of positions through all images, so that the accumulators stay in the first-level cache.
    `lane` is an empty array of the narrowest type that holds N squares: uint32 for at most 66,051 8-bit images.
    """
    n, d = images.shape
    strip = 1024
    part = np.zeros((2, strip), lane.dtype)
    for start in range(0, d, strip):
        length = min(strip, d - start)
        part[:] = 0
        for i in range(n):
            row = images[i, start : start + length]
            for j in range(length):
                value = lane.dtype.type(row[j])
                part[0, j] += value
                part[1, j] += lane.dtype.type(value * value)
        for j in range(length):
            sums[start + j] += np.int64(part[0, j])
            squares[start + j] += np.int64(part[1, j])


@njit(nogil=True, cache=True)
def float_moments(image, valid, pixels, mean, m2, joint_mean, comoment):  # type: ignore[no-untyped-def]
    """Two-pass moments of one float image (P×C float64, P×C validity).

    Sums run in strips of 4,096 pixels, so rounding grows with √P/64 rather than with P.
    Fills pixels, mean, m2 (C), joint_mean (C), comoment (C×C); returns the number of complete pixels.
    """
    p, c = image.shape
    strip = 4096
    complete = 0
    part = np.zeros(c)
    joint_part = np.zeros(c)
    for start in range(0, p, strip):
        part[:] = 0.0
        joint_part[:] = 0.0
        for j in range(start, min(p, start + strip)):
            whole = True
            for k in range(c):
                if valid[j, k]:
                    pixels[k] += 1
                    part[k] += image[j, k]
                else:
                    whole = False
            if whole:
                complete += 1
                for k in range(c):
                    joint_part[k] += image[j, k]
        mean += part
        joint_mean += joint_part
    for k in range(c):
        mean[k] = mean[k] / pixels[k] if pixels[k] else 0.0
        joint_mean[k] = joint_mean[k] / complete if complete else 0.0
    cross_part = np.zeros((c, c))
    for start in range(0, p, strip):
        part[:] = 0.0
        cross_part[:] = 0.0
        for j in range(start, min(p, start + strip)):
            whole = True
            for k in range(c):
                if valid[j, k]:
                    part[k] += (image[j, k] - mean[k]) ** 2
                else:
                    whole = False
            if whole:
                for k in range(c):
                    for m in range(k, c):
                        cross_part[k, m] += (image[j, k] - joint_mean[k]) * (image[j, m] - joint_mean[m])
        m2 += part
        comoment += cross_part
    for k in range(c):
        for m in range(k):
            comoment[k, m] = comoment[m, k]
    return complete
