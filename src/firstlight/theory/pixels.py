"""The kernel of a first convolution, which sees pixels and is exact; and what its single sites have beyond blocks."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from firstlight._typing import Floats
from firstlight.theory.anchors import GRID, POINTS, Anchors, coarser
from firstlight.theory.spectrum import alike_within

_BLOCKS = 256  # of all samples together
_ENOUGH = 20_000  # windows that a covariance of pixels is taken over
_PAIRED = 400  # windows of one image of which all pairs are


@dataclass(frozen=True, slots=True)
class Pixels:
    """Images, and the window through which each site sees them; what a first convolution makes is exact.

    Attributes:
        images: [N, C, H, W].
        kernel, stride, before, dilation: of the window.
        sites: windows along each dimension.
    """

    images: Tensor
    kernel: tuple[int, ...] = (1, 1)
    stride: tuple[int, ...] = (1, 1)
    before: tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1, 1)
    sites: tuple[int, ...] = ()

    def through(
        self, kernel: Sequence[int], stride: Sequence[int], before: Sequence[int], dilation: Sequence[int],
        sites: Sequence[int],
    ) -> "Pixels":  # fmt: skip
        """The same images, as the sites of a convolution see them."""
        return Pixels(self.images, tuple(kernel), tuple(stride), tuple(before), tuple(dilation), tuple(sites))

    def moments(self, *, normalized: bool = False, channels: Floats | None = None) -> "Anchors | None":
        """Between points, so that averages over blocks are exact.

        Args:
            normalized: whether every site is divided by the root of its own second moment.
            channels: the matrix ``A`` of ``E z z' = p A p'`` for the pixels ``p`` of two windows, their covariance with
                the weights; the identity when these are alike.
        """
        n, sites = len(self.images), self.sites or tuple(self.images.shape[2:])
        grid = tuple(_cuts(m, int(math.sqrt(_BLOCKS / n))) for m in sites)
        if min(grid) < 2:
            return None
        several = all(m >= POINTS * a for m, a in zip(sites, grid, strict=True))
        rows, columns = (_points(m, a) for m, a in zip(sites, grid, strict=True))
        means, own, points, square = [], [], [], torch.zeros(())
        for scaled in self._windows(sites, channels, normalized):
            means.append(_by_block(scaled, grid))
            own.append(_by_block(scaled.square().sum(1, keepdim=True), grid))
            points.append(scaled[:, :, rows][..., columns].double())
            features = scaled.flatten(2)[0].double()
            square = square + features @ features.T / (n * features.shape[1])
        terms = means[0].shape[1]
        flat = _places(means)
        values = flat @ flat.T / terms
        middle = flat - flat.mean(0)
        within = square - torch.outer(flat.mean(0), flat.mean(0))
        noise = max(float(within.square().sum()) / terms**2 - float((middle @ middle.T / terms).square().mean()), 0.0)
        found = Anchors(values, torch.cat(own).flatten() / terms, n, grid, self, noise).apart(math.prod(sites))
        if not several:
            return found
        flat = _places(points)
        return found.at(flat @ flat.T / terms)

    def overlaps(self, *, normalized: bool, channels: Floats | None = None) -> Tensor:
        """Mean squared correlation of the sites of each sample about their mean, sizes included, [N].

        Args:
            normalized, channels: as for `moments`.
        """
        sites, found = self.sites or tuple(self.images.shape[2:]), []
        thin = max(math.prod(sites) // _PAIRED, 1)
        for seen in self._windows(sites, channels, normalized):
            rows = seen.flatten(2)[0].T.double()
            rows = (rows - rows.mean(0))[::thin]
            squares = (rows @ rows.T).square()
            own = squares.diagonal()
            apart = (squares.sum() - own.sum()) / max(len(rows) * (len(rows) - 1), 1)
            share = 1 / math.prod(sites)
            found.append((share * own.mean() + (1 - share) * apart) / own.sqrt().mean().clamp_min(1e-150) ** 2)
        return torch.stack(found)

    def spectrum(self) -> tuple[Floats, Floats]:
        """Eigenvalues, of mean one, and eigenvectors of the covariance of the pixels of a window."""
        sites = self.sites or tuple(self.images.shape[2:])
        thin = max(math.prod(sites) * len(self.images) // _ENOUGH, 1)
        rows = torch.cat([w.flatten(2)[0].T[::thin] for w in self._windows(sites)])
        rows = rows - rows.mean(0)
        values, vectors = np.linalg.eigh((rows.T @ rows / len(rows)).double().numpy())
        values = np.maximum(values, 1e-6 * values.max())
        return values / values.mean(), vectors

    def _windows(
        self, sites: Sequence[int], channels: Floats | None = None, normalized: bool = False
    ) -> Iterator[Tensor]:
        """Of one sample after the other: what each site sees, [1, channels · taps, *sites]; see `moments`."""
        terms = self.images.shape[1] * math.prod(self.kernel)
        filters = torch.eye(terms)
        if channels is not None:
            values, vectors = np.linalg.eigh(channels)
            filters = torch.from_numpy((vectors * np.sqrt(np.maximum(values, 0.0))).T.copy()).float()
        weight = filters.view(terms, self.images.shape[1], *self.kernel)
        ends = [
            (m - 1) * s + d * (k - 1) + 1
            for m, s, d, k in zip(sites, self.stride, self.dilation, self.kernel, strict=True)
        ]
        (top, left), (height, width) = self.before, self.images.shape[2:]
        spare = (left, max(ends[1] - width - left, 0), top, max(ends[0] - height - top, 0))
        for image in self.images:
            padded = torch.nn.functional.pad(image[None], spare)
            found = torch.nn.functional.conv2d(padded, weight, stride=self.stride, dilation=self.dilation)
            seen = found[:, :, : sites[0], : sites[1]]
            yield seen * seen.square().sum(1, keepdim=True).clamp_min(1e-12).rsqrt() if normalized else seen


def _places(features: Sequence[Tensor]) -> Tensor:
    """From features [1, C, *grid] of each sample to one row per place."""
    return torch.cat(list(features)).flatten(2).transpose(1, 2).flatten(0, 1)


def _points(sites: int, blocks: int) -> Tensor:
    """The middles of the parts of each block."""
    spare, size = sites % blocks, sites // blocks
    inside = ((torch.arange(POINTS) + 0.5) * size / POINTS).long()
    return (spare // 2 + torch.arange(blocks)[:, None] * size + inside).reshape(-1)


def _cuts(sites: int, most: int) -> int:
    """Blocks along one side: as many as fit evenly."""
    most = min(GRID, most, sites)
    return next((k for k in range(most, max(most // 2, 1), -1) if sites % k == 0), most)


def _by_block(values: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Averages over blocks of equal size; what is left over lies at the edges."""
    for d, a in enumerate(grid, start=2):
        spare = values.shape[d] % a
        values = values.narrow(d, spare // 2, values.shape[d] - spare)
    return torch.nn.functional.adaptive_avg_pool2d(values, (grid[0], grid[1])).double()


@dataclass(frozen=True)
class Fine:
    """What sites of a first convolution have that blocks of them average away, taken when it is asked for.

    Attributes:
        pixels, channels: the windows that they see, and how, as for `Pixels.moments`.
        normalized: whether a norm of each site has made all equally large.
    """

    pixels: Pixels
    channels: Floats | None = None
    normalized: bool = False

    @cached_property
    def even(self) -> "Fine":
        """The same, of sites that are equally large."""
        return self if self.normalized else replace(self, normalized=True)

    @cached_property
    def overlaps(self) -> Tensor:
        """By how much the mean squared correlation of the sites of a sample exceeds that of its blocks, [N]."""
        blocks = self.pixels.moments(normalized=self.normalized, channels=self.channels)
        sites = self.pixels.sites or tuple(self.pixels.images.shape[2:])
        single = self.pixels.overlaps(normalized=self.normalized, channels=self.channels)
        known = 0.0 if blocks is None else alike_within(coarser(blocks, sites), math.prod(sites))
        return (single - known).clamp_min(0)


def of_images(batch: Tensor) -> Anchors | None:
    """Blocks of images [N, C, H, W]."""
    return Pixels(batch.float()).moments() if batch.dim() == 4 else None
