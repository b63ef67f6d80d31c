"""Units: dead ones exactly, spectra as NumPy finds them; histograms as counted by hand."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from firstlight.probe import Units, run_steps
from firstlight.probe.histograms import coprime_step, evenly, histograms


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def units(model: nn.Module, x: Tensor) -> dict[str, Units]:
    found = {}
    for node in run_steps(model, x, steps=1, mixing=False).first.nodes:
        if node.units is not None:
            found[node.module] = node.units
    return found


def effective_rank(rows: np.ndarray[Any, Any]) -> float:
    p = np.linalg.svd(rows, compute_uv=False) ** 2
    p = p[p > 0] / p.sum()
    return float(np.exp(-(p * np.log(p)).sum())) / min(rows.shape)


@pytest.mark.parametrize(
    "activation", [nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.Hardswish(), nn.GELU(), nn.ELU()]
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dead_units_are_those_that_are_flat_everywhere(activation: nn.Module, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 12, 3), activation)
    with torch.no_grad():
        model[0].bias[torch.tensor([2, 7])] = -40.0
        model[0].bias[5] = -1.0  # nearly dead: alive at a few positions
        model[0].weight[9], model[0].bias[9] = 0.0, 1e-3  # faint, and alive
    x = images(4, 3, 12, 12).to(memory_format=layout)
    found = units(model.to(memory_format=layout), x)["1"]
    assert found.dead == (2, 7)
    assert (found.count, found.seen) == (12, 4 * 10 * 10)


@pytest.mark.parametrize("activation", [nn.LeakyReLU(), nn.Tanh(), nn.Softplus()])
def test_what_is_flat_nowhere_at_zero_has_no_dead_units(activation: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(5, 4), activation)
    nn.init.zeros_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    assert units(model, images(6, 5))["1"].dead == ()


class Tokens(nn.Module):
    """Channels last, on tokens and on images."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.linear, self.back = nn.Conv2d(3, 8, 1), nn.Linear(8, 6), nn.Linear(8, 10)
        self.relu, self.other, self.flat, self.turned = nn.ReLU(), nn.ReLU(), nn.ReLU(), nn.ReLU()
        with torch.no_grad():
            self.linear.bias[3], self.back.bias[9] = -40.0, -40.0

    def forward(self, x: Tensor) -> Tensor:
        y = self.mix(x)
        turned = self.turned(self.flat(y.flatten(2)).mT)
        tokens = self.relu(self.linear(y.flatten(2).transpose(1, 2)))
        image = self.other(self.back(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        return tokens.mean(1).sum(1) + image.mean((1, 2, 3)) + turned.sum((1, 2))


def test_units_are_the_channels_wherever_they_stand() -> None:
    found = units(Tokens(), images(3, 3, 5, 7))
    assert (found["relu"].count, found["relu"].dead) == (6, (3,))
    assert (found["other"].count, found["other"].dead) == (10, (9,))
    assert [found[name].count for name in ("linear", "flat", "turned")] == [6, 8, 8]
    assert found["other"].seen == 3 * 5 * 7


@pytest.mark.parametrize(("width", "rows"), [(5, 12), (40, 12), (7, 128)])
def test_rank_is_that_of_the_singular_values(width: int, rows: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, width), nn.Tanh())
    x = images(min(rows, 16), max(rows // 16, 1), 6)  # few enough that all rows are looked at
    found, y = units(model, x), model[0](x).detach().double().flatten(0, 1).numpy()
    assert found["0"].rank == pytest.approx(effective_rank(y), rel=1e-3)
    assert found["1"].rank == pytest.approx(effective_rank(np.tanh(y)), rel=1e-3)


def test_alike_is_the_mean_cosine_of_two_samples() -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(6, 9), images(7, 6)
    y = model(x).detach().double().numpy()
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    cosines = (y @ y.T)[~np.eye(7, dtype=bool)]
    assert units(model, x)[""].alike == pytest.approx(cosines.mean(), rel=1e-4)
    assert units(model, x[:1].expand(7, 6))[""].alike == pytest.approx(1)
    assert units(model, x[:1])[""].alike is None


def test_a_collapse_shows_in_both() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU())
    healthy = units(model, images(8, 3, 16, 16))["1"]
    nn.init.constant_(model[0].weight, 0.1)
    model[0].bias.data.fill_(5.0)
    collapsed = units(model, images(8, 3, 16, 16))["1"]
    assert (healthy.rank or 0) > 5 * (collapsed.rank or 0) > 0
    assert (collapsed.alike or 0) > 0.9 > (healthy.alike or 0)


def test_no_signal_has_no_rank_and_broken_ones_no_number() -> None:
    model = nn.Linear(6, 9)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    assert units(model, images(7, 6))[""].rank == 0
    broken = units(model, images(7, 6) * math.inf)[""]
    assert broken.rank is broken.alike is None


@pytest.mark.parametrize(
    ("activation", "slope"),
    [
        (nn.Tanh(), lambda x: 1 - torch.tanh(x) ** 2),
        (nn.Sigmoid(), lambda x: 4 * torch.sigmoid(x) * torch.sigmoid(-x)),
        (nn.Hardtanh(), lambda x: (x.abs() < 1).double()),
        (nn.Hardsigmoid(), lambda x: (x.abs() < 3).double()),
    ],
)
def test_saturated_elements_have_no_slope(activation: nn.Module, slope: Any) -> None:
    x = images(8, 300) * 4
    found = units(nn.Sequential(nn.Identity(), nn.LayerNorm(300, elementwise_affine=False), activation), x)
    assert found["2"].saturated is not None
    model = nn.Sequential(nn.Linear(300, 300), activation)
    nn.init.eye_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    assert units(model, x)["1"].saturated == pytest.approx((slope(x.double()) < 1e-3).double().mean().item(), abs=1e-3)


def test_only_two_sided_functions_saturate() -> None:
    for activation in (nn.ReLU(), nn.ReLU6(), nn.GELU(), nn.ELU()):
        assert units(nn.Sequential(nn.Linear(3, 3), activation), images(4, 3))["1"].saturated is None


def by_hand(values: Tensor) -> tuple[list[int], int, int]:
    counts = [0] * 36
    for value in values.flatten().double().tolist():
        if math.isfinite(value) and value != 0:
            counts[min(max(math.floor((math.log10(abs(value)) + 12) * 2), 0), 35)] += 1
    numbers = [v for v in values.flatten().tolist() if math.isfinite(v)]
    return counts, sum(v < 0 for v in numbers), sum(v == 0 for v in numbers)


def test_histograms_count_magnitudes() -> None:
    x = images(40, 50) * 10 ** torch.linspace(-16, 9, 50)
    x[0, :4] = torch.tensor([0.0, -0.0, math.nan, -math.inf])
    for part in (x, x[:3], torch.zeros(5), -x):
        (found,) = histograms([part.flatten()])
        assert (list(found.counts), found.negative, found.zeros) == by_hand(part)
    both = histograms([x.flatten(), -x.flatten()[:7]])
    assert both == [*histograms([x.flatten()]), *histograms([-x.flatten()[:7]])]


_IMAGES, _OTHERS = [(16, 64, 56, 56), (2, 3, 224, 224)], [(16, 197, 384), (7,), (4096,), (4097,)]


@pytest.mark.parametrize(
    ("shape", "layout"),
    [(shape, torch.channels_last) for shape in _IMAGES]
    + [(shape, torch.contiguous_format) for shape in _IMAGES + _OTHERS],
)
def test_a_subsample_meets_every_channel_as_often(shape: tuple[int, ...], layout: torch.memory_format) -> None:
    axis = 1 if len(shape) == 4 else len(shape) - 1
    view = [1] * len(shape)
    view[axis] = -1
    channel = torch.arange(shape[axis]).view(view).float().expand(shape).contiguous()
    values = evenly(channel.contiguous(memory_format=layout))
    assert 0.4 * min(4096, channel.numel()) <= len(values) <= 4096
    counts = torch.bincount(values.long(), minlength=shape[axis]).double()
    assert float(counts.max() - counts.min()) <= 0.25 * float(counts.mean()) + 2


def test_histograms_of_a_run_are_not_overwritten_in_place() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
    conv, relu = run_steps(model, images(4, 3, 9, 9)).first.nodes
    assert conv.histogram is not None
    assert relu.histogram is not None
    assert conv.histogram.negative > 0 == conv.histogram.zeros
    assert relu.histogram.negative == 0 < relu.histogram.zeros
    assert relu.gradient_histogram is not None
    assert sum(relu.gradient_histogram.counts) + relu.gradient_histogram.zeros == 4 * 4 * 7 * 7


def test_steps_share_no_factor() -> None:
    for length in (12, 1024, 16 * 64 * 56 * 56, 1):
        for least in (0, 1, 2, 700):
            step = coprime_step(length, least)
            assert step >= least
            assert math.gcd(step, length) == 1
