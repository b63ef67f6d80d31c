"""Long short-term memory, against closed forms for small weights and against networks that are run."""

import numpy as np
import pytest
import torch
from torch import nn
from wide_networks import disagreements, predicted

from firstlight.graph import trace
from firstlight.theory import InputMoments, as_they_are
from firstlight.theory.propagate import forward
from firstlight.theory.recurrent import Cell, Course, backward
from firstlight.theory.recurrent import forward as run

WIDTH, TIMES = 96, 10


@pytest.mark.parametrize(("close", "limit"), [(0.0, 1 / 12), (1.0, 1 / 4)])
def test_small_weights_average_over_the_last_steps(close, limit):
    """Gates are 1/2 and ``c`` is ``Σ z 2^-k``: ``E c²`` is ``ε²/3`` of independent steps, ``ε²`` of equal ones."""
    pairs = np.array([close, close, 0.0])
    course, _ = run(Cell(64, 64, 1e-6 / 64, 0.0, 0.0, 0.0), Course(np.ones(40), pairs))
    assert course.second[-1] / 1e-6 == pytest.approx(limit, rel=1e-4)
    assert course.second[0] / 1e-6 == pytest.approx(1 / 16, rel=1e-4)
    assert course.pairs[2] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("inputs", "states"), [(1.0, 1.0), (2.0, 0.25), (0.25, 2.0)])
def test_the_gradient_through_time(inputs, states):
    """By the input at each time, over networks that are run; white inputs, a white gradient, no bias."""
    seen = []
    for seed in range(8):
        torch.manual_seed(seed)
        layer = nn.LSTM(WIDTH, WIDTH, batch_first=True, bias=False)
        nn.init.normal_(layer.weight_ih_l0, 0, (inputs / WIDTH) ** 0.5)
        nn.init.normal_(layer.weight_hh_l0, 0, (states / WIDTH) ** 0.5)
        x = torch.randn(64, TIMES, WIDTH, requires_grad=True)
        y = layer(x)[0]
        (gradient,) = torch.autograd.grad(y, x, torch.randn_like(y))
        seen.append(gradient.square().mean((0, 2)).numpy())
    cell = Cell(WIDTH, WIDTH, inputs / WIDTH, states / WIDTH, 0.0, 0.0)
    _, instants = run(cell, Course(np.ones(TIMES), np.zeros(3)))
    arriving = np.tile([1.0, 0.0, 0.0], (TIMES, 1))
    assert backward(cell, instants, arriving)[:, 0] == pytest.approx(np.mean(seen, 0), rel=0.08)


class Recurrent(nn.Module):
    def __init__(self, first=False, **kinds):
        super().__init__()
        both = 2 if kinds.get("bidirectional") else 1
        self.before = nn.Linear(WIDTH, WIDTH)
        self.memory = nn.LSTM(WIDTH, WIDTH, **kinds)
        self.after = nn.Linear(both * WIDTH, WIDTH)
        self.first = first

    def forward(self, x):
        y = self.memory(self.before(x))[0]
        return self.after(y[:, 0] if self.first else y)


@pytest.mark.parametrize(
    "kinds",
    [
        {"batch_first": True},
        {"batch_first": True, "bidirectional": True, "first": True},
        {"batch_first": True, "num_layers": 2, "dropout": 0.3, "bias": False},
    ],
    ids=["plain", "both directions, read at the first time", "two layers"],
)
def test_layers_as_they_are_made(kinds):
    assert not disagreements(lambda: Recurrent(**kinds), (6, TIMES, WIDTH), 5, within=0.08)


def alike(values):
    """E z z' of two times of one sample, and of two samples, of values [N, T, C]."""
    z = values.double()
    n, t = z.shape[:2]
    time, both = ((z.mean(1) ** 2).mean(), (z.mean((0, 1)) ** 2).mean())
    return float((time * t - (z**2).mean()) / (t - 1)), float((both * n - time) / (n - 1))


def test_times_and_samples_keep_what_they_share():
    seen, said = [], []
    for seed in range(6):
        torch.manual_seed(seed)
        layer = nn.LSTM(WIDTH, WIDTH, batch_first=True, bidirectional=True)
        shared = torch.randn(1, 1, WIDTH) + torch.randn(12, 1, WIDTH)
        x = shared + torch.randn(12, TIMES, WIDTH)
        y = layer(x)[0].detach()
        seen.append([float((y**2).mean()), *alike(y)])
        context, _ = forward(trace(layer, x), as_they_are(layer), InputMoments.of(x))
        said.append(context.signals["lstm[0]"].scalars()[1:])
    assert np.mean(said, 0) == pytest.approx(np.mean(seen, 0), rel=0.15)


class Started(nn.Module):
    """From a state that is not zero, or with a projected one."""

    def __init__(self, projected):
        super().__init__()
        self.memory = nn.LSTM(WIDTH, WIDTH, batch_first=True, proj_size=8 if projected else 0)
        self.projected = projected

    def forward(self, x):
        state = x[:, 0][None].contiguous()
        return self.memory(x)[0] if self.projected else self.memory(x, (state, state))[0]


@pytest.mark.parametrize("projected", [True, False])
def test_what_the_rule_does_not_know_is_listed(projected):
    said = predicted(Started(projected), torch.randn(4, 5, WIDTH))
    assert "lstm" in [node.op for node in said.opaque]
