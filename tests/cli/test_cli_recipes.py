"""Recipes on the command line: derived, exported, audited, refused."""

import json

import numpy as np
import pytest
from test_cli import run

import firstlight as fl


@pytest.fixture(scope="module")
def statistics(tmp_path_factory):
    path = tmp_path_factory.mktemp("stats") / "stats.json"
    fl.scan("demo:photos").save(path)
    return path


def constants(values):
    return ",".join(f"{v:.4f}" for v in values)


@pytest.mark.parametrize("preset", ["resnet", "vgg", "alexnet", "scale", "pca", "zca"])
def test_each_preset_is_that_of_the_library(statistics, tmp_path, preset):
    done = run("recipe", statistics, "--preset", preset, "-o", tmp_path / "r.json")
    assert done.returncode == 0, done.stderr
    expected = getattr(fl.Recipe, preset)(fl.Statistics.load(statistics))
    image = fl.open_source("demo:photos").read(7)
    np.testing.assert_array_equal(fl.Recipe.load(tmp_path / "r.json")(image), expected(image))


def test_a_recipe_as_json(statistics, tmp_path):
    value = json.loads(run("recipe", statistics, "--json", "-o", tmp_path / "r.json").stdout)
    assert value["format"] == "firstlight.recipe/1"


def test_exports_that_are_files(statistics, tmp_path):
    run("recipe", statistics, "-o", tmp_path / "r.json")
    hf = json.loads(run("export", tmp_path / "r.json", "hf").stdout)
    assert hf["image_mean"] == pytest.approx(fl.Statistics.load(statistics).mean.tolist())
    done = run("export", tmp_path / "r.json", "timm", "-o", tmp_path / "timm.json")
    assert done.stdout.strip() == f"Wrote {tmp_path / 'timm.json'}"
    assert json.loads((tmp_path / "timm.json").read_text())["std"] == pytest.approx(hf["image_std"])


def test_what_a_format_cannot_say_is_refused(statistics, tmp_path):
    run("recipe", statistics, "--preset", "zca", "-o", tmp_path / "r.json")
    done = run("export", tmp_path / "r.json", "hf", "-o", tmp_path / "hf.json")
    assert done.returncode == 2
    assert "no matrix" in done.stderr
    assert not (tmp_path / "hf.json").exists()


def test_right_constants_exit_with_0(statistics):
    stats = fl.Statistics.load(statistics)
    done = run("audit", statistics, "--mean", constants(stats.mean), "--std", constants(stats.std))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("fault", "change"),
    [
        ("bgr-for-rgb", lambda s: (s.mean[::-1], s.std[::-1])),
        ("averaged-std", lambda s: (s.mean, s.per_image_std)),
        ("variance-for-std", lambda s: (s.mean, s.std**2)),
    ],
)
def test_wrong_constants_exit_with_1_and_the_mistake_is_named(statistics, fault, change):
    mean, std = change(fl.Statistics.load(statistics))
    done = run("audit", statistics, "--mean", constants(mean), "--std", constants(std), "--json")
    assert done.returncode == 1
    value = json.loads(done.stdout)
    assert value["format"] == "firstlight.audit/1"
    assert fault in [verdict["code"] for verdict in value["verdicts"]]


def test_an_audit_from_images_with_a_page(tmp_path):
    done = run("audit", "demo:photos", "--model", "torchvision:resnet50", "-o", tmp_path / "audit.html")
    assert done.returncode == 1
    page = (tmp_path / "audit.html").read_text("utf-8")
    assert "Are these constants right?" in page
    assert len(page) < 1_000_000


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["recipe", "nowhere.json"], "cannot read"),
        (["recipe", "/dev/null"], "does not hold statistics"),
        (["export", "nowhere.json", "hf"], "nowhere.json"),
        (["export", "nowhere.json", "coreml"], "coreml"),
        (["audit", "demo:photos"], "nothing to compare"),
        (["audit", "demo:photos", "--mean", "0.5,x"], "not a list of numbers"),
        (["audit", "demo:photos", "--mean", "0.5,0.5"], "mean"),
        (["audit", "demo:photos", "--model", "torchvision:nonsense"], "no preprocessing is published"),
        (["audit", "demo:photos", "--config", "nowhere.json"], "nowhere.json"),
        (["audit", "demo:photos", "--eigval", "1,2,3", "--eigvec", "1,2"], "3×3"),
    ],
)
def test_bad_input_gets_one_message(arguments, cause, tmp_path):
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert cause in done.stderr
    assert list(tmp_path.iterdir()) == []
