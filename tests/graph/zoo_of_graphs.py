"""Small networks, each with one thing that is easy to get wrong, and the shape of a batch for them."""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGES = (2, 3, 8, 8)
TOKENS = (2, 5, 8)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.conv(x), 0.1)
        x = F.dropout(F.max_pool2d(x, 2), 0.5, self.training)
        return self.head(x.mean((2, 3)))


class Reused(nn.Module):
    """A block called three times, its ReLU in place, and one weight shared by two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(inplace=True))
        self.relu = nn.ReLU(inplace=True)
        self.one = nn.Linear(3, 3)
        self.two = nn.Linear(3, 3)
        self.two.weight = self.one.weight
        self.alias = self.block

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.block(x)) + x
        x = self.relu(self.alias(x) * 2)
        return self.relu(self.two(self.one(x.mean((2, 3)))))


class Written(nn.Module):
    """Parts of a tensor are overwritten in place, under ``no_grad`` once, and with constants made on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.proj(x).clone()
        y[:, 0] += x[:, 1]
        y[:, 1:3].mul_(2.0)
        with torch.no_grad():
            center = y.mean()
        weights = torch.tensor([1.0, 2.0]).sum() + torch.arange(8.0)
        a, b = ((y - center) * weights).chunk(2, -1)
        return torch.cat([b, a * b.sigmoid()], -1)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.position = nn.Parameter(torch.zeros(1, 6, 8))
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.gamma = nn.Parameter(torch.ones(8))
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, 8))
        self.spare = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        y = self.norm(x)
        x = x + self.gamma * self.attention(y, y, y, need_weights=False)[0]
        return (x + self.mlp(x))[:, 0]


class FusedAttention(nn.Module):
    """Query, key and value from one matrix, cut apart the way vision transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.proj = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(len(x), -1, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).flatten(2))


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(8, 32)
        self.down = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.both(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * value)


class Convolutions(nn.Module):
    """Grouped, depthwise, dilated, strided, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(3, 12, 3, padding=1, groups=3)
        self.depthwise = nn.Conv2d(12, 12, 3, padding="same", groups=12)
        self.dilated = nn.Conv2d(12, 6, 3, dilation=2, padding=2, stride=2)
        self.transposed = nn.ConvTranspose2d(6, 4, 4, stride=2, padding=1, groups=2)
        self.norm = nn.GroupNorm(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.depthwise(F.relu6(self.grouped(x))))
        return F.silu(self.norm(self.transposed(F.elu(self.dilated(x)))))


class Lines(nn.Module):
    """One and three dimensions, an embedding, a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.line = nn.Conv1d(8, 4, 3, padding=1)
        self.volume = nn.Conv3d(1, 2, 3, padding=1)
        self.recurrent = nn.LSTM(10, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x)
        x = torch.relu(self.line(x.transpose(1, 2)))
        x = self.volume(x[:, None, :, :, None]).squeeze(-1).flatten(1, 2)
        return self.recurrent(torch.cat([x, x], -1))[0]


class Parametrized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight_norm = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 6, 3))
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.spectral(F.relu(self.weight_norm(x)).mean((2, 3)))


class ValueDependent(nn.Module):
    """Takes a branch that depends on the values, so it cannot be exported."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.big = nn.Linear(8, 4)
        self.small = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.norm(self.conv(x))).mean((2, 3))
        return self.big(x) if x.sum() > 0 else self.small(x)


class Stubborn(nn.Module):
    """Makes a tensor on the device of its own choice, so it cannot go on meta."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.held = torch.ones(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * self.held + torch.arange(8.0, device="cpu")


def plain() -> nn.Module:
    """Only modules, no activation in place: what forward hooks can see."""
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(3, 8, 3, padding=1),
            norm=nn.BatchNorm2d(8),
            relu=nn.ReLU(),
            second=nn.Conv2d(8, 6, 3, stride=2),
            tanh=nn.Tanh(),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            head=nn.Linear(6, 4),
        )
    )


EXPORTED = {
    "functional": (Functional, IMAGES),
    "reused": (Reused, IMAGES),
    "written": (Written, TOKENS),
    "attention": (Attention, TOKENS),
    "fused_attention": (FusedAttention, TOKENS),
    "gated": (Gated, TOKENS),
    "convolutions": (Convolutions, IMAGES),
    "parametrized": (Parametrized, IMAGES),
    "plain": (plain, IMAGES),
}


def example(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))
