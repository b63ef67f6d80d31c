"""The theory against networks that are really run: nothing typed in, every reference is measured here."""

import pytest
import timm
import torch
from torch import nn
from wide_networks import Residual, Written, disagreements, measured, normal, predicted

WIDTH = 256


def stack(*modules):
    return lambda: normal(nn.Sequential(*[build() for build in modules]), 2.0)


class Attention(nn.Module):
    """One head, written with the fused operation or by hand."""

    def __init__(self, fused):
        super().__init__()
        self.qkv, self.fused = nn.Linear(WIDTH, 3 * WIDTH, bias=False), fused

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if self.fused:
            return nn.functional.scaled_dot_product_attention(q, k, v)
        return torch.softmax(q @ k.transpose(-2, -1) / WIDTH**0.5, -1) @ v


def conv(a=WIDTH, b=WIDTH, k=3, **options):
    return lambda: nn.Conv2d(a, b, k, **{"padding": k // 2, **options})


def linear(a=WIDTH, b=WIDTH):
    return lambda: nn.Linear(a, b)


IMAGE, TOKENS, ROWS = (4, WIDTH, 8, 8), (4, 16, WIDTH), (16, WIDTH)
CASES = {
    "linear-relu": (stack(linear(), nn.ReLU, linear(), nn.ReLU), ROWS),
    "linear-gelu-tanh": (stack(linear(), nn.GELU, linear(), nn.Tanh, linear()), ROWS),
    "padded convolutions": (stack(conv(), nn.ReLU, conv(), nn.ReLU, conv()), IMAGE),
    "strided, dilated, grouped": (stack(conv(stride=2), nn.ReLU, conv(dilation=2), nn.ReLU, conv(groups=4)), IMAGE),
    "transposed": (stack(lambda: nn.ConvTranspose2d(WIDTH, WIDTH, 3, stride=2), nn.ReLU, conv()), IMAGE),
    "max pool": (stack(conv(), nn.ReLU, lambda: nn.MaxPool2d(2), conv()), IMAGE),
    "average pool": (stack(conv(), nn.ReLU, lambda: nn.AvgPool2d(2), conv(), nn.ReLU), IMAGE),
    "global pool": (stack(conv(), nn.ReLU, lambda: nn.AdaptiveAvgPool2d(1), nn.Flatten, linear()), IMAGE),
    "batch norm": (stack(conv(), lambda: nn.BatchNorm2d(WIDTH), nn.ReLU, conv(), lambda: nn.BatchNorm2d(WIDTH)), IMAGE),
    "layer norm": (stack(linear(), nn.GELU, lambda: nn.LayerNorm(WIDTH), linear()), TOKENS),
    "group norm": (stack(conv(), nn.ReLU, lambda: nn.GroupNorm(4, WIDTH), conv()), IMAGE),
    "residual": (stack(linear(), lambda: Residual(nn.Sequential(nn.ReLU(), nn.Linear(WIDTH, WIDTH))), linear()), ROWS),
    "x + relu(x)": (stack(linear(), lambda: Residual(nn.ReLU()), linear()), ROWS),
    "gate of its own": (stack(linear(), lambda: Written(lambda x: x * torch.sigmoid(x)), linear()), ROWS),
    "two gates": (stack(linear(), nn.GLU, linear(WIDTH // 2)), ROWS),
    "joined": (stack(linear(), lambda: Written(lambda x: torch.cat([x, 3 * x.relu()], -1)), linear(2 * WIDTH)), ROWS),
    "dropout": (stack(linear(), nn.ReLU, lambda: nn.Dropout(0.3), linear()), ROWS),
    "attention": (lambda: nn.Sequential(normal(Attention(True)), normal(nn.Linear(WIDTH, WIDTH))), TOKENS),
    "attention by hand": (lambda: nn.Sequential(normal(Attention(False)), normal(nn.Linear(WIDTH, WIDTH))), TOKENS),
    "mixing tokens": (
        stack(lambda: Written(lambda x: x.transpose(1, 2)), linear(16, 16), nn.GELU, linear(16, 16)),
        TOKENS,
    ),
    "upsampled": (stack(conv(), nn.ReLU, lambda: nn.Upsample(scale_factor=2, mode="nearest"), conv()), IMAGE),
}


@pytest.mark.parametrize("name", CASES)
def test_wide_networks_have_the_predicted_moments(name):
    build, shape = CASES[name]
    assert not disagreements(build, shape, 4, within=0.04)


@pytest.mark.parametrize(
    ("name", "shape", "share"),
    [
        ("resnet18", (8, 3, 64, 64), 0.85),
        ("vit_tiny_patch16_224", (4, 3, 32, 32), 0.85),
        ("mobilenetv3_small_100", (8, 3, 64, 64), 0.8),
    ],
)
def test_real_networks_lie_in_the_band(name, shape, share):
    options = {"img_size": shape[-1]} if name.startswith("vit") else {}

    def build():
        return timm.create_model(name, pretrained=False, **options)

    found = measured(build, shape, 2)
    torch.manual_seed(0)
    said = predicted(build(), torch.zeros(*shape))
    assert not said.opaque
    inside = {"forward": [], "backward": []}
    last = [n for n in said.nodes if n.name in found.backward][-1]
    unit = found.backward[last.name][0] / last.backward_second_moment
    for node in said.nodes:
        if node.name not in found.forward:
            continue
        q = found.forward[node.name][0]
        inside["forward"].append(_within(q, node.forward_second_moment, node.band))
        if node.name in found.backward and node.backward_second_moment is not None:
            p = found.backward[node.name][0] / unit
            inside["backward"].append(_within(p, node.backward_second_moment, node.backward_band))
    for side, hits in inside.items():
        assert sum(hits) / len(hits) >= share, side


def _within(measured_value, value, band):
    both_zero = measured_value < 1e-20 and value < 1e-12
    return both_zero or value / (1 + band) <= measured_value <= value * (1 + band)
