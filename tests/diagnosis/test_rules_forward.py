"""Rules about the forward pass: each fault at its place, and what only looks like one."""

from collections.abc import Callable

import pytest
import torch
from cases import case, codes, only
from networks import INSIDE, Layer, Vit, batch, build, mlp
from torch import Tensor, nn

import firstlight as fl
from firstlight.diagnosis import NotChecked
from firstlight.diagnosis.rules.dead_units import DeadUnits, _by_chance
from firstlight.diagnosis.rules.exploding_signal import ExplodingSignal
from firstlight.diagnosis.rules.nonfinite_signal import NonfiniteSignal
from firstlight.diagnosis.rules.rank_collapse import RankCollapse
from firstlight.diagnosis.rules.saturated_units import SaturatedUnits
from firstlight.diagnosis.rules.single_value_normalization import SingleValueNormalization
from firstlight.diagnosis.rules.unbalanced_residual import UnbalancedResidual
from firstlight.diagnosis.rules.vanishing_signal import VanishingSignal


class Apply(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def insert(model: nn.Module, place: int, function: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy with one more module, called ``wrong``, in front of the module at `place`."""
    parts = list(model.named_children())
    changed = nn.Sequential()
    for k, (name, part) in enumerate(parts):
        if k == place:
            changed.add_module("wrong", Apply(function))
        changed.add_module(name, part)
    return changed


@pytest.mark.parametrize(("name", "place"), [("mlp", 5), ("plain", 4), ("resnet", 3)])
def test_a_factor_that_makes_the_signal_vanish(name: str, place: int) -> None:
    finding = only(VanishingSignal(), case(insert(build(name), place, lambda x: x * 1e-6), *batch()))
    assert (finding.severity, finding.where) == ("fail", "wrong")
    assert "1.0e-12" in finding.title


@pytest.mark.parametrize(("name", "place"), [("mlp", 5), ("plain", 4)])
def test_a_factor_that_makes_the_signal_explode(name: str, place: int) -> None:
    finding = only(ExplodingSignal(), case(insert(build(name), place, lambda x: x * 1e6), *batch()))
    assert (finding.severity, finding.where) == ("fail", "wrong")


def test_a_normalization_takes_growth_away() -> None:
    assert codes(ExplodingSignal(), case(insert(build("resnet"), 1, lambda x: x * 1e6), *batch())) == []


@pytest.mark.parametrize("act", [nn.Tanh, nn.Sigmoid])
def test_saturated_units(act: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = mlp(3, act)
    assert codes(SaturatedUnits(), case(model, *batch())) == []
    with torch.no_grad():
        for layer in (model[1], model[3], model[5]):
            layer.weight.mul_(60)
    finding = only(SaturatedUnits(), case(model, *batch()))
    assert finding.where == "1"
    assert len(finding.victims) == 2


@pytest.mark.parametrize(("factor", "where"), [(60.0, "2"), (1.0, "1")])
@torch.no_grad()
def test_units_are_saturated_by_the_larger_of_their_weights_and_their_input(factor: float, where: str) -> None:
    torch.manual_seed(0)
    model = mlp(3, nn.Tanh)
    model[1].weight.mul_(30 / factor)
    images, labels = batch()
    assert only(SaturatedUnits(), case(model, images * factor, labels)).where == where


@pytest.mark.parametrize("name", ["mlp", "plain", "vit"])
@torch.no_grad()
def test_units_that_a_bias_keeps_silent(name: str) -> None:
    model = build(name)
    layer = model.get_submodule(INSIDE[name])
    layer.bias[: len(layer.bias) // 2] = -30
    finding = only(DeadUnits(), case(model, *batch()))
    assert (finding.severity, finding.where) == ("warn", INSIDE[name])
    assert "95 %" in finding.evidence
    layer.bias.fill_(-30)
    assert codes(DeadUnits(), case(model, *batch()))[0] == ("fail", INSIDE[name])


@torch.no_grad()
def test_a_bias_is_seen_where_samples_are_alike_too() -> None:
    """Nearly equal samples leave half of the units silent by chance; those that a bias holds down are counted alone."""
    torch.manual_seed(0)
    model = mlp(8)
    x, labels = batch()
    alike = x[:1] + 0.1 * x
    assert codes(DeadUnits(), case(model, alike, labels)) == []
    model[9].bias[:16] = -30  # a quarter of the fifth layer
    finding = only(DeadUnits(), case(model, alike, labels))
    assert (finding.severity, finding.where) == ("warn", "9")
    assert "9.bias" in finding.evidence
    model[9].bias[:16] = -0.01
    assert codes(DeadUnits(), case(model, alike, labels)) == []


def test_a_gate_behind_a_branch_that_starts_at_zero_is_asleep_and_not_dead() -> None:
    """Squeeze and excitation behind a normalization whose scale starts at zero: its biases are all that it has."""
    torch.manual_seed(0)
    squeeze = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 64, 1), nn.ReLU(), nn.Conv2d(64, 16, 1), nn.Sigmoid()
    )
    model = build("resnet")
    model[3].bn2 = Gated(model[3].bn2, squeeze)
    found = case(model, *batch())
    assert any(
        n.units.dead for n in found.run.first.nodes if n.units is not None and n.name.startswith("3.bn2.squeeze")
    )
    assert codes(DeadUnits(), found) == []


class Gated(nn.Module):
    def __init__(self, norm: nn.Module, squeeze: nn.Module) -> None:
        super().__init__()
        self.norm, self.squeeze = norm, squeeze

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return y * self.squeeze(y)


def test_silence_by_chance_is_the_orthant_probability() -> None:
    assert _by_chance(3, 0.0) == pytest.approx(1 / 8, rel=1e-6)
    assert _by_chance(2, 0.5) == pytest.approx(1 / 3, rel=1e-4)  # 1/4 + arcsin(ρ) / 2π
    assert _by_chance(3, 0.5) == pytest.approx(1 / 4, rel=1e-4)  # 1/(n+1)
    assert _by_chance(100, 1.0) == 0.5
    assert _by_chance(16, 0.9) > _by_chance(16, 0.5) > _by_chance(32, 0.5)


def test_deep_plain_networks_have_silent_units_and_no_dead_ones() -> None:
    torch.manual_seed(0)
    found = case(mlp(16), *batch())
    silent = [node for node in found.run.first.nodes if node.units is not None and node.units.dead]
    assert len(silent) > 5
    assert codes(DeadUnits(), found) == []


def test_too_few_samples_are_not_checked() -> None:
    with pytest.raises(NotChecked, match="too small"):
        codes(DeadUnits(), case(build("mlp"), *batch(2)))


@pytest.mark.parametrize("name", ["mlp", "plain", "resnet"])
@torch.no_grad()
def test_a_layer_of_rank_one(name: str) -> None:
    model = build(name)
    weight = model.get_submodule(INSIDE[name]).weight
    rows = weight.flatten(1)
    weight.copy_((torch.randn(len(rows), 1) @ torch.randn(1, rows.shape[1]) * rows.std()).view_as(weight))
    assert codes(RankCollapse(), case(model, *batch())) == [("warn", INSIDE[name])]


def test_attention_without_shortcuts_leaves_one_place() -> None:
    """Dong et al. (2021): without shortcuts the tokens of one image become equal within a few layers."""

    class Bare(Layer):
        def forward(self, x: Tensor) -> Tensor:
            y = self.norm1(x)
            y = self.norm2(self.attn(y, y, y, need_weights=False)[0])
            return self.fc2(nn.functional.gelu(self.fc1(y)))

    torch.manual_seed(0)
    model = Vit(depth=6)
    assert codes(RankCollapse(), case(model, *batch())) == []
    model.layers = nn.Sequential(*(Bare(32) for _ in range(6)))
    for weight in (p for p in model.layers.parameters() if p.dim() == 2):
        nn.init.trunc_normal_(weight, std=0.02)
    finding = next(iter(RankCollapse().examine(case(model, *batch()))))
    assert "positions" in finding.title
    assert finding.where.startswith("layers.")
    # The same for every place on one branch only is what squeeze-and-excitation does.
    model.layers = nn.Sequential(*(Mean(32) for _ in range(6)))
    assert codes(RankCollapse(), case(model, *batch())) == []


class Mean(Layer):
    """Every token gets the mean of all, beside its shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.fc2(self.fc1(y.mean(1, keepdim=True).expand_as(y)))
        return x + self.fc2(nn.functional.gelu(self.fc1(self.norm2(x))))


@torch.no_grad()
def test_biases_that_outweigh_the_images() -> None:
    torch.manual_seed(0)
    model = mlp(8)
    for layer in model:
        if isinstance(layer, nn.Linear):
            layer.weight.mul_(0.2)
            layer.bias.normal_()
    finding = only(RankCollapse(), case(model, *batch()))
    assert finding.severity in ("warn", "fail")
    assert codes(RankCollapse(), case(mlp(8), *batch())) == []


@torch.no_grad()
def test_a_branch_that_drowns_its_stream() -> None:
    model = build("resnet")
    model[4].bn2.weight.normal_(std=100)
    finding = only(UnbalancedResidual(), case(model, *batch()))
    assert finding.where == "4.bn2"
    model = build("vit")
    model.layers[1].scale.fill_(3e3)
    assert codes(UnbalancedResidual(), case(model, *batch()))[0][1] == "layers.1"
    with pytest.raises(NotChecked):
        codes(UnbalancedResidual(), case(build("mlp"), *batch()))


@pytest.mark.parametrize(
    ("norm", "place", "severity"),
    [
        (nn.GroupNorm(16, 16), "features", "fail"),
        (nn.LayerNorm(1), "last", "fail"),
        (nn.GroupNorm(4, 16), "features", None),
        (nn.LayerNorm(16), "features", None),
    ],
)
def test_a_normalization_over_one_value(norm: nn.Module, place: str, severity: str | None) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(3, 16, 3), norm, nn.Linear(16, 10)

        def forward(self, x: Tensor) -> Tensor:
            features = self.conv(x).mean((2, 3))
            return self.head(self.norm(features) if place == "features" else self.norm(features[..., None])[..., 0])

    found = codes(SingleValueNormalization(), case(Net(), *batch()))
    assert found == ([] if severity is None else [(severity, "norm")])


def test_many_normalizations_over_one_value_are_one_finding() -> None:
    norms = [nn.GroupNorm(8, 8) for _ in range(3)]
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), *norms, nn.Flatten(), nn.Linear(8, 10))
    finding = only(SingleValueNormalization(), case(model, *batch()))
    assert (finding.where, len(finding.victims)) == ("2", 2)
    assert "2 more" in finding.title


def test_batch_norm_over_one_value_does_not_run_and_is_named() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 10)
    )
    assert codes(SingleValueNormalization(), case(model, *batch(1))) == [("fail", "input")]
    assert codes(SingleValueNormalization(), case(model, *batch(2))) == [("warn", "2")]


BIRTHS: dict[str, Callable[[Tensor], Tensor]] = {
    "log": lambda x: (x - x.mean()).log(),
    "sqrt": lambda x: (x - 1e3).sqrt(),
    "div": lambda x: x / (x - x),
    "exp": lambda x: (x.abs() * 1e6 + 100).exp(),
}


@pytest.mark.parametrize("op", BIRTHS)
@pytest.mark.parametrize(("name", "place"), [("mlp", 5), ("resnet", 3)])
def test_where_a_number_stops_being_one(op: str, name: str, place: int) -> None:
    finding = only(NonfiniteSignal(), case(insert(build(name), place, BIRTHS[op]), *batch()))
    assert (finding.severity, finding.where) == ("fail", "wrong")
    assert finding.title.startswith(op)


@torch.no_grad()
def test_a_broken_weight_and_a_harmless_mask() -> None:
    model = build("plain")
    model[4].weight.view(-1)[3] = torch.nan
    assert codes(NonfiniteSignal(), case(model, *batch())) == [("fail", "4")]

    def masked(x: Tensor) -> Tensor:
        mask = torch.eye(64, dtype=torch.bool)
        return x @ (x.mT @ x / len(x)).masked_fill(mask, -torch.inf).softmax(-1)

    assert codes(NonfiniteSignal(), case(insert(build("mlp"), 5, masked), *batch())) == []


def test_a_loss_that_breaks_by_itself() -> None:
    images, labels = batch()
    found = case(build("mlp"), images, labels, lambda output, labels: (output.sum() * 0).log())
    assert codes(NonfiniteSignal(), found) == [("fail", "loss")]


class Scaled(nn.Module):
    """A learned scale of 1e-5 without a shortcut, and a normalization that restores what it takes."""

    def __init__(self, restored: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.scale = nn.Parameter(torch.full((16,), 1e-5))
        self.norm = nn.BatchNorm2d(16, eps=1e-12) if restored else nn.Identity()
        self.head = nn.Linear(16, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scaled = self.second(self.first(images).relu()) * self.scale.view(1, -1, 1, 1)
        return self.head(self.norm(scaled).relu().mean((2, 3)))


@pytest.mark.parametrize("restored", [True, False])
def test_a_learned_scale_counts_only_where_nothing_restores_it(restored):
    torch.manual_seed(0)
    images, labels = torch.randn(16, 3, 16, 16), torch.arange(16) % 10
    found = fl.check(Scaled(restored), (images, labels), nn.functional.cross_entropy, histograms=False)
    assert any(f.code == "FL301" for f in found.at_least("warn")) is not restored
