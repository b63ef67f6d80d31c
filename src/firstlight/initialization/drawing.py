"""From a decision to numbers."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from firstlight.initialization.orthogonal import blocks
from firstlight.initialization.plan import Decision
from firstlight.initialization.streams import Box, Draw, Normal, Uniform, draw, draw_all, key, truncation_factor


def draw_parts(parts: Iterable[tuple[Tensor, Decision, Box]], seed: int) -> None:
    """Set each memory to its part `box` of the parameter that its decision describes.

    Numbers are drawn row by row in float32, in place where the memory is so; the copy that other layouts and types
    need changes the order in memory and the last bits, and the numbers not at all. An orthogonal matrix is made whole
    and cut: its elements depend on all of the others.
    """
    in_place = []
    for local, decision, box in parts:
        stream = key(seed, decision.name)
        if decision.distribution in ("orthogonal", "delta-orthogonal"):
            whole = _orthogonal(decision, stream, box, local.device).mul_(decision.std)
            local.copy_(whole[tuple(slice(o, o + n) for o, n in zip(box.offset, box.size, strict=True))])
        elif local.dtype == torch.float32 and local.is_contiguous():
            in_place.append(Draw(_law(decision), stream, box, local))
        else:
            local.copy_(draw(_law(decision), stream, box, local.device))
    draw_all(in_place)


def _law(decision: Decision) -> Normal | Uniform:
    mean, std = decision.mean, decision.std
    if decision.distribution == "normal":
        return Normal(mean, std)
    if decision.distribution == "truncated-normal":
        # Cut at ±b before scaling, so that the standard deviation afterwards is the one asked for.
        scale = std / truncation_factor(-decision.bounds, decision.bounds)
        return Normal(mean, scale, -decision.bounds, decision.bounds)
    half = math.sqrt(3) * std  # the variance of a uniform number between ±a is a²/3
    return Uniform(mean - half, mean + half)


def _orthogonal(decision: Decision, stream: int, box: Box, device: torch.device | str) -> Tensor:
    """Mean square one over all elements."""
    shape = box.shape
    if decision.distribution == "orthogonal":
        return blocks(draw(Normal(), stream, Box.whole(shape), device), decision.blocks)
    # Xiao et al., "Dynamical isometry and a mean field theory of CNNs" (2018), algorithm 1: only the middle tap.
    middle = blocks(draw(Normal(), stream, Box.whole(shape[:2]), device), decision.blocks)
    whole = torch.zeros(shape, device=device)
    whole.flatten(2)[:, :, _middle(shape[2:])] = middle
    return whole.mul_(math.sqrt(math.prod(shape[2:])))


def _middle(kernel: tuple[int, ...]) -> int:
    """Index of the middle tap in the flattened kernel."""
    index = 0
    for n in kernel:
        index = index * n + n // 2
    return index
