"""Closed forms and published figures; where a figure is typed in, its source stands beside it."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn
from wide_networks import Residual, Written, normal, predicted

from firstlight.graph import trace
from firstlight.initialization import kaiming
from firstlight.theory import walk


def chain(widths, activation, *, norm=False):
    layers = []
    for n, m in itertools.pairwise(widths):
        layers += [nn.Linear(n, m, bias=False), *([nn.BatchNorm1d(m)] if norm else []), activation()]
    return nn.Sequential(*layers)


def of_op(prediction, op):
    return [node for node in prediction.nodes if node.op == op]


def weights(model, variance):
    return {name: (0.0, variance(p)) for name, p in model.named_parameters() if p.dim() > 1}


def second_map(model, example, drawn):
    context, _, _ = walk(trace(model, example), drawn)
    return {name: signal.second for name, signal in context.signals.items()}


# He, Zhang, Ren, Sun (2015), section 2.2.


def test_he_vgg_b_standard_deviations():
    stds = []
    for c in (64, 128, 256, 512):
        with torch.device("meta"):
            model = nn.Sequential(nn.Conv2d(c, c, 3, padding=1), nn.ReLU())
        plan = kaiming(trace(model, torch.zeros(2, c, 8, 8)))
        stds.append(next(d.std for d in plan.decisions if d.name == "0.weight"))
    assert stds == pytest.approx([math.sqrt(2 / (9 * c)) for c in (64, 128, 256, 512)])
    assert [round(s, 3) for s in stds] == [0.059, 0.042, 0.029, 0.021]


def test_he_vgg_b_gradient_shrinks_to_one_in_seventeen_thousand():
    # The gradient from conv10 to conv2 at std 0.01: 1/(5.9 × 4.2² × 2.9² × 2.1⁴) = 1/(1.7 × 10⁴).
    fans = [9 * c for c in (64, 128, 128, 256, 256, 512, 512, 512, 512)]
    with torch.device("meta"):
        model = nn.Sequential(
            nn.ReLU(),
            *[m for n, k in zip([27, *fans], fans, strict=False) for m in (nn.Linear(n, k, bias=False), nn.ReLU())],
        )
    found = predicted(model, torch.zeros(2, 27), weights(model, lambda p: 1e-4))
    layers = of_op(found, "linear")
    first, last = of_op(found, "relu")[0], layers[-1]
    ratio = math.sqrt(first.backward_second_moment / last.backward_second_moment)
    expected = math.prod(math.sqrt(n * 1e-4) for n in fans) * math.sqrt(0.5) ** 8
    assert ratio == pytest.approx(expected, rel=1e-9)
    assert ratio / math.sqrt(2) ** 1 == pytest.approx(1 / 1.67e4, rel=5e-3)


# EECS 498-007 / CS231n, lecture on initialization: six layers of 4096 units on N(0, 1) inputs.

TABLE = {
    ("tanh", 0.001): [6.37e-2, 4.08e-3, 2.61e-4, 1.67e-5, 1.07e-6, 6.8e-8],
    ("tanh", 0.01): [0.492, 0.289, 0.179, 0.113, 0.072, 0.046],
    ("tanh", 0.05): [0.872, 0.853, 0.850, 0.849, 0.849, 0.849],
    ("tanh", 1 / 64): [0.628, 0.486, 0.408, 0.358, 0.322, 0.294],
    ("relu", 1 / 64): [0.584, 0.413, 0.292, 0.206, 0.146, 0.103],
    ("relu", math.sqrt(2) / 64): [0.8256] * 6,
    ("relu", 1 / math.sqrt(3 * 4096)): [0.337, 0.138, 0.056, 0.0229, 0.0094, 0.0038],
}


@pytest.mark.parametrize(("activation", "std"), TABLE)
def test_the_lecture_table(activation, std):
    with torch.device("meta"):
        model = chain([4096] * 7, nn.Tanh if activation == "tanh" else nn.ReLU)
    found = of_op(predicted(model, torch.zeros(16, 4096), weights(model, lambda p: std**2)), activation)
    f = math.tanh if activation == "tanh" else lambda x: max(x, 0.0)
    q, exact = 1.0, []
    for _ in range(6):
        s = math.sqrt(4096 * q) * std
        ends = (-12, -3, -1, -0.1, 0, 0.1, 1, 3, 12)

        def moment(power, s=s, ends=ends):
            return sum(
                integrate.quad(lambda z: f(s * z) ** power * stats.norm.pdf(z), a, b, epsabs=0, epsrel=1e-11)[0]
                for a, b in itertools.pairwise(ends)
            )

        mean = 0.0 if activation == "tanh" else moment(1)
        q = moment(2)
        exact.append(math.sqrt(q - mean**2))
    assert [node.forward_std for node in found] == pytest.approx(exact, rel=1e-6)
    assert exact == pytest.approx(TABLE[activation, std], rel=1.2e-2)


def test_batch_norm_and_relu_multiply_gradients_by_pi_over_pi_minus_one():
    # Yang et al., "A mean field theory of batch normalization" (2019), for wide layers and large batches.
    with torch.device("meta"):
        model = chain([8192] * 6, nn.ReLU, norm=True)
    drawn = weights(model, lambda p: 1 / 8192) | {
        n: (1.0, 1.0) for n, _ in model.named_parameters() if n.endswith(("1.weight",))
    }
    drawn |= {f"{3 * k + 1}.weight": (1.0, 1.0) for k in range(5)} | {f"{3 * k + 1}.bias": (0.0, 0.0) for k in range(5)}
    layers = of_op(predicted(model, torch.zeros(16384, 8192, device="meta"), drawn), "linear")
    growth = [a.backward_second_moment / b.backward_second_moment for a, b in itertools.pairwise(layers[1:])]
    assert growth == pytest.approx([math.pi / (math.pi - 1)] * 3, rel=2e-3)


@pytest.mark.parametrize(
    ("size", "figures", "close"),
    [(7, {5: 0.492, 10: 0.288, 20: 0.102}, 0.04), (14, {5: 0.724, 10: 0.590, 20: 0.421}, 0.05)],
)
def test_zero_padding_is_a_field(size, figures, close):
    with torch.device("meta"):
        model = nn.Sequential(*[m for _ in range(20) for m in (nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.ReLU())])
    drawn = weights(model, lambda p: 2 / 576)
    found = of_op(predicted(model, torch.zeros(2, 64, size, size), drawn), "relu")
    field = torch.ones(1, 1, size, size, dtype=torch.float64)
    for depth in range(1, 21):
        field = nn.functional.conv2d(field, torch.full((1, 1, 3, 3), 1 / 9, dtype=torch.float64), padding=1)
        assert found[depth - 1].forward_second_moment == pytest.approx(float(field.mean()), rel=1e-3)
    for depth, figure in figures.items():
        assert found[depth - 1].forward_second_moment == pytest.approx(figure, rel=close)


def test_transposed_convolution_has_phases():
    with torch.device("meta"):
        model = nn.ConvTranspose2d(64, 32, 3, stride=2, bias=False)
    drawn = weights(model, lambda p: 1 / (64 * 9 / 4))
    maps = second_map(model, torch.zeros(2, 64, 9, 9), drawn)
    adjoint = nn.functional.conv_transpose2d(torch.ones(1, 64, 9, 9), torch.ones(64, 1, 3, 3), stride=2)
    assert maps["conv_transpose2d"][0, 0] == pytest.approx(adjoint[0, 0].double() / (64 * 9 / 4), rel=1e-6)
    inner = maps["conv_transpose2d"][0, 0, 4:8, 4:8]
    ratios = sorted(set(np.round((inner / inner.min()).numpy(), 9).ravel()))
    assert ratios == [1.0, 2.0, 4.0]
    assert float(inner.min()) == pytest.approx(4 / 9)
    assert float(inner.mean()) == pytest.approx(1.0)


def ten_convolutions(size):
    with torch.device("meta"):
        convolutions = [m for _ in range(10) for m in (nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.ReLU())]
        model = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1))
    return predicted(model, torch.zeros(2, 64, size, size), weights(model, lambda p: 2 / 576))


def test_global_average_pool_keeps_what_sites_share():
    # Far from the border, ten steps of the arc-cosine kernel (Cho and Saul, 2009) from independent pixels.
    c = 0.0
    for _ in range(10):
        c = (math.sqrt(1 - c * c) + c * (math.pi - math.acos(c))) / math.pi
    assert ten_convolutions(128).nodes[-1].gain == pytest.approx(c, rel=0.04)


def exact_share_of_a_global_average(size, depth):
    """The whole kernel between all pairs of pixels, layer by layer (Novak et al., 2019), and its mean at the end."""
    k = torch.eye(size * size, dtype=torch.float64).view(size, size, size, size)
    for _ in range(depth):
        padded = nn.functional.pad(k, (1, 1) * 4)
        steps = itertools.product(range(3), range(3))
        k = 2 / 9 * sum(padded[i : i + size, j : j + size, i : i + size, j : j + size] for i, j in steps)
        root = k.reshape(size * size, -1).diagonal().sqrt()
        length = (root[:, None] * root).view_as(k)
        c = (k / length).clamp(-1, 1)
        k = length / (2 * math.pi) * ((1 - c * c).sqrt() + c * (math.pi - c.arccos()))  # Cho and Saul (2009)
    return float(k.mean() / k.reshape(size * size, -1).diagonal().mean())


def test_global_average_pool_at_sixteen_pixels():
    # Independent pixels would give 1/256, and the correlation of one layer alone .303.
    exact = exact_share_of_a_global_average(16, 10)
    assert exact == pytest.approx(0.726, abs=0.01)  # as was measured on drawn networks
    assert ten_convolutions(16).nodes[-1].gain == pytest.approx(exact, rel=0.02)


def test_x_plus_relu_x_is_not_a_sum_of_independent_terms():
    def moment(power):
        halves = ((-12, 0), (0, 12))
        density = [integrate.quad(lambda z: (z + max(z, 0)) ** power * stats.norm.pdf(z), *h)[0] for h in halves]
        return sum(density)

    model = Residual(nn.ReLU())
    last = predicted(model, torch.zeros(2, 64)).nodes[-1]
    assert last.forward_second_moment == pytest.approx(moment(2), rel=1e-9)
    assert last.forward_mean == pytest.approx(moment(1), rel=1e-9)
    # Independent terms would have 1 + 1/2.
    assert moment(2) == pytest.approx(2.5, rel=2e-3)


def test_x_times_sigmoid_x_is_one_function():
    model = Written(lambda x: x * torch.sigmoid(x))
    with torch.device("meta"):
        stack = nn.Sequential(nn.Linear(8, 8, bias=False), model, nn.Linear(8, 8, bias=False))
    found = predicted(stack, torch.zeros(2, 8), weights(stack, lambda p: 1 / 8))
    last = of_op(found, "mul")[0]
    assert last.forward_mean == pytest.approx(0.2066, abs=1e-4)
    assert last.forward_second_moment == pytest.approx(0.3558, abs=1e-4)
    first = of_op(found, "linear")[0]
    silu = nn.Sequential(stack[0], nn.SiLU(), stack[2])
    twin = of_op(predicted(silu, torch.zeros(2, 8), weights(silu, lambda p: 1 / 8)), "linear")[0]
    assert first.backward_second_moment == pytest.approx(twin.backward_second_moment, rel=1e-9)


def test_constant_weights_add_up_what_the_inputs_share():
    # "any constant": every unit computes the same, d²·c²·mean² of it.
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(100, 50, bias=False), nn.Linear(50, 10, bias=False))
    found = predicted(model, torch.zeros(2, 100), {"0.weight": (0.1, 0.01), "1.weight": (0.1, 0.01)}).nodes
    assert found[0].forward_second_moment == pytest.approx(100 * 0.01)
    assert found[1].forward_second_moment == pytest.approx(0.01 * 50**2 * found[0].forward_second_moment)


def test_zero_weights_silence_everything():
    with torch.device("meta"):
        model = chain([32] * 4, nn.Tanh)
    found = predicted(model, torch.zeros(2, 32), weights(model, lambda p: 0.0))
    assert all(node.forward_second_moment == 0 for node in found.nodes)
    assert found.turning_points[0][1] == "the forward signal dies"


def test_normal_model_has_the_moments_it_was_drawn_with():
    model = normal(nn.Sequential(nn.Linear(512, 512), nn.ReLU()), 2.0)
    found = predicted(model, torch.zeros(2, 512))
    assert found.nodes[0].forward_second_moment == pytest.approx(2.0, rel=0.02)


def test_root_mean_square_norm_keeps_the_mean_over_the_size():
    model = nn.Sequential(nn.ReLU(), nn.RMSNorm(512, elementwise_affine=False))
    last = predicted(model, torch.zeros(2, 512)).nodes[-1]
    assert last.forward_mean == pytest.approx(math.sqrt(1 / math.pi), rel=1e-5)
    assert last.forward_second_moment == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("n", [6, 8, 32])
def test_batch_norm_over_few_samples_has_its_exact_backward_factor(n):
    # z: n independent Gaussians. g loses its mean and its part along z, (n-2)/n is left, and E 1/σ² is n/(n-3).
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(10**6, 16, bias=False), nn.BatchNorm1d(16, affine=False))
    found = predicted(model, torch.zeros(n, 10**6, device="meta"), {"0.weight": (0.0, 1e-6)}).nodes
    assert found[0].backward_second_moment == pytest.approx((n - 2) / (n - 3), rel=1e-3)


def test_means_of_two_branches_add_up():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(64, 64, bias=False)

        def forward(self, x):
            return x.relu() + self.linear(x).relu()

    with torch.device("meta"):
        model = Branches()
    last = predicted(model, torch.zeros(2, 64), weights(model, lambda p: 1 / 64)).nodes[-1]
    assert last.forward_second_moment == pytest.approx(1 + 1 / math.pi, rel=1e-9)


def test_a_concatenation_keeps_its_segments_forward_and_backward():
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(64, 32, bias=False), nn.Linear(64, 32, bias=False)
            self.norm = nn.BatchNorm1d(64, affine=False)

        def forward(self, x):
            return self.norm(torch.cat([self.a(x), self.b(x)], 1))

    with torch.device("meta"):
        model = Joined()
    drawn = {"a.weight": (0.0, 1 / 64), "b.weight": (0.0, 9 / 64)}
    found = predicted(model, torch.zeros(4096, 64, device="meta"), drawn)
    assert found["cat"].forward_second_moment == pytest.approx(5.0)
    assert found["norm:batch_norm"].forward_second_moment == pytest.approx(1.0, rel=1e-4)
    ratio = found["a:linear"].backward_second_moment / found["b:linear"].backward_second_moment
    assert ratio == pytest.approx(9.0, rel=1e-4)


def test_each_step_of_a_chain_shows_its_own_gradient():
    model = Written(lambda x: x * torch.clamp(x + 3, 0, 6) / 6)
    with torch.device("meta"):
        stack = nn.Sequential(nn.Linear(8, 8, bias=False), model)
    found = predicted(stack, torch.zeros(2, 8), weights(stack, lambda p: 1 / 8))

    def second(slope, low, high):
        return integrate.quad(lambda z: slope(z) ** 2 * stats.norm.pdf(z), low, high, epsabs=1e-13)[0]

    inside = second(lambda z: z / 6, -3, 3)
    assert of_op(found, "add")[0].backward_second_moment == pytest.approx(inside, rel=1e-8)
    assert of_op(found, "clamp")[0].backward_second_moment == pytest.approx(1 / 36, rel=1e-8)
    whole = second(lambda z: (2 * z + 3) / 6, -3, 3) + stats.norm.sf(3)
    assert of_op(found, "linear")[0].backward_second_moment == pytest.approx(whole, rel=1e-8)
