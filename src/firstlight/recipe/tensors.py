"""Applying a recipe to torch tensors: the NumPy kernels on the CPU, the module in float64 elsewhere."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from firstlight.recipe.apply import apply_planes
from firstlight.recipe.inputs import value_range

if TYPE_CHECKING:
    from firstlight.recipe.recipe import Recipe


def apply_tensor(recipe: "Recipe", images: Tensor) -> Tensor:
    """C×H×W or N×C×H×W of any kind and device → float32 in the same layout; see `Recipe.__call__`."""
    dtype = str(images.dtype).removeprefix("torch.")
    scale = recipe.input.scale_of(dtype)
    recipe.input.check_channels(tuple(images.shape), -3, "C×H×W", -1)
    recipe.check_size(tuple(images.shape[-2:]))
    batch = images if images.ndim == 4 else images[None]
    if images.device.type != "cpu" or images.requires_grad:
        low, high = (float(edge) for edge in torch.aminmax(images.detach().float())) if images.numel() else (0.0, 0.0)
        recipe.input.check_range(low, high, integers=not images.is_floating_point())
        result = _by_module(recipe, batch)
    else:
        plain = batch.detach().float() if batch.dtype == torch.bfloat16 else batch.detach()
        array = plain.as_subclass(Tensor).numpy()
        recipe.input.check_range(*value_range(array), integers=not images.is_floating_point())
        result = torch.from_numpy(apply_planes(recipe.steps, np.asarray(array), scale))
    return result if images.ndim == 4 else result[0]


def _by_module(recipe: "Recipe", batch: Tensor) -> Tensor:
    """In float64 where the device has it: no TF32 anywhere, and one rounding at the end."""
    precise = torch.float32 if batch.device.type == "mps" else torch.float64
    module = recipe.module().to(batch.device, precise)
    return module(batch).to(torch.float32)
