"""The kernel of real data between blocks of sites, followed exactly where scalars would average too early.

Random weights turn a batch into Gaussian fields whose kernel ``K(i, j) = E z_i z_j`` is known for every pair of sites
of every pair of samples (Lee et al., 2018; Novak et al., 2019). There are too many pairs to keep, but what `Signal.far`
and `Signal.other` stand for are averages over pairs that lie apart, and these are smooth: every sample is cut into a
grid of blocks, and the kernel averaged over the pairs of two blocks is followed through every operation. Layers that
treat samples or places differently (a norm of each position, a norm after a global average) need it: the average of
``K/(σ σ')`` is not the average of ``K`` over that of ``σ σ'``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from firstlight.theory.axes import lag_weights, main_kind
from firstlight.theory.elementwise import Elementwise
from firstlight.theory.signal import Signal
from firstlight.theory.spectrum import Spectrum

if TYPE_CHECKING:
    from firstlight.theory.pixels import Fine, Pixels

GRID = 4  # along one side, at most
POINTS = 2  # in each block and direction, while maps are large and places within a block differ
_FINE = 28  # sites along one side, from which on blocks do


@dataclass(frozen=True)
class Anchors:
    """Second moments between blocks of sites.

    Attributes:
        values: E z z' between two sites of two blocks, on average, [M, M], blocks of the first sample first; between
            two different sites of one block on the diagonal.
        own: E z² in each block, [M].
        samples: number of samples.
        grid: blocks along each spatial dimension of one sample; empty when its sites have been averaged.
        pixels: the images, as long as the signal is a first convolution of them.
        noise: variance of the kernel of two sites about this one, that of one draw and of these sites: of a layer that
            sums ``d`` products, ``1/d``; of pixels ``p``, ``E (p p')²`` about their mean over all pairs
            less that of blocks.
        lone: the kernel of the field that each channel is a function of, the field's mean, and the function, as long as
            channels are not mixed.
        fine: what single sites have that blocks average away, as long as no later window has mixed sites; ``None`` when
            it is not known.
    """

    values: Tensor
    own: Tensor
    samples: int
    grid: tuple[int, ...]
    pixels: "Pixels | None" = None
    noise: float = 0.0
    lone: "tuple[Anchors, float, Elementwise] | None" = None
    fine: "Fine | None" = None

    @cached_property
    def _spectra(self) -> dict[tuple[int, float], Spectrum]:
        return {}

    def spectrum(self, sites: int, own: float = 0.0) -> Spectrum:
        """Of this kernel, of `sites` in each sample, once the mean over all samples and sites is subtracted.

        Args:
            sites: of one sample.
            own: what part of `noise`, over the squared size, is counted elsewhere.
        """
        if (sites, own) not in self._spectra:
            found = self.spectrum(sites).without(own) if own else Spectrum.of(centred(self, sites), sites)
            self._spectra[sites, own] = found
        return self._spectra[sites, own]

    @property
    def places(self) -> int:
        """Blocks of one sample."""
        return math.prod(self.grid)

    def becoming(self, values: Tensor, own: Tensor) -> "Anchors":
        """Other moments of the same blocks."""
        return replace(self, values=values, own=own, pixels=None, lone=None)

    def scaled(self, second: float, added: float = 0.0) -> "Anchors":
        """Multiplied by one factor, then shifted by `added`, so that E z² is `second` on average."""
        factor = (second - added) / max(float(self.own.mean()), 1e-300)
        noise = self.noise * factor**2
        return replace(self, values=self.values * factor + added, own=self.own * factor + added, noise=noise)

    def apart(self, sites: int) -> "Anchors":
        """From averages over all pairs of one block to those over pairs of different sites."""
        n = sites / max(self.places, 1)
        if n > 1:
            values = self.values.clone()
            values.diagonal().sub_(self.own / n).div_(1 - 1 / n)
            return replace(self, values=values)
        return self

    def at(self, points: Tensor) -> "Anchors":
        """Between points of these blocks, several in each, so that their averages are those of the blocks.

        Args:
            points: E z z' between single sites, several in each block, [M', M'].
        """
        grid = tuple(POINTS * a for a in self.grid)
        index = torch.arange(len(self.own)).view(self.samples, *self.grid)
        for d in range(len(grid)):
            index = index.repeat_interleave(POINTS, 1 + d)
        block = index.reshape(-1)
        seen = Anchors(points, points.diagonal().clone(), self.samples, grid).blocks()
        factor = (self.own / seen.own.clamp_min(1e-300)).sqrt()[block]
        own = points.diagonal() * factor**2
        values = points * (factor[:, None] * factor)
        # Two sites of one part resemble each other as much as leaves the block the average that it has.
        values.diagonal().zero_()
        count = POINTS ** len(grid)
        rest = Anchors(values, own, self.samples, grid).blocks().values.diagonal()
        close = (count * (self.values.diagonal() - rest) / self.own.clamp_min(1e-300)).clamp(-1, 1)[block]
        values.diagonal().copy_(own * close)
        lack = self.values - Anchors(values, own, self.samples, grid).blocks().values
        return Anchors(values + lack[block][:, block], own, self.samples, grid, self.pixels, self.noise)

    def blocks(self, grid: tuple[int, ...] | None = None) -> "Anchors":
        """Averaged over the points of each block, or over the blocks of each of a coarser `grid`."""
        grid = tuple(a // POINTS for a in self.grid) if grid is None else grid
        parts = [size for a, b in zip(self.grid, grid, strict=True) for size in (b, a // b)]
        n, inner = self.samples, tuple(range(2, 2 * len(grid) + 1, 2))
        outer = tuple(2 * len(grid) + 1 + d for d in inner)
        values = self.values.view(n, *parts, n, *parts).mean((*inner, *outer))
        m = n * math.prod(grid)
        own = self.own.view(n, *parts).mean(inner).reshape(-1)
        return replace(self, values=values.reshape(m, m), own=own, grid=grid)

    def whole(self, sites: int) -> Tensor:
        """The other way: averages over all pairs of two blocks, of `sites` in each sample, [M, M]."""
        share = min(max(self.places, 1) / max(sites, 1), 1.0)
        values = self.values.clone()
        values.diagonal().mul_(1 - share).add_(self.own, alpha=share)
        return values

    def between_samples(self, sites: int) -> Tensor:
        """Averages over all pairs of sites of two samples, [N, N]."""
        return self.whole(sites).view(self.samples, self.places, self.samples, self.places).mean((1, 3))


def shifted(anchors: Anchors, taps: Sequence[Sequence[float]], sites: Sequence[int], padded: bool) -> Anchors:
    """``K(i, j)`` averaged over the taps of a kernel, which both ends move by.

    Between blocks the kernel is interpolated along the shift. Where blocks are the sites themselves the zero padding of
    a border is exact. In larger ones a tap is inside for a share ``s`` of all sites, and for ``s²`` of pairs that lie
    apart, so they keep ``Σ s²/Σ s`` of what they had in common.

    Args:
        anchors: of the input.
        taps: offsets in sites, for each spatial dimension.
        sites: of the input.
        padded: whether zeros surround it.
    """
    dims, n, outside = len(anchors.grid), anchors.samples, 1.0
    whole, own = anchors.values.view(n, *anchors.grid, n, *anchors.grid), anchors.own.view(n, *anchors.grid)
    for d, (offsets, m, a) in enumerate(zip(taps, sites, anchors.grid, strict=True)):
        if len(offsets) > 1 and a > 1:
            weights, zeros = _weights(offsets, m / a), padded and m < 1.5 * a
            whole = _moved(whole, weights, (1 + d, 2 + dims + d), zeros)
            own = _moved(own, weights, (1 + d,), zeros)
            if padded and not zeros:
                inside = np.array([max(1 - abs(t) / m, 0.0) for t in offsets])
                outside *= float((inside**2).sum() / inside.sum())
    found = anchors.becoming(whole.reshape(anchors.values.shape) * outside, own.reshape(-1))
    found.values.diagonal().div_(outside)
    return found


def _weights(offsets: Sequence[float], step: float) -> dict[int, float]:
    out: dict[int, float] = {}
    for t in offsets:
        place = t / step
        left = math.floor(place)
        for k, share in ((left, 1 - (place - left)), (left + 1, place - left)):
            if share > 0:
                out[k] = out.get(k, 0.0) + share / len(offsets)
    return out


def _moved(whole: Tensor, weights: Mapping[int, float], dims: tuple[int, ...], zeros: bool) -> Tensor:
    size = whole.shape[dims[0]]
    out, count = torch.zeros_like(whole), torch.zeros([size] * len(dims), dtype=whole.dtype)
    for shift, weight in weights.items():
        kept = size - abs(shift)
        if kept > 0:
            to, start = max(-shift, 0), max(shift, 0)
            target, source, part = out, whole, count
            for k, d in enumerate(dims):
                target, source = target.narrow(d, to, kept), source.narrow(d, start, kept)
                part = part.narrow(k, to, kept)
            target.add_(source, alpha=weight)
            part += weight
    if zeros:
        return out
    shape = [size if d in dims else 1 for d in range(whole.dim())]
    return out / count.clamp_min(1e-9).view(shape)


def coarser(anchors: Anchors, sites: Sequence[int]) -> Anchors:
    """Blocks instead of points once maps are small, and one block per site where there are more blocks than sites."""
    grid = anchors.grid
    if max(grid) > GRID and max(sites) <= _FINE:
        anchors = anchors.blocks()
    if all(n >= a for n, a in zip(sites, anchors.grid, strict=True)):
        return anchors
    index = torch.arange(len(anchors.values)).view(anchors.samples, *anchors.grid)
    grid = tuple(min(n, a) for n, a in zip(sites, anchors.grid, strict=True))
    for d, (n, a) in enumerate(zip(grid, anchors.grid, strict=True)):
        index = index.index_select(1 + d, ((torch.arange(n) + 0.5) * a / n).long())
    chosen = index.reshape(-1)
    return replace(anchors, values=anchors.values[chosen][:, chosen], own=anchors.own[chosen], grid=grid, pixels=None)


def calibrated(x: Signal) -> Signal:
    """`far` of each sample and `other`, so that averages over all pairs of sites are those between its blocks.

    ``K(lag) = far + r (q - far)`` averages over all pairs of sites to ``far + r̄ (q - far)``. What is added to such an
    average is less at a border, where padding makes a signal small: ``K(i, j)`` goes with ``√(q_i q_j)``.
    """
    if x.anchors is None or 0 in x.shape:
        return x
    n, sites = x.anchors.samples, max(x.sites(), 1)
    place = next((d for d, axis in enumerate(x.axes) if main_kind(axis) == "b" and x.shape[d] == n), None)
    if place is None:
        return x
    rest = [d for d in range(len(x.shape)) if d != place]
    shape = tuple(n if d == place else 1 for d in range(len(x.shape)))
    means = x.anchors.between_samples(sites)
    within = means.diagonal()
    other = (means.sum() - within.sum()) / max(n * (n - 1), 1)
    sizes = x.second.mean([d for d, axis in enumerate(x.axes) if main_kind(axis) != "s"], keepdim=True).sqrt()
    sizes = sizes / sizes.mean().clamp_min(1e-150)
    moved = x.other + (other - x.other.mean()) * sizes if n > 1 else x.other
    if not x.anchors.grid:  # what each sample's sites share is all there is
        second = x.second + (within.view(shape) - x.second.mean(rest, keepdim=True))
        return replace(x, second=second, far=second, other=moved)
    close = 1 / sites
    if x.near is not None and x.near.ndim == len(x.anchors.grid):
        close = min(float((lag_weights(x.shape[-x.near.ndim :], x.near.shape) * x.near).sum()), 0.9)
    second = x.second.mean(rest).expand(n) if rest else x.second.expand(n)
    far = ((within - close * second) / (1 - close)).view(shape)
    return replace(x, far=x.far + (far - x.far.mean(rest, keepdim=True)) * sizes, other=moved)


def centred(anchors: Anchors, sites: int) -> Anchors:
    """Once the mean over all samples and sites is subtracted, as batch norm does."""
    whole = anchors.whole(sites)
    rows, level = whole.mean(1), whole.mean()
    return anchors.becoming(anchors.values - rows[:, None] - rows + level, anchors.own - 2 * rows + level)
