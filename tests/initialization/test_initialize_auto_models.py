"""Real networks: MobileNetV3 at unit size, weights files that load strictly, and defects that other libraries have."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import firstlight as fl
from firstlight.graph import fans, trace
from firstlight.initialization import symmetries
from firstlight.probe import probe
from firstlight.workflows.initializing import save_weights

timm = pytest.importorskip("timm")


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("scheme", "tolerance"), [("auto", 0.6), ("lsuv", 1e-3)])
def test_every_layer_of_mobilenetv3_has_unit_size(scheme: str, tolerance: float) -> None:
    """The `lsuv` package brings 1 of 54 there. Without data, `auto` leaves the fluctuation of 8 images at one pixel."""
    model, x = timm.create_model("mobilenetv3_small_050"), noise(8, 3, 64, 64)
    graph = trace(model, x)
    layers = {fan.node for fan in fans(graph)}
    fl.initialize(model, x, scheme=scheme, graph=graph)
    sizes = {n.name: (n.forward_std**2 + n.forward_mean**2) ** 0.5 for n in probe(model, x).nodes if n.name in layers}
    stds = {n.name: n.forward_std for n in probe(model, x).nodes if n.name in layers}
    assert len(sizes) == 54
    found = sizes if scheme == "auto" else stds
    assert all(1 / (1 + tolerance) < value < 1 + tolerance for value in found.values()), found


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext"])
def test_saved_weights_load_strictly_into_a_fresh_model(name: str, tmp_path: Path) -> None:
    model, x = timm.create_model(name), noise(2, 3, 160, 160)
    report = fl.initialize(model, x)
    assert not report.uncovered
    sums = {fan.parameter for fan in fans(trace(model, x))}
    assert not [s.parameter for s in symmetries(model, x) if s.permanent and s.parameter in sums]
    save_weights(model, tmp_path / "weights.safetensors", report)
    fresh = timm.create_model(name)
    fresh.load_state_dict(safetensors.torch.load_file(tmp_path / "weights.safetensors"), strict=True)
    state = model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in fresh.state_dict().items())
    model.eval(), fresh.eval()
    with torch.no_grad():
        assert torch.equal(model(x), fresh(x))


@pytest.mark.parametrize("scheme", ["auto", "kaiming", "xavier", "orthogonal", "truncated-normal", "lecun"])
def test_no_scheme_follows_the_global_generator(scheme: str) -> None:
    """torch.nn.init.sparse_(generator=g) draws its permutation from the global one; nothing here draws from it."""
    weights = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
        fl.initialize(model, noise(2, 8), scheme=scheme)
        weights.append(model[0].weight.detach())
    assert torch.equal(*weights)


def test_a_depthwise_fan_out_counts_its_own_group() -> None:
    """torch.nn.init takes 256 × 9 outputs of one input, where there are 9: its second moment is 0.0074 instead of 2."""
    model = nn.Conv2d(64, 64, 3, padding=1, groups=64)
    for scheme, wanted in (("kaiming-fan-out", 1.0), ("xavier", 1.0), ("auto", 1.0)):
        sizes = []
        for seed in range(4):
            fl.initialize(model, noise(8, 64, 16, 16), scheme=scheme, seed=seed)
            with torch.no_grad():
                sizes.append(float(model(noise(8, 64, 16, 16))[..., 1:-1, 1:-1].square().mean()))
        assert sum(sizes) / 4 == pytest.approx(wanted, rel=0.2), scheme


@pytest.mark.parametrize("scheme", ["xavier", "auto"])
def test_packed_projections_have_the_variance_of_each_matrix(scheme: str) -> None:
    """torch's xavier_uniform_ on the (3E, E) parameter gives half of it."""
    attention, x = nn.MultiheadAttention(128, 4, batch_first=True), noise(2, 6, 128)
    fl.initialize(attention, (x, x, x), scheme=scheme)
    for part in attention.in_proj_weight.detach().chunk(3):
        assert float(part.var()) == pytest.approx(1 / 128, rel=0.05)
