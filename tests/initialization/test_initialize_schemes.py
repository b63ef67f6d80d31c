"""Each scheme against its paper, and the measured defects of other libraries, which are not ours."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

import firstlight as fl
from firstlight.errors import FirstlightError
from firstlight.graph import trace
from firstlight.initialization import SCHEMES, Plan, apply, auto, lsuv, mup
from firstlight.initialization.branches import branches
from firstlight.initialization.schemes import delta_orthogonal, truncated_normal
from firstlight.models import small_cnn
from firstlight.probe import probe


def done(model: nn.Module, scheme: str, *shape: int, seed: int = 0) -> nn.Module:
    apply(SCHEMES[scheme](trace(model, torch.randn(2, *shape))), model, seed=seed)
    return model


STDS = {  # of conv2 of the small network: 32 channels × 9 taps in and out, ReLU after it
    "xavier": math.sqrt(2 / (288 + 288)), "lecture-xavier": 1 / math.sqrt(288), "lecun": 1 / math.sqrt(288),
    "kaiming": math.sqrt(2 / 288), "kaiming-fan-out": math.sqrt(2 / 288), "orthogonal": math.sqrt(2 / 288),
    "truncated-normal": math.sqrt(2 / 288), "delta-orthogonal": math.sqrt(2 / 288), "normal": 0.001,
    "zeros": 0, "constant": 0,
}  # fmt: skip


@pytest.mark.parametrize("scheme", STDS)
def test_every_scheme_gives_the_size_its_paper_asks_for(scheme: str) -> None:
    weight = done(small_cnn(), scheme, 3, 32, 32).conv2.weight.detach()
    measured = float(weight.square().mean().sqrt()) if "orthogonal" in scheme else float(weight.std())
    assert measured == pytest.approx(STDS[scheme], rel=1e-4 if "orthogonal" in scheme else 0.03, abs=1e-6)


def test_lecun_is_uniform_and_constant_is_constant() -> None:
    weight = done(small_cnn(), "lecun", 3, 32, 32).conv6.weight.detach().flatten().numpy()
    half = math.sqrt(3 / (128 * 9))
    assert stats.kstest(weight, stats.uniform(-half, 2 * half).cdf).pvalue > 0.01
    assert done(small_cnn(), "constant", 3, 32, 32).conv6.weight.detach().unique().tolist() == pytest.approx([0.01])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_truncated_normal_has_the_std_asked_for_and_no_outliers(dtype: torch.dtype) -> None:
    """timm's has weights at 100 sigma, and in bfloat16 a std of 0.09 instead of 0.02; torch's bounds are absolute."""
    layer = nn.Linear(1024, 1024, dtype=dtype)
    plan = truncated_normal(trace(layer, torch.randn(2, 1024, dtype=dtype)), std=0.02)
    apply(plan, layer)
    weight = layer.weight.detach().double()
    bound = 2 * 0.02 / stats.truncnorm(-2, 2).std()
    assert float(weight.std()) == pytest.approx(0.02, rel=3e-3)
    assert float(weight.abs().max()) <= bound * (1 + 2**-8)


def test_three_hundred_delta_orthogonal_layers_keep_the_norm() -> None:
    layers = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(300)))
    x = torch.randn(1, 8, 4, 4)
    plan = delta_orthogonal(trace(nn.Sequential(layers[0]), x))
    for k, layer in enumerate(layers):
        apply(plan, nn.Sequential(layer), seed=k)
    with torch.no_grad():
        assert float(layers(x).norm() / x.norm()) == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize(("groups", "stride"), [(1, 2), (4, 1), (16, 2)])
def test_delta_orthogonal_with_stride_and_groups(groups: int, stride: int) -> None:
    conv = nn.Conv2d(16, 32, 3, stride=stride, padding=1, groups=groups, bias=False)
    x = torch.randn(2, 16, 8, 8)
    apply(delta_orthogonal(trace(conv, x)), conv)
    with torch.no_grad():
        y, seen = conv(x), x[..., ::stride, ::stride]
    torch.testing.assert_close(y.square().sum((1, 2, 3)), 2 * seen.square().sum((1, 2, 3)), rtol=1e-4, atol=0)


def test_torch_default_is_bit_identical_to_constructing() -> None:
    torch.manual_seed(7)
    built = small_cnn()
    again = small_cnn()
    before = torch.get_rng_state()
    report = fl.initialize(again, torch.zeros(2, 3, 32, 32), scheme="torch-default", seed=7)
    assert all(torch.equal(p, again.get_parameter(name)) for name, p in built.named_parameters())
    assert torch.equal(torch.get_rng_state(), before)
    assert not report.uncovered


class Residual(nn.Module):
    def __init__(self, blocks: int = 3, norm: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.one = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(blocks))
        self.two = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(blocks))
        self.norms = nn.ModuleList(nn.BatchNorm2d(16) if norm else nn.Identity() for _ in range(blocks))
        self.skip = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for k, (one, two, norm) in enumerate(zip(self.one, self.two, self.norms, strict=True)):
            x = (self.skip(x) if k == 0 else x) + norm(two(F.relu(one(x))))
        return self.head(F.relu(x).mean((2, 3)))


def test_residual_branches_and_their_zero_ends() -> None:
    graph = trace(Residual(), torch.randn(2, 3, 8, 8))
    assert [b.weights for b in branches(graph)] == [(f"one.{k}.weight", f"two.{k}.weight") for k in range(3)]
    model = done(Residual(), "zero-residual", 3, 8, 8)
    assert not any(layer.weight.any() for layer in model.two)
    assert all(layer.weight.any() for layer in [*model.one, model.skip, model.head])
    normed = done(Residual(norm=True), "zero-residual", 3, 8, 8)
    assert not any(norm.weight.any() for norm in normed.norms)
    assert all(layer.weight.any() for layer in normed.two)


def test_fixup_scales_by_depth() -> None:
    model = Residual(blocks=4)
    plan = {d.name: d for d in SCHEMES["fixup"](trace(model, torch.randn(2, 3, 8, 8))).decisions}
    assert plan["one.0.weight"].std == pytest.approx(math.sqrt(2 / 144) * 4**-0.5)  # L = 4, m = 2
    assert plan["two.3.weight"].distribution == plan["head.weight"].distribution == "constant"


def test_mup_gives_the_head_the_inverse_square() -> None:
    def net(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3))

    x = torch.randn(2, 8)
    std = {d.name: d.std for d in mup(trace(net(256), x), base=trace(net(64), x)).decisions}
    assert std["0.weight"] == pytest.approx(math.sqrt(2 / 8))
    assert std["2.weight"] == pytest.approx(math.sqrt(2 / 256))
    assert std["4.weight"] == pytest.approx(math.sqrt(1 / 256) / 2)


def test_lsuv_calibrates_every_layer_in_one_pass_and_leaves_modes() -> None:
    model = Residual(norm=True).eval()
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 5 + 1
    graph = trace(model, x)
    plan = lsuv(graph, model, x)
    assert not any(module.training for module in model.modules())
    apply(plan, model)
    nodes = [n for n in probe(model, x).nodes if n.op in ("conv2d", "linear")]
    assert len(nodes) == 9
    assert [n.forward_std for n in nodes] == pytest.approx([1] * 9, rel=1e-3)


def test_lsuv_on_depthwise_layers() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, groups=16), nn.Hardswish(), nn.Conv2d(16, 4, 1))
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    fl.initialize(model, x, scheme="lsuv")
    assert [n.forward_std for n in probe(model, x).nodes if n.op == "conv2d"] == pytest.approx([1] * 3, rel=1e-3)


def test_auto_gives_every_sum_the_size_wanted_of_it() -> None:
    model = Residual(blocks=4)
    x = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    plan = auto(trace(model, x))
    measured: dict[str, list[float]] = {}
    for seed in range(6):
        apply(plan, model, seed=seed)
        for node in probe(model, x).nodes:
            if node.op == "conv2d":
                measured.setdefault(node.module, []).append(node.forward_std**2 + node.forward_mean**2)
    for module, found in measured.items():
        wanted = 0.25 if module.startswith("two") else 1.0
        assert sum(found) / 6 == pytest.approx(wanted, rel=0.25), module


def test_auto_brings_a_deep_tanh_network_to_one_where_xavier_shrinks() -> None:
    model = nn.Sequential(*(layer for _ in range(20) for layer in (nn.Linear(400, 400), nn.Tanh())))
    x = torch.randn(100, 400, generator=torch.Generator().manual_seed(0))
    sizes = {}
    for scheme in ("auto", "lecture-xavier"):
        fl.initialize(model, x, scheme=scheme)
        sizes[scheme] = [n.forward_std for n in probe(model, x).nodes if n.op == "linear"]
    assert sizes["auto"] == pytest.approx([1] * 20, rel=0.25)
    assert sizes["lecture-xavier"][-1] < 0.3


def test_the_layers_of_a_transformer_encoder_do_not_start_identical() -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)
    assert torch.equal(encoder.layers[0].linear1.weight, encoder.layers[1].linear1.weight)
    done(encoder, "kaiming", 5, 16)
    assert not torch.equal(encoder.layers[0].linear1.weight, encoder.layers[1].linear1.weight)


def test_overrides_and_differences() -> None:
    plan = SCHEMES["kaiming"](trace(small_cnn(), torch.randn(2, 3, 32, 32)))
    changed = plan.override({"head.*": {"distribution": "constant", "mean": 0.5, "std": 0.0}, "head.bias": {"mean": 1}})
    model = small_cnn()
    apply(changed, model)
    assert float(model.head.weight.detach().unique()) == 0.5
    assert float(model.head.bias.detach().unique()) == 1
    assert [d.name for d in plan.diff(changed)] == ["head.weight", "head.bias"]
    assert str(plan.diff(changed)[0]).startswith("head.weight: normal, std 0.08")
    assert plan.diff(plan) == ()
    for rules, slug in (
        ({"heda.*": {"std": 1.0}}, "override-matches-nothing"),
        ({"head.*": {"sdt": 1.0}}, "override-not-understood"),
        ({"head.*": {"distribution": "gauss"}}, "override-not-understood"),
    ):
        with pytest.raises(FirstlightError) as caught:
            plan.override(rules)
        assert caught.value.slug == slug


def test_an_override_covers_what_no_rule_covers() -> None:
    plan = Plan("kaiming", (), ("odd",)).override({"odd": {"std": 0.3}})
    assert plan.uncovered == ()
    assert plan.decisions[0].std == 0.3


def test_running_statistics_start_afresh_and_lost_buffers_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    plan = SCHEMES["kaiming"](trace(model, torch.randn(2, 3, 8, 8)))
    model(torch.randn(2, 3, 8, 8))
    apply(plan, model)
    assert not model[1].running_mean.any()
    assert model[1].num_batches_tracked == 0
    deferred = dataclasses.replace(plan)
    meta = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to("meta")
    apply(deferred, meta)
    assert meta[1].running_var.tolist() == [1] * 4
    meta = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to("meta")
    meta.register_buffer("grid", torch.arange(3, device="meta"))
    with pytest.raises(FirstlightError) as caught:
        apply(plan, meta)
    assert caught.value.slug == "values-without-rule"
    assert meta[0].weight.is_meta
