"""Applying steps to arrays: one fused pass where the steps allow it, their plain definition where not.

Subtract, Divide, Reorder and Channels in a row are one affine map, y = a·x[order] + b or y = M·x + b, folded
together in float64 beforehand. One kernel then reads every pixel once and writes it once.
"""

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight._typing import Floats
from firstlight.recipe import kernels
from firstlight.recipe.steps import Channels, Divide, Reorder, Step, Subtract

_THREADED_BYTES = 2**22
"""Output size from which several threads are worth starting."""

_CHUNK_VALUES = 2**22
"""Values that pass through the plain definition at a time, in float64."""


@dataclass(frozen=True, eq=False)
class Affine:
    """One affine map of every pixel: the sum of several steps.

    Attributes:
        order: input channel of every output channel, or None when `factor` is a matrix.
        factor: a, C or H×W×C; or M, K×C, when order is None.
        shift: b, C or H×W×C; or K.
    """

    order: tuple[int, ...] | None
    factor: Floats
    shift: Floats

    @property
    def positional(self) -> bool:
        """Whether the map differs from position to position."""
        return self.order is not None and (self.factor.ndim == 3 or self.shift.ndim == 3)

    def scaled(self, full_scale: int) -> "Affine":
        """The same map for raw pixels: x / full_scale is part of it."""
        return Affine(self.order, self.factor / full_scale, self.shift)


def fuse(steps: Sequence[Step], channels: int) -> Affine | None:
    """The steps as one affine map; None when they are not (patches, pixels, a matrix after an image)."""
    order: tuple[int, ...] | None = tuple(range(channels))
    factor, shift = np.ones(channels), np.zeros(channels)
    for step in steps:
        matrix = order is None
        if isinstance(step, Subtract):
            shift = shift - step.value
        elif isinstance(step, Divide):
            if matrix and step.value.ndim == 3:
                return None
            factor = factor / (step.value[:, None] if matrix else step.value)
            shift = shift / step.value
        elif isinstance(step, Reorder):
            places = list(step.order)
            factor = factor[places] if matrix else factor[..., places]
            shift = shift[..., places]
            order = None if order is None else tuple(order[k] for k in places)
        elif isinstance(step, Channels):
            if order is not None and factor.ndim == 3:
                return None
            before = factor if order is None else np.diag(factor)[:, list(np.argsort(order))]
            factor, shift, order = step.matrix @ before, shift @ step.matrix.T, None
        else:
            return None
    if order is None and shift.ndim == 3:
        return None
    return Affine(order, factor, shift)


def apply_array(steps: Sequence[Step], images: NDArray[Any], full_scale: int) -> NDArray[np.float32]:
    """N×H×W×C pixels in raw units → N×H×W×K float32."""
    affine = fuse(steps, images.shape[-1])
    if affine is None:
        return apply_plain(steps, images, full_scale)
    images, affine = _native(images), affine.scaled(full_scale)
    if affine.positional:
        return _positions(images, affine, -1)
    n, height, width, channels = images.shape
    if affine.order is None:
        rows, out = (
            images.reshape(n * height * width, channels),
            np.empty((n * height * width, len(affine.factor)), np.float32),
        )
        _threaded(lambda part: kernels.mix_rows(rows[part], affine.factor, affine.shift, out[part]), len(rows), out)
        return out.reshape(n, height, width, len(affine.factor))
    if affine.order != tuple(range(channels)):
        images = np.ascontiguousarray(images[..., list(affine.order)])
    out = np.empty(images.shape, np.float32)
    period = width * channels
    rows, target = images.reshape(n * height, period), out.reshape(n * height, period)
    factor, shift = np.tile(affine.factor, width), np.tile(affine.shift, width)
    _threaded(lambda part: kernels.scale_rows(rows[part], factor, shift, target[part]), len(rows), out)
    return out


def apply_planes(steps: Sequence[Step], images: NDArray[Any], full_scale: int) -> NDArray[np.float32]:
    """N×C×H×W pixels in raw units → N×K×H×W float32, contiguous."""
    affine = fuse(steps, images.shape[1])
    if affine is None:
        channels_last = np.moveaxis(images, 1, -1)
        return np.ascontiguousarray(np.moveaxis(apply_array(steps, channels_last, full_scale), -1, 1))
    images, affine = _native(images), affine.scaled(full_scale)
    if affine.positional:
        return _positions(images, affine, 1)
    n, channels, height, width = images.shape
    planes = images.reshape(n, channels, height * width)
    if affine.order is None:
        out = np.empty((n, len(affine.factor), height * width), np.float32)
        _threaded(lambda part: kernels.mix_planes(planes[part], affine.factor, affine.shift, out[part]), n, out)
    else:
        out, order = np.empty(planes.shape, np.float32), np.array(affine.order)
        _threaded(
            lambda part: kernels.scale_planes(planes[part], order, affine.factor, affine.shift, out[part]), n, out
        )
    return out.reshape(n, out.shape[1], height, width)


def apply_plain(steps: Sequence[Step], images: NDArray[Any], full_scale: int) -> NDArray[np.float32]:
    """N×H×W×C pixels through the plain definition of every step, some images at a time."""
    parts = []
    chunk = max(1, _CHUNK_VALUES // int(np.prod(images.shape[1:])))
    for start in range(0, max(1, len(images)), chunk):
        pixels = images[start : start + chunk].astype(np.float64) / full_scale
        for step in steps:
            pixels = step.apply(pixels)
        parts.append(pixels.astype(np.float32))
    return np.concatenate(parts)


def _positions(images: NDArray[Any], affine: Affine, axis: int) -> NDArray[np.float32]:
    """A map that differs from position to position, on images whose channels are at `axis` (1 or -1)."""
    assert affine.order is not None, "fuse gives no matrix that differs from position to position"
    if affine.order != tuple(range(images.shape[axis])):
        images = np.take(images, affine.order, axis=axis)
    shape = np.moveaxis(images, axis, -1).shape[1:]
    maps = (
        np.moveaxis(np.broadcast_to(value, shape), -1, 0 if axis == 1 else -1)
        for value in (affine.factor, affine.shift)
    )
    factor, shift = (np.ascontiguousarray(value).reshape(-1) for value in maps)
    out = np.empty(images.shape, np.float32)
    rows, target = images.reshape(len(images), factor.size), out.reshape(len(images), factor.size)
    _threaded(lambda part: kernels.scale_rows(rows[part], factor, shift, target[part]), len(rows), out)
    return out


def _native(images: NDArray[Any]) -> NDArray[Any]:
    """Contiguous, and of a type the kernels know."""
    if images.dtype == np.float16:
        images = images.astype(np.float32)
    return np.ascontiguousarray(images, images.dtype.newbyteorder("="))


def _threaded(work: Callable[[slice], None], length: int, out: NDArray[np.float32]) -> None:
    """Run `work` over slices of `length`, on as many threads as this process may use, if there is enough to do."""
    threads = min(_threads(), length) if out.nbytes >= _THREADED_BYTES else 1
    if threads == 1:
        work(slice(0, length))
        return
    edges = np.linspace(0, length, threads + 1).astype(int)
    with ThreadPoolExecutor(threads, thread_name_prefix="firstlight") as pool:
        for done in [pool.submit(work, slice(a, b)) for a, b in pairwise(edges)]:
            done.result()


def _threads() -> int:
    """Cores of this process; what torch was told to use, when it is loaded (1 in the workers of a DataLoader)."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
