"""The largest of what is no function of one Gaussian: channels side by side, and a gate times a ReLU; against draws."""

import pytest
import torch
from torch import nn

from firstlight.graph import trace
from firstlight.theory import as_they_are, walk


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.gate = nn.Conv2d(64, 64, 1), nn.Conv2d(64, 64, 1), nn.Conv2d(64, 64, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(64) for _ in range(2))

    def forward(self, x):
        y, z = (torch.relu(n(c(x))) for n, c in zip(self.norms, (self.one, self.two), strict=True))
        y = y * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        return nn.functional.max_pool2d(torch.cat([y, z], 1), 3, 2)


def test_a_maximum_of_parts_and_gated_signals_is_theirs():
    torch.manual_seed(0)
    model, x = Parts(), torch.randn(16, 64, 17, 17)
    context, _, gradients = walk(trace(model, x), as_they_are(model))
    out = model(x).detach()
    said = next(s for name, s in context.signals.items() if "max_pool2d" in name)
    assert float(said.mean.mean()) == pytest.approx(float(out.mean()), rel=0.05)
    assert float(said.second.mean()) == pytest.approx(float(out.square().mean()), rel=0.05)
    # A winner is positive, so that no ReLU before it takes half of the gradient away.
    relu, norm = (next(n for n in gradients if k in n) for k in ("relu", "batch_norm"))
    assert float(gradients[norm].second.mean()) > 0.9 * float(gradients[relu].second.mean())
