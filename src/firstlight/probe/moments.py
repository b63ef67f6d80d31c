"""The moments of one tensor, in few passes over its memory and without waiting for its device."""

import math

import torch
from torch import Tensor

# Where each number stands in what `moments` returns.
MEAN, STD, MINIMUM, MAXIMUM, ZEROS, NONFINITE = range(6)

_ROW = 1024
# Single precision loses the squares of what is smaller or larger, and the deviation from a mean this many times larger.
_SMALL, _LARGE, _FAR = 1e-15, 1e15, 100.0


@torch.no_grad()
def moments(tensor: Tensor) -> Tensor:
    """Mean, standard deviation (over n), minimum, maximum, count of zeros and count of non-finite elements.

    Returns:
        Six numbers in float64 on the tensor's device; infinities and NaN are in the first four as they come. Zeros for
        a tensor without elements.
    """
    flat = in_memory_order(tensor)
    flat = flat if flat.dtype in (torch.float32, torch.float64) else flat.float()
    if flat.numel() == 0:
        return torch.zeros(6, dtype=torch.float64, device=flat.device)
    smallest, largest = flat.aminmax()
    mean, std = _mean_and_std(flat, smallest, largest)
    zeros, nonfinite = flat.numel() - torch.count_nonzero(flat), _nonfinite(flat, smallest, largest)
    return torch.stack([x.double() for x in (mean, std, smallest, largest, zeros, nonfinite)])


def in_memory_order(tensor: Tensor) -> Tensor:
    """All elements in one row, in the order of the memory, so that only a tensor with gaps is copied."""
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    return tensor.detach().permute(order).reshape(-1)


def _mean_and_std(flat: Tensor, smallest: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    if flat.device.type != "cpu":  # double precision costs nothing where memory is the limit
        return _from_sums(flat, torch.float64)
    mean, std = _from_sums(flat, flat.dtype)
    size = max(abs(float(smallest)), abs(float(largest)))  # on a CPU a look at a number is free
    safe = size == 0 or _SMALL < size < _LARGE
    if (safe and abs(float(mean)) <= _FAR * float(std)) or not math.isfinite(size):
        return mean, std
    wide = flat.double()
    mean = wide.mean()
    return mean, torch.linalg.vector_norm(wide - mean) / flat.numel() ** 0.5


def _from_sums(flat: Tensor, accumulate: torch.dtype) -> tuple[Tensor, Tensor]:
    """Var(x) = E[x²] - E[x]²."""
    total, squares = _sums(flat, accumulate)
    mean = total / flat.numel()
    return mean, (squares / flat.numel() - mean.square()).clamp_min(0).sqrt()


def _sums(flat: Tensor, accumulate: torch.dtype) -> tuple[Tensor, Tensor]:
    """Sum and sum of squares, from short rows that are added up in double precision.

    One long sum of squares in single precision is off by 1e-4 and more for ten million elements; rows of a thousand are
    off by 1e-9 on the whole, and as fast.
    """
    whole = flat.numel() // _ROW * _ROW
    rows, rest = flat[:whole].view(-1, _ROW), flat[whole:].double()
    total = rows.sum(1, dtype=accumulate).double().sum() + rest.sum()
    squares = torch.linalg.vector_norm(rows, dim=1, dtype=accumulate).double().square().sum() + rest.square().sum()
    return total, squares


def _nonfinite(flat: Tensor, smallest: Tensor, largest: Tensor) -> Tensor:
    # The extremes are NaN when any element is, and infinite when one is and none is NaN.
    if flat.device.type == "cpu" and math.isfinite(float(smallest)) and math.isfinite(float(largest)):
        return torch.zeros((), dtype=torch.int64)
    return torch.count_nonzero(~torch.isfinite(flat))


@torch.no_grad()
def root_mean_square(tensor: Tensor) -> Tensor:
    """Square root of the mean of squares; 0 without elements. In float64, on the tensor's device."""
    flat = in_memory_order(tensor)
    flat = flat if flat.dtype in (torch.float32, torch.float64) else flat.float()
    if flat.device.type != "cpu":
        return _size(flat, torch.float64)
    size = _size(flat, flat.dtype)
    return size if _SMALL < float(size) < _LARGE else _size(flat.double(), torch.float64)


def _size(flat: Tensor, accumulate: torch.dtype) -> Tensor:
    _, squares = _sums(flat, accumulate)
    return (squares / max(flat.numel(), 1)).sqrt()


def fetch(tensors: list[Tensor]) -> list[list[float]]:
    """All numbers, in one transfer; the tensors have one shape and may be on several devices."""
    if not tensors:
        return []
    device = tensors[0].device
    rows: list[list[float]] = torch.stack([tensor.to(device, non_blocking=True) for tensor in tensors]).tolist()
    return rows
