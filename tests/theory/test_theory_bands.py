"""The band: what few weights make of a gradient, what paths have in common, and what corrections leave in doubt."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from wide_networks import normal, predicted

from firstlight.graph import trace
from firstlight.theory import InputMoments, as_they_are, propagate, walk
from firstlight.theory.maps.weights import _shared_back
from firstlight.theory.signal import Gradient, scalar


def gradient(second, spread, doubt=0.0):
    return Gradient(scalar(second, 2), scalar(0.0, 2), spread=spread, doubt=doubt)


def narrow(layers, width, first=64):
    sizes = [first, *[width] * layers]
    return normal(nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in pairwise(sizes))))


@pytest.mark.parametrize("width", [24, 64])
def test_a_gradient_varies_by_the_weights_that_are_drawn_on_its_way(width):
    rng, draws = np.random.default_rng(0), 400
    drawn = {f"{k}.weight": (0.0, 1 / (64 if k == 0 else width)) for k in range(5)}
    said = predicted(narrow(5, width), torch.zeros(4, 64), drawn).nodes
    gradient_ = rng.standard_normal((draws, 4, width))  # by the outputs, white
    for node in said[-2::-1]:
        gradient_ = gradient_ @ rng.normal(0, width**-0.5, (draws, width, width))
        found, band = (gradient_**2).mean((1, 2)) / node.backward_second_moment, 1 + node.backward_band
        assert np.mean((found > 1 / band) & (found < band)) > 0.93, node.name
        assert np.log(found).std() > 0.5 * np.log(band) / 1.96, node.name


def test_paths_that_meet_have_the_spread_they_began_with():
    one, two = gradient(1.0, 0.2), gradient(3.0, 0.2)
    assert (one + two).spread == pytest.approx(0.2)
    assert (gradient(1.0, 0.2) + gradient(1.0, 0.4)).spread == pytest.approx(0.2 + 0.25 * 0.2)


def test_doubt_adds_up_along_the_way_and_is_averaged_where_paths_meet():
    assert (gradient(1.0, 0.0, 0.1) + gradient(3.0, 0.0, 0.5)).doubt == pytest.approx(0.4)
    assert gradient(1.0, 0.0, 0.1).scaled(2.0).doubt == 0.1


def deep():
    layers = [m for _ in range(6) for m in (nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU())]
    return normal(nn.Sequential(nn.Conv2d(3, 32, 3, padding=1, bias=False), *layers), variance=2.0)


def test_corrections_for_real_data_leave_more_doubt_the_deeper_a_gradient_goes():
    rng = torch.Generator().manual_seed(0)
    images = nn.functional.interpolate(torch.randn(4, 3, 3, 3, generator=rng), size=24, mode="bilinear") * 2
    torch.manual_seed(0)
    model = deep()
    graph = trace(model, images)
    doubts = {}
    for what, told in (("photographs", InputMoments.of(images)), ("noise", InputMoments())):
        said, (_, _, found) = (f(graph, as_they_are(model), inputs=told) for f in (propagate, walk))
        norms = [node for node in said.nodes if node.op == "batch_norm"]
        doubts[what] = [found[node.name].doubt for node in norms]
        for node, doubt in zip(norms, doubts[what], strict=True):
            assert math.log1p(node.backward_band) > 1.96 * doubt
    assert all(a > b + 0.01 for a, b in pairwise(doubts["photographs"]))
    assert doubts["photographs"][0] > 3 * doubts["noise"][0]


def test_samples_that_have_more_in_common_than_there_is_left_overflow_nothing():
    torch.manual_seed(0)
    signal = walk(trace(narrow(1, 8), torch.zeros(2, 64)), {"0.weight": (0.0, 1 / 64)})[0].signals["0:linear"]
    left = Gradient(scalar(1e-300, 2), scalar(0.0, 2), other=-1.0)
    assert 0 <= _shared_back(left, signal, 2) <= 1


class Averaged(nn.Module):
    """Few channels, whose means are drawn once and stay in an average while what differs between sites goes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(64, 8, 1, bias=False)

    def forward(self, x):
        return nn.functional.avg_pool2d(self.conv(torch.relu(x)), 4)


def test_an_average_varies_by_what_the_elements_of_a_channel_share():
    model, x = Averaged(), torch.randn(2, 64, 16, 16)
    sizes = []
    with torch.no_grad():
        for seed in range(400):
            torch.manual_seed(seed)
            nn.init.normal_(model.conv.weight, std=64**-0.5)
            sizes.append(float(model(x).square().mean().log()))
    _, steps, _ = walk(trace(model, x), {"conv.weight": (0.0, 1 / 64)})
    said = list(steps.values())[-1].signal.spread
    assert said == pytest.approx(float(np.var(sizes)), rel=0.2)
    assert said > 4 * steps["conv:conv2d"].signal.spread
