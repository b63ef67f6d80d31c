"""Weights that are used again and again on one stream, against networks that are run."""

import pytest
import torch
from torch import nn

from firstlight.graph import trace
from firstlight.theory import walk

TIMES = 6


class Encoded(nn.Module):
    """A stream that the same depthwise convolution is added to, as CoaT's position encoding is; tokens in between."""

    def __init__(self, tokens=False):
        super().__init__()
        self.conv = nn.Conv2d(256, 256, 3, padding=1, groups=256, bias=False)
        nn.init.normal_(self.conv.weight, std=(0.02 / 9) ** 0.5)
        self.tokens = tokens

    def forward(self, x):
        if self.tokens:
            x = torch.cat([torch.zeros_like(x[:, :, 0, :1]), x.flatten(2)], 2)
        for _ in range(TIMES):
            x = self.among_tokens(x) if self.tokens else x + self.conv(x)
        return x

    def among_tokens(self, x):
        image = x[:, :, 1:].unflatten(2, (24, 24))
        return torch.cat([x[:, :, :1], (image + self.conv(image)).flatten(2)], 2)


class Apart(nn.Module):
    """The same with weights of its own each time."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(256, 256, 3, padding=1, groups=256, bias=False) for _ in range(TIMES))
        for conv in self.convs:
            nn.init.normal_(conv.weight, std=(0.02 / 9) ** 0.5)

    def forward(self, x):
        for conv in self.convs:
            x = x + conv(x)
        return x


def _said(model, gain):
    drawn = {name: (0.0, gain / 9) for name, _ in model.named_parameters()}
    _, steps, _ = walk(trace(model, torch.zeros(1, 256, 24, 24)), drawn)
    return float(list(steps.values())[-1].signal.second.mean())


@torch.no_grad()
def _seen(build, draws=40):
    found = []
    for seed in range(draws):
        torch.manual_seed(seed)
        found.append(float(build()(torch.randn(1, 256, 24, 24)).square().mean()))
    return sum(found) / draws


@pytest.mark.parametrize("tokens", [False, True])
def test_a_stream_grows_as_the_square_of_how_often_the_same_weights_add_to_it(tokens):
    seen = _seen(lambda: Encoded(tokens))
    assert _said(Encoded(tokens), 0.02) == pytest.approx(seen, rel=0.02)
    assert seen > 1.5  # drawn anew each time they make 1.12 of it


def test_weights_of_their_own_do_not():
    assert _said(Apart(), 0.02) == pytest.approx(_seen(Apart), rel=0.01)


def test_what_weights_make_of_their_own_result_is_larger():
    model = nn.Sequential(*[nn.Conv2d(256, 256, 3, padding=1, groups=256, bias=False)] * 3)

    def build():
        nn.init.normal_(model[0].weight, std=(1 / 9) ** 0.5)
        return model

    # 6 (1 + 6/36) in the middle of a map, for taps are complex Gaussians over frequencies; less at its border.
    assert _said(model, 1.0) == pytest.approx(_seen(build), rel=0.06)
    assert 5.5 < _said(model, 1.0) < 7
