"""The moments of one tensor, in few passes over its memory and without waiting for its device."""

import torch
from torch import Tensor

# Where each number stands in what `moments` returns.
MEAN, STD, MINIMUM, MAXIMUM, ZEROS, NONFINITE = range(6)


@torch.no_grad()
def moments(tensor: Tensor) -> Tensor:
    """Mean, standard deviation (over n), minimum, maximum, count of zeros and count of non-finite elements.

    Returns:
        Six numbers in float64 on the tensor's device; infinities and NaN are in the first four as they come.
    """
    values = tensor.detach()
    values = values.to_dense() if values.layout != torch.strided else values
    wide = values if values.dtype in (torch.float32, torch.float64) else values.float()
    elements = wide.numel()
    mean = wide.mean()
    std = torch.linalg.vector_norm(wide - mean) / elements**0.5
    smallest, largest = wide.aminmax()
    # x - x is zero for a number, and NaN, which counts as not zero, for an infinity or NaN.
    zeros, nonfinite = elements - torch.count_nonzero(wide), torch.count_nonzero(wide - wide)
    return torch.stack([x.double() for x in (mean, std, smallest, largest, zeros, nonfinite)])


def fetch(tensors: list[Tensor]) -> list[list[float]]:
    """All numbers, in one transfer; the tensors have one shape and may be on several devices."""
    if not tensors:
        return []
    device = tensors[0].device
    rows: list[list[float]] = torch.stack([tensor.to(device, non_blocking=True) for tensor in tensors]).tolist()
    return rows
