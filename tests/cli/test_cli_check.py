"""``firstlight check`` and ``firstlight explain`` as a user runs them."""

import json

import pytest

from firstlight.cli.main import main
from firstlight.diagnosis import all_rules

NETWORK = """
import torch
from torch import nn
import firstlight as fl

def build(channels=1):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(channels, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 10))
    fl.initialize(network, torch.zeros(2, channels, 8, 8), scheme="kaiming", seed=0)
    return network

def constant():
    network = build()
    for parameter in network.parameters():
        nn.init.constant_(parameter, 0.05)
    return network

def focal(output, labels):
    p = output.softmax(1).gather(1, labels[:, None]).clamp(1e-6, 1)
    return ((1 - p) ** 2 * -p.log()).mean()
"""


@pytest.fixture
def net(tmp_path):
    (tmp_path / "net.py").write_text(NETWORK)
    return str(tmp_path / "net.py")


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as done:
        main([str(argument) for argument in arguments])
    return done.value.code


def test_healthy_exits_with_zero(net, capsys):
    assert run("check", f"{net}:build", "--data", "demo:digits") == 0
    assert "The signal flows" in capsys.readouterr().out


def test_findings_exit_with_one_and_every_report_is_written(net, tmp_path, capsys):
    files = [tmp_path / f"out.{end}" for end in ("html", "json", "xml", "sarif")]
    arguments = [part for file in files for part in ("-o", file)]
    assert run("check", f"{net}:constant", "--data", "demo:digits", "--fix", *arguments) == 1
    shown = capsys.readouterr().out
    assert "FL203" in shown
    assert "gone" in shown
    assert all(file.stat().st_size > 500 for file in files)
    assert json.loads(files[1].read_text())["trials"][0]["mended"] is True


def test_raw_pixels_are_named(net, capsys):
    assert run("check", f"{net}:build", "--data", "demo:digits", "--recipe", "none", "--fail-on", "warn", "--json") == 1
    found = json.loads(capsys.readouterr().out)["findings"]
    assert [f["where"] for f in found if f["code"] == "FL101"] == ["input"]


def test_optimizer_loss_and_constants(net, capsys):
    code = run("check", f"{net}:build", "--data", "demo:digits", "--optimizer", "sgd", "--lr", "0.01", "--loss",
               f"{net}:focal", "--mean", "0.3", "--std", "0.37", "--json")  # fmt: skip
    value = json.loads(capsys.readouterr().out)
    assert code in (0, 1)
    assert value["optimizer"]["name"] == "SGD"
    assert "FL601" not in {row["code"] for row in value["not_checked"]}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--optimizer", "lion"], "sgd, adam, adamw"),
        (["--loss", "hinge"], "cross-entropy"),
        (["--mean", "0.5"], "both --mean and --std"),
        (["--recipe", "missing.json"], "missing.json"),
        (["-o", "out.pdf"], ".sarif"),
    ],
)
def test_bad_input_exits_with_two_and_a_way_out(net, tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert run("check", f"{net}:build", "--data", "demo:digits", *arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not (tmp_path / "out.pdf").exists()


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.code)
def test_every_rule_explains_itself(rule, capsys):
    assert run("explain", rule.code) == 0
    shown = capsys.readouterr().out
    assert rule.code in shown
    assert rule.name in shown
    assert len(rule.page().split()) > 40
    assert run("explain", rule.name, "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["code"] == rule.code


def test_codes_and_names_are_unique_and_listed(capsys):
    rules = all_rules()
    assert len({r.code for r in rules}) == len({r.name for r in rules}) == len(rules)
    assert run("explain") == 0
    assert len(capsys.readouterr().out.splitlines()) == len(rules)
    assert run("explain", "FL999") == 2
    assert "lists them all" in capsys.readouterr().err


def test_a_loss_of_ones_own_gets_the_folders_labels_whatever_the_output(tmp_path, capsys):
    import numpy as np
    from PIL import Image

    (tmp_path / "seg.py").write_text(
        "from torch import nn\n"
        "class Dense(nn.Conv2d):\n"
        "    def forward(self, x):\n"
        "        return {'out': super().forward(x)}\n"
        "def build():\n"
        "    return Dense(3, 4, 3, padding=1)\n"
        "def dense(output, labels):\n"
        "    scores = output['out']\n"
        "    target = labels[:, None, None].expand(-1, *scores.shape[2:])\n"
        "    return nn.functional.cross_entropy(scores, target)\n"
    )
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    for k, image in enumerate(pixels):
        folder = tmp_path / "data" / "ab"[k % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{k}.png")
    arguments = (f"{tmp_path}/seg.py:build", "--data", tmp_path / "data", "--loss", f"{tmp_path}/seg.py:dense")
    assert run("check", *arguments, "--json") in (0, 1)
    value = json.loads(capsys.readouterr().out)
    assert "FL121" not in {row["code"] for row in value["not_checked"]}
