"""Sums whose parts cancel: what a branch takes away is what the shortcut brought."""

from dataclasses import replace

import pytest
import timm
import torch
from torch import nn
from wide_networks import Written, predicted

from firstlight.graph import trace
from firstlight.theory import as_they_are, propagate, walk
from firstlight.theory.maps import RULES


class Mixer(nn.Module):
    """PoolFormer's token mixer with its shortcut, which is the pooling itself for an input that is normalized."""

    def __init__(self):
        super().__init__()
        self.norm, self.pool = nn.GroupNorm(1, 32), nn.AvgPool2d(3, 1, 1, count_include_pad=False)

    def forward(self, x):
        y = self.norm(x)
        return x + (self.pool(y) - y)


def test_what_a_branch_subtracts_is_gone():
    context, _, _ = walk(trace(Mixer(), torch.zeros(2, 32, 16, 16)), as_they_are(Mixer()))
    counts = nn.functional.avg_pool2d(torch.ones(1, 1, 16, 16), 3, 1, 1, divisor_override=1)
    left, far = context.signals["add"].second, context.signals["add"].far
    assert float(left.mean()) == pytest.approx(float((1 / counts).mean()), rel=2e-3)
    assert float(left.min()) > 0.09
    assert float(far.abs().max()) < 1e-6
    taken = context.signals["sub"].second
    assert float(taken.mean()) == pytest.approx(float((1 - 1 / counts).mean()), rel=2e-3)


def test_a_norm_over_sites_leaves_a_little_less_than_nothing_in_common():
    # n numbers less their mean have covariance -1/(n-1) of their variance.
    context, _, _ = walk(trace(nn.GroupNorm(4, 4), torch.zeros(2, 4, 4, 4)), as_they_are(nn.GroupNorm(4, 4)))
    signal = context.signals["group_norm"]
    assert float(signal.far / signal.second) == pytest.approx(-1 / 15, rel=1e-2)
    assert signal.covariances()[1] < 0


def test_the_parts_of_poolformer_cancel_and_its_prediction_stands():
    torch.manual_seed(0)
    model = timm.create_model("poolformerv2_s12")
    found = propagate(trace(model, torch.zeros(2, 3, 64, 64)), as_they_are(model))
    assert not found.opaque
    assert all(0 <= node.forward_second_moment < 1e6 for node in found.nodes)


def test_a_rule_that_says_less_than_nothing_is_not_believed(monkeypatch):
    known = RULES["relu"]

    def negative(node, ctx):
        step = known(node, ctx)
        return replace(step, signal=replace(step.signal, second=-step.signal.second))

    monkeypatch.setitem(RULES, "relu", negative)
    node = predicted(Written(torch.relu), torch.zeros(2, 8)).nodes[-1]
    assert node.opaque
    assert "negative" in node.reason
    monkeypatch.setitem(RULES, "relu", lambda node, ctx: 1e200**2)
    assert "OverflowError" in predicted(Written(torch.relu), torch.zeros(2, 8)).nodes[-1].reason
