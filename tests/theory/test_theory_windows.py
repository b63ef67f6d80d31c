"""Attention in windows, padding, and what a place has in common with any other, against networks that are run."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from wide_networks import Written, disagreements, measured, normal, predicted

from firstlight.graph import trace
from firstlight.theory import InputMoments, as_they_are, propagate
from firstlight.theory.maps.attention import participation
from firstlight.theory.propagate import forward

WIDTH, SIDE, WINDOW = 128, 8, 4


class Windows(nn.Module):
    """Attention within windows; `side` sites that the windows do not divide are filled up after a norm."""

    def __init__(self, side, common=0.0, by_hand=False):
        super().__init__()
        self.qkv = normal(nn.Linear(WIDTH, 3 * WIDTH, bias=False))
        self.shift = nn.Parameter(common * torch.randn(WIDTH))
        self.side, self.by_hand = side, by_hand

    def attend(self, q, k, v):
        if self.by_hand:
            return torch.softmax(q @ k.transpose(1, 2) * WIDTH**-0.5, -1) @ v
        return nn.functional.scaled_dot_product_attention(q, k, v)

    def forward(self, x):
        spare = -self.side % WINDOW
        x = nn.functional.pad(nn.functional.layer_norm(x, (WIDTH,)), (0, 0, 0, spare, 0, spare))
        count = x.shape[1] // WINDOW
        x = x.view(-1, count, WINDOW, count, WINDOW, WIDTH).permute(0, 1, 3, 2, 4, 5)
        q, k, v = self.qkv(x.reshape(-1, WINDOW**2, WIDTH)).chunk(3, -1)
        y = self.attend(q + self.shift, k, v)
        y = y.view(-1, count, count, WINDOW, WINDOW, WIDTH).permute(0, 1, 3, 2, 4, 5)
        return y.reshape(-1, count * WINDOW, count * WINDOW, WIDTH)[:, : self.side, : self.side]


@pytest.mark.parametrize("side", [7, 6, 5])
def test_padding_of_windows_has_neither_weight_nor_value(side):
    shape = (4, side, side, WIDTH)
    found = measured(lambda: Windows(side), shape, 4)
    said = predicted(Windows(side), torch.zeros(*shape))
    mean, error = found.forward[said.nodes[-1].name]
    assert said.nodes[-1].forward_second_moment == pytest.approx(mean, abs=4 * error + 0.1 * mean)


def between_sites(values):
    """E z z' of two sites of one sample, of values [N, *sites, C]."""
    z = values.double().flatten(1, -2)
    n = z.shape[1]
    return float(((z.mean(1) ** 2).mean() * n - (z**2).mean()) / (n - 1))


@pytest.mark.parametrize(("common", "by_hand"), [(0.0, False), (1.5, False), (0.0, True)])
def test_queries_of_different_windows_share_only_what_leans_all_of_them_to_one_side(common, by_hand):
    seen, said = [], []
    for seed in range(5):
        torch.manual_seed(seed)
        model, x = Windows(SIDE, common, by_hand), torch.randn(4, SIDE, SIDE, WIDTH)
        with torch.no_grad():
            y = model(x)
        graph = trace(model, x)
        context, _ = forward(graph, as_they_are(model))
        seen.append([between_sites(y), float(y.square().mean())])
        said.append(
            [float(m.mean()) for m in (context.signals[graph.outputs[0]].far, context.signals[graph.outputs[0]].second)]
        )
    (far, second), (far_said, second_said) = np.mean(seen, 0), np.mean(said, 0)
    assert far_said / second_said == pytest.approx(far / second, abs=0.03)


@pytest.mark.parametrize("power", [1, 2, 3])
def test_participation_beside_keys_that_are_absent(power):
    logits = np.random.default_rng(0).normal(0, 1.2, (400_000, 6))
    weights = np.exp(logits)
    sums = ((weights / (weights.sum(1, keepdims=True) + 9)) ** power).sum(1)
    error = sums.std() / math.sqrt(len(sums))
    assert participation(1.44, 6, power, 9) == pytest.approx(float(sums.mean()), abs=5 * error)


def test_a_norm_and_a_function_leave_each_place_what_it_shares_with_any_other():
    def build():
        layers = [
            m for _ in range(3) for m in (nn.Conv2d(256, 256, 3, padding=1, bias=False), nn.BatchNorm2d(256), nn.ReLU())
        ]
        return normal(nn.Sequential(nn.Conv2d(3, 256, 1, bias=False), nn.ReLU(), *layers))

    maps = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = build()
        with torch.no_grad():
            z = model[:-1](torch.randn(8, 3, 4, 4)).double()
        means = z.mean((2, 3), keepdim=True) * 16
        maps.append(torch.stack([(z**2).mean((0, 1)), (z * (means - z)).mean((0, 1)) / 15]))
    second, far = torch.stack(maps).mean(0)
    graph = trace(model, torch.zeros(8, 3, 4, 4))
    said = forward(graph, as_they_are(model))[0].signals["9:batch_norm"]
    assert float((said.second[0, 0] - second).abs().max()) < 0.1
    assert float((said.far.expand(1, 1, 4, 4)[0, 0] - far).abs().max()) < 0.04


def test_a_maximum_over_a_dimension_leaves_samples_and_channels_what_they_are():
    tokens = Written(lambda x: x.view(len(x), 4, -1, WIDTH).amax(1))
    model = nn.Sequential(normal(nn.Linear(WIDTH, WIDTH)), tokens, nn.LayerNorm(WIDTH))
    graph = trace(model, torch.zeros(3, 32, WIDTH))
    axes = forward(graph, as_they_are(model))[0].signals[graph.outputs[0]].axes
    assert [axis[0][0] for axis in axes] == ["b", "s", "c"]


def test_padding_with_minus_infinity_is_never_the_largest():
    def build():
        pool = Written(lambda x: nn.functional.max_pool2d(nn.functional.pad(x, (0, 1, 0, 1), value=-math.inf), 3, 2))
        return normal(nn.Sequential(nn.Conv2d(64, 64, 1), nn.ReLU(), pool, nn.Conv2d(64, 64, 1)))

    found = measured(build, (4, 64, 12, 12), 4)
    said = predicted(build(), torch.zeros(4, 64, 12, 12)).nodes[-2]
    mean, error = found.forward[said.name]
    assert said.op == "max_pool2d"
    assert said.forward_second_moment == pytest.approx(mean, abs=4 * error + 0.03 * mean)


def test_a_norm_of_each_token_has_no_pairs_with_padding():
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm = normal(nn.Linear(WIDTH, WIDTH, bias=False)), nn.LayerNorm(WIDTH)
            self.shared = nn.Parameter(torch.randn(1, 1, WIDTH))

        def forward(self, x):
            return self.norm(nn.functional.pad(self.layer(x + self.shared), (0, 0, 0, 9)))

    model = Padded()
    graph = trace(model, torch.zeros(6, 4, WIDTH))
    said = forward(graph, as_they_are(model))[0].signals[graph.outputs[0]]
    with torch.no_grad():
        y = model(torch.randn(6, 4, WIDTH))[:, :4]
    assert float(said.far.max()) == pytest.approx(between_sites(y), abs=0.08)


class Squared(nn.Module):
    """The product of two projections of one image."""

    def __init__(self):
        super().__init__()
        self.one, self.two = (nn.Conv2d(3, 256, 1, bias=False) for _ in range(2))

    def forward(self, x):
        return self.one(x) * self.two(x)


def test_a_product_is_larger_where_both_are_large():
    sizes = torch.tensor([0.3, 0.6, 1.0, 2.5]).view(-1, 1, 1, 1)
    noise = torch.randn(4, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    x = nn.functional.avg_pool2d(noise, 5, 1) * 5 * sizes
    seen = []
    for seed in range(6):
        torch.manual_seed(seed)
        with torch.no_grad():
            seen.append(float(normal(Squared())(x).square().mean()))
    said = propagate(trace(Squared(), x), as_they_are(normal(Squared())), inputs=InputMoments.of(x)).nodes[-1]
    assert said.forward_second_moment == pytest.approx(np.mean(seen), rel=0.25)


class Channels(nn.Module):
    """Products of channels over all tokens, one of which is scaled first."""

    def __init__(self):
        super().__init__()
        self.query, self.key = (normal(nn.Linear(WIDTH, WIDTH, bias=False)) for _ in range(2))

    def forward(self, x):
        return (self.query(x) * 0.5).transpose(1, 2) @ self.key(x)


def test_weights_are_known_of_a_signal_that_is_multiplied_by_a_number():
    def build():
        return nn.Sequential(normal(nn.Linear(24, WIDTH, bias=False)), Channels())

    assert not [line for line in disagreements(build, (4, 64, 24), 6, within=0.2) if line.startswith("forward")]


class Patches(nn.Module):
    """Windows of patches of an image."""

    def __init__(self):
        super().__init__()
        self.embed, self.windows = normal(nn.Conv2d(3, WIDTH, 4, 4, bias=False)), Windows(16)

    def forward(self, x):
        return self.windows(self.embed(x).permute(0, 2, 3, 1))


def test_tokens_of_one_window_resemble_each_other_as_close_sites_do():
    noise = torch.randn(6, 3, 80, 80, generator=torch.Generator().manual_seed(0))
    x = nn.functional.avg_pool2d(noise, 17, 1) * 17
    seen = []
    for seed in range(4):
        torch.manual_seed(seed)
        with torch.no_grad():
            seen.append(float(Patches()(x).square().mean()))
    said = propagate(trace(Patches(), x), as_they_are(Patches()), inputs=InputMoments.of(x)).nodes[-1]
    assert said.forward_second_moment == pytest.approx(np.mean(seen), rel=0.15)
