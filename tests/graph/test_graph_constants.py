"""Constants have values, also where the network is traced without any."""

import math

import pytest
import torch
from torch import nn

from firstlight.graph import trace
from firstlight.theory import as_they_are, propagate


class Positions(nn.Module):
    """Sines of positions, relative ones written part by part, and a mask, all made while it runs."""

    def __init__(self):
        super().__init__()
        self.wave, self.relative = nn.Linear(8, 16), nn.Linear(2, 16)

    def forward(self, x):
        places = torch.arange(10, device=x.device, dtype=torch.float32)
        angles = places[:, None] / 10 ** torch.arange(4, device=x.device)
        waves = torch.cat([angles.sin(), angles.cos()], -1)
        pairs = torch.zeros(10, 10, 2, device=x.device)
        pairs[..., 0] = places[:, None] - places
        pairs[..., 1] = pairs[..., 0] ** 2
        mask = torch.full((10, 10), -math.inf, device=x.device).triu(1)
        return x + self.wave(waves) + self.relative(pairs).mean(0), mask.to(x.device)


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_constants_are_worked_out_where_the_trace_has_no_values(device):
    with torch.device(device):
        model, x = Positions(), torch.zeros(2, 10, 16)
    graph = trace(model, x)
    found = {tuple(n.shape): n.value for n in graph.nodes if n.kind == "constant"}
    places = torch.arange(10.0)
    pairs = places[:, None] - places
    assert found[10, 10, 2] is not None
    assert torch.equal(found[10, 10, 2], torch.stack([pairs, pairs**2], -1))
    waves = places[:, None] / 10 ** torch.arange(4)
    assert torch.equal(found[10, 8], torch.cat([waves.sin(), waves.cos()], -1))
    assert torch.equal(found[10, 10], torch.full((10, 10), -math.inf).triu(1))


def test_two_graphs_that_differ_in_values_only_are_equal():
    graph = trace(Positions(), torch.zeros(2, 10, 16))
    assert graph == trace(Positions(), torch.zeros(2, 10, 16))
    assert hash(graph.nodes[0]) == hash(trace(Positions(), torch.zeros(2, 10, 16)).nodes[0])


class Waves(nn.Module):
    """Sines and cosines of positions, scaled up and projected."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(32, 64, bias=False)

    def forward(self, x):
        angles = torch.arange(50, device=x.device)[:, None] * torch.logspace(0, -2, 16, device=x.device)
        return x + self.project(10 * torch.cat([angles.sin(), angles.cos()], -1))


def test_theory_takes_a_constant_for_what_it_is():
    torch.manual_seed(0)
    model, x = Waves(), torch.randn(64, 50, 64)
    said = propagate(trace(model, x), as_they_are(model)).nodes[-1].forward_second_moment
    assert said == pytest.approx(model(x).square().mean().item(), rel=0.1)


class Written(nn.Module):
    """Tensors that the input is written into, zeros in the shape of the input, and a constant that changes."""

    def forward(self, x):
        filled = torch.zeros(4, 3, device=x.device)
        filled[:, 0] = x[:, 0]
        steps = torch.ones(3, device=x.device)
        first = x + steps
        steps += 1
        return filled.sum() + torch.zeros_like(x).sum(), first, x + steps


def test_what_is_written_later_is_no_value_of_a_constant():
    for x in (torch.rand(4, 3) + 5, torch.zeros(4, 3, device="meta")):
        graph = trace(Written(), x)
        values = [n.value for n in graph.nodes if n.kind == "constant" and n.value is not None]
        assert all(float(v.float().abs().max()) in (0.0, 2.0) for v in values), values
        assert any(float(v.float().abs().max()) == 2.0 for v in values)
