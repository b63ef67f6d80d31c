"""The images at the network's door: their moments, their range, and the lattice of gray levels that they lie on.

A pixel of an 8-bit image is one of 256 numbers k, and preprocessing is nearly always affine in each channel,
y = a·k + b. So the values that reach the network are evenly spaced, and their spacing tells what was done:
1/255 after x/255, 1/(255·std) after normalization, 1 for raw pixels. The spacing does not depend on the images.
Resizing floats, mixing images and 16-bit floats destroy the lattice; ranges and moments are left then.
"""

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from firstlight._typing import Floats
from firstlight.diagnosis.case import Case, NotChecked

_VALUES = 2**23
"""Values that are looked at, in whole images: 64 MB as float64."""

_DISTINCT = 2**16
"""Values per channel in which the lattice is looked for: enough that neighbouring gray levels both occur."""

_FEWEST_LEVELS = 8
"""Numbers that random values cannot bring in line: eight within a tenth of a lattice by chance have p = 0.2^6."""


@dataclass(frozen=True, eq=False)
class Pixels:
    """A batch of images.

    Attributes:
        values: ``[N, C, H, W]`` float64, an even choice of images when there are many.
        mean: of each channel, C.
        std: of each channel, over all pixels, C.
        low: smallest value of each channel.
        high: largest value of each channel.
        step: distance of neighbouring gray levels, C; None when the values lie on no lattice.
        darkest: smallest value on the lattice, C: `low`, unless that is a value of its own, from clipping or padding.
        brightest: largest value on the lattice, C.
    """

    values: Floats
    mean: Floats
    std: Floats
    low: Floats
    high: Floats
    step: Floats | None
    darkest: Floats
    brightest: Floats

    @property
    def channels(self) -> int:
        """C."""
        return len(self.mean)

    @property
    def rms(self) -> float:
        """Root of the second moment over all pixels and channels."""
        return float(np.sqrt(np.mean(self.mean**2 + self.std**2)))

    @property
    def span(self) -> Floats:
        """Gray levels between the darkest and the brightest, C; only where there is a lattice."""
        assert self.step is not None, "asked only where there is one"
        return np.asarray((self.brightest - self.darkest) / self.step)

    @property
    def clipped(self) -> float:
        """Share of values at two limits that are no gray levels and the same in every channel; 0 without such "
        "limits."""
        low, high = self.low[0], self.high[0]
        off = (self.low != self.darkest).any() and (self.high != self.brightest).any()
        if self.step is None or not off or (self.low != low).any() or (self.high != high).any():
            return 0.0
        return float(((self.values == low) | (self.values == high)).mean())


def pixels(case: Case) -> Pixels:
    """The batch's images as numbers, looked at once for all rules.

    Raises:
        NotChecked: without images, without a finite number in every pixel, or when all pixels are equal.
    """
    if "pixels" not in case.shared:
        case.shared["pixels"] = _looked_at(channels_first(case))
    return cast(Pixels, case.shared["pixels"])


def _looked_at(images: Tensor) -> Pixels:
    count = max(1, min(len(images), _VALUES // max(1, images[0].numel())))
    chosen = images[torch.linspace(0, len(images) - 1, count).long()].detach()
    values = chosen.to(torch.float64).cpu().numpy()
    if not np.isfinite(values).all():
        raise NotChecked("the images are not finite")
    low, high = values.min(axis=(0, 2, 3)), values.max(axis=(0, 2, 3))
    if (low == high).all():
        raise NotChecked("every channel is constant")
    noise = 4 * (torch.finfo(images.dtype).eps if images.is_floating_point() else 0.0)
    return Pixels(
        values, values.mean(axis=(0, 2, 3)), values.std(axis=(0, 2, 3)), low, high, *_lattice(values, low, high, noise)
    )


def channels_first(case: Case) -> Tensor:
    """The images as ``[N, C, H, W]``, whatever layout they came in.

    Raises:
        NotChecked: without images.
    """
    images = case.images
    if images is None or images.numel() == 0:
        raise NotChecked("no input is a batch of images with four axes")
    return images.permute(0, 3, 1, 2) if channels_are_last(images) else images


def channels_are_last(images: Tensor) -> bool:
    """Whether the shape can only be ``[N, H, W, C]``: as few channels as images have, where the width would be."""
    return images.shape[-1] in (1, 3, 4) and images.shape[1] > 4 and images.shape[2] > 4


def has_convolutions(model: nn.Module) -> bool:
    """Whether the network looks at neighbourhoods of pixels."""
    return any(isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1 for module in model.modules())


def _lattice(values: Floats, low: Floats, high: Floats, noise: float) -> tuple[Floats | None, Floats, Floats]:
    """Spacing, darkest and brightest level of each channel; a constant channel takes the spacing of the others."""
    steps, darkest, brightest = np.full(len(low), np.nan), low.copy(), high.copy()
    for channel in np.flatnonzero(low < high):
        flat = values[:, channel].ravel()
        levels = np.unique(np.append(flat[:: max(1, flat.size // _DISTINCT)], (low[channel], high[channel])))
        known_to = noise * max(abs(low[channel]), abs(high[channel]))
        step = _step(levels, known_to)
        if step is None:
            return None, low, high
        steps[channel] = step
        inside = levels[1:-1]  # the ends may be clipped, or padding
        for ends, end, nearest in ((darkest, low, inside[0]), (brightest, high, inside[-1])):
            places = (end[channel] - inside[0]) / step
            if abs(places - round(places)) > 0.1 + known_to / step:
                ends[channel] = nearest
    return np.where(np.isnan(steps), np.nanmin(steps), steps), darkest, brightest


def _step(levels: Floats, noise: float) -> float | None:
    """Spacing of sorted numbers, known to ±noise; None when they are not evenly spaced.

    The ends are left out, for values may be clipped, and zeros, for images are padded with them after normalization.
    """
    kept = levels[1:-1][levels[1:-1] != 0]
    apart = kept[np.diff(kept, prepend=-np.inf) > noise]
    return _spacing(apart - apart[0], noise) if len(apart) >= _FEWEST_LEVELS else None


def _spacing(distances: NDArray[np.float64], noise: float) -> float | None:
    """The common divisor of distances from the first level, made sharper by ever longer distances."""
    step = float(np.diff(distances).min())
    if distances[-1] / step > 1.1 * 2**16 or noise / step > 0.1:
        return None
    reach = 16.0
    while True:
        # An error e of the step is k·e at k levels; each round knows e to noise/k and goes on to 4k.
        farthest = float(distances[distances <= reach * step * 1.001][-1])
        if farthest > 0:
            step = farthest / round(farthest / step)
        if farthest == distances[-1]:
            break
        reach *= 4
    places = distances / step
    off = np.abs(places - np.round(places)).max()
    return step if off < 0.05 + noise / step else None
