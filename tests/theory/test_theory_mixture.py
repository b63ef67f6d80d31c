"""Functions of maps that vary over places: equal places are computed once, and count as often as they are."""

from dataclasses import fields

import numpy as np
import pytest
import torch

from firstlight.theory import mixture
from firstlight.theory.axes import label
from firstlight.theory.elementwise import aten
from firstlight.theory.signal import Signal


def uneven(samples=1):
    """Two segments of channels on a padded image, with correlations that differ by sample, and close sites."""
    torch.manual_seed(0)
    shape = (4, 12, 20, 20)
    border = torch.nn.functional.conv2d(torch.ones(1, 1, 20, 20, dtype=torch.float64), torch.ones(1, 1, 3, 3).double(),
                                        padding=1) / 9  # fmt: skip
    segments = torch.cat([torch.full((7,), 0.5), torch.full((5,), 2.0)]).double().view(1, 12, 1, 1)
    second = border * segments
    shares = torch.linspace(0.1, 0.4, samples, dtype=torch.float64).view(-1, 1, 1, 1)
    return Signal(
        "x", shape, label(shape, "bcss"), 0.1 * segments, second + 0.01 * segments**2, shares * second, 0.05 * second,
        near=np.array([[1.0, 0.5], [0.5, 0.3]]), across=0.02 * segments**2,
        profile=torch.rand(4, 1, 20, 20, dtype=torch.float64) + 0.5,
    )  # fmt: skip


@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize("function", ["relu", "gelu"])
def test_equal_places_are_computed_once_and_count_as_often_as_they_are(function, samples, monkeypatch):
    base, f = uneven(samples), aten(function, {"approximate": "none"} if function == "gelu" else {})
    whole = mixture._mixed(base, f, None)
    sizes = []
    original = mixture._mixed
    monkeypatch.setattr(mixture, "_mixed", lambda b, *rest: sizes.append(b.second.numel()) or original(b, *rest))
    found = mixture.mixed(base, f)
    assert sizes == [2 * 3 * 3]
    asked = ("far", "other", "across", "slope_far", "tilt", "near", "profile", "steep")
    for name in (*asked, *(field.name for field in fields(whole))):
        one, other = getattr(found, name), getattr(whole, name)
        if isinstance(other, np.ndarray) and name != "near":
            one, other = found.map(one), whole.map(other)
        if isinstance(other, float | np.ndarray | torch.Tensor):
            assert np.asarray(one) == pytest.approx(np.asarray(other), rel=1e-9, abs=1e-12), name
