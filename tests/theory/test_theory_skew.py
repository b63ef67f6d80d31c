"""Sums of what a ReLU has made are skewed, and gradients behind them lean; against draws."""

import numpy as np
import pytest
import torch
from torch import nn
from wide_networks import predicted

from firstlight.probe import probe
from firstlight.theory.elementwise import aten, moments
from firstlight.theory.filters import Covariance, Filters, drawn
from firstlight.theory.mixture import mixed
from firstlight.theory.signal import Signal, scalar

RELU = aten("relu", {})


def _relu(mean: float, variance: float, skew: float):
    return moments(RELU, np.array([mean]), np.array([variance]), skew)


def test_a_relu_has_its_skew():
    y = np.maximum(np.random.default_rng(0).standard_normal(2_000_000), 0)
    seen = ((y - y.mean()) ** 3).mean() / y.var() ** 1.5
    assert _relu(0.0, 1.0, 0.0).skew[0] == pytest.approx(seen, rel=0.01)


def test_a_residual_stream_of_relus_has_its_moments():
    rng = np.random.default_rng(0)
    x = np.maximum(rng.standard_normal(1_000_000), 0)
    mean, variance, skew = x.mean(), x.var(), 1.64
    for _ in range(8):
        z = x + rng.standard_normal(len(x))
        x = np.maximum(z, 0)
        found = _relu(mean, variance + 1, skew * (variance / (variance + 1)) ** 1.5)
        assert found.chi[0] == pytest.approx((z > 0).mean(), abs=0.02)
        mean, variance, skew = found.mean[0], found.second[0] - found.mean[0] ** 2, found.skew[0]
    assert variance == pytest.approx(x.var(), rel=0.04)  # without the skew it is a quarter less


def test_pairs_of_a_skewed_field_share_what_they_do():
    """``z' = c z + rest``, with a rest so that both are distributed alike."""
    rng = np.random.default_rng(0)
    u = rng.gamma(8.0, 1.0, (3, 2_000_000))
    z, y = (m / np.sqrt(16) - 4 for m in (u[0] + u[1], u[0] + u[2]))
    skew = 2 / np.sqrt(16)
    found = _relu(0.0, 1.0, skew)
    said = found.pair(np.array([0.5]))[0]
    seen = (np.maximum(z, 0) * np.maximum(y, 0)).mean()
    assert said == pytest.approx(seen, rel=0.02)


def test_a_gradient_that_leans_meets_the_slope_where_it_is():
    rng = np.random.default_rng(0)
    z, y = rng.standard_normal((2, 2_000_000))
    x = np.maximum(z, 0)
    total = x + y
    total = (total - total.mean()) / total.std()
    gradient = (total > 0).astype(float)
    lean = (gradient * (x - x.mean()) / x.std()).mean() / gradient.mean()
    one = scalar(1.0, 2)
    base = Signal("z", (4, 8), ((("b", 4),), (("c", 8),)), scalar(0.0, 2), one, 0 * one, 0 * one)
    factor, after = mixed(base, RELU).leaning(lean)
    seen = (gradient * (z > 0)).mean() / gradient.mean()
    assert 0.5 * factor == pytest.approx(seen, rel=0.03)
    assert after == pytest.approx((gradient * (z > 0) * z).mean() / (gradient * (z > 0)).mean(), rel=0.1)
    assert mixed(base, RELU).leaning(9.0)[0] == pytest.approx(2.0)  # f'² is at most one


def test_a_sum_behind_a_norm_sends_its_gradient_where_it_is_positive():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Linear(256, 256), nn.Linear(256, 256), nn.Linear(256, 64)
            self.norm, self.other = nn.BatchNorm1d(256), nn.BatchNorm1d(256)

        def forward(self, x):
            y = torch.relu(self.norm(self.first(x)))
            return self.last(torch.relu(y + self.other(self.second(y))))

    torch.manual_seed(0)
    model, x = Net(), torch.randn(512, 256)
    said = predicted(model, x)
    seen = probe(model, x, loss=lambda y: (y * torch.randn_like(y)).sum())
    name = next(n.name for n in said.nodes if n.op == "batch_norm")
    real = {n.name: n for n in seen.nodes}
    unit = real[said.nodes[-1].name].gradient_std ** 2
    assert said[name].backward_second_moment == pytest.approx(real[name].gradient_std ** 2 / unit, rel=0.1)
    last = next(n.name for n in said.nodes[::-1] if n.op == "relu")
    assert said[last].forward_second_moment == pytest.approx(
        real[last].forward_std ** 2 + real[last].forward_mean ** 2, rel=0.05
    )


def test_filters_carry_the_skew_of_their_base():
    side = np.maximum(1 - np.arange(9) / 3, 0)
    close = np.outer(side, side)
    a, b = 0.92**0.5, 0.2
    seen = Covariance(1.0, 0.0, 0.0, a**2 * close + 2 * b**2 * close**2, (9, 9))
    weights = drawn("a name", (3, 3), (1, 1), 0.0, 0.2)
    followed = Filters.identity("x").then(weights, drawn=1)
    assert followed is not None
    noise = torch.randn(16, 4000, 11, 11, generator=torch.Generator().manual_seed(0))
    u = nn.functional.avg_pool2d(noise, 3, 1) * 3
    x, own = a * u + b * (u**2 - 1), 6 * a**2 * b + 8 * b**3
    real = torch.randn(4000, 1, 3, 3, generator=torch.Generator().manual_seed(1)) * 0.2**0.5
    y = (x + nn.functional.conv2d(x, real, padding=1, groups=4000))[..., 1:-1, 1:-1].double()
    skew = float((y**3).mean() / (y**2).mean() ** 1.5)
    said = seen.skewed(Filters.identity("x").plus(followed), own)
    assert said == pytest.approx(skew, rel=0.1)
    assert seen.skewed(Filters.identity("x"), own) == pytest.approx(own)
    assert said > 1.3 * own / (1 + 9 * 0.2) ** 1.5  # what the sum of independent parts would have
