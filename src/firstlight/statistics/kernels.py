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

# Width of one accumulator row, in pixels. 32 pixels of 3 bytes fill vector registers without a remainder.
_ROW = 32


@njit(nogil=True, cache=True)
def count_values(images, counts):  # type: ignore[no-untyped-def]
    """Add every value of `images` (N×P×C, unsigned) to `counts` (2×C×B int64).

    Two tables take turns: neighbouring pixels are often equal, and a bin that is written twice in a row
    must wait for its own store. The histogram is the sum of the two tables.
    """
    n, p, c = images.shape
    for i in range(n):
        if c == 3:
            for j in range(0, p - 1, 2):
                counts[0, 0, images[i, j, 0]] += 1
                counts[0, 1, images[i, j, 1]] += 1
                counts[0, 2, images[i, j, 2]] += 1
                counts[1, 0, images[i, j + 1, 0]] += 1
                counts[1, 1, images[i, j + 1, 1]] += 1
                counts[1, 2, images[i, j + 1, 2]] += 1
            if p % 2:
                for k in range(3):
                    counts[0, k, images[i, p - 1, k]] += 1
        else:
            for j in range(p):
                for k in range(c):
                    counts[j % 2, k, images[i, j, k]] += 1


@njit(nogil=True, cache=True)
def _flush(lanes, channels, sums, products):  # type: ignore[no-untyped-def]
    """Move what the lanes of `_product_kernel` hold to sums C and products C×C."""
    for j in range(lanes.shape[1]):
        c = j % channels
        sums[c] += np.int64(lanes[channels, j])
        for d in range(channels - c):
            products[c, c + d] += np.int64(lanes[d, j])
    lanes[:] = 0


@cache
def _product_kernel(wide: bool, channels: int) -> Callable[..., None]:
    """Build the kernel for one pixel width and channel count, both then constants to the compiler.

    The pixels of an image are one stream y with period C. The product of channels c and c+d of the same
    pixel is y[k]·y[k+d] with k ≡ c (mod C), so one multiplication of the stream with itself shifted by d
    gives every pair at distance d, with contiguous loads and no shuffling. Lanes with c+d ≥ C would pair
    neighbouring pixels; they are computed and left out.
    """
    product, total = (np.uint32, np.uint64) if wide else (np.uint16, np.uint32)
    width = _ROW * channels
    # What a lane can add before it could overflow: 2³² / 255² rows of 8-bit products, 2⁶⁴ / 65535² of 16-bit.
    rows_per_flush = 2**31 if wide else 66_051

    def add_products(streams, sums, products):  # type: ignore[no-untyped-def]
        lanes = np.zeros((channels + 1, width), total)
        for i in range(streams.shape[0]):
            stream = streams[i]
            at, rows = 0, 0
            while at + width + channels - 1 <= stream.shape[0]:
                for j in range(width):
                    lanes[channels, j] += total(stream[at + j])
                for d in range(channels):
                    for j in range(width):
                        lanes[d, j] += total(product(stream[at + j]) * product(stream[at + j + d]))
                at += width
                rows += 1
                if rows == rows_per_flush:
                    _flush(lanes, channels, sums[i], products[i])
                    rows = 0
            _flush(lanes, channels, sums[i], products[i])
            while at < stream.shape[0]:  # the last few pixels, one by one
                for c in range(channels):
                    sums[i, c] += np.int64(stream[at + c])
                    for d in range(c, channels):
                        products[i, c, d] += np.int64(stream[at + c]) * np.int64(stream[at + d])
                at += channels

    # numba's cache on disk tells kernels apart by name alone: two of one name can be loaded as one another.
    add_products.__qualname__ = f"add_products_{'wide' if wide else 'narrow'}_{channels}"
    compiled: Callable[..., None] = njit(nogil=True, cache=True)(add_products)
    return compiled


def products_per_image(images: NDArray[np.generic]) -> tuple[Ints, Ints]:
    """Sums and cross products of every image, exactly.

    Args:
        images: N×P×C, uint8 or uint16, contiguous, P < 2³¹ pixels.

    Returns:
        sums N×C and products N×C×C (symmetric), int64.
    """
    n, _, c = images.shape
    sums = np.zeros((n, c), np.int64)
    products = np.zeros((n, c, c), np.int64)
    _product_kernel(images.dtype != np.uint8, c)(images.reshape(n, -1), sums, products)
    lower = np.tril_indices(c, -1)
    products[:, lower[0], lower[1]] = products[:, lower[1], lower[0]]
    return sums, products


@njit(nogil=True, cache=True)
def observe_masked(images, valid, counts, complete, pixels, sums, squares, joint_sums, products):  # type: ignore[no-untyped-def]
    """N images with excluded values: N×P×C values, N×P×C validity; adds into everything after them.

    A channel's own statistics (counts 2×C×B; pixels, sums, squares N×C) use its valid values; joint_sums
    (N×C) and products (N×C×C) use the `complete` (N) pixels that are valid in every channel.
    """
    n, p, c = images.shape
    for i in range(n):
        for j in range(p):
            whole = True
            for k in range(c):
                if valid[i, j, k]:
                    value = np.int64(images[i, j, k])
                    counts[0, k, images[i, j, k]] += 1
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
