"""What `auto` decides: each branch by what ends it, each weight by what reaches it, and no layer of equal units."""

import math
from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import firstlight as fl
from firstlight.errors import FirstlightError
from firstlight.graph import fans, trace
from firstlight.initialization import SCHEMES, Decision, auto, identical_units, symmetries
from firstlight.initialization.branches import branches
from firstlight.initialization.schemes.simple import constant
from firstlight.models import small_cnn
from firstlight.probe import probe


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


class Blocks(nn.Module):
    """Three residual branches ``x + end(w(relu(v(x))))``, after a stem and before a head."""

    def __init__(self, end: str) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 32, 3, padding=1), nn.Linear(32, 4)
        self.first = nn.ModuleList(nn.Conv2d(32, 32, 3, padding=1) for _ in range(3))
        self.last = nn.ModuleList(nn.Conv2d(32, 32, 3, padding=1) for _ in range(3))
        self.squeeze, self.excite = nn.Conv2d(32, 8, 1), nn.Conv2d(8, 32, 1)
        norms = {"batch": nn.BatchNorm2d, "group": lambda n: nn.GroupNorm(4, n), "gated": nn.BatchNorm2d}
        self.norms = nn.ModuleList(norms.get(end, lambda _: nn.Identity())(32) for _ in range(3))
        self.gammas = nn.ParameterList(nn.Parameter(torch.ones(32, 1, 1)) for _ in range(3 if end == "scale" else 0))
        self.end = end

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for k in range(3):
            y = self.last[k](self.first[k](x).relu())
            if self.end == "cat":
                y = torch.cat([self.last[k](self.first[k](x).relu())[:, :16], self.first[k](x)[:, 16:]], 1)
            y = self.norms[k](y)
            if self.end == "gated":
                y = self.excite(self.squeeze(y.mean((2, 3), keepdim=True)).relu()).sigmoid() * y
            x = x + (y * self.gammas[k] if self.end == "scale" else y)
        return self.head(x.relu().mean((2, 3)))


def decisions(model: nn.Module, x: Tensor) -> Mapping[str, Decision]:
    return {d.name: d for d in auto(trace(model, x)).decisions}


ENDS = {
    "weight": ("last.1.weight", "conv2d"), "batch": ("norms.1.weight", "batch_norm"),
    "group": ("norms.1.weight", "group_norm"), "scale": ("gammas.1", "mul"), "gated": ("norms.1.weight", "batch_norm"),
}  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
def test_a_branch_is_known_by_what_ends_it(end: str) -> None:
    found = branches(trace(Blocks(end), noise(2, 3, 8, 8)))
    assert len(found) == 3
    assert [(e.parameter, e.function) for e in found[1].ends] == [ENDS[end]]


def test_a_branch_that_ends_in_two_ways_has_two_ends() -> None:
    found = branches(trace(Blocks("cat"), noise(2, 3, 8, 8)))
    assert {e.parameter for e in found[0].ends} == {"last.0.weight", "first.0.weight"}


def test_each_end_gets_its_share_of_the_stream() -> None:
    x = noise(2, 3, 8, 8)
    assert decisions(Blocks("batch"), x)["norms.1.weight"].mean == 0
    assert decisions(Blocks("gated"), x)["norms.1.weight"].mean == 0
    assert decisions(Blocks("group"), x)["norms.1.weight"].mean == pytest.approx(3**-0.5)
    scaled = decisions(Blocks("scale"), x)
    assert scaled["gammas.1"].mean == pytest.approx(1e-5)
    assert scaled["last.1.weight"].std > 1.5 * decisions(Blocks("weight"), x)["last.1.weight"].std


@pytest.mark.parametrize("end", ["weight", "group"])
def test_the_stream_ends_near_two_whatever_ends_its_branches(end: str) -> None:
    model, x = Blocks(end), noise(64, 3, 8, 8)
    graph, sizes = trace(model, x), []
    for seed in range(6):
        fl.initialize(model, x, seed=seed, graph=graph)
        sizes.append([n.forward_std**2 + n.forward_mean**2 for n in probe(model, x).nodes if n.op == "add"])
    assert torch.tensor(sizes).mean(0).tolist() == pytest.approx([4 / 3, 5 / 3, 2], rel=0.15)


class Attention(nn.Module):
    """Packed projections, a grouped and a transposed convolution, and images that the network itself normalizes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((3, 1, 1), 2.0))
        self.stem, self.mix = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1, groups=16)
        self.up, self.qkv = nn.ConvTranspose2d(64, 96, 4, stride=2, padding=1), nn.Linear(96, 288)
        self.out, self.head = nn.Linear(96, 96), nn.Linear(96, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(F.silu(self.mix(self.stem(x - self.mean).tanh()))).tanh()
        q, k, v = self.qkv(x.flatten(2).mT).unflatten(2, (3, 3, 32)).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head(self.out(x).mean(1))


def test_every_kind_of_weight_gives_a_signal_of_size_one() -> None:
    model, x = Attention(), noise(16, 3, 6, 6)
    graph = trace(model, x)
    used = {fan.node: fan.parameter for fan in fans(graph)}
    sizes: dict[str, list[float]] = {}
    for seed in range(6):
        report = fl.initialize(model, x, seed=seed, graph=graph)
        for node in probe(model, x).nodes:
            if node.name in used:
                sizes.setdefault(used[node.name], []).append(node.forward_std**2 + node.forward_mean**2)
    assert len(sizes) == 6
    assert not report.uncovered
    assert {name: sum(v) / len(v) for name, v in sizes.items()} == pytest.approx(dict.fromkeys(sizes, 1), rel=0.4)
    assert symmetries(model, x) == ()


def test_a_weight_whose_size_has_no_say_keeps_kaimings() -> None:
    class Standardized(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            w = F.batch_norm(self.weight.view(1, 8, -1), None, None, training=True).view_as(self.weight)
            return F.conv2d(x, w)

    model, x = nn.Sequential(Standardized(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), noise(4, 3, 8, 8)
    made = decisions(model, x)
    assert "as Kaiming has it" in made["0.weight"].reason
    assert made["0.weight"].std == pytest.approx(math.sqrt(2 / 27))
    fl.initialize(model, x)
    last = [n for n in probe(model, x).nodes if n.op == "conv2d"][-1]
    assert last.forward_std == pytest.approx(1, rel=0.5)  # 4 channels of 72 inputs each


def test_it_is_what_initialize_does() -> None:
    x = noise(2, 3, 32, 32)
    assert fl.initialize(small_cnn(), x).plan == fl.initialize(small_cnn(), x, scheme="auto").plan


def test_a_default_device_of_meta_is_meant_for_the_model() -> None:
    def build() -> tuple[nn.Module, Tensor]:
        layers = [nn.Linear(16, 48), Split(), nn.Linear(16, 3)]
        return nn.Sequential(*layers), torch.zeros(2, 16)

    class Split(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            a, b, c = x.chunk(3, -1)
            return a * b + c

    expected = fans(trace(*build()))
    assert expected[0].parts == 3
    with torch.device("meta"):
        model, x = build()
        assert fans(trace(model, x)) == expected
        for scheme in ("auto", "orthogonal", "truncated-normal"):
            fl.initialize(model, x, scheme=scheme, class_counts=[1, 2, 3])
    assert float(model[0].weight.detach().std()) == pytest.approx(math.sqrt(1 / 16), rel=0.3)


HIDDEN = {"conv1.weight", "conv2.weight", "conv3.weight", "conv4.weight", "conv5.weight", "conv6.weight"}


@pytest.mark.parametrize("scheme", ["zeros", "constant"])
def test_layers_of_equal_units_are_named_before_anything_runs(scheme: str) -> None:
    model, x = small_cnn(), noise(8, 3, 16, 16)
    report = fl.initialize(model, x, scheme=scheme)
    (warning,) = report.warnings
    assert "start equal and stay equal" in warning
    assert "Warning: the units" in str(report)
    graph = trace(model, x)
    assert set(identical_units(graph, report.plan)) == HIDDEN
    # The proof by running it, where labels give every class its own gradient, agrees.
    assert {s.parameter for s in symmetries(model, x, torch.arange(8)) if s.permanent} >= HIDDEN


@pytest.mark.parametrize("scheme", sorted(set(SCHEMES) - {"zeros", "constant"}))
def test_no_other_scheme_makes_units_equal(scheme: str) -> None:
    for model in (small_cnn(), Blocks("batch"), Blocks("weight"), Attention()):
        graph = trace(model, noise(2, 3, 8, 8))
        assert identical_units(graph, SCHEMES[scheme](graph)) == ()


def test_one_random_reader_tells_units_apart() -> None:
    model, x = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)), noise(16, 6)
    for random, equal in (("0", {"2.weight"}), ("2", set()), ("4", {"0.weight"}), ("9", {"0.weight", "2.weight"})):
        graph = trace(model, x)
        plan = constant(graph).override({f"{random}.weight": {"distribution": "normal", "std": 0.3}}) if (
            random != "9"
        ) else constant(graph)  # fmt: skip
        assert set(identical_units(graph, plan)) == equal
        fl.initialize(model, x, scheme="constant", graph=graph, overrides={} if random == "9" else {
            f"{random}.weight": {"distribution": "normal", "std": 0.3}
        })  # fmt: skip
        hidden = {s.parameter for s in symmetries(model, x, torch.arange(16) % 3) if s.permanent} - {"4.weight"}
        assert hidden == equal


def test_a_depthwise_layer_of_equal_taps_keeps_channels_apart() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    graph = trace(model, noise(2, 3, 8, 8))
    equal = {"distribution": "constant", "mean": 0.1, "std": 0.0}
    plan = SCHEMES["kaiming"](graph).override({"1.weight": equal, "3.weight": equal})
    assert identical_units(graph, plan) == ()


def test_auto_refuses_to_make_units_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    import firstlight.workflows.initializing as workflow

    def broken(graph: object, buffers: object) -> object:
        plan = constant(graph)  # type: ignore[arg-type]
        return type(plan)("auto", plan.decisions)

    monkeypatch.setattr(workflow, "auto", broken)
    model, x = small_cnn(), noise(2, 3, 32, 32)
    before = model.conv1.weight.clone()
    with pytest.raises(FirstlightError) as caught:
        fl.initialize(model, x)
    assert caught.value.slug == "identical-units"
    assert torch.equal(model.conv1.weight, before)
    asked = {"distribution": "constant", "mean": 0.1, "std": 0.0}
    monkeypatch.undo()
    report = fl.initialize(model, x, overrides={"*.weight": asked})
    assert report.warnings


def test_the_report_names_the_buffers_it_reset_and_why_parameters_are_left() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model.spare = nn.Parameter(torch.ones(3))
    model.register_buffer("grid", torch.arange(3.0))
    model(noise(2, 3, 8, 8))
    report = fl.initialize(model, noise(2, 3, 8, 8))
    assert report.buffers == ("1.running_mean", "1.running_var", "1.num_batches_tracked")
    assert report.warnings == ("spare keeps its values: no output depends on it",)
    assert "put back to their start: 3 (1.running_mean, 1.running_var, 1.num_batches_tracked)" in str(report)
    assert model[1].running_var.tolist() == [1.0] * 4
    assert model.grid.tolist() == [0, 1, 2]


def test_gates_that_see_no_input_start_in_the_middle() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(6, 8), nn.Linear(6, 8)
            self.gate, self.shares = nn.Parameter(torch.ones(8)), nn.Parameter(torch.ones(2))

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.shares.softmax(0)
            return a * self.one(x) * self.gate.view(1, 8).sigmoid() + b * self.two(x)

    model, x = Gated(), noise(4, 6)
    report = fl.initialize(model, x)
    assert not report.uncovered
    assert {p.name: p.rule for p in report.parameters if p.name in ("gate", "shares")} == dict.fromkeys(
        ("gate", "shares"), "gate"
    )
    assert not model.gate.any()
    assert not model.shares.any()
