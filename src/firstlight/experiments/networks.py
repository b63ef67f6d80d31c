"""The lecture's networks."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from firstlight.experiments.images import SIDE


def mlp(widths: Sequence[int], activation: type[nn.Module] = nn.Tanh, *, head: bool = True) -> nn.Sequential:
    """Linear layers of these widths with the activation between them.

    Args:
        widths: of the input and of every layer.
        activation: built without arguments.
        head: whether the last layer gives scores, so that no activation follows it.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*(layers[:-1] if head else layers))


def convs(widths: Sequence[int], strides: Sequence[int] | None = None) -> list[nn.Module]:
    """3×3 convolutions of these widths on colour images, each with a ReLU; of stride 1 unless said."""
    layers: list[nn.Module] = []
    for before, after, stride in zip((3, *widths[:-1]), widths, strides or [1] * len(widths), strict=True):
        layers += [nn.Conv2d(before, after, 3, stride, 1), nn.ReLU()]
    return layers


def pooled_head(channels: int, classes: int) -> list[nn.Module]:
    """The mean over all places, and one linear layer."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


def small_convs(classes: int) -> nn.Sequential:
    """Three convolutions, two of them of stride 2, and a linear head: milliseconds for a step at 32×32."""
    return nn.Sequential(*convs((16, 32, 32), (2, 2, 1)), *pooled_head(32, classes))


def plain_convs(depth: int, channels: int, classes: int) -> nn.Sequential:
    """`depth` layers without normalization or shortcut: convolutions on a quarter of the pixels each way, then three
    linear layers, as in the 30-layer model of He et al. (2015).
    """
    layers = convs([channels] * (depth - 3), [2, 2, *[1] * (depth - 5)])
    head: list[nn.Module] = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    for before, after in pairwise((channels, 2 * channels, 2 * channels, classes)):
        head += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, *head[:-1])


class Residual(nn.Module):
    """``shortcut(x) + branch(x)``."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch to what goes past it."""
        return self.shortcut(x) + self.branch(x)


def perceptron(classes: int, norm: bool) -> nn.Sequential:
    """One linear layer; with `norm`, a batch norm in front of it."""
    size = 3 * SIDE * SIDE
    return nn.Sequential(nn.Flatten(), *([nn.BatchNorm1d(size)] if norm else []), nn.Linear(size, classes))


def mlp_style(classes: int, norm: bool) -> nn.Sequential:
    """Three hidden layers with ReLU."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise((3 * SIDE * SIDE, 256, 256, 256)):
        layers += [nn.Linear(before, after), *([nn.BatchNorm1d(after)] if norm else []), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(256, classes))


def alexnet_style(classes: int, norm: bool) -> nn.Sequential:
    """Large kernels first, three poolings, two wide linear layers."""
    features = [*_unit(3, 24, norm, 5, 2), nn.MaxPool2d(2), *_unit(24, 48, norm, 5), nn.MaxPool2d(2),
                *_unit(48, 48, norm), *_unit(48, 48, norm), *_unit(48, 32, norm), nn.MaxPool2d(2)]  # fmt: skip
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(32 * 4, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(),
                         nn.Linear(128, classes))  # fmt: skip


def vgg_style(classes: int, norm: bool) -> nn.Sequential:
    """Ten 3×3 convolutions in four stages, and three linear layers, as VGG-13."""
    layers: list[nn.Module] = []
    before = 3
    for after in (8, 16, 24, 32):
        layers += [*_unit(before, after, norm), *_unit(after, after, norm), nn.MaxPool2d(2)]
        before = after
    layers += [*_unit(32, 32, norm), *_unit(32, 32, norm), nn.Flatten(), nn.Linear(32 * 4, 64), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, classes))


def resnet_style(classes: int, norm: bool) -> nn.Sequential:
    """A stem and six residual blocks of two convolutions in three stages, as ResNet-14."""
    layers: list[nn.Module] = [*_unit(3, 16, norm, 3, 2)]
    before = 16
    for after, stride in ((16, 1), (16, 1), (24, 2), (24, 1), (32, 2), (32, 1)):
        branch = nn.Sequential(*_unit(before, after, norm, 3, stride), *_unit(after, after, norm)[:-1])
        same = before == after and stride == 1
        shortcut = None if same else nn.Sequential(*_unit(before, after, norm, 1, stride)[:-1])
        layers += [Residual(branch, shortcut), nn.ReLU()]
        before = after
    return nn.Sequential(*layers, *pooled_head(32, classes))


def residual_mlp(width: int, blocks: int, norm: bool) -> nn.Sequential:
    """Blocks ``x + W relu(V x)``; with `norm`, a batch norm at the end of each branch."""
    return nn.Sequential(*(
        Residual(nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width),
                               *([nn.BatchNorm1d(width)] if norm else [])))
        for _ in range(blocks)
    ))  # fmt: skip


def normed_mlp(inputs: int, width: int, depth: int) -> nn.Sequential:
    """Layers of linear map, batch norm and ReLU, no shortcut."""
    layers: list[nn.Module] = []
    for before in (inputs, *[width] * (depth - 1)):
        layers += [nn.Linear(before, width), nn.BatchNorm1d(width), nn.ReLU()]
    return nn.Sequential(*layers)


def residual_convs(blocks: int, channels: int, classes: int) -> nn.Sequential:
    """A stem and residual blocks of two convolutions on 8×8 places, without any normalization."""
    body = (
        Residual(nn.Sequential(*_unit(channels, channels, False), *_unit(channels, channels, False)[:-1]))
        for _ in range(blocks)
    )
    return nn.Sequential(*convs([channels, channels], [2, 2]), *body, nn.ReLU(), *pooled_head(channels, classes))


class VisionTransformer(nn.Module):
    """Patches of 4×4, learned positions, pre-norm blocks of PyTorch's own encoder, the mean of all tokens, a head."""

    def __init__(self, classes: int, width: int, depth: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.position = nn.Parameter(torch.zeros(1, (SIDE // 4) ** 2, width))
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """N×3×32×32 → scores."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.encoder(tokens)).mean(1))


FAMILIES = {
    "perceptron": perceptron, "MLP": mlp_style, "AlexNet": alexnet_style, "VGG": vgg_style, "ResNet": resnet_style,
}  # fmt: skip
"""Networks for images of 32×32 by the name of their family: functions of (classes, with batch norm)."""


def _unit(before: int, after: int, norm: bool, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(before, after, kernel, stride, kernel // 2)
    return [convolution, *([nn.BatchNorm2d(after)] if norm else []), nn.ReLU()]
