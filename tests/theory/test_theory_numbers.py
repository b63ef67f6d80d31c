"""What is kept of signals, gradients, kernels and data, each number by enumeration or against draws."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from wide_networks import Written

from firstlight.graph import Node, trace
from firstlight.theory import InputMoments, as_they_are, law, propagate, walk
from firstlight.theory.anchors import Anchors
from firstlight.theory.axes import label
from firstlight.theory.elementwise import aten
from firstlight.theory.lone import of_field
from firstlight.theory.maps import RULES, Context, Step
from firstlight.theory.propagate import forward
from firstlight.theory.signal import Gradient, Signal, scalar
from firstlight.theory.spectrum import Spectrum, alike_within, sharing

NEAR = np.array([[1.0, 0.6, 0.2], [0.5, 0.3, 0.1]])


def blocks(seed: int = 0) -> tuple[Anchors, np.ndarray]:
    """Two samples of two blocks of three sites, and the kernel of all twelve."""
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((4, 6))
    values = root @ root.T / 6
    own = values.diagonal() + rng.uniform(0.2, 0.8, 4)
    kernel = values.repeat(3, 0).repeat(3, 1)
    np.fill_diagonal(kernel, own.repeat(3))
    return Anchors(torch.from_numpy(values), torch.from_numpy(own), 2, (2,)), kernel


def test_elements_are_alike_as_all_pairs_of_sites_are() -> None:
    anchors, kernel = blocks()
    assert sharing(anchors, 6) == pytest.approx(np.square(kernel).mean() / kernel.diagonal().mean() ** 2)
    middle = np.eye(6) - 1 / 6
    seen = [middle @ k @ middle for k in (kernel[:6, :6], kernel[6:, 6:])]
    wanted = [np.square(k).mean() / k.diagonal().mean() ** 2 for k in seen]
    assert alike_within(anchors, 6).tolist() == pytest.approx(wanted)


def test_a_norm_of_each_channel_divides_by_what_it_has_drawn() -> None:
    rng = np.random.default_rng(0)
    vectors, shares, count = np.linalg.qr(rng.standard_normal((3, 3)))[0], np.array([0.3, 0.2, 0.1]), 8
    spectrum = Spectrum(shares, vectors, 0.4, np.array([0.2, 0.4, 0.6]), 0.4**2 / count)
    squares, within = rng.chisquare(1, (1_000_000, 3)), rng.chisquare(count, 1_000_000) / count
    size = squares @ shares + 0.4 * within
    assert spectrum.inverse == pytest.approx((1 / size).mean(), rel=0.01)
    assert spectrum.spread == pytest.approx((1 / size).var() / (1 / size).mean() ** 2, rel=0.04)
    kernel = 3 * (vectors * (shares * (squares / size[:, None]).mean(0))) @ vectors.T
    own = kernel.diagonal() + np.array([0.2, 0.4, 0.6]) * (within / size).mean()
    even = torch.ones(3, dtype=torch.float64)
    found = spectrum.equalized(Anchors(torch.eye(3, dtype=torch.float64), even, 3, ()), 1)
    assert found.own.tolist() == pytest.approx((own / own.mean()).tolist(), rel=0.01)
    assert found.values.numpy() == pytest.approx(kernel / own.mean(), abs=0.01)


def test_places_that_make_a_channel_large_count_for_less_behind_a_norm() -> None:
    rng = np.random.default_rng(0)
    root, rest = rng.standard_normal((4, 5)) * np.array([[1.5], [0.4], [0.8], [0.8]]) + 1, 0.3
    z = rng.standard_normal((6000, 5)) @ root.T
    fields = z[:, :, None] + rest**0.5 * rng.standard_normal((6000, 4, 40))  # forty sites in each block
    fields -= fields.mean((1, 2), keepdims=True)
    fields /= fields.std((1, 2), keepdims=True)
    fields *= np.sqrt((z.var(1) + rest).mean())
    y = np.maximum(fields, 0)
    squares = ((y - y.mean((1, 2), keepdims=True)) ** 2).mean(2)
    whole = squares.mean(1)
    seen = (squares / whole[:, None]).mean(0) / (squares.mean(0) / whole.mean())
    values = torch.from_numpy(root @ root.T)
    found = of_field(values, values.diagonal() + rest, torch.relu)
    assert found.tolist() == pytest.approx(seen.tolist(), rel=0.015)
    assert np.abs(seen - 1).max() > 0.05


def test_a_level_is_the_mean_of_all_products() -> None:
    places = np.stack(np.meshgrid(np.arange(5), np.arange(6), indexing="ij"), -1).reshape(-1, 2)
    lags, within = np.abs(places[:, None] - places), np.full((30, 30), 0.3 + 0.25)
    for at, r in np.ndenumerate(NEAR):
        within[(lags == at).all(-1)] = 0.25 + 0.3 + 0.7 * r
    kernel = np.full((3, 30, 3, 30), 0.1 + 0.25)
    kernel[range(3), :, range(3)] = within
    shape = (3, 8, 5, 6)
    maps = [scalar(v, 4) for v in (0.5, 1.25, 0.55, 0.35)]
    x = Signal("x", shape, label(shape, "bcss"), *maps, near=NEAR)
    assert x.level(3) == pytest.approx(kernel.mean())
    assert x.covariances() == pytest.approx([1.0, 0.3, 0.1])


def gradient(second: float, **known: object) -> Gradient:
    return Gradient(scalar(second, 2), scalar(0.0, 2), **known)  # type: ignore[arg-type]


def test_gradients_that_meet_keep_what_each_brings() -> None:
    profiles = [torch.tensor([[a], [2 - a]], dtype=torch.float64) for a in (0.2, 1.6)]
    known = ({"tied": 2.0, "other": -0.1, "lean": 0.4}, {"tied": 1.25, "other": -0.3, "lean": 0.1})
    one, two = (
        gradient(second, profile=profile, along=scalar(second / 2, 2), echo=scalar(second / 4, 2), **more)
        for second, profile, more in zip((1.0, 3.0), profiles, known, strict=True)
    )
    both = one + two
    assert both.profile is not None
    assert both.along is not None
    assert both.echo is not None
    assert float(both.before_weights().second) == pytest.approx(1 / 2 + 3 / 1.25)
    assert (both.other, both.lean * 4) == pytest.approx((-0.4, 0.4 + 3 * 0.1))
    assert (float(both.along), float(both.echo)) == (2.0, 1.0)
    torch.testing.assert_close(both.profile * 4, profiles[0] + 3 * profiles[1])
    assert both.scaled(4.0).other == pytest.approx(-1.6)


def batch() -> torch.Tensor:
    noise = torch.randn(4, 2, 10, 9, generator=torch.Generator().manual_seed(0))
    level = torch.tensor([0.1, 0.5, 1.0, 2.0]).view(4, 1, 1, 1)
    return torch.nn.functional.avg_pool2d(noise, 5, 1) * 5 + level * torch.randn(4, 2, 1, 1)


def test_distant_sites_are_those_half_an_image_apart_and_samples_differ_by_their_means() -> None:
    x = batch().double()
    z = (x - x.mean((0, 2, 3), keepdim=True)).flatten(2)
    places = np.stack(np.meshgrid(np.arange(6), np.arange(5), indexing="ij"), -1).reshape(-1, 2)
    lags = np.abs(places[:, None] - places)
    products = torch.einsum("nci,ncj->ij", z, z).numpy() / z.square().sum().item() * 30
    distant = (lags >= 3).any(-1)
    told = InputMoments.of(x)
    fars = np.array(told.far)
    assert fars.mean() == pytest.approx(products[distant].mean(), rel=1e-6)
    assert told.near is not None
    inside = (lags < np.array(told.near.shape)).all(-1)
    close = np.where(inside, told.near[tuple(np.where(inside, lags[..., d], 0) for d in (0, 1))], 0.0).mean()
    means = (x.mean((2, 3)).square().mean(1) / z.square().mean()).numpy()
    # The mean product of two sites of one sample is far + close (1 - far), the same closeness for all.
    assert (fars - fars.mean()) * (1 - close) == pytest.approx(means - means.mean())


def test_a_part_is_distributed_as_the_whole() -> None:
    signals = walk(trace(Written(lambda x: x.relu().chunk(2, 1)[1]), torch.zeros(4, 16)), {})[0].signals
    whole, part = signals["relu"], list(signals.values())[-1]
    assert part.skew == whole.skew > 1
    assert law.of(part) == law.of(whole) is not None


@pytest.mark.parametrize("lower", [0.1, 0.3])
def test_a_random_slope_is_its_middle(lower: float) -> None:
    model = Written(lambda x: torch.nn.functional.rrelu(x, lower, 0.5))
    said = propagate(trace(model, torch.zeros(4, 64)), {}, training=False)
    middle = (lower + 0.5) / 2
    assert said.nodes[-1].forward_second_moment == pytest.approx((1 + middle**2) / 2, rel=1e-6)


@pytest.mark.parametrize("width", [3, 5, 8])
def test_the_length_of_a_few_numbers_is_less_than_the_root_of_its_square(width: int) -> None:
    model = Written(lambda x: torch.linalg.vector_norm(x, dim=-1))
    said = propagate(trace(model, torch.zeros(4, width)), {}).nodes[-1]
    chi = math.sqrt(2) * math.exp(math.lgamma((width + 1) / 2) - math.lgamma(width / 2))  # E of a chi variable
    assert said.forward_mean == pytest.approx(chi, rel=0.01)
    assert said.forward_second_moment == pytest.approx(width)


def test_parameters_know_their_fourth_moment() -> None:
    found = as_they_are(Uniform())
    assert found["weight"][2] == pytest.approx(1.8, rel=0.02)  # of a uniform distribution
    assert found["bias"][2] == 3.0


class Uniform(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(200, 200, generator=torch.Generator().manual_seed(0)) - 0.5)
        self.bias = torch.nn.Parameter(torch.zeros(200))


def test_correlation_is_between_two_samples_and_relative() -> None:
    model = Written(lambda x: 3 * torch.relu(x))
    said = propagate(trace(model, torch.zeros(4, 64)), {}).nodes[-1]
    assert said.correlation == pytest.approx(1 / np.pi)  # (E relu)²/E relu²


def test_quantiles_of_parts_count_by_their_share() -> None:
    x = signal_of(0.0)
    cut = replace(x, base=x, function=aten("relu", {}), mean=scalar(0.4, 2), second=scalar(0.5, 2))
    alone, half, little = (law.joined([cut, x], [s, 1 - s]) for s in (1.0, 0.5, 0.1))
    distances = [float((law.WEIGHTS * (found.quantiles - law.NODES) ** 2).sum()) for found in (alone, half, little)]
    assert distances[0] > 3 * distances[1] > 9 * distances[2]


def signal_of(mean: float) -> Signal:
    one = scalar(1.0, 2)
    return Signal("x", (4, 64), label((4, 64), "bc"), scalar(mean, 2), one, scalar(mean**2, 2), scalar(mean**2, 2))


def test_a_rule_that_fails_late_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = RULES["tanh"]

    def fails(node: Node, context: Context) -> Step:
        step = rule(node, context)
        assert step is not None
        assert node.name in context.leaves
        raise ValueError("late")

    monkeypatch.setitem(RULES, "tanh", fails)
    model = Written(lambda x: torch.tanh(3 * x))
    context, steps = forward(trace(model, torch.zeros(4, 64)), {})
    assert "late" in steps["tanh"].opaque
    assert context.leaves["tanh"][0] == pytest.approx(9.0)  # as it was handed on
