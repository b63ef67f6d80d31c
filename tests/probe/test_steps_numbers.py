"""What measured steps say is what the same steps by hand give."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from firstlight.probe import Run, probe, run_steps
from firstlight.probe.moments import moments, root_mean_square

LABELS = torch.tensor([0, 1, 2, 3, 0, 2])


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def network(in_place: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=in_place), nn.Dropout(0.3),
        nn.Conv2d(8, 6, 3, stride=2), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
    )  # fmt: skip


def seeded(*arguments: Any, **settings: Any) -> Run:
    torch.manual_seed(5)  # where dropout starts
    return run_steps(*arguments, **settings)


def by_hand(model: nn.Sequential, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """What each module returns in one pass, with gradients, and the loss."""
    torch.manual_seed(5)
    outputs = {}
    for name, module in model.named_children():
        outputs[name] = x = module(x)
        x.retain_grad()
    loss = F.cross_entropy(x, LABELS)
    loss.backward()
    return outputs, loss


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_every_moment_is_what_numpy_finds(in_place: bool, layout: torch.memory_format) -> None:
    x = images(6, 3, 11, 11).to(memory_format=layout)
    nodes = {node.module: node for node in seeded(network(in_place).to(memory_format=layout), x, LABELS).first.nodes}
    outputs, _ = by_hand(network().train(), x)
    assert nodes.keys() == outputs.keys() - {"7"}  # flatten only rearranges
    for name, node in nodes.items():
        y, g = outputs[name].detach().double().numpy(), outputs[name].grad.double().numpy()  # type: ignore[union-attr]
        found = (node.forward_mean, node.forward_std, node.minimum, node.maximum, node.fraction_zero)
        assert found == pytest.approx((y.mean(), y.std(), y.min(), y.max(), (y == 0).mean()), rel=1e-5, abs=1e-7)
        backward = (node.gradient_std, node.gradient_max, node.gradient_zero)
        assert backward == pytest.approx((g.std(), np.abs(g).max(), (g == 0).mean()), rel=1e-4, abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(st.integers(-30, 30), st.sampled_from([0.0, 1.0, -300.0]), st.sampled_from([1, 7, 1024, 1025, 5000]))
def test_moments_hold_at_every_scale(decade: int, shift: float, count: int) -> None:
    x = (images(count) + shift) * 10.0**decade
    mean, std, smallest, largest, zeros, nonfinite = moments(x).tolist()
    wide = x.double().numpy()
    assert mean == pytest.approx(wide.mean(), rel=1e-6, abs=1e-7 * wide.std())
    assert std == pytest.approx(wide.std(), rel=1e-5, abs=0)
    assert (smallest, largest, zeros, nonfinite) == (wide.min(), wide.max(), 0, 0)
    assert root_mean_square(x).item() == pytest.approx(float(np.sqrt((wide**2).mean())), rel=1e-5, abs=0)


def test_zeros_and_what_is_no_number_are_counted() -> None:
    x = images(3, 5, 4)
    x[0, 0], x[1, 2, 3], x[2, 4, 0] = 0, math.inf, math.nan
    assert moments(x).tolist()[4:] == moments(x.mT).tolist()[4:] == [4, 2]
    assert moments(torch.zeros(0)).tolist() == [0] * 6
    assert moments(torch.full((3, 4), -0.0)).tolist()[1:5] == [0, 0, 0, 12]


def rms(tensor: Tensor) -> float:
    return float(tensor.double().square().mean().sqrt())


def held(model: nn.Sequential) -> Iterable[nn.Parameter]:
    return [*model[0].parameters(), *model[8].parameters()]


def test_each_step_is_the_optimizers() -> None:
    x, model, run_on = images(6, 3, 11, 11), network().train(), network()
    given_one = torch.optim.SGD(held(run_on), lr=0.3, momentum=0.9, weight_decay=0.01)
    run = seeded(run_on, x, LABELS, optimizer=given_one, steps=4)
    optimizer = torch.optim.SGD(held(model), lr=0.3, momentum=0.9, weight_decay=0.01)
    assert len(run.steps) == 4
    for step in run.steps:
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        model.zero_grad()
        _, loss = by_hand(model, x)
        optimizer.step()
        assert step.loss == pytest.approx(loss.item(), rel=1e-5)
        for seen, (name, parameter) in zip(step.parameters, model.named_parameters(), strict=True):
            assert parameter.grad is not None
            assert seen.name == name
            assert seen.size == pytest.approx(rms(before[name]), rel=1e-4)
            assert seen.gradient == pytest.approx(rms(parameter.grad), rel=1e-3, abs=1e-9)
            assert seen.zero == pytest.approx((parameter.grad == 0).double().mean().item())
            assert seen.update == pytest.approx(rms(parameter.detach() - before[name]), rel=1e-3, abs=1e-9)
            along = (
                0.0 if parameter.grad is None else float((parameter.grad * (parameter.detach() - before[name])).sum())
            )
            assert seen.slope == pytest.approx(along, rel=1e-3, abs=1e-9)
    _, final = by_hand(model, x)
    assert run.final_loss == pytest.approx(final.item(), rel=1e-5)
    assert run.optimizer.given
    assert run.optimizer.name == "SGD"
    assert run.optimizer.learning_rate == dict.fromkeys(("0.weight", "0.bias", "8.weight", "8.bias"), 0.3)
    assert [p.name for p in run.steps[0].parameters if p.update == 0] == ["1.weight", "1.bias", "4.weight", "4.bias"]


def test_all_passes_draw_the_same_random_numbers() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(16, 4))
    run = run_steps(model, images(6, 16), LABELS, optimizer=lambda ps: torch.optim.SGD(ps, lr=1e-30))
    assert {step.loss for step in run.steps} | {run.final_loss} == {run.first.loss}


def test_a_probe_is_the_first_step_without_the_details() -> None:
    x = images(6, 3, 11, 11)
    run = seeded(network(), x, LABELS, histograms=False, mixing=False)
    model = network()
    torch.manual_seed(5)
    assert probe(model, x, LABELS) == run.first
    assert all(node.units is node.histogram is None for node in run.first.nodes)
    assert run.mixing is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_layers_run_in_half_precision(dtype: torch.dtype) -> None:
    x, model = images(6, 3, 11, 11), network()
    run, plain = (seeded(model, x, LABELS, autocast=kind) for kind in (dtype, None))
    types = {node.name: node.dtype for node in run.graph.operations}
    assert types["4:conv2d"] == str(dtype).removeprefix("torch.")
    nodes = {node.name: node for node in run.first.nodes}
    for node in plain.first.nodes:
        assert nodes[node.name].forward_std == pytest.approx(node.forward_std, rel=0.02)
        assert nodes[node.name].units is not None or node.units is None
    assert run.steps[-1].loss == pytest.approx(plain.steps[-1].loss, abs=0.02)
    assert run.notes == ()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_models_of_another_element_type(dtype: torch.dtype) -> None:
    run = seeded(network().to(dtype), images(6, 3, 11, 11).to(dtype), LABELS)
    plain = seeded(network(), images(6, 3, 11, 11), LABELS)
    assert [n.forward_std for n in run.first.nodes] == pytest.approx(
        [n.forward_std for n in plain.first.nodes], rel=0.03
    )
    assert run.mixing is not None
    assert run.mixing.node is None


def test_tied_weights_are_one_parameter() -> None:
    one, two = nn.Linear(8, 8), nn.Linear(8, 8)
    two.weight = one.weight
    run = run_steps(nn.Sequential(one, nn.ReLU(), two), images(6, 8), LABELS)
    assert [p.name for p in run.steps[0].parameters] == ["0.weight", "0.bias", "2.bias"]
    assert all(p.update > 0 for p in run.steps[0].parameters)
