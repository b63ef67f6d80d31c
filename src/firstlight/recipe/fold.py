"""Folding a recipe into the layer that follows it, exactly, borders included.

A recipe that is one affine map of every pixel, M·x + b, and a convolution W with bias c make one convolution:

    Σ W(M·x + b) + c = Σ (W·M)·x + (c + Σ W·b).

At the border that is not the whole story. The layer pads what *it* sees, M·x + b, with zeros; the folded layer
sees x, and must pad with the x for which M·x + b = 0: the mean, not zero. (With a 7×7 kernel and padding 3, zeros
give errors as large as the output itself.) Reflected, replicated and circular padding copy pixels and need nothing.
"""

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from firstlight._typing import Floats
from firstlight.errors import FirstlightError
from firstlight.recipe.apply import Affine, fuse

if TYPE_CHECKING:
    from firstlight.recipe.recipe import Recipe

_CLOSE = 1e-4
"""Largest difference, relative to the largest output, that rounding is believed to explain in `fold_into`."""


class PaddedConv2d(nn.Conv2d):
    """A convolution that takes raw pixels and pads them with one value per channel.

    Attributes:
        border: 1×C×1×1, what lies beyond the border.
        sides: left, right, top, bottom.
    """

    border: Tensor

    def __init__(self, sides: tuple[int, int, int, int], border: Tensor, **options: Any) -> None:
        super().__init__(**options)
        self.sides = sides
        self.register_buffer("border", border)

    def forward(self, input: Tensor) -> Tensor:
        """N×C×H×W raw pixels of any type → N×K×H'×W'."""
        images = input.to(self.weight.dtype)
        left, right, top, bottom = self.sides
        n, channels, _, width = images.shape
        height = images.shape[2]
        beside = [self.border.expand(n, channels, height, side) for side in (left, right)]
        images = torch.cat([beside[0], images, beside[1]], dim=3)
        above = [self.border.expand(n, channels, side, width + left + right) for side in (top, bottom)]
        return super().forward(torch.cat([above[0], images, above[1]], dim=2))


class RawConv2d(nn.Conv2d):
    """A convolution that takes raw pixels of any type."""

    def forward(self, input: Tensor) -> Tensor:
        """N×C×H×W raw pixels → N×K×H'×W'."""
        return super().forward(input.to(self.weight.dtype))


class RawLinear(nn.Linear):
    """A linear layer that takes raw pixels of any type, flattened."""

    def forward(self, input: Tensor) -> Tensor:
        """…×D raw pixels → …×K."""
        return super().forward(input.to(self.weight.dtype))


def fold(recipe: "Recipe", layer: nn.Module) -> nn.Module:
    """A layer that takes raw pixels and gives what `layer` gives on the recipe's result; see `Recipe.fold`."""
    affine = fuse(recipe.steps, recipe.input.channels)
    if affine is None:
        raise cannot("the recipe mixes neighbouring pixels or differs from position to position in its mixing")
    affine = affine.scaled(recipe.input.full_scale)
    if type(layer) is nn.Conv2d:
        return _fold_conv(affine, recipe.input.channels, layer)
    if type(layer) is nn.Linear:
        return _fold_linear(affine, recipe.input.channels, layer)
    raise cannot(f"{type(layer).__name__} is neither nn.Conv2d nor nn.Linear")


def cannot(cause: str) -> FirstlightError:
    """The error to raise where folding would not be exact."""
    return FirstlightError(
        cause,
        "keep the step in front: nn.Sequential(recipe.module(), model)",
        slug="cannot-fold",
        call="recipe.fold(layer)",
    )


def _fold_conv(affine: Affine, channels: int, conv: nn.Conv2d) -> nn.Module:
    if affine.positional:
        raise cannot("a mean image is another bias at every position, which no convolution has")
    matrix = _matrix(affine, channels)
    if conv.in_channels != len(matrix):
        raise cannot(f"the layer takes {conv.in_channels} channels, the recipe gives {len(matrix)}")
    weight = conv.weight.detach().double().cpu()
    mixing = bool(np.count_nonzero(matrix - np.diag(np.diag(matrix)))) if matrix.shape[0] == matrix.shape[1] else True
    dense = _dense(weight, conv.groups)
    new = torch.einsum("oihw,ic->ochw", dense, torch.from_numpy(matrix))
    bias = dense.sum(dim=(2, 3)) @ torch.from_numpy(affine.shift)
    if conv.bias is not None:
        bias = bias + conv.bias.detach().double().cpu()
    groups = 1 if mixing else conv.groups
    options = {
        "in_channels": channels,
        "out_channels": conv.out_channels,
        "kernel_size": conv.kernel_size,
        "stride": conv.stride,
        "dilation": conv.dilation,
        "groups": groups,
        "dtype": conv.weight.dtype,
    }
    sides = _sides(conv)
    folded: nn.Conv2d
    if conv.padding_mode != "zeros" or not any(sides):
        folded = RawConv2d(**options, padding=conv.padding, padding_mode=conv.padding_mode)  # type: ignore[arg-type]
    else:
        border = torch.from_numpy(_zero_of(matrix, affine.shift)).to(conv.weight.dtype).reshape(1, -1, 1, 1)
        folded = PaddedConv2d(sides, border, **options)
    with torch.no_grad():
        folded.weight.copy_(_grouped(new, groups))
        assert folded.bias is not None, "it was made with one"
        folded.bias.copy_(bias)
    return folded.to(conv.weight.device).train(conv.training)


def _fold_linear(affine: Affine, channels: int, linear: nn.Linear) -> nn.Module:
    weight = linear.weight.detach().double().cpu()
    outputs = channels if affine.order is not None else len(affine.factor)
    if linear.in_features % outputs:
        raise cannot(f"{linear.in_features} inputs are not whole images of {outputs} channels")
    positions = linear.in_features // outputs
    planes = weight.reshape(len(weight), outputs, positions)
    if affine.positional:
        assert affine.order is not None, "a matrix never differs from position to position"
        shape = affine.factor.shape if affine.factor.ndim == 3 else affine.shift.shape
        if shape[0] * shape[1] != positions:
            raise cannot(f"{positions} positions in the layer, {shape[0]}×{shape[1]} in the recipe")
        factor, shift = (
            torch.from_numpy(np.broadcast_to(value, shape).reshape(positions, outputs).T.copy())
            for value in (affine.factor, affine.shift)
        )
        new = (planes * factor)[:, list(np.argsort(affine.order))]
        bias = (planes * shift).sum(dim=(1, 2))
    else:
        new = torch.einsum("okp,kc->ocp", planes, torch.from_numpy(_matrix(affine, channels)))
        bias = planes.sum(dim=2) @ torch.from_numpy(affine.shift)
    if linear.bias is not None:
        bias = bias + linear.bias.detach().double().cpu()
    folded = RawLinear(channels * positions, linear.out_features, dtype=linear.weight.dtype)
    with torch.no_grad():
        folded.weight.copy_(new.reshape(len(weight), -1))
        folded.bias.copy_(bias)
    return folded.to(linear.weight.device).train(linear.training)


def _matrix(affine: Affine, channels: int) -> Floats:
    """M, K×C, of a map that is the same at every position."""
    if affine.order is None:
        return affine.factor
    matrix = np.zeros((channels, channels))
    matrix[np.arange(channels), list(affine.order)] = affine.factor
    return matrix


def _zero_of(matrix: Floats, shift: Floats) -> Floats:
    """The x with M·x + b = 0."""
    border = np.linalg.lstsq(matrix, -shift, rcond=None)[0]
    if np.abs(matrix @ border + shift).max() > 1e-9 * max(1.0, np.abs(shift).max()):
        raise cannot("no pixel becomes zero, so nothing can stand for the layer's zero padding")
    return np.asarray(border, np.float64)


def _sides(conv: nn.Conv2d) -> tuple[int, int, int, int]:
    """Padding left, right, top and bottom, as torch gives it for "same" too."""
    if conv.padding == "valid":
        return (0, 0, 0, 0)
    if conv.padding == "same":
        total = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        (top, left), (bottom, right) = [t // 2 for t in total], [t - t // 2 for t in total]
        return (left, right, top, bottom)
    assert not isinstance(conv.padding, str), "torch knows no other name"
    rows, columns = conv.padding
    return (columns, columns, rows, rows)


def _dense(weight: Tensor, groups: int) -> Tensor:
    """O×(I/g)×h×w → O×I×h×w with zeros between the groups."""
    if groups == 1:
        return weight
    outputs, inner = weight.shape[:2]
    dense = weight.new_zeros(outputs, inner * groups, *weight.shape[2:])
    for group in range(groups):
        rows = slice(group * outputs // groups, (group + 1) * outputs // groups)
        dense[rows, group * inner : (group + 1) * inner] = weight[rows]
    return dense


def _grouped(dense: Tensor, groups: int) -> Tensor:
    """The inverse of `_dense`."""
    if groups == 1:
        return dense
    outputs, inner = dense.shape[0] // groups, dense.shape[1] // groups
    parts = [dense[g * outputs : (g + 1) * outputs, g * inner : (g + 1) * inner] for g in range(groups)]
    return torch.cat(parts)


def fold_into(recipe: "Recipe", model: nn.Module, images: Tensor) -> nn.Module:
    """A copy of the model that takes raw pixels; see `Recipe.fold_into`."""
    from firstlight.graph import trace

    prepared = recipe.module().to(images.device)(images)
    path = _first_layer(trace(model, prepared))
    folded = copy.deepcopy(model)
    parent, _, name = path.rpartition(".")
    layer = model.get_submodule(path)
    if not path:
        folded = fold(recipe, layer)
    else:
        setattr(folded.get_submodule(parent), name, fold(recipe, layer))
    with torch.no_grad():
        wanted = copy.deepcopy(model).eval()(prepared)
        given = copy.deepcopy(folded).eval()(images)
    worst = _difference(wanted, given)
    if not worst <= _CLOSE:
        raise FirstlightError(
            f"folded into {path or 'the model'!r}, the model's output differs by {worst:.2g} of its largest value",
            "keep the step in front: nn.Sequential(recipe.module(), model)",
            slug="fold-not-equal",
            call="recipe.fold_into(model, images)",
        )
    return folded


def _first_layer(graph: Any) -> str:
    """Dotted path of the one layer that the input goes into."""
    inputs = [node for node in graph.nodes if node.kind == "input"]
    readers = [user for node in inputs for user in graph.users(node.name)]
    while len(readers) == 1 and readers[0].function in ("flatten", "reshape", "view"):
        readers = list(graph.users(readers[0].name))
    if len(inputs) != 1 or len(readers) != 1 or readers[0].function not in ("conv2d", "convolution", "linear"):
        seen = ", ".join(reader.name for reader in readers) or "nothing"
        raise cannot(f"the input does not go into one convolution or linear layer alone, but into {seen}")
    layer = readers[0]
    weights = [name for role, name in layer.parameters if role == "weight"]
    if len(weights) != 1 or weights[0].rpartition(".")[0] != layer.module or len(graph.users(weights[0])) != 1:
        raise cannot(f"the weight of {layer.name} is computed or used elsewhere too")
    return str(layer.module)


def _difference(wanted: Any, given: Any) -> float:
    """Largest difference of two outputs, relative to the largest value; infinite when they do not match."""
    if isinstance(wanted, Tensor):
        if not isinstance(given, Tensor) or wanted.shape != given.shape:
            return float("inf")
        return float((wanted - given).abs().max() / wanted.abs().max().clamp_min(1e-30))
    if isinstance(wanted, dict):
        return max((_difference(wanted[key], given[key]) for key in wanted), default=0.0)
    if isinstance(wanted, list | tuple):
        return max((_difference(a, b) for a, b in zip(wanted, given, strict=True)), default=0.0)
    return 0.0 if wanted == given else float("inf")
