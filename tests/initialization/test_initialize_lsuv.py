"""Layer-sequential unit variance: every sum at one after one forward pass, whatever the layer, and no trace left."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import firstlight as fl
from firstlight.errors import FirstlightError
from firstlight.graph import trace
from firstlight.initialization import apply, lsuv
from firstlight.probe import probe


class Everything(nn.Module):
    """First, depthwise, transposed, reused, packed and last layers, batch norm, dropout, a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.shared = nn.Conv2d(16, 16, 1)
        self.up = nn.ConvTranspose2d(16, 16, 4, stride=2, padding=1)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 10)
        self.runs = 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        x = F.hardswish(self.norm(self.stem(x)))
        x = x + self.shared(F.relu(self.shared(self.depthwise(x))))
        tokens = F.silu(self.up(x)).flatten(2).mT
        return self.head(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1))


def batch(*shape: int, scale: float = 3.0, shift: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * scale + shift


def test_every_layer_gives_one_in_one_forward_pass() -> None:
    model, x = Everything(), batch(8, 3, 8, 8)
    graph = trace(model, x)
    model.runs, runs = 0, []
    model.register_forward_hook(lambda *_: runs.append(1))
    plan = lsuv(graph, model, x)
    assert len(runs) == 1
    apply(plan, model)
    stds: dict[str, float] = {}
    for node in probe(model, x).nodes:
        if node.op in ("conv2d", "conv_transpose2d", "linear") and node.module:
            stds.setdefault(f"{node.module}, {node.op}", node.forward_std)  # the first use decides
    assert len(stds) == 6
    assert stds == pytest.approx(dict.fromkeys(stds, 1.0), rel=1e-3)
    assert all("brought to one" in d.reason for d in plan.decisions if d.rule == "lsuv")
    assert sum(d.rule == "lsuv" for d in plan.decisions) == 7


def test_the_model_is_left_as_it_was() -> None:
    model, x = Everything(), batch(4, 3, 8, 8)
    model.norm.eval()
    model.attention.requires_grad_(False)
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    random, runs = torch.get_rng_state(), model.runs
    plan = lsuv(trace(model, x), model, x)
    assert plan.scheme == "lsuv"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert not any(p.requires_grad for p in model.attention.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert model.runs == runs


def test_mobilenet_in_full() -> None:
    """The lsuv package, at its commit 2856a71, brought 1 of 54 layers of MobileNetV3 within its tolerance."""
    timm = pytest.importorskip("timm")
    model, x = timm.create_model("mobilenetv3_small_050"), batch(4, 3, 96, 96)
    fl.initialize(model, x, scheme="lsuv")
    stds = [node.forward_std for node in probe(model, x).nodes if node.op in ("conv2d", "linear")]
    assert len(stds) == 54
    assert stds == pytest.approx([1] * len(stds), rel=2e-3)


def test_a_constant_or_broken_result_keeps_the_orthogonal_size() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    for x in (torch.zeros(4, 6), torch.full((4, 6), torch.inf)):
        plan = lsuv(trace(model, x), model, x)
        assert {d.rule for d in plan.decisions if d.name.endswith("weight")} == {"orthogonal"}
        apply(plan, model)
        assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_a_model_without_memory_is_refused() -> None:
    model = nn.Linear(4, 4, device="meta")
    with pytest.raises(FirstlightError, match="without memory"):
        lsuv(trace(model, torch.zeros(2, 4)), model, torch.zeros(2, 4))
