"""White noise is what people feed a network to try it: a normalized input, and no photograph that was mistreated."""

import pytest
import torch
from torch import nn

import firstlight as fl
from firstlight.models import small_cnn


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [(8, 32), (64, 32), (4, 96)])
def test_noise_is_a_healthy_input(seed, size):
    count, side = size
    torch.manual_seed(seed)
    network = small_cnn()
    fl.initialize(network, torch.zeros(2, 3, side, side), scheme="kaiming", seed=seed)
    batch = torch.randn(count, 3, side, side), torch.randint(10, (count,))
    found = fl.check(network, batch, nn.functional.cross_entropy, histograms=False)
    assert found.ok, str(found)
    assert not [f for f in found.at_least("warn") if f.where in ("input", "labels")], str(found)
