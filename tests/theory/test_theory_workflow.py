import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import firstlight as fl
from firstlight.cli.predict import command
from firstlight.errors import FirstlightError
from firstlight.graph import trace
from firstlight.initialization import kaiming
from firstlight.models import small_cnn
from firstlight.report.html import to_html
from firstlight.report.predict_page import predict_document
from firstlight.workflows.predicting import moments_of, predict

EXAMPLE = torch.zeros(4, 3, 32, 32)


def test_a_plan_stands_in_for_the_weights():
    model = small_cnn()
    plan = kaiming(trace(model, EXAMPLE))
    planned = predict(model, EXAMPLE, plan=plan)
    default = predict(model, EXAMPLE)
    assert planned["conv6:conv2d"].forward_second_moment > 30 * default["conv6:conv2d"].forward_second_moment
    assert planned["conv1:conv2d"].forward_second_moment == pytest.approx(2.0, rel=0.06)  # less its border


def test_predicting_leaves_the_model_alone():
    model = small_cnn()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    predict(model, EXAMPLE)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_input_moments_scale_a_linear_network():
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    one, four = (predict(model, torch.zeros(2, 8), input_second_moment=q) for q in (1.0, 4.0))
    for a, b in zip(one.nodes, four.nodes, strict=True):
        assert b.forward_second_moment == pytest.approx(4 * a.forward_second_moment)
        assert b.backward_second_moment == pytest.approx(a.backward_second_moment)


def test_eval_mode_takes_running_statistics_and_no_dropout():
    model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Dropout(0.5))
    train, evaluated = (predict(model, torch.zeros(8, 64), mode=mode) for mode in ("train", "eval"))
    assert train.nodes[-1].forward_second_moment == pytest.approx(2.0, rel=1e-3)
    assert evaluated.nodes[-1].forward_second_moment == pytest.approx(
        evaluated.nodes[0].forward_second_moment, rel=1e-3
    )


@pytest.mark.parametrize(
    ("options", "slug"),
    [({"mode": "test"}, "no-such-mode"), ({"input_mean": 2.0}, "impossible-moments")],
)
def test_mistakes_are_named(options, slug):
    with pytest.raises(FirstlightError) as caught:
        predict(small_cnn(), EXAMPLE, **options)
    assert caught.value.slug == slug


def test_an_operation_without_a_rule_is_opaque_and_listed():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.fft.fft(x, norm="ortho").real

    found = predict(Odd(), torch.zeros(2, 8))
    assert found.opaque
    assert any("no rule" in node.reason for node in found.opaque)
    assert any(node.name in note for node in found.opaque for note in found.notes)
    page = to_html(predict_document("odd", found))
    assert "opaque" in page


def test_the_signal_dies_at_a_named_operation():
    model = nn.Sequential(*[m for _ in range(12) for m in (nn.Linear(256, 256), nn.Tanh())])
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.001) if parameter.dim() > 1 else nn.init.zeros_(parameter)
    found = predict(model, torch.zeros(2, 256))
    assert [what for _, what in found.turning_points] == ["the forward signal dies", "the gradient dies"]
    assert found.chi == pytest.approx(256e-6, rel=0.05)
    assert predict_document("tanh", found).tone == "bad"


def test_the_command_prints_tables_json_and_a_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text("from firstlight.models import small_cnn as build\n")
    run = CliRunner().invoke
    table = run(command, ["net.py:build", "--input", "3x32x32", "-o", "page.html"], standalone_mode=False)
    assert table.exception is None
    assert "By block" in table.output
    assert "<svg" in (tmp_path / "page.html").read_text()
    found = json.loads(run(command, ["net.py:build", "--input", "3x32x32", "--json"], standalone_mode=False).output)
    assert found["format"] == "firstlight.predict/1"
    assert found["nodes"][0]["name"] == "conv1:conv2d"
    text = run(command, ["net.py:build", "--input", "3x32x32", "--derive", "conv2"], standalone_mode=False).output
    assert "var(y) = d · var(w) · var(x)" in text


def test_statistics_through_a_recipe_are_the_moments_of_what_comes_out():
    images = np.random.default_rng(0).integers(0, 200, (6, 9, 9, 3), dtype=np.uint8)
    images[..., 1] //= 2
    stats = fl.scan(images, workers=1)
    for recipe in (fl.Recipe.resnet(stats), fl.Recipe.vgg(stats), fl.Recipe.zca(stats)):
        found, out = moments_of(stats, recipe), np.asarray(recipe(images), np.float64)
        assert found.mean == pytest.approx(out.mean((0, 1, 2)), abs=1e-5)
        assert found.second == pytest.approx((out**2).mean((0, 1, 2)), rel=1e-4, abs=1e-6)
    with pytest.raises(FirstlightError) as error:
        moments_of(stats, fl.Recipe.alexnet(stats))
    assert error.value.slug == "no-such-moments"
    with pytest.raises(FirstlightError) as error:
        predict(small_cnn(), EXAMPLE, recipe=fl.Recipe.resnet(stats))
    assert error.value.slug == "no-such-moments"


def test_images_bring_their_own_likeness():
    noise = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    smooth = nn.functional.interpolate(noise[..., ::8, ::8], size=32, mode="bilinear")
    smooth = (smooth - smooth.mean()) / smooth.std()
    model = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(3, 8, 1))
    pooled = [predict(model, noise, images=images).nodes[0].forward_second_moment for images in (noise, smooth)]
    assert pooled[0] == pytest.approx(1 / 16, rel=0.05)
    assert pooled[1] == pytest.approx(float(nn.functional.avg_pool2d(smooth, 4).square().mean()), rel=0.15)


def test_the_page_draws_branches_beside_the_main_path(tmp_path):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.one, self.two = (nn.Linear(16, 16) for _ in range(3))

        def forward(self, x):
            y = self.stem(x)
            return y + self.two(self.one(y).relu())

    model, example = Residual(), torch.zeros(4, 16)
    graph = trace(model, example)
    found = predict(model, example, graph=graph)
    chart = predict_document("net", found, graph=graph).sections[0].blocks[0]
    depth = {found.nodes[k].op: d for k, (d, *_) in enumerate(chart.points)}
    assert depth["add"] == 4  # by the longest way: stem, one, relu, two, add
    names = [node.op for node in found.nodes]
    into_add = {a for a, b in chart.edges if names[b] == "add"}
    assert len(into_add) == 2
    page = to_html(predict_document("net", found, graph=graph))
    assert page.count("<circle") >= 2 * len(found.nodes) - 1


def test_the_command_takes_statistics_and_a_recipe(tmp_path):
    stats = fl.scan("demo:digits", workers=1)
    stats.save(tmp_path / "s.json")
    fl.Recipe.resnet(stats).save(tmp_path / "r.json")
    (tmp_path / "net.py").write_text(
        "import torch\ndef net():\n    torch.manual_seed(0)\n    return torch.nn.Conv2d(1, 4, 3, bias=False)\n"
    )
    base = [f"{tmp_path}/net.py:net", "--input", "1x8x8", "--json"]
    files = ["--statistics", str(tmp_path / "s.json")]
    raw, prepared = (
        json.loads(CliRunner().invoke(command, [*base, *more], catch_exceptions=False).output)["nodes"][0]
        for more in (files, [*files, "--recipe", str(tmp_path / "r.json")])
    )
    square = float((stats.std**2 + stats.mean**2)[0])
    assert raw["forward_second_moment"] == pytest.approx(square * prepared["forward_second_moment"], rel=0.2)
