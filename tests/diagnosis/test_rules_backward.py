"""Rules about the backward pass: what stands in the gradient's way, told apart and at its place."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from cases import case, codes, only
from networks import NETWORKS, batch, build, mlp
from test_rules_forward import Apply, insert
from torch import Tensor, nn

from firstlight.diagnosis import NotChecked
from firstlight.diagnosis.flow import flow
from firstlight.diagnosis.rules.batch_mixing import BatchMixing
from firstlight.diagnosis.rules.exploding_gradient import ExplodingGradient
from firstlight.diagnosis.rules.frozen_parameter import FrozenParameter
from firstlight.diagnosis.rules.no_gradient import NoGradient
from firstlight.diagnosis.rules.nonfinite_gradient import NonfiniteGradient
from firstlight.diagnosis.rules.outside_optimizer import OutsideOptimizer
from firstlight.diagnosis.rules.vanishing_gradient import VanishingGradient

PLACES = [("mlp", 5), ("plain", 4), ("resnet", 3)]


@pytest.mark.parametrize(("name", "place"), PLACES)
@pytest.mark.parametrize(
    ("how", "word"), [(lambda x: x.detach(), "detach"), (lambda x: x.data, "detach"), (lambda x: (x > 0).to(x), "gt")]
)
def test_what_cuts_the_graph(name: str, place: int, how: Callable[[Tensor], Tensor], word: str) -> None:
    finding = only(NoGradient(), case(insert(build(name), place, how), *batch()))
    assert (finding.severity, finding.where) == ("fail", "wrong")
    assert finding.title.startswith(word)


def test_features_under_no_grad() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            model = build("plain")
            self.features, self.rest = model[:6], model[6:]

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = self.features(x)
            return self.rest(x)

    finding = only(NoGradient(), case(Half(), *batch()))
    assert finding.where.startswith("features")
    assert "no_grad" in finding.fix


@pytest.mark.parametrize("first", [nn.Flatten(), Apply(lambda x: x.permute(0, 2, 3, 1).flatten(1))])
def test_no_grad_is_blamed_on_what_it_covers_and_not_on_the_next_module(first: nn.Module) -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AvgPool2d(10))
            self.rest = nn.Sequential(first, nn.Linear(36, 10))

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = self.features(x)
            return self.rest(x)

    assert only(NoGradient(), case(Half(), *batch())).where == "features.0"


@pytest.mark.parametrize("before", [lambda x: x, lambda x: x.mT.mT])
def test_no_grad_around_a_part_without_weights(before: Callable[[Tensor], Tensor]) -> None:
    @torch.no_grad()
    def halved(x: Tensor) -> Tensor:
        return x * 0.5

    finding = only(NoGradient(), case(insert(build("plain"), 4, lambda x: halved(before(x))), *batch()))
    assert (finding.where, finding.title.split()[0]) == ("wrong", "mul")


def test_a_round_trip_through_numpy() -> None:
    model = insert(build("mlp"), 5, lambda x: torch.from_numpy(np.asarray(x.detach())))
    assert "NumPy" in only(NoGradient(), case(model, *batch())).cause


def test_a_layer_that_is_not_used_and_an_output_that_the_loss_leaves_out() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.extra, self.aux = build("mlp"), nn.Linear(3, 3), nn.Linear(10, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.body(x)
            return y, self.aux(y)

    images, labels = batch()
    found = case(Two(), images, labels, lambda output, labels: nn.functional.cross_entropy(output[0], labels))
    assert codes(NoGradient(), found) == [("warn", "aux"), ("warn", "extra")]


@pytest.mark.parametrize("name", NETWORKS)
def test_healthy_networks_lack_no_gradient(name: str) -> None:
    found = case(build(name), *batch())
    for rule in (NoGradient(), VanishingGradient(), ExplodingGradient(), NonfiniteGradient(), FrozenParameter()):
        assert codes(rule, found) == []
    assert codes(BatchMixing(), found) == []


@pytest.mark.parametrize(("name", "place"), PLACES)
def test_rounding_has_no_slope(name: str, place: int) -> None:
    finding = only(VanishingGradient(), case(insert(build(name), place, lambda x: (x * 16).round() / 16), *batch()))
    assert (finding.severity, finding.where) == ("fail", "wrong")
    assert "round" in finding.title


def test_sigmoids_lose_the_gradient_layer_by_layer() -> None:
    torch.manual_seed(0)
    assert codes(VanishingGradient(), case(mlp(8, nn.Sigmoid), *batch()))[0][0] in ("warn", "fail")


def test_a_loss_without_slope() -> None:
    images, labels = batch()
    found = case(build("mlp"), images, labels, lambda output, labels: (output * 0).sum() + 1)
    assert codes(VanishingGradient(), found) == [("fail", "loss")]


@pytest.mark.parametrize("name", ["mlp", "plain"])
@torch.no_grad()
def test_a_gradient_that_explodes(name: str) -> None:
    model = build(name)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.weight.mul_(30)
    assert codes(ExplodingGradient(), case(model, *batch()))[0][0] in ("warn", "fail")


@pytest.mark.parametrize(("depth", "severity"), [(20, None), (40, "note"), (64, "fail")])
def test_batch_normalization_without_shortcuts_multiplies_the_gradient(depth: int, severity: str | None) -> None:
    """Yang et al. (2019): by π/(π-1) in every ReLU layer, in the second moment."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Flatten()]
    for k in range(depth):
        layers += [nn.Linear(3072 if k == 0 else 128, 128, bias=False), nn.BatchNorm1d(128), nn.ReLU()]
    found = case(nn.Sequential(*layers, nn.Linear(128, 10)), *batch(128))
    grown = flow(found).kept_gradient
    assert grown is not None
    assert grown ** (1 / (depth - 1)) == pytest.approx(torch.pi / (torch.pi - 1), rel=0.1)
    assert [severity for severity, _ in codes(ExplodingGradient(), found)] == ([] if severity is None else [severity])


@pytest.mark.parametrize(("name", "place"), PLACES)
def test_a_slope_that_is_infinite(name: str, place: int) -> None:
    finding = only(NonfiniteGradient(), case(insert(build(name), place, lambda x: x.relu().sqrt()), *batch()))
    assert (finding.severity, finding.where) == ("fail", "wrong")
    assert "sqrt" in finding.title


def test_frozen_by_accident_or_on_purpose() -> None:
    def judged(*frozen: str) -> list[tuple[str, str]]:
        model = build("plain")
        for name in frozen:
            model.get_submodule(name).requires_grad_(False)
        return codes(FrozenParameter(), case(model, *batch()))

    assert judged("4") == [("warn", "4")]
    assert judged("0", "2", "4") == [("note", "0")]  # the beginning: fine-tuning
    assert judged("0", "2", "6", "8", "10") == [("note", "0")]  # most of it: adapters
    assert judged("0", "2", "4", "6", "8", "10", "14") == [("fail", "0")]


def test_what_the_optimizer_does_not_hold() -> None:
    model = build("plain")

    def judged(parameters: list[nn.Parameter]) -> list[tuple[str, str]]:
        return codes(OutsideOptimizer(), case(model, *batch(), optimizer=torch.optim.SGD(parameters, lr=0.01)))

    everything = list(model.parameters())
    assert judged(everything) == []
    assert judged([p for p in everything if p is not model[4].weight]) == [("fail", "4")]
    assert judged(list(build("plain").parameters())) == [("fail", "optimizer")]
    assert judged(list(model[14].parameters())) == [("warn", "0")]  # a head alone: fine-tuning without freezing
    with pytest.raises(NotChecked, match="no optimizer"):
        codes(OutsideOptimizer(), case(model, *batch()))


@pytest.mark.parametrize(("name", "place"), PLACES)
@pytest.mark.parametrize(
    "how", [lambda x: x.transpose(0, 1).reshape(x.shape), lambda x: x.softmax(0) * len(x), lambda x: x - x.mean(0)]
)
def test_samples_that_influence_each_other(name: str, place: int, how: Callable[[Tensor], Tensor]) -> None:
    assert codes(BatchMixing(), case(insert(build(name), place, how), *batch())) == [("fail", "wrong")]
