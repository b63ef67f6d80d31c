"""Patches added up, maxima along a dimension and lengths, against networks that are really run."""

import pytest
import torch
from torch import nn
from wide_networks import Written, disagreements, normal

WIDTH = 128


def unfolded(x):
    return nn.functional.unfold(x, 3, padding=1, stride=2).transpose(1, 2)


def folded(columns):
    return nn.functional.fold(columns.transpose(1, 2), (16, 16), 3, padding=1, stride=2)


CASES = {
    "fold": (
        lambda: [Written(unfolded), nn.Linear(144, 9 * 64), nn.ReLU(), Written(folded), nn.Conv2d(64, 32, 1)],
        (4, 16, 16, 16),
    ),
    "max": (lambda: [nn.Linear(64, WIDTH), Written(lambda x: x.max(1)[0]), nn.Linear(WIDTH, 64)], (8, 32, 64)),
    "max of relu": (
        lambda: [nn.Linear(64, WIDTH), Written(lambda x: x.relu().max(1)[0]), nn.Linear(WIDTH, 64)],
        (8, 12, 64),
    ),
    "variance": (
        lambda: [
            nn.Linear(64, WIDTH),
            Written(lambda x: x * torch.rsqrt(x.var(-1, keepdim=True))),
            nn.Linear(WIDTH, 64),
        ],
        (8, 16, 64),
    ),
    "deviation": (lambda: [nn.Linear(64, WIDTH), Written(lambda x: x.std(-1, keepdim=True))], (8, 16, 64)),
    "length": (
        lambda: [nn.Linear(64, WIDTH), Written(lambda x: torch.linalg.vector_norm(x, dim=-1, keepdim=True))],
        (8, 16, 64),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_folding_rules_hold_in_networks_that_run(name):
    modules, shape = CASES[name]

    def build():
        return normal(nn.Sequential(*modules()), 1.0)

    assert not disagreements(build, shape, 6, within=0.06)
