"""Corners of single rules, each with its exact answer: what a change of one sign or number in a rule would break."""

import math

import pytest
import torch
from scipy import integrate, stats
from torch import nn
from wide_networks import Written, predicted

from firstlight.graph import trace
from firstlight.theory import propagate, walk

WIDTH = 64


class Held(nn.Module):
    """A function of the input and of one parameter."""

    def __init__(self, parameter, function):
        super().__init__()
        self.parameter, self.function = nn.Parameter(parameter), function

    def forward(self, x):
        return self.function(x, self.parameter)


def maps(model, example, drawn=None):
    context, _, _ = walk(trace(model, example), drawn or {n: (0.0, 1.0) for n, _ in model.named_parameters()})
    return context.signals


def gaussian(f, power):
    halves = ((-12, -1), (-1, 0), (0, 1), (1, 12))
    return sum(integrate.quad(lambda z: f(z) ** power * stats.norm.pdf(z), *h, epsabs=1e-13)[0] for h in halves)


def test_a_scale_of_one_value_stays_within_the_function():
    model = Held(torch.tensor([2.0]), lambda x, c: torch.tanh(c * torch.relu(x)))
    node = predicted(model, torch.zeros(2, 8)).nodes[-1]
    assert node.forward_second_moment == pytest.approx(gaussian(lambda z: math.tanh(2 * max(z, 0)), 2), rel=1e-9)


def test_a_scale_whose_values_differ_is_a_factor_of_its_own():
    model = Held(torch.tensor([1.0, 3.0] * 4), lambda x, c: c * torch.relu(x))
    assert predicted(model, torch.zeros(2, 8)).nodes[-1].forward_second_moment == pytest.approx(5 * 0.5)


def test_weights_that_sum_to_one_give_back_what_all_tokens_share():
    def shared(x, bias):
        return torch.softmax(bias, -1) @ x[:, None].expand(-1, 12, -1)

    model = Held(2 * torch.randn(12, 12), shared)
    said = predicted(model, torch.zeros(3, WIDTH), {"parameter": (0.0, 4.0)})
    assert said.nodes[-1].forward_second_moment == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_each_group_of_a_convolution_reads_its_own_channels(groups):
    conv = nn.Conv2d(16, 8, 1, groups=groups, bias=False)
    model = nn.Sequential(Written(lambda x: torch.cat([x, 3 * x], 1)), conv)
    found = maps(model, torch.zeros(2, 8, 4, 4), {"1.weight": (0.0, groups / 16)})["1:conv2d"].second
    full = found.expand(1, 8, 1, 1)[0, :, 0, 0].tolist()
    assert full == pytest.approx([5.0] * 8 if groups == 1 else [1.0] * 4 + [9.0] * 4)


def test_a_computed_weight_is_not_a_standardized_one():
    def linear(x, w):
        return nn.functional.linear(torch.relu(x), 0.5 * w)

    found = predicted(Held(torch.randn(WIDTH, WIDTH), linear), torch.zeros(2, WIDTH), {"parameter": (0.0, 1.0)})
    assert found.nodes[-1].forward_second_moment == pytest.approx(WIDTH * 0.25 * 0.5)


def test_running_statistics_are_an_affine_map():
    model = nn.BatchNorm1d(8)
    drawn = {"weight": (2.0, 4.0), "bias": (0.5, 0.25), "running_mean": (1.0, 1.0), "running_var": (4.0, 16.0)}
    node = propagate(trace(model, torch.zeros(4, 8)), drawn, training=False).nodes[-1]
    assert node.forward_mean == pytest.approx(-0.5, rel=1e-4)  # (0 - 1)/2 · 2 + 0.5
    assert node.forward_std == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_a_tensor_taken_apart_keeps_the_meaning_of_what_is_left(dim):
    model = Written(lambda x: torch.cat([x, 2 * x], dim).unbind(dim)[-1])
    signal = maps(model, torch.zeros(2, 4, 6))[f"unbind[{(4, 8, 12)[dim] - 1}]"]
    kinds = [axis[0][0] for axis in signal.axes]
    assert kinds == [kind for d, kind in enumerate("bsc") if d != dim]
    assert float(signal.second.mean()) == pytest.approx(4.0)


def test_gradients_of_a_repeated_input_add_up_unless_each_copy_has_weights_of_its_own():
    def told(equation, shape):
        def forward(x, w):
            return torch.einsum(equation, x[:, None].expand(-1, 8, -1), w).mean(1)

        model = nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False), Held(torch.randn(shape), forward))
        drawn = {"0.weight": (0.0, 1 / WIDTH), "1.parameter": (0.0, 1 / WIDTH)}
        return predicted(model, torch.zeros(3, WIDTH), drawn).nodes[0].backward_second_moment

    assert told("btc,cd->btd", (WIDTH, WIDTH)) == pytest.approx(1.0)  # eight equal gradients, an eighth each
    assert told("btc,tcd->btd", (8, WIDTH, WIDTH)) == pytest.approx(1 / 8)  # eight independent ones


def test_the_values_of_an_operation_with_several_results_hand_the_gradient_on():
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False), Written(lambda x: x.max(1)[0]))
    found = predicted(model, torch.zeros(4, 8, WIDTH), {"0.weight": (0.0, 1 / WIDTH)})
    assert found["0:linear"].backward_second_moment == pytest.approx(1 / 8)


@pytest.mark.parametrize("per_group", [1, 3])
def test_a_grouped_transposed_convolution_hands_back_what_its_outputs_are(per_group):
    model = nn.ConvTranspose2d(8, 4 * per_group, 2, stride=2, groups=4, bias=False)
    context, _, gradients = walk(trace(model, torch.zeros(2, 8, 4, 4)), {"weight": (0.0, 0.5)})
    # Each input writes to 2×2 places in per_group channels.
    assert float(gradients["input.0"].second.mean()) == pytest.approx(0.5 * 4 * per_group)
    assert float(context.signals["conv_transpose2d"].second.mean()) == pytest.approx(0.5 * 2)


def test_an_embedding_has_the_moments_of_its_table():
    model = nn.Embedding(10, 6)
    signal = maps(model, torch.zeros(2, 5, dtype=torch.long), {"weight": (0.5, 1.25)})["embedding"]
    assert [float(m.mean()) for m in signal.maps()] == pytest.approx([0.5, 1.25, 0.25, 0.25])


def test_means_of_sums_and_differences():
    shifted = Written(lambda x: torch.cat([x + 3, x + 3], 1) - torch.cat([x.flip(1) + 1, x.flip(1) + 1], 1))
    assert predicted(shifted, torch.zeros(2, 8)).nodes[-1].forward_mean == pytest.approx(2.0)


@pytest.mark.parametrize(("keepdim", "dim"), [(True, 1), (False, 1), (True, -1), (False, 0)])
def test_the_largest_along_a_dimension_keeps_the_others(keepdim, dim):
    model = Written(lambda x: x.max(dim, keepdim=keepdim)[0])
    signal = maps(model, torch.zeros(4, 8, 6))["max[0]"]
    shape = torch.zeros(4, 8, 6).max(dim, keepdim=keepdim)[0].shape
    assert signal.shape == tuple(shape)
    assert tuple(math.prod(n for _, n in axis) for axis in signal.axes) == tuple(shape)


def test_the_largest_of_two_normals():
    # E max² = 1, E max = 1/√π: what two windows of one sample share is the mean alone.
    signal = maps(nn.MaxPool1d(2), torch.zeros(2, 4, 16))["max_pool1d"]
    assert [float(m.mean()) for m in signal.maps()[:3]] == pytest.approx([1 / math.sqrt(math.pi), 1.0, 1 / math.pi])


@pytest.mark.parametrize("dim", [-1, 1, (1, 2), None])
def test_a_mean_is_taken_over_the_dimensions_it_names(dim):
    model = Written(lambda x: x.mean() if dim is None else x.mean(dim))
    node = predicted(model, torch.zeros(4, 8, 6)).nodes[-1]
    count = {-1: 6, 1: 8, (1, 2): 48, None: 192}[dim]
    assert node.forward_second_moment == pytest.approx(1 / count)


def test_a_quotient_has_the_size_of_its_parts():
    class Divided(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)

        def forward(self, x):
            return (self.one(x) + 5) / self.two(x)

    drawn = {"one.weight": (0.0, 1 / WIDTH), "two.weight": (0.0, 1e-8), "two.bias": (4.0, 16.0)}
    node = predicted(Divided(), torch.zeros(4, WIDTH), drawn).nodes[-1]
    assert node.forward_mean == pytest.approx(5 / 4, rel=1e-4)
    assert node.forward_second_moment == pytest.approx(26 / 16, rel=1e-4)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("corners", [True, False])
def test_interpolated_noise_has_the_squares_of_its_weights(mode, corners):
    def resized(x):
        return nn.functional.interpolate(x, (15, 9), mode=mode, align_corners=corners)

    noise = torch.randn(64, 32, 5, 6, generator=torch.Generator().manual_seed(0))
    node = predicted(Written(resized), torch.zeros(2, 4, 5, 6)).nodes[-1]
    assert node.forward_second_moment == pytest.approx(float(resized(noise).square().mean()), rel=0.03)


def test_more_parts_than_elements_repeat_them():
    model = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.AdaptiveAvgPool2d(8))
    found = predicted(model, torch.zeros(2, 4, 4, 4), {"0.weight": (0.0, 1 / 4)})
    assert found.nodes[-1].forward_second_moment == pytest.approx(1.0)
    assert found["0:conv2d"].backward_second_moment == pytest.approx(4.0)  # each is read by four


@pytest.mark.parametrize("operation", [torch.var, torch.std])
def test_gradients_through_a_deviation(operation):
    n = 4096
    model = nn.Sequential(nn.Linear(n, n, bias=False), Written(lambda x: operation(x, -1, keepdim=True)))
    found = predicted(model, torch.zeros(2, n, device="meta"), {"0.weight": (0.0, 4 / n)})["0:linear"]
    # 2 (x - m)/n and (x - m)/(n σ), of variance 4 and deviation 2.
    expected = 4 * 4 / n**2 if operation is torch.var else 1 / n**2
    assert found.backward_second_moment == pytest.approx(expected, rel=1e-2)


def test_pixels_put_into_channels_are_channels():
    signal = maps(nn.PixelUnshuffle(2), torch.zeros(2, 3, 8, 8))["pixel_unshuffle"]
    assert [axis[0] for axis in signal.axes] == [("b", 2), ("c", 12), ("s", 4), ("s", 4)]


def zero_queries():
    class Still(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.rest = nn.Linear(16, 16, bias=False), nn.Linear(16, 32, bias=False)
            nn.init.zeros_(self.query.weight)

        def forward(self, x):
            return nn.functional.scaled_dot_product_attention(self.query(x), *self.rest(x).chunk(2, dim=-1))

    return Still()


def test_queries_that_are_zero_average_all_values_and_hand_gradients_back():
    torch.manual_seed(0)
    model, x = zero_queries(), torch.randn(8, 10, 16)
    said = predicted(model, x)
    assert said.nodes[-1].forward_second_moment == pytest.approx(model(x).square().mean().item(), rel=0.4)
    assert all(node.backward_second_moment is not None for node in said.nodes if node.op == "linear")
