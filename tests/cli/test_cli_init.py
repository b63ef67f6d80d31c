"""``firstlight init``: three forms of one report, exit codes, and one message for what the user can put right."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from firstlight.cli import main
from firstlight.models import small_cnn

SMALL = ["firstlight.models:small_cnn", "--input", "3x32x32"]
ENCODER = """
from torch import nn


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 2, 32, batch_first=True), 2)

    def forward(self, x):
        return self.layers(x.flatten(2).mT).mean(1)
"""


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(["init", *arguments])
        said = capsys.readouterr()
        return int(left.value.code or 0), said.out, said.err

    return call


def test_weights_page_and_report_are_written_in_one_go(run) -> None:
    code, out, _ = run(
        *SMALL, "--scheme", "kaiming", "--seed", "3", "-o", "w.safetensors", "-o", "p.html", "-o", "r.json"
    )
    assert code == 0
    assert out.count("Wrote ") == 3
    model = small_cnn()
    model.load_state_dict(safetensors.torch.load_file("w.safetensors"), strict=True)
    value = json.loads(Path("r.json").read_text())
    assert (value["format"], value["scheme"], value["seed"]) == ("firstlight.init/1", "kaiming", 3)
    rows = {row["name"]: row for row in value["parameters"]}
    assert rows.keys() == dict(model.named_parameters()).keys()
    assert rows["conv2.weight"]["measured_std"] == pytest.approx(float(model.conv2.weight.detach().std()), rel=1e-4)
    page = Path("p.html").read_text()
    assert "firstlight init firstlight.models:small_cnn --input 3x32x32 --scheme kaiming --seed 3" in page
    assert all(name in page for name in rows)


def test_the_command_on_the_page_gives_the_same_weights(run) -> None:
    for path in ("a.safetensors", "b.safetensors"):
        assert run(*SMALL, "--scheme", "lsuv", "-o", path)[0] == 0
    one, two = (safetensors.torch.load_file(path) for path in ("a.safetensors", "b.safetensors"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_json_goes_to_standard_output_alone(run) -> None:
    code, out, err = run(*SMALL, "--json", "-o", "r.json")
    assert code == 0
    assert json.loads(out) == json.loads(Path("r.json").read_text())
    assert err == ""


def test_a_failing_start_exits_with_one(run) -> None:
    code, out, _ = run(*SMALL, "--scheme", "zeros")
    assert code == 1
    assert "Warning: " in out


def test_an_audit_without_findings(run) -> None:
    code, out, _ = run(*SMALL, "--audit", "-o", "a.html")
    assert code == 0
    assert "Nothing that should not be there." in out
    assert "torch-default" in out
    assert "Nothing in 14 parameters that should not be there." in Path("a.html").read_text()


def test_an_audit_with_findings_exits_with_one_in_every_form(run) -> None:
    Path("net.py").write_text(ENCODER)
    arguments = ("net.py:Encoder", "--input", "32x2x2", "--audit")
    said = "layers.layers.1.linear1.weight: identical to layers.layers.0.linear1.weight"
    code, out, _ = run(*arguments, "-o", "a.html", "-o", "a.json")
    assert code == 1
    assert said in out
    code, out, _ = run(*arguments, "--json")
    value = json.loads(out)
    assert code == 1
    assert value["format"] == "firstlight.init-audit/1"
    assert any(finding.startswith(said) for finding in value["findings"])
    assert "from the graph" in value["how"]
    entry = next(p for p in value["parameters"] if p["name"] == "layers.layers.0.linear1.weight")
    assert (entry["fan_in"], entry["fan_out"]) == (32, 32)
    assert dict(entry["against"])["lecture-xavier"] == pytest.approx(32**-0.5)
    assert json.loads(Path("a.json").read_text())["findings"] == value["findings"]
    assert "identical to layers.layers.0.linear1.weight" in Path("a.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["-o", "weights"], "says no form"),
        (["--audit", "-o", "w.safetensors"], "says no form"),
        (["--input", "3x0x4"], "not a shape"),
        (["--class-counts", "1,b"], "no list of numbers"),
        (["--scheme", "magic"], "no scheme"),
        (["--class-counts", "1,2"], "no head with 2 outputs"),
    ],
)
def test_what_is_asked_wrongly_gets_one_message_and_leaves_nothing(run, arguments, cause) -> None:
    code, out, err = run(*SMALL, *arguments)
    assert (code, out) == (2, "")
    assert cause in err
    assert "Traceback" not in err
    assert list(Path().iterdir()) == []
