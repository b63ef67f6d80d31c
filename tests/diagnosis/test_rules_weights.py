"""Rules about weights: each fault at its place on several architectures, and silence on their healthy twins."""

import copy
import math

import pytest
import torch
from cases import case, codes, only
from networks import INSIDE, MAIN, NETWORKS, batch, build, mlp, plain
from torch import nn

from firstlight.diagnosis import Rule, all_rules, diagnose
from firstlight.diagnosis.matrices import one_direction, tail
from firstlight.diagnosis.rules.constant_weights import ConstantWeights
from firstlight.diagnosis.rules.identical_layers import IdenticalLayers
from firstlight.diagnosis.rules.symmetric_units import SymmetricUnits
from firstlight.diagnosis.rules.vanishing_signal import VanishingSignal
from firstlight.diagnosis.rules.weight_outliers import WeightOutliers
from firstlight.diagnosis.rules.weight_scale import WeightScale
from firstlight.diagnosis.rules.zero_weights import ZeroWeights
from firstlight.diagnosis.weights import summing

RULES: tuple[Rule, ...] = (
    SymmetricUnits(), ZeroWeights(), ConstantWeights(), WeightOutliers(), IdenticalLayers(), WeightScale()
)  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_healthy_weights_are_no_news(name: str) -> None:
    found = diagnose(case(build(name), *batch()), RULES)
    assert found.findings == ()
    assert set(found.clean) == {rule.code for rule in RULES}


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_twin_units_that_are_read_alike_stay_twins(name: str) -> None:
    model = build(name)
    layer = model.get_submodule(INSIDE[name])
    half = len(layer.weight) // 2
    layer.weight[half:] = layer.weight[:half]
    reader = {"mlp": "7", "plain": "8", "resnet": "3.conv2", "vit": "layers.0.fc2"}[name]
    if layer.bias is not None:
        layer.bias[half:] = layer.bias[:half]
    breaking = only(SymmetricUnits(), case(model, *batch()))
    assert (breaking.severity, breaking.where) == ("warn", INSIDE[name])
    following = model.get_submodule(reader)
    following.weight[:, half:] = following.weight[:, :half]
    permanent = only(SymmetricUnits(), case(model, *batch()))
    assert (permanent.severity, permanent.where) == ("fail", INSIDE[name])
    assert f"{2 * half} of {2 * half} units" in permanent.title


@pytest.mark.parametrize("name", ["mlp", "plain"])
@torch.no_grad()
def test_zero_layers_that_sleep_are_named_once(name: str) -> None:
    model = build(name)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.weight.zero_()
    finding = only(ZeroWeights(), case(model, *batch()))
    first = {"mlp": "1", "plain": "0"}[name]
    assert (finding.severity, finding.where) == ("fail", first)
    assert len(finding.victims) == 6 - (
        finding.victims[-1].split()[1].rstrip(":") != list(dict(model.named_modules()))[-1]
    )


@torch.no_grad()
def test_a_zero_layer_behind_batch_norm_and_relu_sleeps_in_a_residual_branch_too() -> None:
    model = build("resnet")
    model[3].conv1.weight.zero_()
    assert codes(ZeroWeights(), case(model, *batch())) == [("fail", "3.conv1")]


@pytest.mark.parametrize("name", ["resnet", "vit"])
@torch.no_grad()
def test_branches_and_heads_that_start_at_zero_wake_up(name: str) -> None:
    model = build(name)
    if name == "resnet":
        model[4].conv2.weight.zero_()
        model[4].bn2.weight.fill_(1)
        model[-1].weight.zero_()
    else:
        model.layers[0].fc2.weight.zero_()
        model.head.weight.zero_()
    assert diagnose(case(model, *batch()), RULES).findings == ()


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_constant_weights_everywhere_are_one_fault(name: str) -> None:
    model = build(name)
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    for weight in weights:
        weight.fill_(0.01)
    found = diagnose(case(model, *batch()), RULES)
    culprit = found.findings[0]
    # What sets the tokens' channels apart, their random positions, breaks the symmetry of a transformer.
    assert (culprit.code, culprit.severity) == ("FL203", "warn" if name == "vit" else "fail")
    assert "0.01" in culprit.title
    assert "FL201" not in {finding.code for finding in found.findings}  # it follows, and stands among the victims
    assert any(line.startswith("FL201") for line in culprit.victims)


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_one_constant_layer_breaks_by_itself(name: str) -> None:
    model = build(name)
    model.get_submodule(MAIN[name]).weight.fill_(0.02)
    assert codes(ConstantWeights(), case(model, *batch())) == [("warn", MAIN[name])]


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_outliers_are_beyond_what_a_normal_of_this_count_can_reach(name: str) -> None:
    model = build(name)
    weight = model.get_submodule(INSIDE[name]).weight
    weight.view(-1)[7] = 100 * weight.std()
    finding = only(WeightOutliers(), case(model, *batch()))
    assert (finding.severity, finding.where) == ("warn", INSIDE[name])
    assert finding.title.startswith("1 of ")


@torch.no_grad()
def test_an_outlier_that_decides_nothing_is_a_note() -> None:
    model = build("mlp")
    model[1].weight.view(-1)[7] = 15 * model[1].weight.std()  # 225 of 196,608
    assert codes(WeightOutliers(), case(model, *batch())) == [("note", "1")]


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_copies_are_told_from_ties(name: str) -> None:
    model = build(name)
    one, two = {
        "mlp": ("3", "5"),
        "plain": ("2", "4"),
        "resnet": ("3.conv1", "4.conv2"),
        "vit": ("layers.0.fc1", "layers.1.fc1"),
    }[name]
    model.get_submodule(two).weight.copy_(model.get_submodule(one).weight)
    finding = only(IdenticalLayers(), case(model, *batch()))
    assert (finding.severity, finding.where) == ("warn", two)
    model.get_submodule(two).weight = model.get_submodule(one).weight
    assert codes(IdenticalLayers(), case(model, *batch())) == []


def test_the_encoder_that_copies_its_layer() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(48, 2, 64, batch_first=True), 3)
            self.head = nn.Linear(48, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.encoder(x.reshape(len(x), 64, 48)).mean(1))

    torch.manual_seed(0)
    finding = only(IdenticalLayers(), case(Encoder(), *batch()))
    assert finding.where.startswith("encoder.layers.1")
    assert len(finding.victims) == 8  # four weights, twice copied


@torch.no_grad()
def xavier(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_normal_(module.weight)
    return model


@pytest.mark.parametrize(("network", "depth", "severity"), [(mlp, 12, "warn"), (plain, 16, "warn"), (mlp, 30, "fail")])
def test_xavier_in_front_of_relu_loses_half_in_every_layer(network: object, depth: int, severity: str) -> None:
    torch.manual_seed(0)
    model = xavier(network(depth))  # type: ignore[operator]
    found = diagnose(case(model, *batch()), (WeightScale(), VanishingSignal()))
    (finding,) = found.findings
    assert (finding.code, finding.severity) == ("FL206", severity)
    assert "relu needs" in finding.title
    assert 0.66 < float(finding.title.split(" of what")[0].split()[-1]) < 0.75
    effect = float(finding.title.split("ends at ")[1].split()[0])
    assert abs(math.log2(effect) + depth) < 3  # 2^-depth; the first layer's two fans differ


@pytest.mark.parametrize("name", ["mlp", "plain"])
@torch.no_grad()
def test_one_layer_off_is_the_only_culprit(name: str) -> None:
    model = build(name)
    model.get_submodule(MAIN[name]).weight.mul_(1e-3)
    finding = only(WeightScale(), case(model, *batch()))
    assert (finding.where, finding.severity) == (MAIN[name], "warn")
    assert " more are " not in finding.title


@pytest.mark.parametrize("factor", [1e-6, 1e6])
@pytest.mark.parametrize("name", ["mlp", "plain"])
def test_a_fixed_factor_is_blamed_and_not_the_weights_before_it(name: str, factor: float) -> None:
    class Times(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * factor

    model = build(name)
    place = next(k for k, layer in enumerate(model) if k > 4 and isinstance(layer, nn.ReLU))
    model[place] = nn.Sequential(nn.ReLU(), Times())
    finding = only(WeightScale(), case(model, *batch()))
    assert (finding.where, finding.severity) == (f"{place}.1", "fail")
    assert f"mul by {factor:g}" in finding.title


@torch.no_grad()
def test_weights_may_make_up_for_a_fixed_factor() -> None:
    class Sixth(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.relu(6 * x) / 6

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten())
    for k in range(12):
        layer = nn.Linear(3072 if k == 0 else 64, 64)
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        model.extend([layer, Sixth()])
    model.append(nn.Linear(64, 10))
    assert codes(WeightScale(), case(model, *batch())) == []
    for layer in model[1:-1:2]:
        layer.weight.mul_(0.2)
    finding = only(WeightScale(), case(model, *batch()))
    assert (finding.where, finding.severity) == ("1", "fail")
    assert "11 more are 0.2 of" in finding.title


@pytest.mark.parametrize("std", [1e-3, 1.0])
@torch.no_grad()
def test_batch_norm_forgives_the_scale_in_front_of_it(std: float) -> None:
    model = build("resnet")
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.normal_(std=std)
    assert all(severity == "note" for severity, _ in codes(WeightScale(), case(model, *batch())))


def test_a_rule_changes_nothing() -> None:
    model = build("mlp")
    with torch.no_grad():
        model[3].weight.fill_(0.02)
    before = copy.deepcopy(model.state_dict())
    diagnose(case(model, *batch()), RULES)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@torch.no_grad()
def test_outliers_are_not_called_a_matrix_of_one_direction() -> None:
    torch.manual_seed(0)
    model = build("mlp")
    weight = model[5].weight
    weight[3, 7] = 1000 * float(weight.std())
    found = case(model, *batch())
    assert [code for code, _ in codes(WeightOutliers(), found)] == ["warn"]
    assert one_direction(weight, summing(found)["5.weight"]) is None
    # A product of normal numbers and their cubes has tails of its own, and is one direction.
    weight.copy_(torch.randn(64, 1) ** 3 @ torch.randn(1, 64))
    found = case(model, *batch())
    assert tail(weight) is not None
    assert codes(WeightOutliers(), found) == []
    assert one_direction(weight, summing(found)["5.weight"]) is not None


@torch.no_grad()
def test_what_is_read_off_the_weights_explains_what_follows_and_is_as_bad() -> None:
    model = build("mlp")
    nn.init.constant_(model[5].weight, 0.02)
    found = diagnose(case(model, *batch()), all_rules())
    (culprit,) = [f for f in found.findings if f.severity != "note"]
    assert (culprit.code, culprit.severity, culprit.where) == ("FL203", "fail", "5")
    assert any("FL305" in line for line in culprit.victims)
