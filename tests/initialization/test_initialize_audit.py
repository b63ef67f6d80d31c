"""What an audit sees in networks as other libraries leave them, and which symmetries last."""

import copy

import pytest
import torch
from torch import Tensor, nn

from firstlight.graph import trace
from firstlight.initialization import SCHEMES, apply, audit_init, symmetries
from firstlight.models import small_cnn


def one(weight: Tensor) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight)
    (entry,) = audit_init(layer).parameters
    return entry.family, entry.like, entry.findings


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_families_and_schemes_are_recognized() -> None:
    x = torch.zeros(2, 3, 32, 32)
    for scheme, family, like in (
        ("kaiming", "normal", "kaiming (relu)"),
        ("truncated-normal", "truncated-normal", "kaiming (relu)"),
        ("lecun", "uniform", "lecture-xavier"),
        ("torch-default", "uniform", "torch-default"),
        ("orthogonal", "orthogonal", "kaiming (relu)"),
        ("xavier", "normal", "xavier"),
        ("constant", "constant", None),
    ):
        model = small_cnn()
        apply(SCHEMES[scheme](trace(model, x)), model)
        entry = next(p for p in audit_init(model).parameters if p.name == "conv4.weight")
        assert entry.family == family, scheme
        assert like is None or like in entry.like, scheme
        if scheme != "constant":
            assert audit_init(model).findings == ()


def test_a_weight_at_a_hundred_sigma_is_found() -> None:
    weight = normal(128, 128) * 0.02
    weight[3, 4] = -2
    assert "1 elements beyond 8σ, the farthest at 1" in one(weight)[2][0]


def test_identical_units_halves_and_dead_fans_are_found() -> None:
    half = normal(8, 16)
    assert any("halves along dimension 0" in f for f in one(torch.cat([half, half]))[2])
    assert any("halves along dimension 1" in f for f in one(torch.cat([half, half], 1))[2])
    tiled = normal(8, 16)
    tiled[5] = tiled[2]
    assert one(tiled)[2] == ("1 of 8 units have the incoming weights of another",)
    dead = normal(8, 16)
    dead[1], dead[:, 7] = 0, 0
    assert one(dead)[2] == (
        "1 units read nothing: all their incoming weights are zero",
        "1 inputs reach nothing: all their outgoing weights are zero",
    )
    assert one(torch.full((4, 4), 0.3))[2] == ("every element is equal: its units stay one unit",)


def test_copied_layers_of_a_transformer_are_found() -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)
    assert "layers.1.linear1.weight: identical to layers.0.linear1.weight" in "\n".join(audit_init(encoder).findings)
    before = copy.deepcopy(encoder.state_dict())
    str(audit_init(encoder))
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_parameters_without_values_are_listed() -> None:
    assert audit_init(nn.Linear(2, 2, device="meta")).not_checked == ("weight", "bias")


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


@pytest.mark.parametrize("scheme", ["zeros", "constant"])
def test_constant_weights_stay_symmetric_for_ever(scheme: str) -> None:
    model, x = mlp(), normal(16, 6)
    apply(SCHEMES[scheme](trace(model, x)), model)
    before = copy.deepcopy(model.state_dict())
    found = {s.parameter: s for s in symmetries(model, x, torch.arange(16) % 3)}
    assert found["0.weight"].permanent
    assert found["2.weight"].permanent
    assert found["2.weight"].groups == (tuple(range(8)),)
    if scheme == "constant":  # every class has a target of its own; where all is zero, only its share of the labels
        assert not found["4.weight"].permanent
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_one_tiled_layer_breaks_its_own_symmetry() -> None:
    model, x = mlp(), normal(16, 6)
    apply(SCHEMES["xavier"](trace(model, x)), model)
    assert symmetries(model, x) == ()
    with torch.no_grad():
        model[0].weight[4] = model[0].weight[1]
    (found,) = symmetries(model, x)
    assert (found.parameter, found.units, found.groups, found.permanent) == ("0.weight", 8, ((1, 4),), False)
    with torch.no_grad():
        model[2].weight[:, 4] = model[2].weight[:, 1]
    (found,) = symmetries(model, x)
    assert found.permanent


def test_gradients_that_are_zero_only_for_now_do_not_make_a_symmetry_permanent() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.gate = nn.Linear(6, 8), nn.Linear(8, 3), nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            return self.gate * self.two(self.one(x).tanh())

    model = Gated()
    with torch.no_grad():
        model.one.weight[4], model.one.bias[4] = model.one.weight[1], model.one.bias[1]
    (found,) = symmetries(model, normal(16, 6))
    assert not found.permanent
