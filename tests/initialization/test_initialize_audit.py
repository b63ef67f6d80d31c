"""What an audit sees in networks as other libraries leave them, and which symmetries last."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from firstlight.graph import trace
from firstlight.initialization import SCHEMES, Audited, apply, audit_init, symmetries
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


def test_identical_units_parts_and_dead_fans_are_found() -> None:
    half = normal(8, 16)
    for copies in (2, 3, 4):
        assert any("parts of 8 along dimension 0" in f for f in one(torch.cat([half] * copies))[2])
        assert any("parts of 16 along dimension 1" in f for f in one(torch.cat([half] * copies, 1))[2])
    uneven = torch.cat([half[:3], half[:3], half[:3], half[:1]])  # ten rows over four processes
    assert any("parts of 3 along dimension 0" in f for f in one(uneven)[2])
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


class Mixed(nn.Module):
    """A depthwise convolution before GELU, a grouped transposed one, and a product from the right."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(64, 64, 3, padding=1, groups=64, bias=False)
        self.up = nn.ConvTranspose2d(64, 32, 4, stride=2, groups=2, bias=False)
        self.head_weight = nn.Parameter(normal(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.up(F.gelu(self.depthwise(x))).relu().mean((2, 3)) @ self.head_weight


def entry(model: nn.Module, name: str, example: Tensor | None) -> Audited:
    return next(p for p in audit_init(model, example).parameters if p.name == name)


def test_fans_and_nonlinearities_come_from_the_graph() -> None:
    model, x = Mixed(), normal(2, 64, 8, 8)
    gain = 1 / math.sqrt(float(F.gelu(normal(1_000_000)).square().mean()))
    with torch.no_grad():
        model.depthwise.weight.copy_(normal(64, 1, 3, 3) * gain / 3)
        model.up.weight.copy_(normal(64, 16, 4, 4) * math.sqrt(2 / (32 * 16 / 4)))
        model.head_weight.mul_(1 / math.sqrt(32))
    depthwise, up, head = (entry(model, name, x) for name in ("depthwise.weight", "up.weight", "head_weight"))
    assert (depthwise.fan_in, depthwise.fan_out) == (9, 9)
    assert "kaiming (gelu)" in depthwise.like
    assert dict(depthwise.against)["kaiming (gelu)"] == pytest.approx(gain / 3, rel=3e-3)
    assert (up.fan_in, up.fan_out) == (128, 256)
    assert up.like == ("kaiming (relu)",)
    assert (head.fan_in, head.fan_out, "lecture-xavier" in head.like) == (32, 10, True)
    assert entry(model, "depthwise.weight", None).fan_in == 9
    assert entry(model, "head_weight", None).fan_in == 10  # taken as outputs × inputs: nothing ran


def test_a_size_that_comes_from_fans_by_shape_is_explained() -> None:
    """PyTorch counts all outputs of a depthwise convolution as readers of each input: 64 times too many."""
    model = Mixed()
    generator = torch.Generator().manual_seed(0)
    nn.init.kaiming_normal_(model.depthwise.weight, mode="fan_out", nonlinearity="relu", generator=generator)
    like = entry(model, "depthwise.weight", normal(2, 64, 8, 8)).like
    assert "kaiming-fan-out (relu), fan-out by shape" in like
    assert "kaiming-fan-out (relu)" not in like


def test_units_and_inputs_are_those_of_the_operation() -> None:
    model, x = Mixed(), normal(2, 64, 8, 8)
    with torch.no_grad():
        model.up.weight[:32, 5] = model.up.weight[:32, 3]  # outputs 3 and 5 of the first group
        model.up.weight[40] = 0  # an input of the second
        model.head_weight[:, 4] = 0
    up, head = entry(model, "up.weight", x), entry(model, "head_weight", x)
    assert up.findings == (
        "1 inputs reach nothing: all their outgoing weights are zero",
        "1 of 32 units have the incoming weights of another",
    )
    assert head.findings == ("1 units read nothing: all their incoming weights are zero",)


def test_equal_units_are_a_finding_only_where_they_last() -> None:
    model, x = mlp(), normal(16, 6)
    with torch.no_grad():
        model[4].weight.zero_()
        model[4].bias.zero_()
    assert entry(model, "4.weight", None).findings == ("every element is equal: its units stay one unit",)
    random = torch.get_rng_state()
    audited = audit_init(model, x)
    assert audited.findings == ()
    assert audited.parameters[4].remarks == ("every element is equal: training tells them apart",)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in model.parameters())
    apply(SCHEMES["constant"](trace(model, x)), model)
    assert "2.weight: every element is equal: they stay one unit" in audit_init(model, x).findings


def test_outliers_of_timm_in_bfloat16_are_found() -> None:
    """Its truncated normal inverts the error function where bfloat16 has only 1 left: weights at 100 sigma."""
    layers = pytest.importorskip("timm.layers")
    torch.manual_seed(0)
    weight = layers.trunc_normal_(torch.empty(512, 512, dtype=torch.bfloat16), std=0.02)
    assert any("the farthest at" in f and "beyond 8σ" in f for f in one(weight)[2])
    plan = SCHEMES["truncated-normal"](trace(nn.Linear(512, 512), normal(2, 512)))
    ours = nn.Linear(512, 512).to(torch.bfloat16)
    apply(plan, ours)
    assert audit_init(ours).findings == ()


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


class Scaled(nn.Module):
    """Convolutions with one scale per channel, of shape [C, 1, 1], and a 1×1 depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1, groups=8)
        self.scale = nn.Parameter(torch.full((8, 1, 1), 1e-5))
        nn.init.ones_(self.two.weight)
        nn.init.zeros_(self.two.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x)) * self.scale


def test_equal_scales_of_channels_are_no_equal_units() -> None:
    assert symmetries(Scaled(), normal(4, 3, 8, 8)) == ()


def test_units_that_read_one_number_are_units() -> None:
    model = nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1))
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.3)
    (found,) = symmetries(model, normal(8, 1))
    assert (found.parameter, found.units, found.permanent) == ("0.weight", 6, True)
