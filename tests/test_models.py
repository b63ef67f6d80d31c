"""Networks by name, and what is said when a name is wrong."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from firstlight.errors import FirstlightError
from firstlight.models import open_model, small_cnn

CODE = """
from dataclasses import dataclass
import torch.nn as nn

@dataclass
class Size:
    width: int = 3

def net():
    return nn.Linear(Size().width, 2)

class Net(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)

built = nn.Linear(3, 2)

class Outer:
    make = staticmethod(net)

def failing():
    raise RuntimeError("no such layer")

def needy(width):
    return nn.Linear(width, width)

def number():
    return 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "networks_in_a_package.py"
    path.write_text(CODE)
    return path


@pytest.mark.parametrize("attribute", ["net", "Net", "built", "Outer.make"])
def test_a_callable_in_a_file(file: Path, attribute: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = list(sys.path)
    model = open_model(f"{file}:{attribute}")
    assert isinstance(model, nn.Linear)
    assert sys.path == path
    assert not sys.dont_write_bytecode
    assert [entry.name for entry in file.parent.iterdir()] == ["networks_in_a_package.py"]


def test_a_callable_in_a_package(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(open_model("firstlight.models:small_cnn"), nn.Sequential)
    monkeypatch.chdir(file.parent)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path = list(sys.path)
    assert isinstance(open_model("networks_in_a_package:net"), nn.Linear)
    assert sys.path == path
    monkeypatch.delitem(sys.modules, "networks_in_a_package")


def test_the_file_is_read_again_each_time(file: Path) -> None:
    assert open_model(f"{file}:net").out_features == 2
    file.write_text(CODE.replace("width, 2)", "width, 5)"))
    assert open_model(f"{file}:net").out_features == 5


def test_networks_of_the_zoo() -> None:
    pytest.importorskip("timm")
    pytest.importorskip("torchvision")
    assert open_model("timm:resnet18").num_classes == 1000
    assert isinstance(open_model("torchvision:squeezenet1_1"), nn.Module)


def test_detectors_download_no_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchvision")
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", lambda *_, **__: pytest.fail("it downloads"))
    assert isinstance(open_model("torchvision:ssdlite320_mobilenet_v3_large"), nn.Module)


@pytest.mark.parametrize(
    ("name", "slug", "says"),
    [
        ("resnet18", "model-name", "timm:NAME"),
        ("", "model-name", "timm:NAME"),
        ("timm:", "model-name", "timm:NAME"),
        (":net", "model-name", "timm:NAME"),
        ("timm:resnet81", "model-not-found", "resnet18"),
        ("torchvision:resnet81", "model-not-found", "resnet18"),
        ("no_such_package:net", "model-not-found", "no_such_package.py"),
        ("firstlight.no_such:net", "model-not-found", "firstlight/no_such.py"),
        ("no/such/file.py:net", "model-not-found", "no/such/file.py"),
        ("{file}:nett", "model-not-found", "did you mean net"),
        ("{file}:zzzzzz", "model-not-found", "zzzzzz"),
        ("{file}:failing", "model-does-not-build", "no such layer"),
        ("{file}:needy", "model-does-not-build", "width"),
        ("{file}:number", "not-a-module", "int"),
    ],
)
def test_each_mistake_has_its_error(file: Path, name: str, slug: str, says: str) -> None:
    with pytest.raises(FirstlightError) as caught:
        open_model(name.format(file=file))
    assert caught.value.slug == slug
    assert says in str(caught.value)
    assert caught.value.call == f"open_model({name.format(file=file)!r})"


@pytest.mark.parametrize("code", ["import no_such_package", "1 +", "raise ValueError('stop')"])
def test_a_file_that_does_not_run(tmp_path: Path, code: str) -> None:
    path = tmp_path / "broken.py"
    path.write_text(code)
    with pytest.raises(FirstlightError) as caught:
        open_model(f"{path}:net")
    assert caught.value.slug == "model-does-not-build"
    assert not any("firstlight_user_broken" in name for name in sys.modules)


def test_a_missing_dependency_of_a_module_is_not_a_missing_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needs_more.py").write_text("import no_such_package")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    with pytest.raises(FirstlightError) as caught:
        open_model("needs_more:net")
    assert caught.value.slug == "model-does-not-build"


@pytest.mark.parametrize(("channels", "classes"), [(3, 10), (1, 2)])
def test_the_small_network(channels: int, classes: int) -> None:
    model = small_cnn(channels, classes)
    assert model(torch.ones(2, channels, 32, 32)).shape == (2, classes)
    names = [f"conv{i}.{kind}" for i in range(1, 7) for kind in ("weight", "bias")]
    assert [name for name, _ in model.named_parameters()] == [*names, "head.weight", "head.bias"]
