"""The band: what few weights make of a gradient, what paths have in common, and what corrections leave in doubt."""

import numpy as np
import pytest
import torch
from torch import nn
from wide_networks import normal, predicted, random_direction

from firstlight.graph import trace
from firstlight.probe import probe
from firstlight.theory import InputMoments, as_they_are, propagate
from firstlight.theory.signal import Gradient, scalar


def gradient(second, spread, doubt=0.0):
    return Gradient(scalar(second, 2), scalar(0.0, 2), spread=spread, doubt=doubt)


def narrow(layers, width, first=64):
    sizes = [first, *[width] * layers]
    return normal(nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in zip(sizes, sizes[1:], strict=False))))


@pytest.mark.parametrize("width", [4, 16])
def test_a_gradient_varies_by_the_weights_that_are_drawn_on_its_way(width):
    found = {}
    for seed in range(150):
        torch.manual_seed(seed)
        for node in probe(narrow(6, width), torch.randn(4, 64), loss=random_direction).nodes:
            found.setdefault(node.name, []).append(node.gradient_std**2)
    said = predicted(narrow(6, width), torch.zeros(4, 64), {f"{k}.weight": (0.0, 1 / (64 if k == 0 else width)) for k in range(6)})
    for node in said.nodes[:-2]:
        draws, band = np.array(found[node.name]) / node.backward_second_moment, 1 + node.backward_band
        assert 0.9 < np.mean((draws > 1 / band) & (draws < band)) , node.name
        assert np.log(draws).std() > 0.4 * np.log(band) / 1.96, node.name


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
    bands = {
        what: [n.backward_band for n in propagate(graph, as_they_are(model), inputs=told).nodes if n.op == "batch_norm"]
        for what, told in (("photographs", InputMoments.of(images)), ("noise", InputMoments()))
    }
    assert all(a > b for a, b in zip(bands["photographs"], bands["photographs"][1:], strict=False))
    assert bands["photographs"][0] > 1.5 * bands["noise"][0]
