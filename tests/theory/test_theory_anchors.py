"""The kernel of real data between blocks of sites: exact where it starts, and a law for each thing done with it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from wide_networks import normal

from firstlight.graph import trace
from firstlight.probe import probe
from firstlight.theory import InputMoments, as_they_are, propagate, walk
from firstlight.theory.anchors import Anchors, calibrated, centred
from firstlight.theory.elementwise import Elementwise, aten
from firstlight.theory.lone import evened
from firstlight.theory.pixels import Pixels, of_images
from firstlight.theory.series import of_function
from firstlight.theory.signal import fresh, scalar
from firstlight.theory.spectrum import Spectrum, sharing
from firstlight.theory.taps import Taps


def photographs(samples=8, channels=3, side=32, seed=0):
    """Smooth, uneven, each with a level of its own: what a norm after a global average minds."""
    rng = torch.Generator().manual_seed(seed)
    noise = torch.randn(samples, channels, side + 8, side + 8, generator=rng)
    smooth = nn.functional.avg_pool2d(noise, 9, 1) * 9
    sizes = torch.rand(samples, 1, 1, 1, generator=rng) * 1.5 + 0.2
    return smooth * sizes + torch.randn(samples, channels, 1, 1, generator=rng) * 0.5 * sizes


def kernel(x):
    """Of features [N, C, *sites], averaged over the sites of two samples."""
    means = x.flatten(2).double().mean(2)
    return (means @ means.T / x.shape[1]).numpy()


def test_blocks_of_an_image_average_to_its_own_kernel():
    batch = photographs()
    found = of_images(batch)
    assert found.between_samples(32 * 32).numpy() == pytest.approx(kernel(batch), rel=0.005, abs=0.002)
    assert float(found.own.mean()) == pytest.approx(float(batch.square().mean()), rel=1e-5)


@pytest.mark.parametrize("normalized", [False, True])
def test_a_first_convolution_is_exact(normalized):
    batch = photographs()
    torch.manual_seed(0)
    model = normal(nn.Conv2d(3, 4000, 4, stride=4, bias=False))
    y = model(batch).detach()
    if normalized:
        y = y / y.square().mean(1, keepdim=True).sqrt()
    found = of_images(batch).pixels
    found = type(found)(found.images, (4, 4), (4, 4), (0, 0), (1, 1), (8, 8)).moments(normalized=normalized)
    ratio = float(y.square().mean()) / float(found.own.mean())
    said = found.between_samples(64).numpy() * ratio
    assert said == pytest.approx(kernel(y), abs=0.05 * np.abs(kernel(y)).max())


def gram(m=6, seed=0):
    x = np.random.default_rng(seed).normal(size=(m, 4))
    return torch.from_numpy(x @ x.T / 4)


def test_a_function_of_anchors_is_its_expectation():
    k = gram()
    rng = np.random.default_rng(1)
    z = rng.multivariate_normal(np.zeros(6), k.numpy(), size=400_000)
    f = Elementwise("relu", torch.relu)
    own = k.diagonal().clone()
    found = of_function(Anchors(k, own, 6, ()), 0.0, f, float(own.sqrt().mean()) * 0.4, float(own.mean()) / 2)
    y = np.maximum(z, 0)
    assert found.values.numpy() == pytest.approx(y.T @ y / len(y), abs=0.02 * float(own.mean()))


def test_centred_anchors_have_no_mean():
    found = centred(Anchors(gram(), gram().diagonal().clone(), 6, ()), 1)
    assert found.whole(1).mean(1).numpy() == pytest.approx(np.zeros(6), abs=1e-12)


def test_sharing_counts_independent_elements():
    alone = Anchors(torch.eye(8, dtype=torch.float64), torch.ones(8, dtype=torch.float64), 8, ())
    same = Anchors(torch.ones(8, 8, dtype=torch.float64), torch.ones(8, dtype=torch.float64), 8, ())
    assert sharing(alone, 1) == pytest.approx(1 / 8)
    assert sharing(same, 1) == pytest.approx(1)


def test_a_norm_of_each_channel_weighs_what_is_shared_less():
    k = gram(m=24, seed=3) + 0.3 * torch.eye(24, dtype=torch.float64)
    whole = Anchors(k, k.diagonal().clone(), 24, ())
    rng = np.random.default_rng(0)
    y = rng.multivariate_normal(np.zeros(24), k.numpy(), size=100_000)
    y = y - y.mean(1, keepdims=True)
    variance = y.var(1)
    spectrum = whole.spectrum(1)
    assert spectrum.inverse == pytest.approx(float((1 / variance).mean() * variance.mean()), rel=0.02)
    z = y / np.sqrt(variance)[:, None]
    said = spectrum.equalized(whole, 1)
    assert said.values.numpy() == pytest.approx(z.T @ z / len(z), abs=0.02)


def test_equalized_taps_against_draws():
    values = np.array([0.1, 0.5, 2.4])
    w = np.random.default_rng(0).normal(size=(400_000, 2, 3))
    size = (w**2).sum(1) @ values
    taps = Taps(tuple(values), (0.1, 0.2, 0.7), 2)
    measured = [(w[:, 0, k] ** 2 * 2 / size).mean() for k in range(3)]
    assert taps.equalized(np.eye(3)) == pytest.approx(measured, rel=0.02)


def test_batch_norms_take_what_samples_share_from_the_gradient_once():
    torch.manual_seed(0)

    def build():
        layers = []
        for _ in range(3):
            layers += [nn.Conv2d(256, 256, 1, bias=False), nn.BatchNorm2d(256)]
        return normal(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 256, bias=False)))

    batch = torch.randn(4, 256, 3, 3)
    said = propagate(trace(build(), batch), as_they_are(build()))
    seen = {}
    for seed in range(6):
        torch.manual_seed(seed)
        for node in probe(build(), batch, loss=lambda y: (y * torch.randn_like(y)).sum()).nodes:
            seen.setdefault(node.name, []).append((node.gradient_std or 0.0) ** 2)
    first, last = "1:batch_norm", "5:batch_norm"
    measured = np.mean(seen[first]) / np.mean(seen[last])
    ratio = said[first].backward_second_moment / said[last].backward_second_moment
    assert ratio == pytest.approx(measured, rel=0.15)


def test_each_sample_of_photographs_keeps_its_own_size_through_layers():
    batch = photographs(channels=3)

    def build():
        body = [nn.Conv2d(3, 384, 4, 4), nn.GELU(), nn.Conv2d(384, 384, 1), nn.GELU(), nn.Conv2d(384, 384, 3, 2, 1)]
        return normal(nn.Sequential(*body, nn.AdaptiveAvgPool2d(1)), 2.0)

    torch.manual_seed(0)
    model = build()
    context, _, _ = walk(trace(model, batch), as_they_are(model), InputMoments.of(batch))
    said = context.signals["5:adaptive_avg_pool2d"].second.flatten().numpy()
    measured = []
    for seed in range(4):
        torch.manual_seed(seed)
        measured.append(build()(batch).detach().square().mean((1, 2, 3)).numpy())
    assert said == pytest.approx(np.mean(measured, 0), rel=0.2)


def test_places_that_make_one_channel_large_count_for_less_after_its_norm():
    """A function of a normalized field, normalized again: against 40,000 channels drawn."""
    rng = torch.Generator().manual_seed(0)
    sizes = torch.tensor([0.1, 0.3, 0.8, 2.8], dtype=torch.float64).repeat_interleave(16)
    alike = torch.block_diag(*[torch.full((16, 16), 0.5, dtype=torch.float64)] * 4) + 0.5 * torch.eye(64)
    root = torch.linalg.cholesky(alike) * sizes.sqrt()[:, None]
    z = torch.randn(40_000, 64, generator=rng, dtype=torch.float64) @ root.T
    z = z - z.mean(1, keepdim=True)
    z = z / z.square().mean(1, keepdim=True).sqrt()
    y = nn.functional.silu(z)
    y = y - y.mean(1, keepdim=True)
    squares = y.square()
    normed = squares / squares.mean(1, keepdim=True)
    seen = (normed.mean(0) / (squares.mean(0) / squares.mean())).view(4, 16).mean(1)
    kernel = z.T @ z / len(z)
    base = Anchors(kernel, kernel.diagonal().clone(), 4, (4, 4))
    found = evened(of_function(base, 0.0, aten("silu", {}), 1.0, 1.0), (4, 4))
    assert found.view(4, 16).mean(1).tolist() == pytest.approx(seen.tolist(), rel=0.04)
    assert seen[0] > 1.15 * seen[3]


def test_blocks_of_uneven_sites_share_no_more_than_the_mean():
    own = torch.ones(4, dtype=torch.float64)
    field = Anchors(torch.zeros(4, 4, dtype=torch.float64), own, 4, ())
    relu = Elementwise("relu", torch.relu)
    # Sites of sizes 0.2 and 1.8 have a smaller mean than those of their mean square.
    mean = 0.3989 * float(np.sqrt([0.2, 1.8]).mean())
    assert float(of_function(field, 0.0, relu, mean, 0.5).values[0, 1]) == pytest.approx(mean**2, rel=1e-3)
    assert float(of_function(field, 0.0, relu, 1.0, 0.5).values[0, 1]) == pytest.approx(0.3989**2, rel=1e-3)


def test_windows_of_pixels_resemble_each_other_beyond_their_blocks():
    generator = torch.Generator().manual_seed(0)
    images = nn.functional.avg_pool2d(torch.randn(4, 3, 34, 34, generator=generator), 3, 1)
    pixels = Pixels(images).through((3, 3), (1, 1), (0, 0), (1, 1), (30, 30))
    found = pixels.moments()
    patches = nn.functional.unfold(images, 3).transpose(1, 2).flatten(0, 1).double()
    patches = patches - patches.mean(0)
    kernel = patches @ patches.T / patches.shape[1]
    said = float(centred(found.blocks(), 900).whole(900).square().mean()) + found.noise
    assert said == pytest.approx(float(kernel.square().mean()), rel=0.05)
    assert found.noise > 0.5 * said


def test_the_rest_of_a_spectrum_has_as_many_directions_as_its_noise_says():
    kernel = torch.zeros(8, 8, dtype=torch.float64)
    middle = Anchors(kernel, torch.ones(8, dtype=torch.float64), 8, (), noise=1 / 6)
    spectrum = Spectrum.of(middle, 1000)
    assert spectrum.count == pytest.approx(6, rel=0.01)
    draws = np.random.default_rng(0).chisquare(6, 1_000_000) / 6
    assert spectrum.inverse == pytest.approx(float((1 / draws).mean()), rel=0.02)


def test_what_is_added_to_a_likeness_is_less_at_a_border():
    second = torch.ones(1, 1, 4, 4, dtype=torch.float64)
    second[..., 0] = 0.04
    signal = fresh("x", (2, 3, 4, 4), ((("b", 2),), (("c", 3),), (("s", 4),), (("s", 4),)), mean=scalar(0, 4),
                   second=second, far=scalar(0, 4), other=scalar(0, 4))  # fmt: skip
    alike = Anchors(torch.full((2, 2), 0.5, dtype=torch.float64), torch.ones(2, dtype=torch.float64), 2, (1, 1))
    found = calibrated(replace(signal, anchors=alike))
    assert float(found.other.mean()) == pytest.approx(0.5 * 15 / 16 + 0 + 0, rel=0.1)
    assert float(found.other[..., 0].mean()) == pytest.approx(0.2 * float(found.other[..., 1].mean()))
    assert float(found.far[..., 0].mean()) < 0.3 * float(found.far[..., 1].mean())
