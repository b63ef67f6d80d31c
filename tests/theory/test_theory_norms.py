"""Norms and layers with weights, one number at a time: by enumeration, in closed form, or against draws."""

import math

import numpy as np
import pytest
import torch
from timm.layers import ScaledStdConv2d
from torch import Tensor, nn
from wide_networks import Written, normal

from firstlight.graph import trace
from firstlight.theory import InputMoments, as_they_are, walk
from firstlight.theory.axes import label
from firstlight.theory.inputs import WHITE_NOISE
from firstlight.theory.maps import Step
from firstlight.theory.maps.normalize import Group, _independent
from firstlight.theory.maps.weights import _shared_back
from firstlight.theory.signal import Gradient, Signal, scalar


def last(model: nn.Module, shape: tuple[int, ...], told: InputMoments = WHITE_NOISE, *, training: bool = True) -> Step:
    return list(walk(trace(model, torch.zeros(shape)), as_they_are(model), told, training)[1].values())[-1]


def pulled(step: Step, g: Gradient) -> Gradient:
    ((_, found, _),) = step.pull(g)
    return found


def field(shape: tuple[int, ...], far: float = 0.0, other: float = 0.0, **known: object) -> Signal:
    maps = (scalar(v, len(shape)) for v in (0.0, 1.0, far, other))
    return Signal("x", shape, label(shape, "bcss"), *maps, **known)  # type: ignore[arg-type]


def test_statistics_that_are_kept_shift_and_scale() -> None:
    model = nn.BatchNorm1d(64)
    for tensor, value in zip(
        (*model.parameters(), model.running_mean, model.running_var), (3, -2, 0.5, 4), strict=True
    ):
        nn.init.constant_(tensor, value)
    step = last(model, (8, 64), InputMoments(mean=1.0, second=2.0, other=0.3), training=False)
    # 3/2 (x - 0.5) - 2, whose mean is -1.25; x of variance one, of which samples share 0.3.
    assert [float(m) for m in step.signal.maps()] == pytest.approx(
        [-1.25, 1.25**2 + 2.25, 1.25**2, 1.25**2 + 0.3 * 2.25], rel=1e-4
    )
    assert float(pulled(step, Gradient(scalar(1.0, 2), scalar(0.0, 2))).second) == pytest.approx(2.25, rel=1e-4)


def test_a_norm_takes_from_a_gradient_what_it_would_without_a_bias() -> None:
    found = []
    for bias in (0.0, 2.0):
        model = nn.BatchNorm2d(16)
        nn.init.constant_(model.bias, bias)
        step = last(model, (4, 16, 6, 6), InputMoments(far=0.5))
        found.append(pulled(step, Gradient(scalar(1.0, 4), scalar(0.6, 4), lean=0.3)))
    assert float(found[1].second.mean()) == pytest.approx(float(found[0].second.mean()))
    assert [g.lean for g in found] == [0.3, 0.3]  # divided by one number, a gradient leans as it did


def test_a_norm_of_few_channels_takes_from_two_tokens_what_both_have() -> None:
    channels, far, draws = 24, 0.6, 4000
    step = last(nn.LayerNorm(channels, elementwise_affine=False), (draws, 2, channels))
    found = pulled(step, Gradient(scalar(1.0, 3), scalar(far, 3)))
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(draws, 2, channels, generator=rng).requires_grad_()
    g = math.sqrt(far) * torch.randn(draws, 1, channels, generator=rng) + math.sqrt(1 - far) * torch.randn(
        draws, 2, channels, generator=rng
    )
    (back,) = torch.autograd.grad(nn.functional.layer_norm(x, (channels,)), x, g)
    alike = float((back[:, 0] * back[:, 1]).mean() / back.square().mean())
    # What is taken along each token's own direction is another's: to first order in the number of channels.
    assert float(found.far.mean() / found.second.mean()) == pytest.approx(alike, rel=0.1)
    assert float(found.second.mean()) == pytest.approx(float(back.square().mean()), rel=0.03)


def test_places_of_uneven_size_are_divided_each_by_its_own() -> None:
    profile = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1
    profile = profile / profile.mean()

    def normed(x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x.permute(0, 2, 3, 1), (64,))

    even, uneven = (
        float(
            pulled(last(Written(normed), (4, 64, 6, 6), told), Gradient(scalar(1.0, 4), scalar(0.0, 4))).second.mean()
        )
        for told in (WHITE_NOISE, InputMoments(profile=profile))
    )
    assert uneven / even == pytest.approx(float((1 / profile).mean()))


@pytest.mark.parametrize("close", [False, True])
def test_a_variance_is_taken_over_as_many_numbers_as_differ(close: bool) -> None:
    near = np.array([[1.0, 0.6, 0.2], [0.5, 0.3, 0.1]]) if close else None
    profile = torch.rand(1, 1, 6, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1
    profile = profile / profile.mean()
    places = np.stack(np.meshgrid(np.arange(6), np.arange(7), indexing="ij"), -1).reshape(-1, 2)
    lags, kernel = np.abs(places[:, None] - places), np.full((42, 42), 0.1)
    for at, r in np.ndenumerate(np.ones((1, 1)) if near is None else near):
        kernel[(lags == at).all(-1)] = 0.1 + 0.9 * r
    sizes = np.ones(42) if close else np.sqrt(profile.numpy().ravel())
    kernel *= sizes[:, None] * sizes
    x = field((4, 8, 6, 7), far=0.1, near=near, profile=None if close else profile)
    said = _independent(x, Group(1, 42, 1, (2, 3)), 0.0)
    assert said == pytest.approx(np.trace(kernel) ** 2 / np.square(kernel).sum(), rel=0.02)


def test_elements_of_a_gradient_are_alike_within_samples_and_between_them() -> None:
    sizes, alike, other, sites = np.array([0.2, 0.8, 2.0]), 0.5, 0.3, 5
    root = np.sqrt(np.repeat(sizes, sites))
    sample = np.repeat(np.arange(3), sites)
    correlation = np.where(sample[:, None] == sample, alike, 0.0) + (1 - alike) * np.eye(15)
    within = np.square(root[:, None] * root * correlation).sum() / 15**2
    between = 2 / 3 * other**2  # on average, of all pairs of samples
    second = torch.from_numpy(sizes).view(3, 1, 1, 1)
    g = Gradient(second, scalar(alike, 4), other=other)
    assert _shared_back(g, field((3, 8, 5, 1)), 3) == pytest.approx(within + between)


def test_weights_that_add_up_to_zero_do_not_see_what_all_inputs_share() -> None:
    """White inputs of mean one about, smoothed over neighbours, with zeros around: E y y' of each place; by draws."""
    squares, pairs = [], []
    for seed in range(12):
        torch.manual_seed(seed)
        conv = ScaledStdConv2d(16, 256, 3, padding=1, bias=False)
        with torch.no_grad():
            y = conv(1 + torch.randn(64, 16, 4, 4)).flatten(2)
        squares.append(y.square().mean((0, 1)))
        pairs.append((y * (y.mean(2, keepdim=True) - y / 16)).mean((0, 1)) * 16 / 15)
    signal = last(conv, (64, 16, 4, 4), InputMoments(mean=1.0, second=2.0)).signal
    second, far = (m.expand(1, 1, 4, 4).flatten() for m in (signal.second, signal.far))
    scale = float(second.mean())
    assert second.tolist() == pytest.approx(torch.stack(squares).mean(0).tolist(), abs=0.06 * scale)
    assert far.tolist() == pytest.approx(torch.stack(pairs).mean(0).tolist(), abs=0.06 * scale)


def test_sites_under_a_kernel_that_adds_up_to_zero_cancel_as_far_as_they_are_alike() -> None:
    near = np.array([[1.0, 0.8, 0.5], [0.8, 0.6, 0.4], [0.5, 0.4, 0.3]])
    conv = ScaledStdConv2d(2, 256, 3, padding=0, bias=False)
    signal = last(conv, (4, 2, 9, 9), InputMoments(far=0.1, near=near)).signal
    places = np.stack(np.meshgrid(*2 * [np.arange(3)], indexing="ij"), -1).reshape(-1, 2)
    lags = np.abs(places[:, None] - places)
    alike = 0.1 + 0.9 * near[lags[..., 0], lags[..., 1]]
    # Σ w_k w_l K_kl of 18 weights with E w w' = -s²/17: of one channel those of the kernel, of two channels none.
    said = float((signal.second / signal.far).mean())
    second = 18 - (2 * alike.sum() - 18) / 17
    far = 0.1 * 18 - 0.1 * (2 * 81 - 18) / 17
    assert said == pytest.approx(second / far)


def test_weights_take_their_part_of_a_norm_back() -> None:
    weights, channels = 6, 64
    model = nn.Sequential(normal(nn.Linear(weights, channels, bias=False)), nn.BatchNorm1d(channels))
    graph = trace(model, torch.zeros(4096, weights))
    drawn = {"0.weight": (0.0, 1 / weights), "1.weight": (1.0, 1.0), "1.bias": (0.0, 0.0)}
    gradients = walk(graph, drawn)[2]
    back = next(g for name, g in gradients.items() if graph[name].kind == "input")
    assert float(back.second) == pytest.approx(channels / weights, rel=1e-2)  # Σ_c w_c²/|w_c|²
