"""Recipes on the command line: derived, exported, audited, refused."""

import json

import numpy as np
import pytest
from PIL import Image
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
        (["recipe", "/dev/null"], "no file or folder"),
        (["recipe", "nowhere"], "no file or folder"),
        (["recipe", "stats.json", "--preset", "zca", "--over", "patches"], "covariance of channels"),
        (["recipe", "demo:photos", "--over", "patches"], "--over is for pca and zca"),
        (["recipe", "demo:photos", "--preset", "zca", "--size", "3"], "goes with --over patches"),
        (["recipe", "demo:photos", "--preset", "zca", "--over", "patches", "--rank", "3"], "--over pixels"),
        (["recipe", "demo:photos", "--preset", "zca", "--over", "patches", "--size", "33"], "smaller than a patch"),
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


def test_a_json_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "other.json").write_text("[1]")
    done = run("recipe", tmp_path / "other.json", "-o", tmp_path / "r.json")
    assert done.returncode == 2
    assert "does not hold statistics" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["--over", "patches", "--size", "3", "--workers", "1"], {"over": "patches", "size": 3}),
        (["--over", "patches"], {"over": "patches", "size": 5}),
        (["--over", "pixels", "--resize", "8"], {"over": "pixels", "resize": 8}),
        (["--over", "pixels", "--rank", "6", "--seed", "2"], {"over": "pixels", "rank": 6, "seed": 2}),
    ],
    ids=str,
)
def test_whitening_over_patches_and_pixels_is_that_of_the_library(tmp_path, arguments, options):
    done = run("recipe", "demo:photos", "--preset", "zca", *arguments, "-o", tmp_path / "r.json")
    assert done.returncode == 0, done.stderr
    assert fl.Recipe.load(tmp_path / "r.json") == fl.Recipe.zca(fl.fit("demo:photos", **options))
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_a_recipe_straight_from_images(statistics, tmp_path):
    done = run("recipe", "demo:photos", "--preset", "vgg", "-o", tmp_path / "r.json")
    assert done.returncode == 0, done.stderr
    assert fl.Recipe.load(tmp_path / "r.json") == fl.Recipe.vgg(fl.Statistics.load(statistics))


def test_splits_and_images_that_were_not_counted_are_said(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (8, 9, 9, 3), np.uint8)
    for k, image in enumerate(images):
        (tmp_path / "images" / ("train" if k < 6 else "val")).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "images" / ("train" if k < 6 else "val") / f"{k}.png")
    (tmp_path / "images" / "train" / "bad.png").write_bytes(b"no image")
    arguments = ["recipe", "images", "--preset", "pca", "--over", "patches", "--size", "3"]
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "--split train" in done.stderr
    done = run(*arguments, "--split", "train", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "fitted on 6 images, 294 patches" in done.stdout
    assert "Not counted: 1 images, the first of them train/bad.png" in done.stdout
