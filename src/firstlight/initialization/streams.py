"""Random tensors by name: a number depends on the seed, the parameter's name and its element's index, on nothing else.

Each parameter has a key of its own, and `philox` computes the number of any element from the key and its index in the
whole tensor, counted row by row. So a part of a tensor (the shard that one process holds) is drawn without the rest and
fits it exactly, and neither the order of the parameters, nor their memory format, nor the number of threads matters. On
an accelerator the same function runs as tensor operations; the 32-bit numbers are equal there, and the last bits of a
normal number may differ with the device's logarithm.
"""

import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from firstlight.initialization import philox

# Elements that one thread draws at a time, and that one accelerator call holds in 64-bit integers.
_CHUNK = 1 << 18
_DEVICE_CHUNK = 1 << 24


def key(seed: int, name: str) -> int:
    """The 64-bit key of one parameter's random numbers."""
    digest = hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=8, person=b"firstlight").digest()
    return int.from_bytes(digest, "little")


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangular part of a tensor.

    Attributes:
        shape: of the whole tensor.
        offset: index of the part's first element.
        size: shape of the part.
    """

    shape: tuple[int, ...]
    offset: tuple[int, ...]
    size: tuple[int, ...]

    @classmethod
    def whole(cls, shape: Sequence[int]) -> "Box":
        """All of a tensor."""
        return cls(tuple(shape), (0,) * len(shape), tuple(shape))

    def runs(self) -> tuple[NDArray[np.int64], int]:
        """Where the stretches of neighbouring elements start in the whole tensor, and how long each is.

        The last dimensions that the part holds in full, and the one before them, make one stretch.
        """
        if 0 in self.size:
            return np.zeros(0, np.int64), 0
        dims = len(self.shape)
        strides = [math.prod(self.shape[d + 1 :]) for d in range(dims)]
        cut = next((d for d in reversed(range(dims)) if self.size[d] != self.shape[d]), 0)
        length = math.prod(self.size[cut:])
        starts = np.zeros((), np.int64)
        for d in range(dims):
            along = np.arange(self.size[d] if d < cut else 1, dtype=np.int64) + self.offset[d]
            starts = starts[..., None] + along * strides[d]
        return starts.reshape(-1), length


@dataclass(frozen=True, slots=True)
class Normal:
    """Normal numbers, optionally cut at bounds in units of the standard deviation before the cut.

    Attributes:
        mean: of the numbers when nothing is cut, or the cut is symmetric.
        scale: standard deviation before the cut.
        low: lower bound, in `scale`.
        high: upper bound, in `scale`.
    """

    mean: float = 0.0
    scale: float = 1.0
    low: float = -math.inf
    high: float = math.inf

    def limits(self) -> tuple[float, float]:
        """Start and step of ``x = 2u - 1`` over the 2³² values of a number: ``2Φ(z) - 1 = erf(z / √2)``."""
        start, end = math.erf(self.low / math.sqrt(2)), math.erf(self.high / math.sqrt(2))
        return start, (end - start) / 2**32


@dataclass(frozen=True, slots=True)
class Uniform:
    """Uniform numbers between `low` and `high`."""

    low: float = 0.0
    high: float = 1.0


def truncation_factor(low: float, high: float) -> float:
    """Standard deviation of a standard normal cut at `low` and `high`; 0.87963 at ±2.

    ``Var = 1 + (aφ(a) - bφ(b)) / Z - ((φ(a) - φ(b)) / Z)²`` with ``Z = Φ(b) - Φ(a)``.
    """

    def density(z: float) -> float:
        return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    def moment(z: float) -> float:
        return 0.0 if math.isinf(z) else z * density(z)

    mass = (math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2))) / 2
    shift = (density(low) - density(high)) / mass
    return math.sqrt(1 + (moment(low) - moment(high)) / mass - shift**2)


def draw(
    law: Normal | Uniform, stream: int, box: Box, device: torch.device | str = "cpu", *, out: Tensor | None = None
) -> Tensor:
    """The part `box` of the random tensor that `stream` names: float32, contiguous, on `device`.

    Args:
        law: distribution of every element.
        stream: 64-bit key, see `key`.
        box: which part of which shape.
        device: where to draw; the CPU draws on all threads PyTorch may use.
        out: memory for it: float32, contiguous, of the part's shape, on `device`; new memory when not given.
    """
    out = torch.empty(box.size, dtype=torch.float32, device=device) if out is None else out
    draw_all([Draw(law, stream, box, out)])
    return out


@dataclass(frozen=True, slots=True)
class Draw:
    """One tensor to fill: the arguments of `draw`, `out` among them."""

    law: Normal | Uniform
    stream: int
    box: Box
    out: Tensor


def draw_all(draws: Iterable[Draw]) -> None:
    """Fill many tensors; on the CPU side by side, cut into pieces, so that small ones keep all threads busy too."""
    pieces: list[_Piece] = []
    for one in draws:
        starts, length = one.box.runs()
        if length and one.out.device.type == "cpu":
            pieces += _pieces(one, starts, length)
        elif length:
            _on_device(one.law, one.stream, one.out.view(-1), starts, length)
    threads = min(len(pieces), torch.get_num_threads(), os.cpu_count() or 1)
    if threads <= 1:
        for piece in pieces:
            _fill(*piece)
    else:
        with ThreadPoolExecutor(threads, thread_name_prefix="firstlight") as pool:
            for done in [pool.submit(_fill, *piece) for piece in pieces]:
                done.result()


_Piece: TypeAlias = tuple[Normal | Uniform, int, NDArray[np.float32], NDArray[np.int64]]


def _pieces(one: Draw, starts: NDArray[np.int64], length: int) -> Iterator[_Piece]:
    """Parts of at most `_CHUNK` elements; a part is some runs, or a stretch of one."""
    out = one.out.view(-1, length).numpy()
    rows = max(1, _CHUNK // length)
    for r in range(0, len(starts), rows):
        for c in range(0, length, _CHUNK):
            yield one.law, one.stream, out[r : r + rows, c : c + _CHUNK], starts[r : r + rows] + c


def _fill(law: Normal | Uniform, stream: int, out: NDArray[np.float32], starts: NDArray[np.int64]) -> None:
    """Fill one piece; the interpreter is free meanwhile."""
    if isinstance(law, Uniform):
        philox.fill_uniform(out, np.uint64(stream), starts, law.low, law.high)
    else:
        start, step = law.limits()
        philox.fill_normal(out, np.uint64(stream), starts, start, step, law.low, law.high, law.mean, law.scale)


def _on_device(law: Normal | Uniform, stream: int, out: Tensor, starts: NDArray[np.int64], length: int) -> None:
    first = torch.from_numpy(starts).to(out.device)
    for at in range(0, out.numel(), _DEVICE_CHUNK):
        local = torch.arange(at, min(at + _DEVICE_CHUNK, out.numel()), device=out.device)
        index = first[local // length] + local % length
        out[at : at + _DEVICE_CHUNK] = _values(law, numbers(stream, index))


def numbers(stream: int, index: Tensor) -> Tensor:
    """The 32-bit numbers of the elements at `index`, int64, as tensor operations (see `philox.words`)."""
    mask = 0xFFFFFFFF
    counter = index // 64 * 16 + index % 16
    c0, c1 = counter & mask, counter >> 32
    c2, c3 = torch.zeros_like(c0), torch.zeros_like(c0)
    a0, a1 = stream & mask, stream >> 32
    for _ in range(philox.ROUNDS):
        # Products of two 32-bit numbers fill 64 bits; int64 holds the same bits, and the shift's sign is masked off.
        p0, p1 = c0 * philox.MULTIPLIERS[0], c2 * philox.MULTIPLIERS[1]
        c0, c1, c2, c3 = (p1 >> 32) & mask ^ c1 ^ a0, p1 & mask, (p0 >> 32) & mask ^ c3 ^ a1, p0 & mask
        a0, a1 = (a0 + philox.WEYL[0]) & mask, (a1 + philox.WEYL[1]) & mask
    lane = index % 64 // 16
    return torch.where(lane < 2, torch.where(lane == 0, c0, c1), torch.where(lane == 2, c2, c3))


def _values(law: Normal | Uniform, drawn: Tensor) -> Tensor:
    if isinstance(law, Uniform):
        return (law.low + (law.high - law.low) / 2**32 * (drawn.double() + 0.5)).float()
    start, step = law.limits()
    x = start + step * (drawn.double() + 0.5)
    w = -torch.log((1 - x) * (1 + x)).clamp_max(0)
    centre = _polynomial(philox.CENTRE, (w - 2.5) / 2.5)
    tail = _polynomial(philox.TAIL, (w.sqrt() - philox.TAIL_MIDDLE) / philox.TAIL_HALF)
    z = x * torch.where(w < philox.TAIL_START, centre, tail)
    return (z.clamp(law.low, law.high) * law.scale + law.mean).float()


def _polynomial(coefficients: Sequence[float], x: Tensor) -> Tensor:
    total = torch.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total = total * x + c
    return total
