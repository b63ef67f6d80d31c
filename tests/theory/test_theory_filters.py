"""A channel of depthwise layers as one filter of its base, against fields and networks that are drawn."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import firstlight as fl
from firstlight.probe import probe
from firstlight.theory.filters import COUNT, Covariance, Filters, Response, drawn

SIDE, SAMPLES, CHANNELS = 7, 8, 4000


def smooth(seed: int) -> Tensor:
    """Fields [SAMPLES, CHANNELS, SIDE, SIDE] of variance one whose neighbours resemble each other."""
    noise = torch.randn(SAMPLES, CHANNELS, SIDE + 2, SIDE + 2, generator=torch.Generator().manual_seed(seed))
    return functional.avg_pool2d(noise, 3, stride=1) * 3


def covariance() -> Covariance:
    """Theirs: the share of a window of 3×3 that two of them have in common."""
    side = np.maximum(1 - np.arange(SIDE) / 3, 0)
    return Covariance(1.0, 0.0, 0.0, np.outer(side, side), (SIDE, SIDE))


def blocks(seed: int) -> tuple[Tensor, Filters]:
    """``x + w ∗ x`` with one kernel for each channel, and the filters that stand for it."""
    weights = drawn("a name", (3, 3), (1, 1), 0.0, 0.2)
    followed = Filters.identity("x").then(weights, drawn=1)
    assert followed is not None
    real = torch.randn(CHANNELS, 1, 3, 3, generator=torch.Generator().manual_seed(seed + 1)) * 0.2**0.5
    x = smooth(seed)
    return x + functional.conv2d(x, real, padding=1, groups=CHANNELS), Filters.identity("x").plus(followed)


def test_the_sizes_of_channels_are_spread_as_those_of_drawn_ones() -> None:
    y, filters = blocks(0)
    said = covariance().sizes(filters)
    seen = y.double().square().mean((0, 2, 3)).numpy()
    assert said.mean() == pytest.approx(seen.mean(), rel=0.05)
    # Over eight samples of few independent sites the size of one channel varies beyond what its filter says.
    assert np.quantile(said, [0.1, 0.5, 0.9]) == pytest.approx(np.quantile(seen, [0.1, 0.5, 0.9]), rel=0.12)


def test_means_over_all_sites_vary_as_they_do() -> None:
    y, filters = blocks(2)
    said = covariance().pooled(filters)
    seen = y.double().mean((2, 3)).square().mean(0).numpy()
    assert said.mean() == pytest.approx(seen.mean(), rel=0.05)
    assert np.median(said) == pytest.approx(np.median(seen), rel=0.15)


def test_what_made_a_channel_small_takes_the_gradient_back() -> None:
    """``|∂L/∂x|²`` for ``L = Σ g (x + w ∗ x)/σ``: of a uniform gradient ``E (Σ f)²/σ²``, no larger than one; MC."""
    _, filters = blocks(4)
    sizes = covariance().sizes(filters)
    weights = torch.from_numpy(np.ascontiguousarray(filters.taps)).unsqueeze(1).float()
    for alike in (0.0, 1.0):
        response = Response(filters.scaled(1 / np.sqrt(sizes)), 1.0, alike, (SIDE, SIDE))
        g = torch.randn(200, COUNT, *((1, 1) if alike else (SIDE, SIDE)), generator=torch.Generator().manual_seed(9))
        g = g.expand(-1, -1, SIDE, SIDE) / torch.from_numpy(sizes).float().sqrt()[:, None, None]
        back = functional.conv_transpose2d(g, weights, padding=1, groups=COUNT)
        assert response.second == pytest.approx(float(back.square().mean()), rel=0.03), alike


def test_two_ways_of_one_gradient_add_up_before_they_are_squared() -> None:
    filters = Filters.identity("g")
    one = Response(filters, 1.0, 0.3, (SIDE, SIDE))
    two = Response(filters, 4.0, 0.3, (SIDE, SIDE))
    assert one.plus(two).second == pytest.approx(9.0)
    assert one.plus(two).far == pytest.approx(0.3 * 9.0)


class Beside(nn.Module):
    """A depthwise branch added to what it reads, normalized, and its mean over all sites normalized again."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(64, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(channels), nn.BatchNorm2d(channels), nn.BatchNorm1d(channels)])
        self.head = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.norms[1](x + self.norms[0](self.depthwise(x)))
        return self.head(self.norms[2](x.mean((2, 3))))


def white(y: Tensor) -> Tensor:
    return (y * torch.randn_like(y)).sum()


def test_a_network_that_ends_in_one_is_foreseen() -> None:
    torch.manual_seed(0)
    side, samples = 4, 32
    prediction = fl.predict(Beside(256), torch.randn(samples, 64, side, side))
    said = {node.name: node for node in prediction.nodes}
    seen: dict[str, list[float]] = {}
    for seed in range(12):
        torch.manual_seed(seed)
        for node in probe(Beside(256), torch.randn(samples, 64, side, side), loss=white).nodes:
            if node.gradient_std is not None:
                seen.setdefault(node.name, []).append(node.gradient_std**2)
    output = next(name for name in seen if name.startswith("head"))
    for name, values in seen.items():
        ratio = float(np.mean(values)) / float(np.mean(seen[output]))
        assert ratio == pytest.approx(said[name].backward_second_moment, rel=0.12), name
