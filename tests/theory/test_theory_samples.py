"""Samples that differ: what attention hands back to each, how alike single tokens are, and buffers by channel."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from wide_networks import normal, predicted, random_direction

from firstlight.graph import trace
from firstlight.probe import probe
from firstlight.theory import InputMoments, as_they_are, propagate
from firstlight.theory.maps.attention import pair_of_rows
from firstlight.theory.pixels import Fine, Pixels

WIDTH, HEADS = 192, 3


def pictures(noise=(0.05, 0.3, 1.0, 3.0), side=32):
    """One brightness for each sample, and more or less noise in patches on top of it."""
    rng = torch.Generator().manual_seed(0)
    patches = nn.functional.interpolate(torch.randn(len(noise), 3, side // 4, side // 4, generator=rng), scale_factor=4)
    return torch.randn(len(noise), 3, 1, 1, generator=rng) + torch.tensor(noise).view(-1, 1, 1, 1) * patches


class Tokens(nn.Module):
    """Patches, a norm of each, attention, and a norm of their mean."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, WIDTH, 4, 4, bias=False)
        self.norm, self.last = (nn.LayerNorm(WIDTH) for _ in range(2))
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        q, k, v = (
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(self.norm(x)).mul(0.3).chunk(3, dim=-1)
        )
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.last((x + self.proj(y.transpose(1, 2).flatten(2))).mean(1))


def test_queries_and_keys_get_what_their_own_sample_hands_back():
    images, seen = pictures(), {}
    for seed in range(12):
        torch.manual_seed(seed)
        for node in probe(normal(Tokens()), images, loss=random_direction).nodes:
            seen.setdefault(node.name, []).append((node.gradient_std or 0.0) ** 2)
    torch.manual_seed(0)
    model = normal(Tokens())
    said = propagate(trace(model, images), as_they_are(model), inputs=InputMoments.of(images))
    for part in range(3):
        node = said[f"chunk[{part}]"]
        value, draws = node.backward_second_moment, np.array(seen[node.name])
        assert abs(math.log(draws.mean() / value)) < 0.45, (part, draws.mean(), value)
        inside = (draws > value / (1 + node.backward_band)) & (draws < value * (1 + node.backward_band))
        assert inside.mean() >= 0.8, (part, node.backward_band, draws / value)


def test_rows_of_a_sample_pair_with_each_other_only():
    far = torch.tensor([[1.0, 4.0, 9.0], [0.0, 0.0, 1.0]], dtype=torch.float64).view(2, 1, 3, 1)
    assert pair_of_rows(far, 3).flatten().tolist() == pytest.approx([(2 + 3 + 6) * 2 / 6, 0.0])


@pytest.mark.parametrize("normalized", [False, True])
def test_single_sites_are_more_alike_than_their_blocks_say(normalized):
    images = pictures(side=64)
    seen = Pixels(images).through((4, 4), (4, 4), (0, 0), (1, 1), (16, 16))
    rows = nn.functional.unfold(images, 4, stride=4).transpose(1, 2).double()
    rows = nn.functional.normalize(rows, dim=-1) if normalized else rows
    rows = rows - rows.mean(1, keepdim=True)
    gram = rows @ rows.mT
    sizes = gram.diagonal(dim1=1, dim2=2)
    whole = gram.square().mean((1, 2)) / sizes.mean(1) ** 2
    assert seen.overlaps(normalized=normalized).tolist() == pytest.approx(whole.tolist(), rel=1e-3)
    fine = Fine(seen, normalized=normalized)
    assert bool((fine.overlaps > 0).all())
    assert bool((fine.overlaps < whole).all())
    assert fine.even.normalized


class Rotary(nn.Module):
    """Positions as rotations, by sines and cosines in one table."""

    def __init__(self):
        super().__init__()
        angles = torch.arange(16)[:, None] * torch.logspace(0, -3, 32)
        self.register_buffer("table", torch.cat([angles.sin(), angles.cos()], -1))
        self.embed = nn.Linear(WIDTH, 32, bias=False)

    def forward(self, x):
        sine, cosine = self.table.chunk(2, dim=-1)
        y = self.embed(x)
        return y * cosine + y.roll(1, -1) * sine


def test_halves_of_a_table_keep_their_own_sizes():
    torch.manual_seed(0)
    model = normal(Rotary())
    said, table = predicted(model, torch.randn(4, 16, WIDTH)), model.table
    for node, half in (("mul", table[:, 32:]), ("mul#1", table[:, :32])):
        factor = said[node].forward_second_moment / said["embed:linear"].forward_second_moment
        assert factor == pytest.approx(float(half.square().mean()), rel=1e-6)


def test_moments_by_channel_are_for_buffers_that_are_not_even():
    model = nn.Module()
    model.register_buffer("even", torch.full((4, 3), 2.0))
    model.register_buffer("mask", torch.tensor([[0.0, -100.0], [0.0, 0.0]]))
    model.register_buffer("table", torch.tensor([[1.0, 2.0], [1.0, 4.0]]))
    found = as_they_are(model)
    assert found["even"][:2] == (2.0, 4.0)
    assert found["mask"][:2] == (0.0, 0.0)
    assert [m.tolist() for m in found["table"]] == [[1.0, 3.0], [1.0, 10.0]]
    assert math.isclose(float(found["table"][1].mean()), 5.5)
