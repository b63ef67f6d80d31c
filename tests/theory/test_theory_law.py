"""Sums of what ReLUs have made keep their whole distribution; against draws and a network that is run."""

import numpy as np
import pytest
import torch
from torch import nn
from wide_networks import disagreements, normal, predicted

from firstlight.theory import law
from firstlight.theory.elementwise import aten, moments
from firstlight.theory.signal import Signal, scalar

RELU = aten("relu", {})


def _signal(mean: float, variance: float, function=None, base=None) -> Signal:
    one = scalar(1.0, 2)
    return Signal(
        "z", (4, 8), ((("b", 4),), (("c", 8),)), mean * one, (mean**2 + variance) * one, mean**2 * one, mean**2 * one,
        function=function, base=base,
    )  # fmt: skip


def _rectified() -> Signal:
    mean = (1 / (2 * np.pi)) ** 0.5
    return _signal(mean, 0.5 - mean**2, RELU, _signal(0.0, 1.0))


def _seen(z: np.ndarray, f) -> list[float]:
    y, slope = f(z), (z > 0).astype(float)
    standard, value = (z - z.mean()) / z.std(), (y - y.mean()) / y.std()
    return [
        y.mean(), (y**2).mean(), (value**3).mean(), (standard * y).mean() / z.std(), slope.mean(),
        (slope * standard).mean(), (slope * value).mean(),
    ]  # fmt: skip


@pytest.mark.parametrize("size", [0.1, 0.5, 1.0])
def test_a_function_of_a_sum_has_its_moments(size):
    rng = np.random.default_rng(0)
    x, y = np.maximum(rng.standard_normal(2_000_000), 0), size * rng.standard_normal(2_000_000)
    found = law.total(_rectified(), _signal(0.0, 1.0), size)
    z = x + y
    m = moments(RELU, np.array([z.mean()]), np.array([z.var()]), law=found)
    said = [m.mean, m.second, m.skew, m.follows, m.chi, m.tilt, m.chi_value]
    assert [float(v[0]) for v in said] == pytest.approx(_seen(z, lambda v: np.maximum(v, 0)), abs=6e-3)


def test_two_sums_that_are_skewed_make_one():
    rng = np.random.default_rng(0)
    one, two = (np.maximum(rng.standard_normal(2_000_000), 0) for _ in range(2))
    found = law.total(_rectified(), _rectified(), -0.5)
    z = one - 0.5 * two
    seen = np.quantile((z - z.mean()) / z.std(), [0.05, 0.3, 0.5, 0.8, 0.99])
    said = found.at(np.array([-1.6449, -0.5244, 0.0, 0.8416, 2.3263]))
    assert said == pytest.approx(seen, abs=0.02)


def test_what_is_nearly_gaussian_is_gaussian():
    assert law.total(_signal(0.0, 1.0), _signal(0.0, 1.0), 1.0) is None
    assert law.total(_rectified(), _signal(0.0, 1.0), 30.0) is None


def test_pairs_of_a_sum_share_what_they_do():
    rng = np.random.default_rng(0)
    found = law.total(_rectified(), _signal(0.0, 1.0), 0.3)
    g, other = rng.standard_normal((2, 2_000_000))
    z, y = (found.at(v) for v in (g, 0.6 * g + 0.8 * other))
    correlation = np.array([(z * y).mean()])
    assert found.behind(correlation)[0] == pytest.approx(0.6, abs=0.01)
    m = moments(RELU, np.zeros(1), np.ones(1), law=found)
    seen = (np.maximum(z, 0) * np.maximum(y, 0)).mean()
    assert m.pair(found.behind(correlation))[0] == pytest.approx(seen, rel=0.01)


class Stream(nn.Module):
    """Two streams side by side, of many residual branches with a ReLU behind each sum, and the largest of each."""

    def __init__(self, size: float = 0.05) -> None:
        super().__init__()
        self.size = size
        self.start = nn.Conv2d(8, 128, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(128)
        self.convs = nn.ModuleList(nn.Conv2d(128, 128, 1, bias=False) for _ in range(16))
        self.last = nn.Conv2d(128, 64, 1, bias=False)

    def forward(self, x):
        x = torch.relu(self.norm(self.start(x)))
        x = torch.cat([x[:, :64], x[:, 64:]], 1)
        for conv in self.convs:
            x = torch.relu(x + self.size * conv(x))
        return self.last(nn.functional.max_pool2d(x, 2))


@pytest.mark.parametrize("size", [0.05, 0.3])
def test_a_stream_of_branches_is_what_it_is_said_to_be(size):
    wrong = disagreements(lambda: normal(Stream(size), 2.0), (4, 8, 12, 12), 8, 0.03)
    assert [line for line in wrong if line.startswith("forward")] == []


def test_a_stream_of_small_branches_stays_what_it_was():
    said = predicted(normal(Stream(), 2.0), torch.zeros(4, 8, 12, 12))
    assert said["relu#16"].forward_second_moment < 0.6  # a Gaussian of the same moments is cut below zero, and grows
