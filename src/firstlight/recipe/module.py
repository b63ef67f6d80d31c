"""A recipe as an ``nn.Module``: one small module per step, constants as buffers."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from firstlight._typing import Floats
from firstlight.errors import FirstlightError
from firstlight.recipe.apply import fuse
from firstlight.recipe.linear import Components, Patches, Pixels
from firstlight.recipe.steps import Channels, Divide, Reorder, Step, Subtract

if TYPE_CHECKING:
    from firstlight.recipe.recipe import Recipe


class RecipeModule(nn.Module):
    """Pixels in, network input out: N×C×H×W or C×H×W, integers or floats in units of full scale.

    Attributes:
        steps: a module per step, in order.
        full_scale: what integers are divided by.
    """

    def __init__(self, recipe: "Recipe") -> None:
        super().__init__()
        self.channels = recipe.input.channels
        self.full_scale = float(recipe.input.full_scale)
        scale, rest = _leading_scale(recipe.steps, self.channels, self.full_scale)
        self.scale = scale
        self.steps = nn.ModuleList(module_of(step) for step in rest)

    def forward(self, images: Tensor) -> Tensor:
        """Preprocess; the result has the type of the buffers."""
        if images.ndim not in (3, 4) or images.shape[-3] != self.channels:
            raise ValueError(f"expected {self.channels}×H×W or N×{self.channels}×H×W, got {tuple(images.shape)}")
        batch = images if images.ndim == 4 else images[None]
        batch = self.scale(batch)
        for step in self.steps:
            batch = step(batch)
        return batch if images.ndim == 4 else batch[0]

    def extra_repr(self) -> str:
        """What integers are divided by."""
        return f"channels={self.channels}, full_scale={self.full_scale:g}"


class Scale(nn.Module):
    """(x − shift)·factor, in raw units for integers and in units of full scale for floats.

    The difference comes first: near the mean it is exact, where a·x + b would cancel and lose digits.
    """

    shift: Tensor
    factor: Tensor
    raw_shift: Tensor
    raw_factor: Tensor

    def __init__(self, shift: Floats, factor: Floats, full_scale: float) -> None:
        super().__init__()
        constant(self, "shift", planes(shift))
        constant(self, "factor", planes(factor))
        constant(self, "raw_shift", planes(shift * full_scale))
        constant(self, "raw_factor", planes(factor / full_scale))

    def forward(self, images: Tensor) -> Tensor:
        """N×C×H×W of any type → the type of the buffers."""
        if images.is_floating_point():
            return (images.to(self.shift.dtype) - self.shift) * self.factor
        return images.to(self.shift.dtype).sub_(self.raw_shift).mul_(self.raw_factor)  # a copy of ours: in place


class MixChannels(nn.Module):
    """Channels times a matrix."""

    matrix: Tensor

    def __init__(self, matrix: Floats) -> None:
        super().__init__()
        constant(self, "matrix", matrix)

    def forward(self, images: Tensor) -> Tensor:
        """N×C×H×W → N×K×H×W."""
        n, _, height, width = images.shape
        return torch.matmul(self.matrix, images.flatten(2)).reshape(n, self.matrix.shape[0], height, width)


class Order(nn.Module):
    """Channels in another order."""

    order: Tensor

    def __init__(self, order: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("order", torch.tensor(order))

    def forward(self, images: Tensor) -> Tensor:
        """N×C×H×W, channels permuted."""
        return images[:, self.order]


class ConvolvePatches(nn.Module):
    """A convolution of images whose border is reflected."""

    weight: Tensor
    bias: Tensor

    def __init__(self, step: Patches) -> None:
        super().__init__()
        constant(self, "weight", np.moveaxis(step.filters, -1, 1))
        constant(self, "bias", step.shift)
        top, bottom, left, right = step.pads
        self.pads = (left, right, top, bottom)

    def forward(self, images: Tensor) -> Tensor:
        """N×C×H×W → N×K×H×W."""
        padded = nn.functional.pad(images, self.pads, mode="reflect")
        return nn.functional.conv2d(padded, self.weight, self.bias)


class WhitenPixels(nn.Module):
    """Along some axes of whole images one factor each, along all others another."""

    vectors: Tensor
    factor: Tensor

    def __init__(self, step: Pixels) -> None:
        super().__init__()
        constant(self, "vectors", _channels_first(step.vectors, step.image))
        constant(self, "factor", step.factor - step.rest)
        self.rest = step.rest

    def forward(self, images: Tensor) -> Tensor:
        """N×C×H×W → the same shape."""
        flat = images.flatten(1)
        mapped = (flat @ self.vectors * self.factor) @ self.vectors.T + self.rest * flat
        return mapped.reshape(images.shape)


class ProjectPixels(nn.Module):
    """Components of whole images."""

    matrix: Tensor

    def __init__(self, step: Components) -> None:
        super().__init__()
        constant(self, "matrix", _channels_first(step.vectors, step.image) * step.factor)

    def forward(self, images: Tensor) -> Tensor:
        """N×C×H×W → N×r×1×1."""
        return (images.flatten(1) @ self.matrix)[:, :, None, None]


def module_of(step: Step) -> nn.Module:
    """The module of one step after the first scaling.

    Raises:
        FirstlightError: slug ``no-module``, for the steps that only an inverse has.
    """
    if isinstance(step, Patches):
        return ConvolvePatches(step)
    if isinstance(step, Pixels):
        return WhitenPixels(step)
    if isinstance(step, Components):
        return ProjectPixels(step)
    if isinstance(step, Subtract):
        return Scale(step.value, np.ones(step.value.shape[-1]), 1.0)
    if isinstance(step, Divide):
        return Scale(np.zeros(step.value.shape[-1]), 1 / step.value, 1.0)
    if isinstance(step, Channels):
        return MixChannels(step.matrix)
    if isinstance(step, Reorder):
        return Order(step.order)
    raise FirstlightError(
        f"the step {step.name!r} has no torch module", "apply the recipe itself: recipe(images)", slug="no-module"
    )


def constant(module: nn.Module, name: str, value: Floats) -> None:
    """Register a float32 buffer."""
    module.register_buffer(name, torch.from_numpy(np.ascontiguousarray(value, np.float32)))


def planes(value: Floats) -> Floats:
    """C → C×1×1 and H×W×C → C×H×W."""
    return np.moveaxis(value, -1, 0).reshape(value.shape[-1], *(value.shape[:-1] or (1, 1)))


def _channels_first(vectors: NDArray[Any], image: tuple[int, int, int]) -> NDArray[Any]:
    """D×r with D in the order H, W, C → the same with D in the order C, H, W."""
    rank = vectors.shape[1]
    return np.moveaxis(vectors.reshape(*image, rank), 2, 0).reshape(-1, rank)


def _leading_scale(steps: tuple[Step, ...], channels: int, full_scale: float) -> tuple[Scale, tuple[Step, ...]]:
    """The longest start of the steps that is one subtraction and one scaling, and the steps after it."""
    count = 0
    while count < len(steps) and isinstance(steps[count], Subtract | Divide):
        count += 1
    affine = fuse(steps[:count], channels)
    assert affine is not None, "subtracting and dividing is affine"
    return Scale(-affine.shift / affine.factor, affine.factor, full_scale), steps[count:]
