"""A head that starts at the classes' frequencies: the loss is the entropy of the labels before the first step."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import firstlight as fl
from firstlight.cli.main import main
from firstlight.errors import FirstlightError
from firstlight.graph import trace
from firstlight.initialization import SCHEMES, Plan, apply, with_prior
from firstlight.initialization.head import prior_bias
from firstlight.models import small_cnn

COUNTS = [4, 8, 88]


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@given(st.lists(st.integers(1, 10**9), min_size=2, max_size=30))
def test_the_biases_predict_the_frequencies(counts: list[int]) -> None:
    frequencies = torch.tensor(counts, dtype=torch.float64) / sum(counts)
    logits = torch.tensor(prior_bias(counts, "softmax"), dtype=torch.float64)
    torch.testing.assert_close(logits.softmax(0), frequencies)
    assert float(logits.mean()) == pytest.approx(0, abs=1e-9)
    one_by_one = torch.tensor(prior_bias(counts, "sigmoid"), dtype=torch.float64)
    torch.testing.assert_close(one_by_one.sigmoid(), frequencies)


def test_retinanet_starts_every_anchor_at_one_in_a_hundred() -> None:
    assert prior_bias([1, 1], "sigmoid", samples=100) == pytest.approx([-math.log(0.99 / 0.01)] * 2)


@pytest.mark.parametrize("scheme", ["auto", "kaiming", "lsuv"])
def test_the_loss_starts_at_the_entropy_of_the_labels(scheme: str) -> None:
    model, x = small_cnn(classes=3), noise(100, 3, 16, 16)
    labels = torch.arange(3).repeat_interleave(torch.tensor(COUNTS))
    report = fl.initialize(model, x, scheme=scheme, class_counts=COUNTS)
    entropy = -sum(n / 100 * math.log(n / 100) for n in COUNTS)
    with torch.no_grad():
        assert float(F.cross_entropy(model(x), labels)) == pytest.approx(entropy, abs=0.02)
    assert {p.name: p.rule for p in report.parameters}["head.bias"] == "prior"
    fl.initialize(model, x, scheme=scheme)
    with torch.no_grad():
        assert float(F.cross_entropy(model(x), labels)) > 2 * entropy


def test_the_loss_of_sigmoids_starts_at_the_sum_of_their_entropies() -> None:
    model, x = small_cnn(classes=3), noise(100, 3, 16, 16)
    targets = torch.zeros(100, 3)
    for k, count in enumerate(COUNTS):  # an image may be of several classes
        targets[:count, k] = 1
    fl.initialize(model, x, class_counts=COUNTS, head="sigmoid", samples=100)
    with torch.no_grad():
        losses = F.binary_cross_entropy_with_logits(model(x), targets, reduction="none").mean(0)
    for loss, count in zip(losses.tolist(), COUNTS, strict=True):
        p = count / 100
        assert loss == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p), abs=0.02)


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.hidden = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 1)
        self.side, self.pixels = nn.Linear(8, 5), nn.Conv2d(5, 5, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(x).relu()
        return self.pixels(self.hidden(x).relu()).log_softmax(1), self.side(x.mean((2, 3)))


def test_every_head_is_found_and_no_hidden_layer_of_the_same_width() -> None:
    graph = trace(TwoHeads(), noise(2, 3, 8, 8))
    plan = with_prior(SCHEMES["kaiming"](graph), graph, [1, 2, 3, 4, 5])
    assert [d.name for d in plan.decisions if d.values is not None] == ["side.bias", "pixels.bias"]
    before = {d.name: d.std for d in SCHEMES["kaiming"](graph).decisions}
    smaller = {d.name for d in plan.decisions if d.std < before[d.name]}
    assert smaller == {"side.weight", "pixels.weight"}


def test_a_plan_with_a_prior_survives_being_saved(tmp_path: Path) -> None:
    model = small_cnn(classes=3)
    graph = trace(model, noise(2, 3, 32, 32))
    plan = with_prior(SCHEMES["kaiming"](graph), graph, COUNTS)
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    apply(plan, model)
    assert model.head.bias.tolist() == pytest.approx(prior_bias(COUNTS, "softmax"))
    apply(plan.override({"head.bias": {"mean": 2.0}}), model)
    assert model.head.bias.tolist() == [2.0] * 3


def test_a_class_without_images_has_a_finite_bias() -> None:
    assert prior_bias([0, 10], "softmax")[0] == pytest.approx(math.log(0.5 / 10) / 2)
    assert all(map(math.isfinite, prior_bias([0, 10], "sigmoid", samples=10)))


@pytest.mark.parametrize(
    ("slug", "settings"),
    [
        ("no-head", {"class_counts": [1, 2]}),
        ("class-counts", {"class_counts": [1, -2, 3]}),
        ("class-counts", {"class_counts": [0, 0, 0]}),
        ("class-counts", {"class_counts": [1, 2, 3], "samples": 6}),
        ("class-counts", {"class_counts": [1, 2, 7], "head": "sigmoid", "samples": 6}),
        ("class-counts", {"class_counts": [1, 2, 3], "head": "sofmax"}),
        ("class-counts", {"class_counts": [3], "head": "sigmoid"}),
    ],
)
def test_counts_that_do_not_fit_are_refused(slug: str, settings: dict[str, object]) -> None:
    model = small_cnn(classes=3)
    before = model.head.weight.clone()
    with pytest.raises(FirstlightError) as caught:
        fl.initialize(model, noise(2, 3, 32, 32), scheme="kaiming", **settings)  # type: ignore[arg-type]
    assert caught.value.slug == slug
    assert torch.equal(model.head.weight, before)


def test_a_head_without_a_bias_is_refused() -> None:
    with pytest.raises(FirstlightError) as caught:
        fl.initialize(nn.Linear(4, 3, bias=False), noise(2, 4), class_counts=[1, 2, 3])
    assert caught.value.slug == "head-without-bias"


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main([*arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_the_command_takes_class_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = "from firstlight.models import small_cnn\ndef build(): return small_cnn(classes=3)\n"
    (tmp_path / "net.py").write_text(code)
    net = ["init", f"{tmp_path}/net.py:build", "--input", "3x32x32"]
    assert run(*net, "--class-counts", "4,8,88", "--json") == 0
    bias = next(p for p in json.loads(capsys.readouterr().out)["parameters"] if p["name"] == "head.bias")
    assert bias["values"] == pytest.approx(prior_bias(COUNTS, "softmax"))
    assert run(*net, "--class-counts", "10,20") == 2
    assert "no head with 2 outputs: head.weight has 3" in capsys.readouterr().err
    assert run(*net, "--class-counts", "10,many") == 2
