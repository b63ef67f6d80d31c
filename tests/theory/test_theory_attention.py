"""Attention that does not see everything, or that is biased, against networks that are really run."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from wide_networks import disagreements, measured, normal, predicted

from firstlight.graph import trace
from firstlight.theory import as_they_are, walk
from firstlight.theory.maps.attention import participation

WIDTH, TOKENS = 256, 24
SHAPE = (6, TOKENS, WIDTH)


class Attention(nn.Module):
    """One head; `bias` is the deviation of a learned bias of its logits."""

    def __init__(self, *, causal=False, bias=0.0):
        super().__init__()
        self.qkv, self.causal = nn.Linear(WIDTH, 3 * WIDTH, bias=False), causal
        self.bias = nn.Parameter(bias * torch.randn(TOKENS, TOKENS)) if bias else None

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=self.bias, is_causal=self.causal)


class Positions(nn.Module):
    """A bias of the logits that is computed from the input, as decomposed relative positions are."""

    def __init__(self):
        super().__init__()
        self.qkv = normal(nn.Linear(WIDTH, 3 * WIDTH, bias=False))
        self.key = nn.Parameter(torch.randn(TOKENS, WIDTH) * 1.5 * WIDTH**-0.5)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        mask = torch.einsum("btc,sc->bts", q, self.key)
        return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def learned(**options):
    def build():
        model = Attention(**options)
        nn.init.normal_(model.qkv.weight, 0, WIDTH**-0.5)
        return nn.Sequential(model, normal(nn.Linear(WIDTH, WIDTH)))

    return build


CASES = {
    "causal": learned(causal=True),
    "biased": learned(bias=1.5),
    "biased by the input": lambda: nn.Sequential(Positions(), normal(nn.Linear(WIDTH, WIDTH))),
}


@pytest.mark.parametrize("name", CASES)
def test_attention_has_the_predicted_moments(name):
    assert not disagreements(CASES[name], SHAPE, 6, within=0.08)


def test_a_causal_mask_lets_the_first_token_see_itself_alone():
    causal, open_ = (predicted(learned(causal=c)(), torch.zeros(*SHAPE)).nodes[-2] for c in (True, False))
    # Small logits: query i averages i + 1 values, so the mean of 1/(i+1) of them is left, against 1/T.
    shares = np.mean(1 / np.arange(1, TOKENS + 1)) * TOKENS
    assert causal.forward_second_moment / open_.forward_second_moment == pytest.approx(shares, rel=0.35)


@pytest.mark.parametrize(("variance", "tokens", "power"), [(0.3, 5, 2), (2.0, 40, 2), (1.0, 12, 3), (9.0, 6, 3)])
def test_participation_of_a_softmax(variance, tokens, power):
    logits = np.random.default_rng(0).normal(0, math.sqrt(variance), (400_000, tokens))
    weights = np.exp(logits - logits.max(1, keepdims=True))
    sums = ((weights / weights.sum(1, keepdims=True)) ** power).sum(1)
    error = sums.std() / math.sqrt(len(sums))
    assert participation(variance, tokens, power) == pytest.approx(float(sums.mean()), abs=5 * error)


class Embedded(nn.Module):
    """Tokens of few inputs in many channels, as patches are, with attention over tokens or over channels."""

    def __init__(self, way):
        super().__init__()
        self.embed = normal(nn.Linear(24, WIDTH, bias=False))
        self.query, self.key, self.value = (normal(nn.Linear(WIDTH, WIDTH, bias=False)) for _ in range(3))
        self.way = way

    def forward(self, x):
        q, k, v = (layer(self.embed(x)) for layer in (self.query, self.key, self.value))
        if self.way == "fused":
            return nn.functional.scaled_dot_product_attention(q, k, v)
        if self.way == "by channel":
            return q.transpose(1, 2) @ k
        if self.way == "factorized":
            return torch.softmax(k, 1).transpose(1, 2) @ v
        return torch.softmax(q @ k.transpose(1, 2) / WIDTH**0.5, -1) @ v


@pytest.mark.parametrize("way", ["fused", "by hand", "factorized", "by channel"])
def test_attention_leans_further_where_tokens_lie_along_few_directions(way):
    shape = (3, 200, 24)
    found = measured(lambda: Embedded(way), shape, 6)
    said = predicted(Embedded(way), torch.zeros(*shape))
    mean, error = found.forward[said.nodes[-1].name]
    # In 24 directions the softmax leans by 1/24 of the logits' variance; in all 256 it would by 1/256.
    assert said.nodes[-1].forward_second_moment == pytest.approx(mean, abs=4 * error + 0.2 * mean)


class Heads(nn.Module):
    """Four heads of attention by hand, over tokens that a batch norm has taken the mean of."""

    def __init__(self):
        super().__init__()
        self.norm, self.qkv = nn.BatchNorm1d(WIDTH), normal(nn.Linear(WIDTH, 3 * WIDTH, bias=False))

    def forward(self, x):
        x = self.norm((x + 2 * x.mean(1, keepdim=True)).flatten(0, 1)).unflatten(0, x.shape[:2])
        q, k, v = (part.unflatten(2, (4, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, 2))
        weights = torch.softmax(q @ k.transpose(2, 3) / (WIDTH / 4) ** 0.5, -1)
        return (weights @ v).transpose(1, 2).flatten(2)


def test_heads_by_hand_give_tokens_as_many_directions_as_their_values_have_and_samples_apart():
    torch.manual_seed(0)
    model, x = Heads(), torch.randn(2, 64, WIDTH)
    _, steps, _ = walk(trace(model, x), as_they_are(model))
    said = list(steps.values())[-1].signal
    with torch.no_grad():
        y = model(x)
    one, two = y - y.mean(1, keepdim=True)
    overlap = float((one @ two.T).square().mean() / (one.square().sum(1).mean() * two.square().sum(1).mean()))
    assert said.directions() == pytest.approx(1 / overlap, rel=0.35)  # not four
    means = y.mean(1)
    between = float((means[0] * means[1]).mean() / y.square().mean())
    assert between < -0.05
    assert float(said.other.mean() / said.second.mean()) == pytest.approx(between, rel=0.25)


def test_values_that_sum_to_zero_leave_what_weights_differ_from_equal_ones():
    class Centred(nn.Module):
        def __init__(self):
            super().__init__()
            self.qk = normal(nn.Linear(WIDTH, 2 * WIDTH, bias=False))

        def forward(self, x):
            q, k = self.qk(x).chunk(2, -1)
            v = nn.functional.instance_norm(x.transpose(1, 2)).transpose(1, 2)
            return nn.functional.scaled_dot_product_attention(0.1 * q, k, v)

    node = predicted(Centred(), torch.zeros(2, 4, WIDTH)).nodes[-1]
    assert not node.opaque
    assert 0 < node.forward_second_moment < 0.1
