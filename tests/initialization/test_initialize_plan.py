"""The Kaiming plan, the way it is kept, and the weights it gives."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from firstlight.errors import FirstlightError
from firstlight.graph import Activation, trace
from firstlight.initialization import InitReport, Plan, apply, kaiming
from firstlight.models import small_cnn
from firstlight.theory.gain import gain


def planned(model: nn.Module, *shape: int) -> Plan:
    return kaiming(trace(model, torch.randn(2, *shape)))


def rules(plan: Plan) -> dict[str, str]:
    return {decision.name: decision.rule for decision in plan.decisions}


GAINS = {  # 1 / sqrt(E[phi(z)^2]); closed forms where there are some, else integrated by scipy's adaptive quadrature
    "relu": math.sqrt(2),
    "gelu": 1.5335303,
    "silu": 1.6765324,
    "mish": 1.4868181,
    "elu": 1.2452146,
    "hardswish": 1.7366718,
    "tanh": 1.5925374,
    "selu": 1.0,
    "relu6": math.sqrt(2),
    "abs": 1.0,
}


@pytest.mark.parametrize("name", GAINS)
def test_gains_agree_with_adaptive_quadrature(name: str) -> None:
    integrate = pytest.importorskip("scipy.integrate")
    activation = Activation(name)

    def integrand(z: float) -> float:
        y = float(activation(torch.tensor(z, dtype=torch.float64)))
        return y * y * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    moment, _ = integrate.quad(integrand, -12, 12, points=(-3, 0, 3, 6), epsabs=1e-12, limit=200)
    assert gain(activation) == pytest.approx(1 / math.sqrt(moment), rel=1e-9)
    assert gain(activation) == pytest.approx(GAINS[name], rel=1e-4)


def test_gains_with_settings_have_closed_forms() -> None:
    for slope in (0.01, 0.2):
        leaky = Activation("leaky_relu", {"negative_slope": slope})
        assert gain(leaky) == pytest.approx(math.sqrt(2 / (1 + slope**2)), rel=1e-12)
    assert gain(Activation("prelu")) == pytest.approx(math.sqrt(2 / (1 + 0.25**2)), rel=1e-12)
    assert gain(Activation("sigmoid", gated=True)) == pytest.approx(gain(Activation("silu")), rel=1e-12)
    assert gain(Activation("sigmoid")) == gain(None) == 1.0


def test_he_et_al_vgg_b() -> None:
    """Section 2.2 of the paper: standard deviations .059, .042, .029, .021 for 64 to 512 channels of 3×3 filters."""
    channels = (64, 128, 256, 512)
    layers: list[nn.Module] = []
    for i, width in enumerate(channels):
        layers += [nn.Conv2d(width, channels[min(i + 1, 3)], 3, padding=1), nn.ReLU()]
    plan = planned(nn.Sequential(*layers), 64, 4, 4)
    stds = [decision.std for decision in plan.decisions if decision.rule == "kaiming"]
    assert stds == pytest.approx([math.sqrt(2 / (9 * width)) for width in channels])
    assert [round(std, 3) for std in stds] == [0.059, 0.042, 0.029, 0.021]


def test_the_signal_keeps_its_size_through_thirty_layers() -> None:
    layers: list[nn.Module] = []
    for _ in range(30):
        layers += [nn.Linear(512, 512), nn.ReLU()]
    model = nn.Sequential(*layers)
    apply(planned(model, 512), model, seed=1)
    with torch.no_grad():
        second_moment = float(model(torch.randn(64, 512, generator=torch.Generator().manual_seed(0))).square().mean())
    # log of the second moment fluctuates by about sqrt(5 · layers / width) = 0.54 from draw to draw
    assert abs(math.log(second_moment)) < 3 * 0.54


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(256, 256, 3, padding=1, groups=256), (256, 16, 16)),
        (nn.ConvTranspose2d(64, 128, 4, stride=2, padding=1), (64, 16, 16)),
        (nn.ConvTranspose2d(512, 21, 8, stride=4, padding=2), (512, 8, 8)),
    ],
)
def test_layers_that_torch_initializes_wrongly_keep_the_size_of_the_signal(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    apply(planned(layer, *shape), layer, seed=1)
    with torch.no_grad():
        y = layer(torch.randn(8, *shape, generator=torch.Generator().manual_seed(0)))
    border = 4
    assert float(y[..., border:-border, border:-border].square().mean()) == pytest.approx(1, rel=0.15)


def test_packed_attention_has_the_variance_of_three_matrices() -> None:
    attention = nn.MultiheadAttention(256, 4, batch_first=True)
    x = torch.randn(2, 5, 256)
    plan = kaiming(trace(attention, (x, x, x)))
    apply(plan, attention)
    assert float(attention.in_proj_weight.detach().var()) == pytest.approx(1 / 256, rel=0.02)


class Everything(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 8)
        self.token = nn.Parameter(torch.ones(1, 1, 8))
        self.position = nn.Parameter(torch.ones(1, 6, 8))
        self.coarse = nn.Parameter(torch.ones(1, 8, 3))
        self.q_bias, self.v_bias = nn.Parameter(torch.ones(8)), nn.Parameter(torch.ones(8))
        self.qkv = nn.Parameter(torch.ones(24, 8))
        self.gamma = nn.Parameter(torch.ones(8))
        self.scale = nn.Parameter(torch.zeros(8))
        self.shift = nn.Parameter(torch.ones(8))
        self.norm = nn.LayerNorm(8)
        self.slope = nn.PReLU()
        self.odd = nn.Parameter(torch.full((8,), 0.7))
        self.spare = nn.Parameter(torch.full((3,), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), self.words(x)], 1) + (
            self.position + F.interpolate(self.coarse, 6).mT
        )
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        q, k, v = F.linear(self.norm(x), self.qkv, bias).chunk(3, -1)
        x = x + self.gamma * F.scaled_dot_product_attention(q, k, v)
        return self.slope(x * self.scale + self.shift) ** self.odd.abs()


def test_every_kind_of_parameter_has_its_rule() -> None:
    model = Everything()
    plan = kaiming(trace(model, torch.randint(11, (2, 5))))
    assert rules(plan) == {
        "token": "token", "position": "position", "coarse": "position", "q_bias": "bias", "v_bias": "bias",
        "qkv": "kaiming", "gamma": "layer-scale", "scale": "scale", "shift": "bias", "words.weight": "embedding",
        "norm.weight": "norm", "norm.bias": "norm", "slope.weight": "slope",
    }  # fmt: skip
    assert plan.uncovered == ("odd", "spare")
    apply(plan, model)
    assert torch.equal(model.spare, torch.full((3,), 0.3))
    assert torch.equal(model.norm.weight, torch.ones(8))
    assert not model.shift.any()
    assert torch.equal(model.gamma, torch.full((8,), 1e-5))
    assert torch.equal(model.scale, torch.ones(8))
    assert model.slope.weight.item() == 0.25


class Pooled(nn.Module):
    """Positions of a window beside resized ones; a learned query that pools by attention; gates of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.position, self.window = nn.Parameter(torch.ones(1, 8, 3, 3)), nn.Parameter(torch.ones(1, 8, 2, 2))
        self.query, self.ask, self.keys = nn.Parameter(torch.ones(1, 1, 8)), nn.Linear(8, 8), nn.Linear(8, 16)
        self.balance, self.mixture = nn.Parameter(torch.ones(8)), nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        finer = F.interpolate(self.position, (4, 4), mode="bilinear", antialias=True)
        tokens = (x + (finer + self.window.tile(1, 1, 2, 2))).flatten(2).mT
        keys, values = self.keys(tokens).chunk(2, -1)
        pooled = F.scaled_dot_product_attention(self.ask(self.query.expand(len(x), -1, -1)), keys, values)
        shares = self.mixture.softmax(0)
        return shares[0] * pooled + shares[1] * torch.sigmoid(self.balance.view(1, 1, -1)) * tokens


def test_positions_queries_and_gates_are_known_by_what_the_graph_does_with_them() -> None:
    model = Pooled()
    plan = kaiming(trace(model, torch.randn(2, 8, 4, 4)))
    assert not plan.uncovered
    assert {name: rule for name, rule in rules(plan).items() if "." not in name} == {
        "position": "position", "window": "position", "query": "latent", "balance": "gate", "mixture": "gate",
    }  # fmt: skip
    by_name = {decision.name: decision for decision in plan.decisions}
    assert (by_name["window"].std, by_name["query"].std, by_name["balance"].std) == (0.02, 1.0, 0.0)
    assert "learned tokens that a linear reads" in by_name["query"].reason


def test_a_temperature_starts_where_cosines_can_choose() -> None:
    class Cosines(nn.Module):
        def __init__(self, end: str) -> None:
            super().__init__()
            self.qkv, self.logit_scale, self.end = nn.Linear(8, 24), nn.Parameter(torch.ones(1)), end

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).chunk(3, -1)
            logits = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT
            logits = logits * self.logit_scale.clamp(max=4.6).exp()
            return (logits.softmax(-1) if self.end == "softmax" else logits.tanh()) @ v

    plan = kaiming(trace(Cosines("softmax"), torch.randn(2, 5, 8)))
    (decision,) = (d for d in plan.decisions if d.name == "logit_scale")
    assert decision.rule == "temperature"
    assert decision.mean == pytest.approx(math.log(10))
    assert kaiming(trace(Cosines("tanh"), torch.randn(2, 5, 8))).uncovered == ("logit_scale",)


def test_a_scale_on_the_way_past_a_branch_is_no_layer_scale() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(8, 8), nn.Linear(8, 8)
            self.past, self.end = nn.Parameter(torch.ones(8)), nn.Parameter(torch.ones(8))

        def forward(self, x: Tensor) -> Tensor:
            x = torch.tanh(self.inner(x)) + self.past * x  # as the D of a state space model
            return x + self.end * self.outer(x)

    known = rules(kaiming(trace(Both(), torch.randn(4, 8))))
    assert (known["past"], known["end"]) == ("scale", "layer-scale")


def test_weight_norm_starts_at_the_size_of_its_direction() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(16, 64, 3)), nn.ReLU())
    plan = planned(model, 16, 6, 6)
    assert not plan.uncovered
    apply(plan, model)
    assert float(model[0].weight.detach().std()) == pytest.approx(math.sqrt(2 / 144), rel=0.03)


def test_a_tied_weight_is_decided_once() -> None:
    one, two = nn.Linear(8, 8), nn.Linear(8, 8)
    two.weight = one.weight
    model = nn.Sequential(one, nn.ReLU(), two)
    plan = planned(model, 8)
    assert [decision.name for decision in plan.decisions] == ["0.weight", "0.bias", "2.bias"]
    assert "the first of 2 uses decides" in plan.decisions[0].reason
    apply(plan, model)
    assert two.weight is one.weight


def report(model: nn.Module, seed: int = 0) -> InitReport:
    return apply(planned(model, 3, 32, 32), model, seed=seed)


def test_measured_standard_deviations_are_those_planned() -> None:
    for parameter in report(small_cnn()).parameters:
        if parameter.rule == "kaiming":
            elements = math.prod(small_cnn().get_parameter(parameter.name).shape)
            assert parameter.measured_std == pytest.approx(parameter.std, rel=4 / math.sqrt(2 * elements))
            assert abs(parameter.measured_mean) < 4 * parameter.std / math.sqrt(elements)
            assert parameter.std == pytest.approx(parameter.gain / math.sqrt(parameter.fan_in))
        else:
            assert (parameter.measured_mean, parameter.measured_std) == (0, 0)


def weights(model: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    report(model, seed)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def test_the_same_plan_and_seed_give_the_same_weights_and_another_seed_others() -> None:
    one, two, other = weights(small_cnn()), weights(small_cnn()), weights(small_cnn(), seed=1)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["conv1.weight"], other["conv1.weight"])
    assert not torch.equal(one["conv2.weight"][0], one["conv2.weight"][1])


def test_neither_order_nor_layout_nor_type_changes_the_weights() -> None:
    plan = planned(small_cnn(), 3, 32, 32)
    reference = small_cnn()
    apply(plan, reference)

    backwards = small_cnn()
    apply(replace(plan, decisions=plan.decisions[::-1]), backwards)
    channels_last = small_cnn().to(memory_format=torch.channels_last)
    apply(plan, channels_last)
    half = small_cnn().to(torch.bfloat16)
    apply(plan, half)
    for name, parameter in reference.named_parameters():
        assert torch.equal(backwards.get_parameter(name), parameter)
        assert torch.equal(channels_last.get_parameter(name), parameter)
        assert torch.equal(half.get_parameter(name), parameter.to(torch.bfloat16))
    assert channels_last.conv1.weight.is_contiguous(memory_format=torch.channels_last)


def test_the_global_generator_is_not_used() -> None:
    model = small_cnn()
    plan = planned(model, 3, 32, 32)
    before = torch.get_rng_state()
    apply(plan, model)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_plan_survives_being_saved(tmp_path: Path) -> None:
    plan = planned(small_cnn(), 3, 32, 32)
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    assert json.loads((tmp_path / "plan.json").read_text())["format"] == "firstlight.plan/1"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "firstlight.plan/9", "scheme": "", "decisions": []}'])
def test_a_file_that_is_no_plan_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(FirstlightError, match=r"plan\.json") as caught:
        Plan.load(tmp_path / "plan.json")
    assert caught.value.slug == "not-a-plan"


def test_a_plan_for_another_model_changes_nothing() -> None:
    plan, other = planned(small_cnn(), 3, 32, 32), nn.Linear(2, 2)
    before = other.weight.detach().clone()
    with pytest.raises(FirstlightError) as caught:
        apply(plan, other)
    assert caught.value.slug == "plan-does-not-fit"
    assert torch.equal(other.weight, before)


def test_a_model_without_memory_gets_it_and_the_same_weights() -> None:
    plan = planned(small_cnn(), 3, 32, 32)
    real, deferred = small_cnn(), small_cnn().to("meta")
    apply(plan, real)
    apply(plan, deferred)
    assert all(torch.equal(p, deferred.get_parameter(name)) for name, p in real.named_parameters())


def test_plan_and_report_read_as_tables() -> None:
    done = report(small_cnn())
    assert str(done.plan).splitlines()[0].split() == ["parameter", "rule", "fan", "in", "gain", "mean", "std", "reason"]
    line = next(line for line in str(done).splitlines() if line.startswith("conv2.weight"))
    assert "288" in line
    assert "1.414" in line
    assert line.endswith("32 input channels × 3×3 taps; relu follows")
