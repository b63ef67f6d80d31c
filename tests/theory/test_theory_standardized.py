"""Weights that add up to zero do not see what their inputs share."""

import math

import pytest
import torch
from timm.layers import ScaledStdConv2d, StdConv2d
from torch import nn
from wide_networks import disagreements, predicted

WIDTH, SHAPE = 128, (4, 128, 8, 8)
KINDS = {
    "scaled": lambda kernel: ScaledStdConv2d(WIDTH, WIDTH, kernel, padding=kernel // 2, gamma=1.7, bias=False),
    "plain": lambda kernel: StdConv2d(WIDTH, WIDTH, kernel, padding=kernel // 2, bias=False, eps=1e-12),
    "grouped": lambda kernel: ScaledStdConv2d(WIDTH, WIDTH, kernel, padding=kernel // 2, groups=4, bias=False),
}


def stack(kind):
    def build():
        return nn.Sequential(
            KINDS[kind](3), nn.ReLU(), KINDS[kind](1), nn.ReLU(), KINDS[kind](3), nn.SiLU(), KINDS[kind](3),
        )  # fmt: skip

    return build


@pytest.mark.parametrize("kind", KINDS)
def test_standardized_convolutions_have_the_predicted_moments(kind):
    assert not disagreements(stack(kind), SHAPE, 5, within=0.06)


def test_after_relu_a_standardized_weight_sees_its_variance_and_a_free_one_its_second_moment():
    free, standardized = (
        nn.Sequential(nn.ReLU(), conv(512, 64, 1, bias=False)) for conv in (nn.Conv2d, ScaledStdConv2d)
    )
    nn.init.normal_(free[1].weight, 0, 512**-0.5)
    last = [
        predicted(model, torch.zeros(2, 512, 4, 4)).nodes[-1].forward_second_moment for model in (free, standardized)
    ]
    assert last[1] / last[0] == pytest.approx(1 - 1 / math.pi, rel=0.02)
