"""Fans against brute force: count, with impulses and gradients, which numbers really meet."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo_of_graphs import (
    IMAGES,
    TOKENS,
    Attention,
    Convolutions,
    Functional,
    FusedAttention,
    Gated,
    Lines,
    Parametrized,
    Reused,
    example,
)

from firstlight.graph import Fan, fans, trace


def fan_of(model: nn.Module, x: Tensor, parameter: str = "weight") -> Fan:
    return next(fan for fan in fans(trace(model, x)) if fan.parameter == parameter)


def counted(layer: nn.Module, x: Tensor) -> tuple[float, float]:
    """Fan-in and fan-out by brute force: with all weights one, an output counts the inputs it sums, and the gradient of
    the sum of all outputs counts the outputs each input reaches. Circular border, so that every position is interior.
    """
    for parameter in layer.parameters():
        nn.init.ones_(parameter)
    x = torch.ones_like(x).requires_grad_()
    y = layer(x)
    y.sum().backward()
    assert x.grad is not None
    return float(y.detach().mean()), float(x.grad.mean())


CONVOLUTIONS = [
    (nn.Conv2d(4, 6, 3, padding=1, bias=False, padding_mode="circular"), (1, 4, 12, 12)),
    (nn.Conv2d(4, 8, 3, padding=1, groups=2, bias=False, padding_mode="circular"), (1, 4, 12, 12)),
    (nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False, padding_mode="circular"), (1, 8, 12, 12)),
    (nn.Conv2d(4, 12, 5, padding=2, groups=4, bias=False, padding_mode="circular"), (1, 4, 12, 12)),
    (nn.Conv2d(4, 6, 3, padding=2, dilation=2, bias=False, padding_mode="circular"), (1, 4, 12, 12)),
    (nn.Conv2d(4, 6, 4, stride=4, bias=False), (1, 4, 12, 12)),
    (nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False, padding_mode="circular"), (1, 4, 12, 12)),
    (nn.Conv2d(4, 6, (3, 5), stride=(1, 2), padding=(1, 2), bias=False, padding_mode="circular"), (1, 4, 12, 12)),
    (nn.Conv2d(4, 6, 1, stride=2, bias=False), (1, 4, 12, 12)),
    (nn.Conv1d(4, 6, 3, padding=1, bias=False, padding_mode="circular"), (1, 4, 12)),
    (nn.Conv3d(2, 4, 3, padding=1, groups=2, bias=False, padding_mode="circular"), (1, 2, 6, 6, 6)),
    (nn.Linear(7, 5, bias=False), (3, 7)),
]


@pytest.mark.parametrize(("layer", "shape"), CONVOLUTIONS)
def test_convolutions_and_linear_layers(layer: nn.Module, shape: tuple[int, ...]) -> None:
    fan = fan_of(layer, torch.ones(shape))
    assert (fan.fan_in, fan.fan_out) == pytest.approx(counted(layer, torch.ones(shape)))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.ConvTranspose2d(4, 6, 4, stride=2, bias=False), (1, 4, 40, 40)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, bias=False), (1, 4, 40, 40)),
        (nn.ConvTranspose2d(6, 6, 2, stride=2, groups=6, bias=False), (1, 6, 40, 40)),
        (nn.ConvTranspose1d(4, 6, 5, stride=3, bias=False), (1, 4, 60)),
        (nn.ConvTranspose3d(2, 3, 3, stride=(1, 2, 1), bias=False), (1, 2, 12, 12, 12)),
    ],
)
def test_transposed_convolutions_average_over_phases(layer: nn.Module, shape: tuple[int, ...]) -> None:
    fan = fan_of(layer, torch.ones(shape))
    fan_in, fan_out = counted(layer, torch.ones(shape))
    # There is no circular border here, and the full output is longer than its share: compare the sums, which have none.
    y = layer(torch.ones(shape))
    outputs = y.shape[1] * math.prod(size * step for size, step in zip(shape[2:], layer.stride, strict=True))
    assert fan.fan_in == pytest.approx(fan_in * y.numel() / outputs)
    assert fan.fan_out == pytest.approx(fan_out)


def test_an_odd_kernel_with_stride_has_phases_that_differ() -> None:
    layer = nn.ConvTranspose2d(1, 1, 3, stride=2, padding=1, bias=False)
    nn.init.ones_(layer.weight)
    taps = layer(torch.ones(1, 1, 9, 9)).detach()[0, 0, 4:6, 4:6]
    assert sorted(taps.flatten().tolist()) == [1, 2, 2, 4]
    assert fan_of(layer, torch.ones(2, 1, 9, 9)).fan_in == taps.mean()


def test_where_torch_miscounts() -> None:
    """`torch.nn.init` takes fans from the shape: wrong by groups for fan-out, swapped for transposed convolutions."""
    depthwise = nn.Conv2d(256, 256, 3, padding=1, groups=256)
    theirs = nn.init._calculate_fan_in_and_fan_out(depthwise.weight)
    ours = fan_of(depthwise, torch.ones(2, 256, 6, 6))
    assert theirs == (9, 2304)
    assert (ours.fan_in, ours.fan_out) == (9, 9)

    transposed = nn.ConvTranspose2d(64, 128, 4, stride=2)
    theirs = nn.init._calculate_fan_in_and_fan_out(transposed.weight)
    ours = fan_of(transposed, torch.ones(2, 64, 6, 6))
    assert theirs == (2048, 1024)
    assert (ours.fan_in, ours.fan_out) == (256, 2048)


@pytest.mark.parametrize(
    ("model", "parameter"), [(Attention(), "attention.in_proj_weight"), (FusedAttention(), "qkv.weight")]
)
def test_packed_projections_are_three_matrices(model: nn.Module, parameter: str) -> None:
    fan = fan_of(model, example(TOKENS), parameter)
    assert (fan.fan_in, fan.fan_out, fan.parts) == (8, 8, 3)
    assert fan.activation is None


def test_a_projection_sliced_before_use_is_three_matrices_too() -> None:
    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x * 2, x * 3, need_weights=False)[0]

    fan = fan_of(Cross(), example(TOKENS), "attention.in_proj_weight")
    assert (fan.fan_in, fan.fan_out, fan.parts) == (8, 8, 3)


def test_a_gate_beside_its_value_is_two_matrices() -> None:
    fan = fan_of(Gated(), example(TOKENS), "both.weight")
    assert (fan.fan_in, fan.fan_out, fan.parts) == (8, 16, 2)
    assert fan.activation is not None
    assert fan.activation.function == "silu"


def test_cutting_along_another_axis_packs_nothing() -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 6)

        def forward(self, x: Tensor) -> Tensor:
            one, two = self.linear(x).chunk(2, 0)
            return one * two

    assert fan_of(Cut(), example(TOKENS), "linear.weight").parts == 1


def test_matrix_products_and_einsum() -> None:
    class Products(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.right = nn.Parameter(torch.ones(8, 6))
            self.left = nn.Parameter(torch.ones(4, 5))
            self.turned = nn.Parameter(torch.ones(7, 6))
            self.heads = nn.Parameter(torch.ones(7, 2, 3))

        def forward(self, x: Tensor) -> Tensor:
            x = self.left @ (x @ self.right)
            x = x @ self.turned.t()
            return torch.einsum("btd,dhe->bthe", x, self.heads)

    found = {fan.parameter: (fan.fan_in, fan.fan_out) for fan in fans(trace(Products(), example(TOKENS)))}
    assert found == {"right": (8, 6), "left": (5, 4), "turned": (6, 7), "heads": (7, 6)}


def test_recurrent_gates_and_embeddings() -> None:
    found = {fan.parameter: fan for fan in fans(trace(Lines(), torch.randint(10, (2, 5))))}
    assert (found["recurrent.weight_ih_l0"].fan_in, found["recurrent.weight_ih_l0"].fan_out) == (10, 4)
    assert found["recurrent.weight_hh_l0"].parts == 4
    assert (found["embedding.weight"].fan_in, found["embedding.weight"].fan_out) == (1, 8)
    assert (found["volume.weight"].fan_in, found["line.weight"].fan_in) == (27, 24)


def test_a_computed_weight_leads_back_to_its_parameter() -> None:
    found = {fan.parameter: fan.fan_in for fan in fans(trace(Parametrized(), example(IMAGES)))}
    assert found == {
        "weight_norm.parametrizations.weight.original1": 27,
        "spectral.parametrizations.weight.original": 6,
    }


def test_a_reused_weight_has_a_fan_for_each_use() -> None:
    found = [fan.node for fan in fans(trace(Reused(), example(IMAGES))) if fan.parameter == "one.weight"]
    assert found == ["one:linear", "two:linear"]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Functional(), {"conv.weight": "leaky_relu(negative_slope=0.1)", "head.weight": "None"}),
        (
            Convolutions(),
            {
                "grouped.weight": "relu6",
                "depthwise.weight": "tanh",
                "dilated.weight": "elu(alpha=1)",
                "transposed.weight": "silu",
            },
        ),
    ],
)
def test_the_activation_is_the_one_that_follows(model: nn.Module, expected: dict[str, str]) -> None:
    found = {fan.parameter: str(fan.activation) for fan in fans(trace(model, example(IMAGES)))}
    assert {name: text.split("(")[0] for name, text in found.items()} == {
        name: text.split("(")[0] for name, text in expected.items()
    }
    assert found[next(iter(expected))] == next(iter(expected.values()))


def test_the_walk_passes_residual_sums_and_learned_scales_but_no_gate() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)
            self.norm = nn.BatchNorm2d(3)
            self.scale = nn.Parameter(torch.ones(3, 1, 1))
            self.gate = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(x + self.scale * self.norm(self.conv(x)))
            return F.relu(x * self.gate(x))

    found = {fan.parameter: fan.activation for fan in fans(trace(Block(), example(IMAGES)))}
    assert str(found["conv.weight"]) == "relu"
    assert found["gate.weight"] is None


def test_a_function_that_gates_its_own_argument_is_one_activation() -> None:
    class Swish(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.linear(x)
            return x * torch.sigmoid(x)

    activation = fan_of(Swish(), example(TOKENS), "linear.weight").activation
    assert activation is not None
    assert str(activation) == "x·sigmoid"
    z = torch.linspace(-3, 3, 7)
    assert torch.allclose(activation(z), F.silu(z))


def test_a_clamp_between_tensors_is_no_activation() -> None:
    class Bounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(torch.clamp(self.linear(x), x.amin(), x.amax()))

    assert str(fan_of(Bounded(), example(TOKENS), "linear.weight").activation) == "tanh"
