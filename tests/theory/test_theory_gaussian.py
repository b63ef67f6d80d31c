import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from firstlight.theory.elementwise import Elementwise, aten, moments
from firstlight.theory.gaussian import expect, find_kinks, grid, hermite

NAMES = ["relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "mish", "hardswish", "hardsigmoid", "sigmoid",
         "tanh", "softplus", "hardtanh", "abs", "softshrink"]  # fmt: skip
ARGUMENTS = {"gelu": {"approximate": "none"}}


def by_scipy(f, mean, variance, power):
    std = math.sqrt(variance)
    cuts = sorted(
        {mean - 12 * std, mean + 12 * std, *(c for c in np.linspace(-10, 10, 41) if abs(c - mean) < 12 * std)}
    )

    def integrand(x):
        return float(f(torch.tensor(x, dtype=torch.float64))) ** power * stats.norm.pdf(x, mean, std)

    return sum(integrate.quad(integrand, a, b, epsabs=1e-13, limit=200)[0] for a, b in itertools.pairwise(cuts))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("variance", [0.01, 1.0, 100.0])
def test_moments_of_activations_agree_with_adaptive_quadrature(name, variance):
    f = aten(name, ARGUMENTS.get(name, {}))
    found = moments(f, np.array([0.3]), np.array([variance]))
    assert found.mean[0] == pytest.approx(by_scipy(f.call, 0.3, variance, 1), rel=1e-9, abs=1e-12)
    assert found.second[0] == pytest.approx(by_scipy(f.call, 0.3, variance, 2), rel=1e-9, abs=1e-12)


@given(st.floats(-3, 3), st.floats(0.01, 30))
def test_relu_has_the_closed_form(mean, variance):
    s, a = math.sqrt(variance), mean / math.sqrt(variance)
    found = moments(aten("relu", {}), np.array([mean]), np.array([variance]))
    assert found.mean[0] == pytest.approx(mean * stats.norm.cdf(a) + s * stats.norm.pdf(a), rel=1e-9, abs=1e-12)
    second = (mean**2 + variance) * stats.norm.cdf(a) + mean * s * stats.norm.pdf(a)
    assert found.second[0] == pytest.approx(second, rel=1e-9, abs=1e-12)
    assert found.chi[0] == pytest.approx(stats.norm.cdf(a), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("variance", [0.1, 1.0, 7.0])
def test_erf_has_williams_kernel(variance):
    # Williams, "Computing with infinite networks" (1997): E erf(u) erf(v) = 2/pi asin(2k / (1 + 2v)).
    found = moments(aten("erf", {}), np.zeros(3), np.full(3, variance))
    c = np.array([0.0, 0.5, 0.9])
    expected = 2 / math.pi * np.arcsin(2 * c * variance / (1 + 2 * variance))
    assert found.pair(c) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("c", [0.0, 0.3, 0.6, 0.9])
def test_relu_pairs_have_the_arc_cosine_kernels(c):
    # Cho and Saul (2009), degrees 1 and 0.
    found = moments(aten("relu", {}), np.zeros(1), np.ones(1))
    one = (math.sqrt(1 - c * c) + c * (math.pi - math.acos(c))) / (2 * math.pi)
    zero = (math.pi - math.acos(c)) / (2 * math.pi)
    assert found.pair(np.array([c]))[0] == pytest.approx(one, rel=2e-3)
    assert found.slope_pair(np.array([c]))[0] == pytest.approx(zero, rel=2e-2)


@given(st.floats(-2, 2), st.floats(0.05, 5))
def test_stein_lemma_ties_slope_to_covariance(mean, variance):
    f = aten("hardswish", {})
    found = moments(f, np.array([mean]), np.array([variance]))
    with_z = expect(lambda z: f.call(z) * (z - mean), mean, variance, (-3.0, 3.0))
    assert with_z == pytest.approx(variance * found.slope[0], rel=1e-8, abs=1e-10)


def test_weights_sum_to_one_and_hermite_is_orthonormal():
    g, w = grid(np.array([0.0, 2.0]), np.array([1.0, 0.0]), (0.5,))
    assert w.sum(1) == pytest.approx([1, 1], abs=1e-13)
    basis = hermite(g[0], 12)
    assert np.einsum("n,ni,nj->ij", w[0], basis, basis) == pytest.approx(np.eye(12), abs=1e-9)


@pytest.mark.parametrize(
    ("f", "places"),
    [
        (torch.nn.functional.relu6, (0, 6)), (torch.nn.functional.hardswish, (-3, 3)), (torch.tanh, ()),
        (lambda z: torch.clamp(z, -0.7, 0.123), (-0.7, 0.123)), (lambda z: (z > 1.5).double(), (1.5,)),
        (torch.nn.functional.silu, ()), (lambda z: torch.nn.functional.relu(z - 2).abs() + z, (2,)),
    ],
)  # fmt: skip
def test_corners_of_unknown_functions_are_found(f, places):
    assert find_kinks(f) == pytest.approx(places, abs=1e-6)


def test_an_unknown_function_with_a_corner_is_integrated_exactly():
    f = Elementwise("odd corner", lambda z: torch.maximum(z, torch.tensor(0.7321)))
    found = moments(f, np.zeros(1), np.ones(1)).mean[0]
    a = 0.7321
    assert found == pytest.approx(a * stats.norm.cdf(a) + stats.norm.pdf(a), rel=1e-8)


def test_equal_moments_are_shared_and_many_are_rounded_together():
    variance = np.linspace(1, 2, 5000)
    found = moments(aten("relu", {}), np.zeros(5000), variance)
    assert found.second == pytest.approx(variance / 2, rel=6e-3)
    assert found.second.mean() == pytest.approx(0.75, rel=1e-4)


def test_numbers_that_differ_in_their_last_bit_are_not_counted_apart():
    variance = np.linspace(1, 2, 90)
    variance = np.concatenate([variance, np.nextafter(variance, 3)])
    assert moments(aten("relu", {}), np.zeros(180), variance).second == pytest.approx(variance / 2, rel=1e-9)


@pytest.mark.parametrize("name", ["relu", "tanh", "hardswish"])
def test_an_element_pairs_with_itself_as_its_square(name):
    found = moments(aten(name, {}), np.array([0.4]), np.array([1.7]))
    assert found.pair(np.ones(1)) == pytest.approx(found.second, rel=1e-12)
    assert found.slope_pair(np.ones(1)) == pytest.approx(found.chi, rel=1e-12)
    assert found.pair(np.zeros(1)) == pytest.approx(found.mean**2, rel=1e-9)
