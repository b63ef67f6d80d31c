"""Rules about the optimizer's step."""

from dataclasses import replace

import pytest
import torch
from cases import case, codes, only
from networks import NETWORKS, batch, build

from firstlight.diagnosis import NotChecked
from firstlight.diagnosis.descent import climbs
from firstlight.diagnosis.rules.loss_rises import LossRises
from firstlight.diagnosis.rules.update_ratio import UpdateRatio


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_usual_rates_are_no_news(name: str, kind: type[torch.optim.Optimizer]) -> None:
    model = build(name)
    rate = 1e-3 if kind is torch.optim.AdamW else 1e-2
    found = case(model, *batch(), optimizer=kind(model.parameters(), lr=rate))
    assert codes(UpdateRatio(), found) == []
    assert codes(LossRises(), found) == []


@pytest.mark.parametrize("name", NETWORKS)
def test_rates_that_are_far_off(name: str) -> None:
    model = build(name)
    high = only(UpdateRatio(), case(model, *batch(), optimizer=torch.optim.Adam(model.parameters(), lr=10.0)))
    assert (high.severity, high.where) == ("fail", "optimizer")
    assert "too high" in high.title
    assert high.repair is not None
    assert high.repair.values["factor"] < 1e-2
    low = only(UpdateRatio(), case(model, *batch(), optimizer=torch.optim.Adam(model.parameters(), lr=1e-10)))
    assert "too low" in low.title


def test_one_group_with_a_rate_of_its_own() -> None:
    model = build("plain")
    main = list(model[4].parameters())
    rest = [p for p in model.parameters() if all(p is not q for q in main)]
    optimizer = torch.optim.Adam([{"params": rest}, {"params": main, "lr": 10.0}], lr=1e-3)
    assert "4.weight" in only(UpdateRatio(), case(model, *batch(), optimizer=optimizer)).title


@pytest.mark.parametrize("name", NETWORKS)
def test_steps_that_go_up(name: str) -> None:
    model = build(name)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, maximize=True)
    finding = only(LossRises(), case(model, *batch(), optimizer=optimizer))
    assert (finding.severity, finding.where) == ("fail", "optimizer")
    assert "maximize" in finding.cause


def test_steps_that_are_too_long() -> None:
    model = build("plain")
    found = case(model, *batch(), optimizer=torch.optim.SGD(model.parameters(), lr=100.0))
    assert only(LossRises(), found).severity == "fail"


def test_without_an_optimizer_it_is_not_checked() -> None:
    for rule in (UpdateRatio(), LossRises()):
        with pytest.raises(NotChecked, match="no optimizer"):
            codes(rule, case(build("mlp"), *batch()))


@pytest.mark.parametrize(
    ("losses", "severity"),
    [
        ((2.3, 2.2, 2.1, 2.0), None),
        ((2.3, 2.2, 2.1, 2.31), "warn"),
        ((2.3, 1.9, 6.0, 40.0), "fail"),  # twice the start, and nothing was learned on the way
        ((2.3, 0.4, 0.0, 30.0), "warn"),  # momentum, out of the minimum of a batch that had been learned
        ((2.3, 0.4, 0.0, float("nan")), "fail"),
        ((-2.3, -4.0, -8.0, -1.0), "warn"),
    ],
)
def test_a_rise_after_the_batch_was_learned_is_no_failure(losses: tuple[float, ...], severity: str | None) -> None:
    model = build("plain")
    found = case(model, *batch(), optimizer=torch.optim.SGD(model.parameters(), lr=0.01))
    steps = tuple(replace(step, loss=loss) for step, loss in zip(found.run.steps, losses, strict=False))
    told = replace(found, measured=replace(found.run, steps=steps, final_loss=losses[-1]))
    assert codes(LossRises(), told) == ([] if severity is None else [(severity, "optimizer")])


def test_a_tenth_of_each_weight_is_too_much_where_nothing_was_learned() -> None:
    model = build("plain")
    found = case(model, *batch(), optimizer=torch.optim.Adam(model.parameters(), lr=0.02))
    ratio = max(p.update / p.size for p in found.run.steps[0].parameters if p.name.endswith("weight"))
    assert 0.1 < ratio < 1

    def told(*losses: float) -> list[tuple[str, str]]:
        steps = tuple(replace(step, loss=loss) for step, loss in zip(found.run.steps, losses, strict=False))
        return codes(UpdateRatio(), replace(found, measured=replace(found.run, steps=steps, final_loss=losses[-1])))

    assert told(2.3, 2.0, 3.0, 3.0) == [("fail", "optimizer")]
    assert told(2.3, 2.0, 1.9, 1.8) == []
    assert told(2.3, 0.4, 0.0, 3.0) == []


def test_a_frozen_backbone_says_nothing_of_the_rate() -> None:
    """Fine-tuning with an optimizer over all parameters: what does not move has no gradient."""
    model = build("plain")
    for parameter in list(model.parameters())[:-2]:
        parameter.requires_grad_(False)
    assert codes(UpdateRatio(), case(model, *batch(), optimizer=torch.optim.SGD(model.parameters(), lr=0.01))) == []
    low = case(model, *batch(), optimizer=torch.optim.SGD(model.parameters(), lr=1e-12))
    assert "too low" in only(UpdateRatio(), low).title


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_long_steps_up_the_gradient_are_not_called_long(kind: type[torch.optim.Optimizer]) -> None:
    model = build("mlp")
    with torch.no_grad():
        model[-1].weight.mul_(0.01)  # a small head moves by a large part of itself
    found = case(model, *batch(), optimizer=kind(model.parameters(), lr=0.02, maximize=True))
    assert "goes up the gradient" in only(LossRises(), found).title
    assert codes(UpdateRatio(), found) == []


def test_decay_that_outweighs_a_gradient_is_not_called_a_wrong_sign() -> None:
    model = build("mlp")
    images, labels = batch()
    with torch.no_grad():
        for _ in range(2):
            model[-1].weight.mul_(30)
    labels = model(images).argmax(1)  # learned already: next to no gradient is left
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1.0)
    found = case(model, images, labels, optimizer=optimizer)
    assert found.run.final_loss > found.run.steps[0].loss
    assert not climbs(found)
