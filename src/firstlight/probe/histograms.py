"""Magnitudes on a logarithmic axis, from a few evenly spaced elements of each tensor."""

import math

import torch
from torch import Tensor

from firstlight.probe.measurements import LogHistogram
from firstlight.probe.moments import in_memory_order

_ELEMENTS = 4096
_BINS, _LOWEST = 36, -12.0  # half decades from 1e-12 to 1e6


@torch.no_grad()
def evenly(tensor: Tensor) -> Tensor:
    """At most 4096 elements, evenly spaced in memory, as float32; all of them where there are no more."""
    flat = in_memory_order(tensor)
    step = coprime_step(flat.numel(), -(-flat.numel() // _ELEMENTS))
    # A copy: what comes next may overwrite the tensor, and a view would keep all of it in memory.
    return flat[::step].to(torch.float32, copy=True)


def coprime_step(length: int, least: int) -> int:
    """The first step from `least` on that shares no factor with `length`.

    Such a step meets every remainder of every factor of `length`, so every channel and every column, equally often.
    """
    step = max(least, 1)
    while math.gcd(step, length) > 1:
        step += 1
    return step


@torch.no_grad()
def histograms(samples: list[Tensor]) -> list[LogHistogram]:
    """One histogram for each tensor of values, with one transfer for all."""
    if not samples:
        return []
    device = samples[0].device
    lengths = torch.tensor([len(values) for values in samples], device=device)
    values = torch.cat([part.to(device) for part in samples])
    owner = torch.repeat_interleave(torch.arange(len(samples), device=device), lengths)
    bins = ((values.abs().log10() - _LOWEST) * 2).floor().clamp(0, _BINS - 1).nan_to_num().long()
    zero, number = values == 0, torch.isfinite(values)

    def tally(which: Tensor, shown: Tensor, width: int) -> Tensor:
        return torch.bincount(which[shown], minlength=len(samples) * width).view(-1, width)

    counts = tally(owner * _BINS + bins, number & ~zero, _BINS)
    negative, zeros = tally(owner, number & (values < 0), 1), tally(owner, zero, 1)
    return [LogHistogram(tuple(row[:-2]), row[-2], row[-1]) for row in torch.cat([counts, negative, zeros], 1).tolist()]
