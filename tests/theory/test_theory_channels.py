"""Channels of a depthwise convolution that differ in size, behind a function and before a norm of each."""

import numpy as np
import pytest
import torch
from torch import nn
from wide_networks import gradients, normal, predicted

from firstlight.theory.maps.channels import Channels


def mixer(first):
    return lambda: normal(
        nn.Sequential(
            nn.Conv2d(16, 512, 1, bias=False), nn.BatchNorm2d(512), first(),
            nn.Conv2d(512, 512, 3, padding=1, groups=512, bias=False), nn.GELU(), nn.BatchNorm2d(512),
            nn.Conv2d(512, 256, 1, bias=False),
        )
    )  # fmt: skip


# What ReLU makes is skewed, and so is a sum of nine of it; only the third cumulant of that is known.
@pytest.mark.parametrize(("first", "within"), [(nn.Identity, 0.12), (nn.ReLU, 0.4)])
def test_small_channels_get_large_gradients_through_a_function_before_a_norm(first, within):
    noise = torch.randn(8, 16, 12, 12, generator=torch.Generator().manual_seed(0))
    seen, said = gradients(mixer(first), noise, 4)
    for name in ("4:gelu", "3:conv2d", "1:batch_norm"):
        assert abs(np.log(said[name] / seen[name])) < within, (name, said[name], seen[name])


def test_channels_without_a_level_are_not_opaque_behind_a_function():
    # A batch norm leaves no mean, and none comes of sums over channels.
    model = nn.Sequential(nn.BatchNorm2d(64), nn.Conv2d(64, 64, 1, bias=False), nn.GELU(), nn.BatchNorm2d(64))
    said = predicted(model, torch.zeros(8, 64, 4, 4))
    assert not said.opaque
    assert said.nodes[-1].forward_second_moment == pytest.approx(1.0, rel=1e-3)


def test_a_linear_function_leaves_what_the_weights_take_back():
    sizes = np.array([0.25, 0.75, 2.0])
    found = Channels(sizes, 3 * sizes, np.full(3, 3.0))
    assert (found.kept, found.left) == pytest.approx((1.0, 1.0))


def test_slopes_count_where_a_norm_divides_by_little():
    found = Channels(np.array([0.5, 1.5]), np.array([1.0, 4.0]), np.array([1.0, 3.0]))
    assert found.kept == pytest.approx((1 + 3 / 4) / (1 + 1 / 4) / 2)
    assert found.left == pytest.approx((0.5 * 1 / 1 + 1.5 * 3 / 4) / 2 * 2.5 / 2)
