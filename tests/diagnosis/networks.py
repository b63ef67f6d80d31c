"""Four small networks for 32×32 images, initialized as their originals are."""

from collections.abc import Callable

import torch
from cases import normalized, photographs
from torch import Tensor, nn


def batch(count: int = 16, side: int = 32) -> tuple[Tensor, Tensor]:
    """Normalized crops of photographs, and labels."""
    return normalized(photographs(count, side)), torch.arange(count) % 10


def _he(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def mlp(depth: int = 6, act: Callable[[], nn.Module] = nn.ReLU) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for k in range(depth):
        layers += [nn.Linear(3072 if k == 0 else 64, 64), act()]
    return _he(nn.Sequential(*layers, nn.Linear(64, 10)))


def plain(depth: int = 6) -> nn.Module:
    layers: list[nn.Module] = []
    for k in range(depth):
        layers += [nn.Conv2d(3 if k == 0 else 16, 16, 3, padding=1), nn.ReLU()]
    return _he(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(x + self.bn2(self.conv2(y)))


def resnet() -> nn.Module:
    """Zero-initialized residual branches."""
    stem = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    model = nn.Sequential(*stem, Block(16), Block(16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    _he(model)
    for block in (model[3], model[4]):
        nn.init.zeros_(block.bn2.weight)
    return model


class Layer(nn.Module):
    """A pre-norm transformer layer with layer scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, 4, batch_first=True)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.scale * self.fc2(nn.functional.gelu(self.fc1(self.norm2(x))))


class Vit(nn.Module):
    def __init__(self, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, 8, 8)
        self.position = nn.Parameter(0.02 * torch.randn(1, 16, width))
        self.layers = nn.Sequential(*(Layer(width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.layers(tokens)).mean(1))


NETWORKS: dict[str, Callable[[], nn.Module]] = {"mlp": mlp, "plain": plain, "resnet": resnet, "vit": Vit}
# A layer that the whole signal passes, and one inside.
MAIN = {"mlp": "3", "plain": "4", "resnet": "0", "vit": "embed"}
INSIDE = {"mlp": "5", "plain": "6", "resnet": "3.conv1", "vit": "layers.0.fc1"}


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name]()
