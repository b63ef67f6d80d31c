"""Gradients grow where the signal is large, and norms divide by what the data leave after what they share."""

import pytest
import torch
from torch import nn
from wide_networks import gradients, normal

from firstlight.graph import trace
from firstlight.theory import InputMoments, as_they_are
from firstlight.theory.axes import label
from firstlight.theory.elementwise import aten
from firstlight.theory.mixture import mixed
from firstlight.theory.propagate import forward
from firstlight.theory.signal import Signal, scalar


def smooth(sizes, channels=3, side=16):
    noise = torch.randn(len(sizes), channels, side + 4, side + 4, generator=torch.Generator().manual_seed(0))
    return nn.functional.avg_pool2d(noise, 5, 1) * 5 * torch.tensor(sizes).view(-1, 1, 1, 1)


def test_a_function_passes_a_weighted_gradient_by_its_slopes_there():
    rng = torch.Generator().manual_seed(0)
    shape = (4, 8, 30, 30)
    profile = torch.rand(4, 1, 30, 30, generator=rng, dtype=torch.float64) ** 3
    profile = profile / profile.mean()
    weight = profile**2 / (profile**2).mean()
    x = Signal("x", shape, label(shape, "bcss"), *(scalar(v, 4) for v in (0.0, 1.0, 0.3, 0.1)), profile=profile)
    z = torch.randn(4, 4000, 30, 30, generator=rng) * profile.sqrt().float()
    z.requires_grad_()
    (slopes,) = torch.autograd.grad(nn.functional.silu(z).sum(), z)
    squares = slopes.double().square().mean(1, keepdim=True)
    found = mixed(x, aten("silu", {}), weight)
    assert float(found.chi[0]) == pytest.approx(float((weight * squares).mean()), rel=0.01)
    assert mixed(x, aten("silu", {})).chi[0] < 0.9 * found.chi[0]
    assert float((found.steep - squares / squares.mean()).abs().mean()) < 0.03


def sized():
    layers = [m for _ in range(5) for m in (nn.Conv2d(128, 128, 1, bias=False), nn.SiLU())]
    return normal(nn.Sequential(nn.Conv2d(3, 128, 1, bias=False), nn.SiLU(), *layers), variance=2.6)


def test_a_gradient_grows_through_many_layers_where_the_signal_is_large():
    seen, said = gradients(sized, smooth([0.1, 0.3, 1.0, 3.0]), 4)
    for name in ("0:conv2d", "4:conv2d", "8:conv2d"):
        assert said[name] == pytest.approx(seen[name], rel=0.08), name


def depthwise(stride):
    return lambda: normal(
        nn.Sequential(
            nn.Conv2d(16, 256, 1, bias=False), nn.BatchNorm2d(256), nn.Hardswish(),
            nn.Conv2d(256, 256, 5, stride, 2, groups=256, bias=False), nn.BatchNorm2d(256), nn.Hardswish(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 256, bias=False),
        )
    )  # fmt: skip


@pytest.mark.parametrize("stride", [1, 2])
def test_the_echo_of_a_depthwise_convolution_comes_through_the_taps_that_read_a_site(stride):
    noise = torch.randn(8, 16, 12, 12, generator=torch.Generator().manual_seed(0))
    seen, said = gradients(depthwise(stride), noise, 4)
    for name in ("3:conv2d", "2:hardswish", "1:batch_norm"):
        assert said[name] == pytest.approx(seen[name], rel=0.22), name


def lifted():
    return normal(
        nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.Softplus(),
            nn.Conv2d(16, 256, 1, bias=False), nn.BatchNorm2d(256),
        )
    )  # fmt: skip


def test_what_few_channels_share_does_not_vary_the_variance_after_a_norm():
    seen, said = gradients(lifted, smooth([1.0] * 8), 8)
    norm, before = "4:batch_norm", "3:conv2d"
    assert said[before] / said[norm] == pytest.approx(seen[before] / seen[norm], rel=0.15)


class Fused(nn.Module):
    """A residual sum of what a ReLU has made, and one of a fine map with a coarse one that is brought to its size."""

    def __init__(self, width=64):
        super().__init__()
        self.stem, self.branch, self.coarse = (
            nn.Sequential(nn.Conv2d(n, width, 3, s, 1, bias=False), nn.BatchNorm2d(width))
            for n, s in ((3, 1), (width, 1), (width, 4))
        )
        self.head = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x):
        x = nn.functional.relu(self.stem(x))
        x = nn.functional.relu(x + self.branch(x))
        x = nn.functional.relu(x + nn.functional.interpolate(self.coarse(x), scale_factor=4))
        return self.head(x)


def test_samples_keep_their_sizes_through_sums_and_other_resolutions():
    batch = smooth([0.3, 1.0, 1.0, 2.0], side=32)
    seen = []
    for seed in range(8):
        torch.manual_seed(seed)
        with torch.no_grad():
            seen.append(Fused()(batch).square().mean((1, 2, 3)))
    seen = torch.stack(seen).mean(0)
    model = Fused()
    context, _ = forward(trace(model, batch), as_they_are(model), InputMoments.of(batch))
    found = context.signals["head:conv2d"].anchors
    assert found is not None
    said = found.own.view(len(batch), -1).mean(1)
    assert (said / said.mean()).tolist() == pytest.approx((seen / seen.mean()).tolist(), rel=0.2)
