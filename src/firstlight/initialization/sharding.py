"""Which part of a parameter this process holds."""

import math

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from firstlight.errors import FirstlightError
from firstlight.initialization.streams import Box


def held(parameter: Tensor) -> tuple[Tensor, Box]:
    """The memory of this process for `parameter`, and the part of the whole that belongs there.

    Raises:
        FirstlightError: slug ``placement-not-understood``, for a DTensor that is neither sharded nor replicated.
    """
    if not isinstance(parameter, DTensor):
        return parameter.detach(), Box.whole(parameter.shape)
    if not all(type(placement) in (Shard, Replicate) for placement in parameter.placements):
        raise FirstlightError(
            f"a parameter is placed as {parameter.placements}, which is no rectangle of the whole",
            "initialize before this layout is made, or use Shard and Replicate",
            slug="placement-not-understood",
            call="apply(plan, model)",
        )
    size, offset = compute_local_shape_and_global_offset(parameter.shape, parameter.device_mesh, parameter.placements)
    return parameter.to_local().detach(), Box(tuple(parameter.shape), tuple(offset), tuple(size))


def moments(parameter: Tensor) -> tuple[float, float]:
    """Mean and standard deviation (over n) of all elements, in every process the same."""
    values = parameter.detach()
    if isinstance(values, DTensor):
        middle = values.float().mean()
        spread = (values.float() - middle).square().mean().sqrt()
        whole = [part.full_tensor() for part in (middle, spread) if isinstance(part, DTensor)]
        return float(whole[0]), float(whole[1])
    wide = values if values.dtype in (torch.float32, torch.float64) else values.float()
    # Two fast passes; where the mean hides the spread (a constant), the slow one that subtracts it first.
    mean, second = float(wide.mean()), float(torch.linalg.vector_norm(wide)) ** 2 / wide.numel()
    if second - mean**2 > 1e-2 * second:
        return mean, math.sqrt(second - mean**2)
    std, centre = torch.std_mean(wide, correction=0)
    return float(centre), float(std)
