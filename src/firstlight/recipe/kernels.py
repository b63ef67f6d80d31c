"""The inner loops of applying a recipe: pixels in, float32 out, every product and sum in float64 between.

A float64 result rounded once to float32 is as near as float32 can be, so these agree with the plain float64
definition of the steps to the last bit, up to ties. They hold no lock and know nothing of threads.
"""

from numba import njit


@njit(nogil=True, cache=True)
def scale_rows(x, a, b, out):  # type: ignore[no-untyped-def]
    """out[i, j] = a[j]·x[i, j] + b[j]; x R×P, a and b P float64, out R×P float32."""
    rows, period = x.shape
    for i in range(rows):
        for j in range(period):
            out[i, j] = a[j] * x[i, j] + b[j]


@njit(nogil=True, cache=True)
def scale_planes(x, order, a, b, out):  # type: ignore[no-untyped-def]
    """out[n, c] = a[c]·x[n, order[c]] + b[c]; x N×C×P, a and b C float64, out N×C×P float32."""
    n, channels, length = x.shape
    for i in range(n):
        for c in range(channels):
            row, target, factor, shift = x[i, order[c]], out[i, c], a[c], b[c]
            for j in range(length):
                target[j] = factor * row[j] + shift


@njit(nogil=True, cache=True)
def mix_rows(x, matrix, shift, out):  # type: ignore[no-untyped-def]
    """out[i] = matrix·x[i] + shift; x P×C, matrix K×C and shift K float64, out P×K float32."""
    rows = x.shape[0]
    outputs, inputs = matrix.shape
    if inputs == 3 and outputs == 3:
        m00, m01, m02 = matrix[0]
        m10, m11, m12 = matrix[1]
        m20, m21, m22 = matrix[2]
        s0, s1, s2 = shift
        for i in range(rows):
            p, q, r = x[i, 0], x[i, 1], x[i, 2]
            out[i, 0] = m00 * p + m01 * q + m02 * r + s0
            out[i, 1] = m10 * p + m11 * q + m12 * r + s1
            out[i, 2] = m20 * p + m21 * q + m22 * r + s2
    else:
        for i in range(rows):
            for k in range(outputs):
                total = shift[k]
                for c in range(inputs):
                    total += matrix[k, c] * x[i, c]
                out[i, k] = total


@njit(nogil=True, cache=True)
def mix_planes(x, matrix, shift, out):  # type: ignore[no-untyped-def]
    """out[n, :, j] = matrix·x[n, :, j] + shift; x N×C×P, out N×K×P float32."""
    n, inputs, length = x.shape
    outputs = matrix.shape[0]
    for i in range(n):
        if inputs == 3:
            first, second, third = x[i, 0], x[i, 1], x[i, 2]
            for k in range(outputs):
                target, m0, m1, m2, start = out[i, k], matrix[k, 0], matrix[k, 1], matrix[k, 2], shift[k]
                for j in range(length):
                    target[j] = m0 * first[j] + m1 * second[j] + m2 * third[j] + start
        else:
            for k in range(outputs):
                for j in range(length):
                    total = shift[k]
                    for c in range(inputs):
                        total += matrix[k, c] * x[i, c, j]
                    out[i, k, j] = total
