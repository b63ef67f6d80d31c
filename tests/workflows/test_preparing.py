"""`prepare` starts the head at what the folders already say."""

import math

import numpy as np
import pytest
from PIL import Image
from torch import nn

import firstlight as fl


@pytest.fixture
def uneven(tmp_path):
    rng = np.random.default_rng(0)
    for name, count in {"common": 30, "rare": 10}.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for k in range(count):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{k}.png")
    return tmp_path / "photos"


def network(classes, *, bias=True):
    features = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*features, nn.Linear(8, classes, bias=bias))


def test_the_head_starts_at_the_frequencies_of_the_folders(uneven, tmp_path):
    model = network(2)
    found = fl.prepare(uneven, model, tmp_path / "out")
    low, high = sorted(model[-1].bias.tolist())
    assert high - low == pytest.approx(math.log(3), abs=1e-6)
    assert model[-1].bias[0] > model[-1].bias[1], "classes are sorted by name: common first"
    assert found.checked.case.class_counts == (30, 10)


@pytest.mark.parametrize(("classes", "bias", "note"), [(2, False, True), (5, True, False)])
def test_a_head_that_cannot_start_there_is_left_alone(uneven, tmp_path, classes, bias, note):
    model = network(classes, bias=bias)
    found = fl.prepare(uneven, model, tmp_path / "out")
    assert model[-1].bias is None or not model[-1].bias.any()
    assert any("frequencies" in said for said in found.notes) is note
