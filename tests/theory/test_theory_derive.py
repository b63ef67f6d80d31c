import pytest
import torch
from torch import nn

from firstlight.errors import FirstlightError
from firstlight.graph import trace
from firstlight.theory import derive


def of(model, layer, moments, shape=(2, 64)):
    drawn = {name: moments for name, p in model.named_parameters() if p.dim() > 1}
    return derive(trace(model, torch.zeros(*shape)), drawn, layer)


def test_the_formula_holds_on_the_first_layer():
    found = of(nn.Sequential(nn.Linear(64, 32, bias=False), nn.ReLU()), "0", (0.0, 1 / 64))
    assert found.by_formula == pytest.approx(1.0)
    assert found.simulated == pytest.approx(1.0, abs=4 * found.standard_error)
    assert all(line.holds is not False for line in found.lines)


def test_after_relu_the_mean_is_not_zero_and_the_second_moment_counts():
    model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.ReLU(), nn.Linear(64, 32, bias=False))
    found = of(model, "2", (0.0, 2 / 64))
    # var(x) of a rectified Gaussian is (1 - 1/pi)/2 of the Gaussian's, E x² is 1/2.
    assert found.by_formula / found.by_second_moment == pytest.approx(1 - 1 / torch.pi, rel=1e-6)
    assert found.simulated == pytest.approx(found.by_second_moment, abs=4 * found.standard_error)
    assert found.predicted == pytest.approx(found.by_second_moment, rel=1e-9)
    failing = [line for line in found.lines if line.holds is False]
    assert len(failing) == 1
    assert "relu" in failing[0].because
    assert "FAILS" in str(found)


def test_constant_weights_break_the_formula_and_it_is_said():
    model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 32, bias=False))
    found = of(model, "1", (0.1, 0.01))
    assert found.by_formula == 0
    assert found.predicted == pytest.approx(0.01 * 64**2 * 0.64)
    assert sum(line.holds is False for line in found.lines) == 2


def test_an_unknown_layer_is_refused_with_those_that_exist():
    with pytest.raises(FirstlightError, match="such as 0:linear") as caught:
        of(nn.Sequential(nn.Linear(64, 32)), "encoder", (0.0, 1.0))
    assert caught.value.slug == "no-such-layer"
