"""Class tokens and what tokens share: where the gradient comes to, against networks that are really run."""

import pytest
import torch
from torch import nn
from wide_networks import disagreements, normal, predicted

from firstlight.graph import trace
from firstlight.theory import InputMoments, as_they_are, propagate
from firstlight.theory.maps.attention import pair_of_rows
from firstlight.theory.propagate import walk
from firstlight.theory.signal import like_most

WIDTH, TOKENS = 128, 20
SHAPE = (6, TOKENS, WIDTH)


class Head(nn.Module):
    """One attention over tokens that share something; the result is read at the first token, or on average."""

    def __init__(self, *, fused, first, small=False):
        super().__init__()
        self.query, self.key, self.value, self.out = (normal(nn.Linear(WIDTH, WIDTH, bias=False)) for _ in range(4))
        if small:  # logits that are next to nothing, so that weights are equal
            nn.init.normal_(self.query.weight, 0, 0.1 * WIDTH**-0.5)
        self.shared = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.fused, self.first = fused, first

    def forward(self, x):
        x = nn.functional.layer_norm(x + self.shared, (WIDTH,))
        q, k, v = self.query(x), self.key(x), self.value(x)
        if self.fused:
            y = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            weights = nn.functional.dropout((q @ k.transpose(1, 2)) * WIDTH**-0.5, 0.0)
            y = torch.softmax(weights, -1) @ v
        y = self.out(y)
        return y[:, 0] if self.first else y.mean(1)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "by hand"])
@pytest.mark.parametrize("first", [True, False], ids=["first token", "mean"])
def test_the_gradient_comes_to_queries_keys_and_values_where_it_is(fused, first):
    assert not disagreements(lambda: Head(fused=fused, first=first, small=True), SHAPE, 6, within=0.1)


class Parts(nn.Module):
    """The first token goes through a layer, the others past it, and all are added to what they were."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.layer, self.last = (normal(nn.Linear(WIDTH, WIDTH, bias=False)) for _ in range(2))

    def forward(self, x):
        x = torch.cat([self.token.expand(len(x), -1, -1), self.last(x)], 1)
        normed = nn.functional.layer_norm(x, (WIDTH,))
        return x + torch.cat([0.5 * self.layer(normed[:, :1]), normed[:, 1:]], 1)


def test_tokens_that_are_put_back_in_their_place_are_what_they_were():
    shape = (6, 40, WIDTH)
    wrong = disagreements(Parts, shape, 6, within=0.05)
    assert not [line for line in wrong if line.startswith("forward")]
    said = predicted(Parts(), torch.zeros(*shape)).nodes[-1]
    assert said.forward_second_moment == pytest.approx((40 * 4 + 1.25) / 41, rel=0.05)


def test_a_token_of_its_own_has_no_part_in_what_the_others_share():
    class First(Parts):
        def forward(self, x):
            return super().forward(x)[:, 0]

    model = First()
    model.token.data.mul_(0.1 / model.token.data.std())
    said = predicted(model, torch.zeros(6, 40, WIDTH)).nodes[-1]
    assert said.forward_second_moment == pytest.approx(0.01 + 0.25, rel=0.1)


def test_one_row_alone_has_no_partner():
    alone, two = torch.zeros(1, 8, 1), torch.zeros(1, 8, 1)
    alone[0, 0], two[0, :2] = 3.0, 3.0
    assert pair_of_rows(alone, 8) == pytest.approx(0, abs=1e-12)
    assert pair_of_rows(two, 8) == pytest.approx(3 * 2 / (8 * 7))
    assert pair_of_rows(torch.full((1, 1, 1), 3.0), 8) == 3


def test_slices_that_do_not_overlap_share_nothing():
    class Shifted(nn.Module):
        def forward(self, x):
            y = nn.functional.relu(x)
            return torch.cat([y[:, :1], y[:, :-1]], 1) + x

    assert not disagreements(Shifted, (6, 40, WIDTH), 3, within=0.05)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([0.1] + [1.0] * 20, [False] + [True] * 20),  # one of its own among equals
        ([1.2] + [1.0] * 20, [False] + [True] * 20),
        ([0.1, 0.8, 1.0, 1.3, 1.1], [False, True, True, True, True]),  # all differ, one by more than a factor of four
        ([2.0], [True]),
    ],
)
def test_places_like_nearly_all_others(sizes, expected):
    assert like_most(torch.tensor(sizes)).tolist() == expected


def photographs(samples=4, side=64):
    """Smooth images whose contrast differs from place to place, and single pixels of their own."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(samples, 3, 8, 8, generator=generator)
    loud = torch.randn(samples, 1, 4, 4, generator=generator).exp()
    grown = nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    loud = nn.functional.interpolate(loud, size=(side, side), mode="bilinear")
    return grown * loud + 0.3 * torch.randn(samples, 3, side, side, generator=generator)


class Patches(nn.Module):
    """A class token of another size among patches, a norm, and what is read of the token."""

    def __init__(self):
        super().__init__()
        self.embed = normal(nn.Conv2d(3, WIDTH, 4, stride=4, bias=False))
        self.token = nn.Parameter(0.5 * torch.randn(1, 1, WIDTH))
        self.qkv = normal(nn.Linear(WIDTH, 3 * WIDTH, bias=False))

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        x = nn.functional.layer_norm(x, (WIDTH,))
        q, k, v = self.qkv(x).chunk(3, -1)
        return nn.functional.scaled_dot_product_attention(0.01 * q, k, v) + 0 * x, x[:, 0]


def test_the_sizes_of_patches_are_not_those_of_the_class_token():
    class First(Patches):
        def forward(self, x):
            return super().forward(x)[1]

    torch.manual_seed(0)
    model, batch = First(), photographs()
    said = propagate(trace(model, batch), as_they_are(model), inputs=InputMoments.of(batch))
    tokens = 1 + 16 * 16
    # The gradient goes through the norm of one token, whatever the patches are.
    name = next(node.name for node in said.nodes if node.op == "cat")
    assert said[name].backward_second_moment == pytest.approx(1 / model.token.var().item() / tokens, rel=0.02)


def test_tokens_of_photographs_lie_along_as_many_directions_as_they_do():
    torch.manual_seed(0)
    model, batch = Patches(), photographs()
    graph = trace(model, batch)
    _, _, gradients = walk(graph, as_they_are(model), InputMoments.of(batch))
    with torch.no_grad():
        x = model.embed(batch).flatten(2).transpose(1, 2)
        x = torch.cat([model.token.expand(len(x), -1, -1), x], 1)
        x = nn.functional.layer_norm(x, (WIDTH,)).double()
    covariance = torch.einsum("btc,btd->bcd", *2 * [x - x.mean(1, keepdim=True)]) / x.shape[1]
    # Equal weights: dq = scale Cov(k, v) g, of E (tr Σ²) over the draws of the weights, with white g.
    square = covariance.square().sum((1, 2)).mean().item() / WIDTH
    by_query = next(
        float(gradients[node.name].second.mean())
        for node in graph.operations
        if node.function == "mul" and node.name in gradients and node.name != graph.outputs[0]
    )
    # Of blocks alone it would be a seventh: they average over what single patches have.
    assert 0.5 < by_query / (square / WIDTH) < 2


def test_few_of_many_channels_vary_more_than_all():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = normal(nn.Linear(WIDTH, 132, bias=False))

        def forward(self, x):
            return self.layer(x).split([128, 4], dim=-1)[1]

    # Inputs that all say the same: each output is one number, and the mean of 4 squares varies by 2/4.
    torch.manual_seed(0)
    graph = trace(Cut(), torch.zeros(1, WIDTH))
    context, _, _ = walk(graph, as_they_are(Cut()))
    whole, part = (context.signals[node.name] for node in (graph.operations[0], graph.operations[-1]))
    assert whole.spread == pytest.approx(2 / 132, rel=0.05)
    assert part.spread == pytest.approx(2 / 4, rel=0.05)


def test_a_depthwise_convolution_leaves_as_many_directions_as_there_are_channels():
    layer = normal(nn.Conv2d(32, 32, 3, groups=32, bias=False))
    graph = trace(layer, torch.zeros(2, 32, 8, 8))
    context, _, _ = walk(graph, as_they_are(layer))
    assert context.signals[graph.operations[-1].name].directions() > 16
