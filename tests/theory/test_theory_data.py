"""Real data are correlated and uneven: what the theory is told of them, and what follows."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from wide_networks import measured, normal, predicted

from firstlight.graph import trace
from firstlight.probe import probe
from firstlight.theory import InputMoments, as_they_are, propagate
from firstlight.theory.taps import Taps, independent


def test_white_noise_has_no_near_sites():
    found = InputMoments.of(torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert found.near is None
    assert found.profile is None
    assert (found.far, found.other, found.across) == pytest.approx((0, 0, 0), abs=0.02)
    assert found.average == pytest.approx(1, abs=0.03)


def test_averaged_noise_is_as_close_as_its_windows_overlap():
    noise = torch.randn(8, 3, 66, 66, generator=torch.Generator().manual_seed(0))
    found = InputMoments.of(2 + 3 * nn.functional.avg_pool2d(noise, 3, 1))
    assert found.mean == pytest.approx((2, 2, 2), abs=0.05)
    triangle = np.array([1, 2 / 3, 1 / 3, 0])
    assert found.near[:4, :4] == pytest.approx(np.outer(triangle, triangle), abs=0.05)
    assert float(found.profile.mean()) == pytest.approx(1)


@pytest.mark.parametrize("alike", [0.0, 0.4])
def test_jensen_factor_of_correlated_taps(alike):
    values, copies, rng = np.array([0.2, 0.6, 2.2]), 4, np.random.default_rng(0)
    flat = np.array([0.1, 0.2, 0.7])
    squares = (rng.normal(size=(400_000, copies, 3)) ** 2).sum(1)
    size = squares @ values
    taps = Taps(tuple(values), tuple(flat), copies)
    assert taps.inverse == pytest.approx(float((1 / size).mean() * size.mean()), rel=0.01)
    gamma = 1 - alike + alike * 3 * flat
    assert taps.returned(alike) == pytest.approx(float(((squares @ gamma) / size).mean()), rel=0.01)


@pytest.mark.parametrize("n", [5.0, 9.0, 100.0])
def test_jensen_factor_of_independent_weights(n):
    assert independent(n).inverse == pytest.approx(n / (n - 2))
    assert independent(n).returned(0.3) == pytest.approx(1, rel=1e-3)


def depthwise():
    model = nn.Sequential(
        nn.Conv2d(16, 256, 1, bias=False), nn.BatchNorm2d(256), nn.Hardswish(),
        nn.Conv2d(256, 256, 3, padding=1, groups=256, bias=False), nn.BatchNorm2d(256), nn.Hardswish(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 256, bias=False),
    )  # fmt: skip
    return normal(model)


def test_a_depthwise_convolution_gives_back_an_echo_of_its_input():
    shape = (8, 16, 10, 10)
    found = measured(depthwise, shape, 6)
    torch.manual_seed(0)
    said = predicted(depthwise(), torch.zeros(*shape))
    for name in ("4:batch_norm", "3:conv2d", "2:hardswish"):
        mean, error = found.backward[name]
        assert said[name].backward_second_moment == pytest.approx(mean, abs=4 * error + 0.07 * mean), name


def test_uneven_data_make_a_mixture():
    sizes = torch.tensor([0.2, 0.3, 0.5, 3.0]).view(4, 1, 1, 1)
    noise = torch.randn(4, 64, 8, 8, generator=torch.Generator().manual_seed(0))
    batch = nn.functional.avg_pool2d(noise, 3, 1) * 3 * sizes
    torch.manual_seed(0)
    model = normal(nn.Sequential(nn.Conv2d(64, 512, 1, bias=False), nn.BatchNorm2d(512), nn.SiLU()))
    seen = {node.name: node.forward_std**2 + node.forward_mean**2 for node in probe(model, batch, loss=torch.sum).nodes}
    graph, drawn = trace(model, batch), as_they_are(model)
    told, untold = propagate(graph, drawn, inputs=InputMoments.of(batch)), propagate(graph, drawn)
    assert told["2:silu"].forward_second_moment == pytest.approx(seen["2:silu"], rel=0.05)
    assert untold["2:silu"].forward_second_moment < 0.9 * seen["2:silu"]


@pytest.mark.parametrize(("gain", "low", "high"), [(1.0, 0.68, 0.82), (1 / math.sqrt(3), 0.42, 0.5)])
def test_glorots_jacobian_singular_values(gain, low, high):
    # Glorot and Bengio (2010), section 4.2.1: near 0.8 with the normalized initialization, 0.5 with the standard one.
    width, depth = 400, 5
    torch.manual_seed(0)
    model = nn.Sequential(*[m for _ in range(depth) for m in (nn.Linear(width, width, bias=False), nn.Tanh())])
    for module in model[::2]:
        bound = gain * math.sqrt(3 / width)
        nn.init.uniform_(module.weight, -bound, bound)
    data = InputMoments(0.0, 0.1)  # inputs in the linear range, as the paper's images are
    nodes = propagate(trace(model, torch.zeros(2, width)), as_they_are(model), inputs=data).nodes
    said = [node for node in nodes if node.op == "linear"]
    x = math.sqrt(0.1) * torch.randn(1, width)
    for layer in range(1, depth):
        sums = model[2 * layer - 2](x).detach()
        x = torch.tanh(sums)
        # From the sums of one layer to those of the next: W diag(tanh').
        values = torch.linalg.svdvals(model[2 * layer].weight.detach() * (1 - x**2))
        chi = said[layer - 1].backward_second_moment / said[layer].backward_second_moment
        assert chi == pytest.approx(float(values.square().mean()), rel=0.05)
        assert low < float(values.mean()) < high


def test_a_norm_after_a_global_average_divides_each_sample_by_what_its_sites_share():
    rng = torch.Generator().manual_seed(0)
    smooth = nn.functional.avg_pool2d(torch.randn(4, 64, 18, 18, generator=rng), 3, 1)
    levels = torch.tensor([0.02, 0.1, 0.4, 1.0]).view(4, 1, 1, 1) * torch.randn(4, 64, 1, 1, generator=rng)
    batch = smooth * 3 + levels

    def build():
        pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(512), nn.Linear(512, 512, bias=False)]
        return normal(nn.Sequential(nn.Conv2d(64, 512, 1, bias=False), *pooled))

    torch.manual_seed(0)
    model = build()
    graph, drawn, inputs = trace(model, batch), as_they_are(model), InputMoments.of(batch)
    assert inputs.far == tuple(sorted(inputs.far))
    seen = {}
    for seed in range(4):
        torch.manual_seed(seed)
        nodes = probe(build(), batch, loss=lambda y: (y * torch.randn_like(y)).sum()).nodes
        for node in nodes:
            seen.setdefault(node.name, []).append(node.gradient_std**2)
    measured_ratio = np.mean(seen["0:conv2d"]) / np.mean(seen["4:linear"])
    alike = replace(inputs, far=float(np.mean(inputs.far)), anchors=None)
    for told, right in ((inputs, True), (alike, False)):
        said = propagate(graph, drawn, inputs=told)
        ratio = said["0:conv2d"].backward_second_moment / said["4:linear"].backward_second_moment
        assert (ratio == pytest.approx(measured_ratio, rel=0.1)) == right, (ratio, measured_ratio)


class Prefixed(nn.Module):
    """As networks are written that may have class tokens, and have none."""

    def __init__(self, tokens):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.tokens = nn.Conv2d(3, 16, 4, 4), tokens

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        return torch.cat([x[:, : self.tokens], torch.relu(x[:, self.tokens :])], 1)


@pytest.mark.parametrize("tokens", [0, 3])
def test_no_tokens_at_all_are_no_part(tokens):
    batch = torch.rand(4, 3, 32, 32)
    graph = trace(Prefixed(tokens), batch)
    said = propagate(graph, as_they_are(Prefixed(tokens)), inputs=InputMoments.of(batch))
    assert not said.opaque
    joined, cut, embedded = said.nodes[-1], said["relu"], said["flatten"]
    share = tokens / 64
    wanted = share * embedded.forward_second_moment + (1 - share) * cut.forward_second_moment
    assert joined.forward_second_moment == pytest.approx(wanted, rel=0.02)
