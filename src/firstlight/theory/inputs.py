"""What the theory is told of the data: moments of the network's input, and how its pixels resemble each other."""

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from firstlight.theory.anchors import Anchors, calibrated
from firstlight.theory.axes import Axes, guess, lag_weights, main_kind
from firstlight.theory.mixture import even, fitting
from firstlight.theory.pixels import of_images
from firstlight.theory.signal import Near, Signal, fresh

_CLOSE = 0.02  # correlations below this at every lag are taken as none


@dataclass(frozen=True, slots=True)
class InputMoments:
    """Moments of the elements of an input; white noise of mean zero and variance one when nothing is said.

    Attributes:
        mean: of all elements, or of each channel.
        second: mean square, likewise.
        far: correlation of two distant sites of one sample, on average or of each sample.
        other: correlation of two samples.
        across: correlation of two channels of one site.
        profile: mean square at each sample and site over that of all, [N, 1, *sites]; ``None`` when even.
        near: closeness ``r`` of sites at a lag, an axis per spatial dimension, ``r[0, 0] = 1``: their correlation is
            ``far + r (1 - far)``.
        anchors: the kernel between chosen places of the batch; ``None`` for noise, and for anything but images.
    """

    mean: float | tuple[float, ...] = 0.0
    second: float | tuple[float, ...] = 1.0
    far: float | tuple[float, ...] = 0.0
    other: float = 0.0
    across: float = 0.0
    near: Near | None = field(default=None, compare=False)
    profile: Tensor | None = field(default=None, compare=False)
    anchors: Anchors | None = field(default=None, compare=False)

    @classmethod
    def of(cls, batch: Tensor) -> "InputMoments":
        """Measure them on a batch.

        Args:
            batch: of shape [N, C, *sites] (images), [N, T, C] (sequences) or [N, C]; a floating-point tensor.
        """
        x = batch.detach().double()
        x = x.movedim(-1, 1) if x.dim() == 3 else x
        n, channels = x.shape[0], x.shape[1]
        dims = (0, *range(2, x.dim()))
        mean, second = x.mean(dims), x.square().mean(dims)
        z = x - mean.view(1, -1, *[1] * (x.dim() - 2))
        variance = float(z.square().mean()) or 1.0
        far, near = _between_sites(z, variance)
        per_sample = z.flatten(2).mean(2) if x.dim() > 2 else z
        fars = (
            far
            if near is None
            else _of_samples(far, near, x.flatten(2).mean(2).square().mean(1) / variance, x.shape[2:])
        )
        pairs = float((per_sample.sum(0) ** 2 - per_sample.square().sum(0)).mean()) / max(n * (n - 1), 1)
        apart = (float((z.sum(1) ** 2 - z.square().sum(1)).mean())) / max(channels * (channels - 1), 1)
        profile = even(x.square().mean(1, keepdim=True)) if near is not None else None
        return cls(
            tuple(mean.tolist()), tuple(second.tolist()), fars, pairs / variance, apart / variance, near, profile,
            None if near is None else of_images(x),
        )  # fmt: skip

    @property
    def average(self) -> float:
        """Mean square over all channels."""
        return float(np.mean(self.second))

    def signal(self, name: str, shape: tuple[int, ...], batch: int) -> Signal:
        """The signal of an input of this shape; channels that do not fit in number are averaged."""
        axes = guess(shape, batch)
        mean, second = self._map(self.mean, axes), self._map(self.second, axes)
        square, variance = mean**2, (second - mean**2).clamp_min(0)
        far = square + self._by_sample(axes) * variance
        other, across = (square + c * variance for c in (self.other, self.across))
        sites = sum(main_kind(axis) == "s" for axis in axes)
        near = self.near if self.near is not None and self.near.ndim == sites else None
        signal = fresh(name, shape, axes, mean=mean, second=second, far=far, other=other)
        signal = replace(
            signal, near=near, profile=fitting(self.profile, shape), across=across if self.across else None
        )
        fits = self.anchors is not None and near is not None and len(shape) == 4 and shape[0] == self.anchors.samples
        return calibrated(replace(signal, anchors=self.anchors)) if fits else signal

    def _by_sample(self, axes: Axes) -> Tensor:
        flat = torch.tensor(self.far, dtype=torch.float64).reshape(-1)
        sizes = [math.prod(n for _, n in axis) if main_kind(axis) == "b" else 1 for axis in axes]
        return flat.view(sizes) if math.prod(sizes) == len(flat) else flat.mean().view([1] * len(axes))

    def _map(self, values: float | tuple[float, ...], axes: Axes) -> Tensor:
        flat = torch.tensor(values, dtype=torch.float64).reshape(-1)
        places = [d for d, axis in enumerate(axes) if main_kind(axis) == "c"]
        shape = [1] * len(axes)
        if len(places) == 1 and math.prod(n for _, n in axes[places[0]]) == len(flat):
            shape[places[0]] = len(flat)
            return flat.view(shape)
        return flat.mean().view(shape)


WHITE_NOISE = InputMoments()


def _of_samples(far: float, near: Near, means: Tensor, sizes: tuple[int, ...]) -> float | tuple[float, ...]:
    """`far` of each sample, from the squared `means` over its sites, of shape [N].

    Such a square is the average of ``K = far + r (1 - far)`` over all pairs of sites. The part that is raised by
    closeness is taken as the same in all samples, so they differ far away by what their squares differ by, means of the
    data included.
    """
    if len(means) == 1:
        return far
    close = min(float((lag_weights(sizes, near.shape) * near).sum()), 0.9)
    return tuple((far + (means - means.mean()) / (1 - close)).tolist())


def _between_sites(z: Tensor, variance: float) -> tuple[float, Near | None]:
    """Correlation of distant sites, and closeness by lag up to half the image; `z` [N, C, *sites] has mean zero.

    The sums of products at all lags are one power spectrum (Wiener-Khinchin) of the image padded to twice its size.
    Distant are sites that lie half the image apart or more in some direction.
    """
    sizes = z.shape[2:]
    if math.prod(sizes) == 1:
        return 0.0, None
    dims = tuple(range(2, z.dim()))
    spectrum = torch.fft.rfftn(z, s=[2 * n for n in sizes], dim=dims).abs().square().mean((0, 1))
    sums = torch.fft.irfftn(spectrum, s=[2 * n for n in sizes])
    counts = pairs = torch.ones((), dtype=torch.float64)
    for d, n in enumerate(sizes):
        sums = (sums + sums.flip(d).roll(1, d)) / 2  # a lag and its mirror image
        sums = sums.narrow(d, 0, n)
        kept = n - torch.arange(n, dtype=torch.float64)
        counts = counts[..., None] * kept
        pairs = pairs[..., None] * kept * torch.where(torch.arange(n) > 0, 2.0, 1.0)
    lags = sums / counts / variance
    close = tuple(slice(0, (n + 1) // 2) for n in sizes)
    apart = pairs.clone()
    apart[close] = 0
    far = float((lags * apart).sum() / apart.sum()) if float(apart.sum()) > 0 else 0.0
    near = ((lags - far) / max(1 - far, 1e-9))[close].numpy()
    near.flat[0] = 1.0
    # Five standard errors of the lag with the fewest pairs: the largest of many lags of white noise stays below.
    noise = 5 / math.sqrt(z.shape[0] * z.shape[1] * math.prod((n + 1) // 2 for n in sizes))
    return far, near if np.abs(near.ravel()[1:]).max(initial=0.0) > max(_CLOSE, noise) else None
