"""Operations that are several in one, against networks that are really run and against the same thing written out."""

import math

import pytest
import torch
from torch import nn
from wide_networks import Written, disagreements, normal, predicted

WIDTH = 256
TOKENS, ROWS = (4, 16, WIDTH), (16, WIDTH)


class Einsum(nn.Module):
    """A linear layer as einsum, its weight on either side, or one weight for each token."""

    def __init__(self, equation, shape):
        super().__init__()
        self.equation, self.shape = equation, shape
        self.weight = nn.Parameter(torch.empty(shape))

    def reset(self):
        nn.init.normal_(self.weight, 0.1 / WIDTH, WIDTH**-0.5)  # a mean too: what inputs share adds up
        return self

    def forward(self, x):
        first = self.equation.startswith("...c") or self.equation.startswith("btc")
        return torch.einsum(self.equation, *((x, self.weight) if first else (self.weight, x)))


def einsum(equation, *shape):
    return lambda: Einsum(equation, shape).reset()


class Scaled(nn.Module):
    """``x + 2 a b`` or ``x + 2 a/b`` of projections, or of learned scales."""

    def __init__(self, operation):
        super().__init__()
        self.operation = operation
        self.one, self.two = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.scale = nn.Parameter(torch.full((WIDTH,), 0.5))

    def forward(self, x):
        if self.operation == "addcdiv":
            return torch.addcdiv(x, self.one(x), 3 + 0.1 * self.two(x), value=2)
        if self.operation == "of weights":
            return torch.addcmul(self.scale, self.scale, self.one(x))
        return torch.addcmul(x, self.one(x), self.two(x), value=2)


class Biased(nn.Module):
    """A matrix product with what is added to it."""

    def __init__(self, beta):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(WIDTH, WIDTH)), nn.Parameter(torch.full((WIDTH,), 0.7))
        nn.init.normal_(self.weight, 0, WIDTH**-0.5)
        self.beta = beta

    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight, beta=self.beta, alpha=2)


def overwritten(x):
    y = x.clone()
    y[:, :4] = 3 * x[:, 4:8]
    return y


def joined(*modules):
    return lambda: nn.Sequential(*(build() for build in modules))


def linear():
    return normal(nn.Linear(WIDTH, WIDTH))


CASES = {
    "einsum": (joined(linear, nn.ReLU, einsum("...c,cd->...d", WIDTH, WIDTH), linear), TOKENS),
    "einsum, weight first": (joined(linear, nn.ReLU, einsum("dc,btc->btd", WIDTH, WIDTH), linear), TOKENS),
    "einsum, a weight a token": (joined(linear, nn.ReLU, einsum("btc,tcd->btd", 16, WIDTH, WIDTH), linear), TOKENS),
    "addcmul": (joined(linear, lambda: normal(Scaled("addcmul")), linear), ROWS),
    "addcmul of weights": (joined(linear, lambda: normal(Scaled("of weights")), linear), ROWS),
    "addcdiv": (joined(linear, lambda: normal(Scaled("addcdiv")), linear), ROWS),
    "addmm": (joined(linear, nn.ReLU, lambda: Biased(1), linear), ROWS),
    "addmm without its first": (joined(linear, nn.ReLU, lambda: Biased(0), linear), ROWS),
    "overwritten": (joined(linear, lambda: Written(overwritten), linear), TOKENS),
}


@pytest.mark.parametrize("name", CASES)
def test_composed_operations_have_the_predicted_moments(name):
    build, shape = CASES[name]
    assert not disagreements(build, shape, 6, within=0.05)


class Attention(nn.Module):
    """One head, with matrix products, with einsum, or with products that add to nothing."""

    def __init__(self, way):
        super().__init__()
        self.qkv, self.way = nn.Linear(WIDTH, 3 * WIDTH, bias=False), way

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if self.way == "einsum":
            return torch.einsum("bij,bjc->bic", torch.softmax(torch.einsum("bic,bjc->bij", q, k) / 16, -1), v)
        if self.way == "baddbmm":
            empty = q.new_zeros(q.shape[0], q.shape[1], q.shape[1])
            return torch.softmax(torch.baddbmm(empty, q, k.transpose(1, 2), beta=0, alpha=1 / 16), -1) @ v
        return torch.softmax(q @ k.transpose(1, 2) / 16, -1) @ v


@pytest.mark.parametrize("way", ["einsum", "baddbmm"])
def test_attention_is_the_same_in_any_spelling(way):
    first, other = (
        predicted(nn.Sequential(normal(Attention(w))), torch.zeros(*TOKENS), {"0.qkv.weight": (0.0, 1 / WIDTH)})
        for w in ("matmul", way)
    )
    assert not other.opaque
    assert other.nodes[-1].forward_second_moment == pytest.approx(first.nodes[-1].forward_second_moment, rel=1e-9)
    gradients = [p["0.qkv:linear"].backward_second_moment for p in (first, other)]
    assert gradients[1] == pytest.approx(gradients[0], rel=1e-9)


@pytest.mark.parametrize("equation", ["btc,de->btd", "btt,tc->btc", "btc,cd,de->bte"])
def test_an_equation_that_is_not_understood_is_opaque(equation):
    sizes = {"b": 2, "t": 8, "c": 8, "d": 8, "e": 8}
    left = equation.partition("->")[0].split(",")

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = nn.ParameterList([torch.randn([sizes[c] for c in term]) for term in left[1:]])

        def forward(self, x):
            return torch.einsum(equation, x, *self.weights)

    found = predicted(Odd(), torch.zeros([sizes[c] for c in left[0]]))
    assert any(node.op == "einsum" for node in found.opaque)


class Bounded(nn.Module):
    """A clamp between buffers, as quantized networks have it."""

    def __init__(self, low, high):
        super().__init__()
        self.register_buffer("low", torch.tensor(low))
        self.register_buffer("high", torch.tensor(high))

    def forward(self, x):
        return torch.clamp(x, self.low, self.high)


@pytest.mark.parametrize(("low", "high"), [(-0.5, 1.0), (-math.inf, 1.0), (-math.inf, math.inf)])
def test_bounds_that_are_tensors_are_bounds(low, high):
    found = predicted(Bounded(low, high), torch.zeros(2, 8)).nodes[-1]
    numbers = {"min": None if math.isinf(low) else low, "max": None if math.isinf(high) else high}
    same = Written(lambda x: x.clamp(**numbers) if any(v is not None for v in numbers.values()) else x * 1.0)
    assert not found.opaque
    expected = predicted(same, torch.zeros(2, 8)).nodes[-1]
    assert found.forward_second_moment == pytest.approx(expected.forward_second_moment, rel=1e-12)
    assert found.forward_mean == pytest.approx(expected.forward_mean, rel=1e-12)


def test_bounds_without_values_are_not_understood():
    assert predicted(Bounded(0.0, 0.0), torch.zeros(2, 8)).nodes[-1].opaque


def test_padding_that_a_maximum_never_sees_changes_nothing():
    def same(value):
        return Written(lambda x: nn.functional.max_pool2d(nn.functional.pad(x, (0, 1, 0, 1), value=value), 3, 2))

    never = predicted(same(-math.inf), torch.zeros(2, 4, 16, 16))
    assert not never.opaque
    seen = predicted(Written(lambda x: nn.functional.max_pool2d(x, 3, 2)), torch.zeros(2, 4, 17, 17)).nodes[-1]
    assert never.nodes[-1].forward_second_moment == pytest.approx(seen.forward_second_moment, rel=0.1)
