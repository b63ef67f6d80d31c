"""Ten small networks with ten classes, each initialized as its original is."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

CLASSES = 10


class Network(nn.Module):
    """Early layers, `middle`, late layers, pooling, `neck`, head, `tail`; the three are where faults are put in."""

    def __init__(self, early: nn.Module, late: nn.Module, pool: nn.Module, features: int) -> None:
        super().__init__()
        self.early, self.middle, self.late = early, nn.Identity(), late
        self.pool, self.neck = pool, nn.Identity()
        self.head, self.tail = nn.Linear(features, CLASSES), nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """``[N, 3, H, W]`` to ``[N, 10]``."""
        features = self.late(self.middle(self.early(images.float())))
        return self.tail(self.head(self.neck(self.pool(features))))


class Unit(nn.Module):
    """A layer, a normalization or none, an activation."""

    def __init__(self, layer: nn.Module, act: nn.Module, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.layer, self.norm, self.act = layer, norm or nn.Identity(), act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.layer(x)))


class Residual(nn.Module):
    """A branch beside a shortcut."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None, act: nn.Module | None = None) -> None:
        super().__init__()
        self.branch, self.shortcut, self.act = branch, shortcut or nn.Identity(), act or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.shortcut(x) + self.branch(x))


class ChannelNorm(nn.Module):
    """Layer normalization over the channels of a map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class LayerScale(nn.Module):
    """A factor per channel that starts near zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels, 1, 1), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Fire(nn.Module):
    """SqueezeNet's module: squeeze, then two expansions side by side."""

    def __init__(self, inputs: int, squeezed: int, outputs: int) -> None:
        super().__init__()
        self.squeeze = Unit(nn.Conv2d(inputs, squeezed, 1), nn.ReLU())
        self.small = Unit(nn.Conv2d(squeezed, outputs // 2, 1), nn.ReLU())
        self.large = Unit(nn.Conv2d(squeezed, outputs // 2, 3, padding=1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x)
        return torch.cat([self.small(x), self.large(x)], 1)


class Tokens(nn.Module):
    """Patches as tokens, with positions."""

    def __init__(self, width: int, patch: int, count: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.position = nn.Parameter(torch.empty(1, count, width))
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return self.embed(x).flatten(2).transpose(1, 2) + self.position


class Attention(nn.Module):
    """Self-attention with a packed projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(n, tokens, width))


class MeanToken(nn.Module):
    """Mean over the tokens."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def _pooled() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _initialize(model: nn.Module, draw: Callable[[Tensor], object], head: float = 0.01) -> nn.Module:
    """`draw` for every weight of a layer, zero for every bias, a small head."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            if name == "head":
                nn.init.normal_(module.weight, std=head)
            else:
                draw(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def _he(weight: Tensor) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="relu")


def _he_out(weight: Tensor) -> None:
    nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")


def _xavier_tanh(weight: Tensor) -> None:
    nn.init.xavier_normal_(weight, gain=5 / 3)


def _small(weight: Tensor) -> None:
    nn.init.trunc_normal_(weight, std=0.02)


def mlp() -> nn.Module:
    """Ten hidden layers of 128, ReLU."""
    units = [Unit(nn.Linear(3072 if k == 0 else 128, 128), nn.ReLU()) for k in range(10)]
    return _initialize(
        Network(nn.Sequential(nn.Flatten(), *units[:5]), nn.Sequential(*units[5:]), nn.Identity(), 128), _he
    )


def lenet() -> nn.Module:
    """LeNet-5's plan with tanh."""
    early = nn.Sequential(
        Unit(nn.Conv2d(3, 12, 5), nn.Tanh()), nn.AvgPool2d(2), Unit(nn.Conv2d(12, 24, 5), nn.Tanh()), nn.AvgPool2d(2)
    )
    late = nn.Sequential(nn.Flatten(), Unit(nn.Linear(600, 120), nn.Tanh()), Unit(nn.Linear(120, 84), nn.Tanh()))
    return _initialize(Network(early, late, nn.Identity(), 84), _xavier_tanh)


def alexnet() -> nn.Module:
    """Five convolutions and two hidden layers, ReLU, dropout."""
    widths = [3, 24, 48, 64, 64, 48]
    convs = [Unit(nn.Conv2d(a, b, 3, 2 if a == 3 else 1, 1), nn.ReLU()) for a, b in pairwise(widths)]
    early = nn.Sequential(convs[0], convs[1], nn.MaxPool2d(2), convs[2])
    late = nn.Sequential(convs[3], convs[4], nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.5))
    late.extend([Unit(nn.Linear(768, 128), nn.ReLU()), nn.Dropout(0.5), Unit(nn.Linear(128, 128), nn.ReLU())])
    return _initialize(Network(early, late, nn.Identity(), 128), _he)


def squeezenet() -> nn.Module:
    """Four fire modules without normalization."""
    early = nn.Sequential(Unit(nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU()), Fire(32, 16, 64), Fire(64, 16, 64))
    late = nn.Sequential(nn.MaxPool2d(2), Fire(64, 24, 96), Fire(96, 24, 96))
    return _initialize(Network(early, late, _pooled(), 96), _he)


def plain() -> nn.Module:
    """Sixteen convolutions without normalization or shortcuts, as in VGG."""
    widths = [3] + [16] * 2 + [24] * 4 + [32] * 4 + [48] * 6
    units: list[nn.Module] = []
    for k, (a, b) in enumerate(pairwise(widths)):
        units.append(Unit(nn.Conv2d(a, b, 3, padding=1), nn.ReLU()))
        if k in (1, 5, 9):
            units.append(nn.MaxPool2d(2))
    return _initialize(Network(nn.Sequential(*units[:9]), nn.Sequential(*units[9:]), _pooled(), 48), _he)


def _normalized(a: int, b: int, act: Callable[[], nn.Module], **options: int) -> Unit:
    return Unit(nn.Conv2d(a, b, bias=False, **options), act(), nn.BatchNorm2d(b))


def vgg_bn() -> nn.Module:
    """Eight convolutions with batch normalization."""
    widths = [3, 16, 16, 24, 24, 32, 32, 48, 48]
    units: list[nn.Module] = []
    for k, (a, b) in enumerate(pairwise(widths)):
        units.append(_normalized(a, b, nn.ReLU, kernel_size=3, padding=1))
        if k in (1, 3, 5):
            units.append(nn.MaxPool2d(2))
    return _initialize(Network(nn.Sequential(*units[:6]), nn.Sequential(*units[6:]), _pooled(), 48), _he_out)


def _basic_block(a: int, b: int, stride: int) -> nn.Module:
    first = _normalized(a, b, nn.ReLU, kernel_size=3, stride=stride, padding=1)
    last = _normalized(b, b, nn.Identity, kernel_size=3, padding=1)
    nn.init.zeros_(last.norm.weight)
    shortcut = _normalized(a, b, nn.Identity, kernel_size=1, stride=stride) if stride > 1 or a != b else None
    return Residual(nn.Sequential(first, last), shortcut, nn.ReLU())


def resnet() -> nn.Module:
    """Six basic blocks, the last gain of every branch zero."""
    stem = _normalized(3, 16, nn.ReLU, kernel_size=3, stride=2, padding=1)
    early = nn.Sequential(stem, _basic_block(16, 16, 1), _basic_block(16, 32, 2), _basic_block(32, 32, 1))
    late = nn.Sequential(_basic_block(32, 32, 1), _basic_block(32, 64, 2), _basic_block(64, 64, 1))
    return _initialize(Network(early, late, _pooled(), 64), _he_out)


def _inverted(a: int, b: int, stride: int) -> nn.Module:
    wide = 4 * a
    branch = nn.Sequential(
        _normalized(a, wide, nn.ReLU6, kernel_size=1),
        _normalized(wide, wide, nn.ReLU6, kernel_size=3, stride=stride, padding=1, groups=wide),
        _normalized(wide, b, nn.Identity, kernel_size=1),
    )
    return Residual(branch) if a == b and stride == 1 else branch


def mobilenet() -> nn.Module:
    """Inverted residuals with depthwise convolutions and ReLU6."""
    stem = _normalized(3, 16, nn.ReLU6, kernel_size=3, stride=2, padding=1)
    early = nn.Sequential(stem, _inverted(16, 16, 1), _inverted(16, 24, 2))
    late = nn.Sequential(
        _inverted(24, 24, 1), _inverted(24, 32, 2), _inverted(32, 32, 1), _normalized(32, 96, nn.ReLU6, kernel_size=1)
    )
    return _initialize(Network(early, late, _pooled(), 96), _he_out)


def _convnext_block(width: int) -> nn.Module:
    branch = nn.Sequential(
        nn.Conv2d(width, width, 7, padding=3, groups=width),
        ChannelNorm(width),
        Unit(nn.Conv2d(width, 4 * width, 1), nn.GELU()),
        nn.Conv2d(4 * width, width, 1),
        LayerScale(width),
    )
    return Residual(branch)


def convnext() -> nn.Module:
    """Two stages with layer scale."""
    early = nn.Sequential(nn.Conv2d(3, 32, 4, 4), ChannelNorm(32), _convnext_block(32), _convnext_block(32))
    late = nn.Sequential(
        ChannelNorm(32), nn.Conv2d(32, 64, 2, 2), _convnext_block(64), _convnext_block(64), nn.AdaptiveAvgPool2d(1)
    )
    return _initialize(Network(early, late, nn.Sequential(ChannelNorm(64), nn.Flatten()), 64), _small)


def _vit_block(width: int) -> nn.Module:
    attention = Residual(nn.Sequential(nn.LayerNorm(width), Attention(width, 4)))
    hidden = Unit(nn.Linear(width, 4 * width), nn.GELU())
    return nn.Sequential(attention, Residual(nn.Sequential(nn.LayerNorm(width), hidden, nn.Linear(4 * width, width))))


def vit() -> nn.Module:
    """Four pre-norm blocks of width 64 on 4×4 patches."""
    early = nn.Sequential(Tokens(64, 4, 64), *(_vit_block(64) for _ in range(2)))
    late = nn.Sequential(*(_vit_block(64) for _ in range(2)), nn.LayerNorm(64))
    return _initialize(Network(early, late, MeanToken(), 64), _small)


@dataclass(frozen=True)
class Architecture:
    """A network and where things are in it.

    Attributes:
        build: makes it, initialized from torch's global generator.
        traits: what decides whether a fault matters here; see TRAITS.
        main: a layer with weights that the whole signal passes.
        hidden: a layer whose results go through an activation function, and then, as single channels, to `next`.
        next: the layers that take them.
        branch: the module whose weight scales one residual branch; "" when there is none.
    """

    build: Callable[[], nn.Module]
    traits: frozenset[str]
    main: str
    hidden: str
    next: tuple[str, ...]
    branch: str = ""

    def __post_init__(self) -> None:
        assert self.traits <= TRAITS.keys()


TRAITS = {
    "absorbs": "a normalization behind the first layer takes the images' scale and shift away again",
    "normalizes": "normalizations behind the layers take the weights' scale away again",
    "residual": "shortcuts",
    "small-branches": "branches beside the shortcuts that start near zero",
    "repeats": "layers of one shape",
    "relu": "units that are zero for good when they are never positive",
    "gelu": "GELU instead",
    "tanh": "tanh instead",
    "deep": "nine layers or more with nothing to keep the signal's scale",
    "adam": "trained by AdamW, the others by SGD with momentum",
}


def _architecture(build: Callable[[], nn.Module], traits: str, main: str, pair: str, branch: str = "") -> Architecture:
    hidden, *after = pair.split()
    return Architecture(build, frozenset(traits.split()), main, hidden, tuple(after), branch)


ARCHITECTURES = {
    "mlp": _architecture(mlp, "relu deep repeats", "early.3.layer", "late.1.layer late.2.layer"),
    "lenet": _architecture(lenet, "tanh", "early.2.layer", "late.1.layer late.2.layer"),
    "alexnet": _architecture(alexnet, "relu", "early.3.layer", "late.5.layer late.7.layer"),
    "squeezenet": _architecture(
        squeezenet,
        "relu deep repeats",
        "late.1.squeeze.layer",
        "late.1.squeeze.layer late.1.small.layer late.1.large.layer",
    ),
    "plain": _architecture(plain, "relu deep repeats", "early.5.layer", "late.1.layer late.2.layer"),
    "vgg_bn": _architecture(vgg_bn, "relu absorbs normalizes", "early.4.layer", "late.0.layer late.1.layer"),
    "resnet": _architecture(
        resnet,
        "relu absorbs normalizes residual small-branches repeats",
        "early.0.layer",
        "late.1.branch.0.layer late.1.branch.1.layer",
        "late.0.branch.1.norm",
    ),
    "mobilenet": _architecture(
        mobilenet,
        "relu absorbs normalizes residual repeats",
        "early.2.2.layer",
        "late.3.layer head",
        "late.0.branch.2.norm",
    ),
    "convnext": _architecture(
        convnext,
        "gelu absorbs normalizes residual small-branches repeats adam",
        "late.1",
        "late.2.branch.2.layer late.2.branch.3",
        "late.2.branch.4",
    ),
    "vit": _architecture(
        vit,
        "gelu normalizes residual small-branches repeats adam",
        "early.0.embed",
        "late.0.1.branch.1.layer late.0.1.branch.2",
        "late.0.1.branch.2",
    ),
}
