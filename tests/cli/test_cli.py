"""The command line as a stranger meets it: help, results, messages, exit codes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import firstlight as fl

FIRSTLIGHT = [sys.executable, "-m", "firstlight"]


def run(*arguments, cwd=None):
    done = subprocess.run([*FIRSTLIGHT, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for k in range(6):
        Image.fromarray(rng.integers(0, 256, (20 + k, 30, 3), dtype=np.uint8)).save(folder / f"{k}.png")
    return folder


def test_help_names_every_command():
    done = run("--help")
    assert done.returncode == 0
    for name in ("prepare", "scan", "init"):
        assert name in done.stdout
        assert run(name, "--help").returncode == 0


def test_importing_and_scanning_load_neither_torch_nor_what_they_do_not_need(photos):
    code = (
        "import sys, firstlight as fl\n"
        "assert not {'torch', 'numba', 'cv2', 'numpy'} & set(sys.modules)\n"
        f"fl.scan({str(photos)!r})\n"
        "assert not {'torch', 'torchvision', 'jinja2', 'rich'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_scan_writes_the_statistics_and_a_page(photos, tmp_path):
    done = run("scan", photos, "-o", tmp_path / "out" / "stats.json")
    assert done.returncode == 0, done.stderr
    stats = fl.Statistics.load(tmp_path / "out" / "stats.json")
    assert stats.count == 6
    assert f"{stats.mean[0]:.5f}" in done.stdout
    assert "stats.html" in done.stdout
    assert (tmp_path / "out" / "stats.html").read_text("utf-8").startswith("<!DOCTYPE html>")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["stats.html", "stats.json"]


def test_json_goes_to_standard_output_and_is_all_there_is(photos, tmp_path):
    done = run("scan", photos, "--json", "--no-page", "-o", tmp_path / "s.json")
    value = json.loads(done.stdout)
    assert value["format"] == "firstlight.scan/1"
    assert value["images"] == 6
    assert value["files"] == [str(tmp_path / "s.json")]


def test_options_reach_the_scan(photos, tmp_path):
    done = run("scan", photos, "--resize", "16", "--crop", "12x10", "--resample", "bicubic", "-o", tmp_path / "s.json")
    assert done.returncode == 0, done.stderr
    stats = fl.Statistics.load(tmp_path / "s.json")
    assert stats.provenance.transform == "resize 16 bicubic, center crop 12×10"
    assert stats.mean_image.shape == (12, 10, 3)


def test_strict_turns_a_bad_file_into_exit_code_1(photos, tmp_path):
    (photos / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a photograph")
    assert run("scan", photos, "-o", tmp_path / "s.json").returncode == 0
    done = run("scan", photos, "--strict", "-o", tmp_path / "s.json")
    assert done.returncode == 1
    assert "bad.jpg" in done.stdout


def test_a_hostile_name_cannot_paint_the_terminal(photos, tmp_path):
    (photos / "\x1b[31mred\n[bold]x.jpg").write_bytes(b"")
    done = run("scan", photos, "-o", tmp_path / "s.json")
    assert "\x1b" not in done.stdout
    assert "[bold]x.jpg" in done.stdout


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8:strict"])
def test_names_and_terminals_of_any_encoding(encoding, photos, tmp_path):
    folder = photos.rename(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [*FIRSTLIGHT, "scan", str(folder), "-o", f"{folder}.json"]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert rb"caf\udce9.json" in done.stdout
    assert fl.Statistics.load(f"{folder}.json").provenance.sources[0]["location"].endswith(r"/caf\xe9")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_output_that_has_no_room_is_an_error_without_a_traceback(photos, tmp_path):
    command = [*FIRSTLIGHT, "scan", str(photos), "-o", str(tmp_path / "s.json")]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["scan", "nowhere/"], "there is no file or folder"),
        (["scan", "."], "no images"),
        (["scan", "demo:photos", "--resize", "big"], "not a size"),
        (["scan", "demo:photos", "--resize", "0"], "not a size in pixels"),
        (["scan", "demo:photos", "--alpha", "pink"], "not a policy"),
        (["scan", "demo:photos", "--sample", "0"], "not a number of images"),
        (["scan", "demo:photos", "--tolerance", "-1"], "not a half-width"),
        (["scan", "demo:photos", "--split", "train"], "no split"),
        (["scan", "demo:photos", "--workers", "0"], "workers"),
        (["scan", "demo:photos", "--nodata", "nan"], "not a value of pixels"),
        (["scan", "demo:photos", "--resize", "99999999"], "more than 178,956,970 pixels"),
        (["scan", "demo:photos", "--split", "train", "--all-splits"], "at once"),
        (["scan", "demo:photos", "-o", "page.html"], "the page has this name"),
        (["scan", "demo:photos", "-o", "/dev/null/x.json"], "cannot write"),
        (["prepare", "demo:photos", "nonsense"], "does not name a model"),
        (["prepare", "demo:photos", "nofile.py:net"], "nofile.py"),
        (["init", "timm:resnet999"], "resnet999"),
        (["init", "timm:resnet18", "--input", "3xx"], "not a shape"),
        (["init", "timm:resnet18", "--scheme", "magic"], "no scheme"),
        (["scan"], "SOURCE"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_bad_input_gets_one_message_and_exit_code_2(arguments, cause, tmp_path):
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert cause in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_killed_scan_goes_on_and_gives_the_same_file(tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (600, 800, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "0000.png")
    for k in range(1, 400):
        os.link(folder / "0000.png", folder / f"{k:04d}.png")
    command = [*FIRSTLIGHT, "scan", str(folder), "--no-page", "--workers", "1", "-o"]
    victim = subprocess.Popen([*command, str(tmp_path / "killed.json")], stdout=subprocess.DEVNULL)
    partial = tmp_path / "killed.json.partial"
    deadline = time.monotonic() + 60
    while not partial.exists() and victim.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert partial.exists(), "the scan ended before it kept anything"
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert not (tmp_path / "killed.json").exists()
    subprocess.run([*command, str(tmp_path / "killed.json")], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([*command, str(tmp_path / "whole.json")], check=True, stdout=subprocess.DEVNULL)
    assert (tmp_path / "killed.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert not partial.exists()


def listening():
    """What runs in the background of a shell inherits a deaf ear for interrupts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def interrupted(command, output):
    """What a command says when it is interrupted once the scan has begun to keep blocks."""
    victim = subprocess.Popen(
        [*FIRSTLIGHT, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=listening
    )
    partial = Path(f"{output}.partial")
    deadline = time.monotonic() + 60
    while not partial.exists() and victim.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    victim.send_signal(signal.SIGINT)
    _, said = victim.communicate(timeout=60)
    assert victim.returncode == 130
    assert "Traceback" not in said
    return said


def slow_source(tmp_path):
    folder = tmp_path / "slow"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "000.png")
    for k in range(1, 900):  # long enough to be interrupted on a busy machine
        os.link(folder / "000.png", folder / f"{k:03d}.png")
    return folder


@pytest.mark.parametrize("command", ["scan", "prepare"])
def test_an_interrupt_says_what_was_kept_and_the_same_command_goes_on_from_it(command, tmp_path):
    output = tmp_path / "out"
    arguments = [command, str(slow_source(tmp_path)), "--resize", "32", "--crop", "32", "-o", str(output)]
    said = interrupted(arguments, output)
    assert f"finished blocks are kept in '{output}.partial'" in said
    assert not output.exists()
    other = run(*arguments, "--resize", "33")
    assert other.returncode == 2
    assert "--restart" in other.stderr
    # 900 links to one image: nothing to a scan, a finding to a check.
    assert run(*arguments).returncode == (1 if command == "prepare" else 0)
    assert not Path(f"{output}.partial").exists()


def test_an_interrupt_promises_nothing_that_was_not_kept():
    code = (
        "import firstlight.cli, firstlight.models\n"
        "def interrupt(_): raise KeyboardInterrupt\n"
        "firstlight.models.open_model = interrupt\n"
        "firstlight.cli.main(['init', 'timm:resnet18'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr.strip() == "firstlight: interrupted."


def test_a_prepare_that_fails_leaves_nothing(tmp_path):
    (tmp_path / "net.py").write_text("from torch import nn\ndef net(): return nn.Conv2d(1, 8, 3)\n")
    done = run("prepare", "demo:photos", "net.py:net", "-o", "out", cwd=tmp_path)
    assert done.returncode == 2
    assert [path.name for path in tmp_path.iterdir()] == ["net.py"]


def test_a_sample_says_how_many_more_images_the_next_digit_would_need(tmp_path):
    arguments = ("scan", "demo:photos", "--tolerance", "0.05", "--no-page", "-o", tmp_path / "s.json")
    stats = fl.scan("demo:photos", tolerance=0.05)
    more = stats.images_for_next_digit - stats.count
    assert f"about {more:,} more images" in " ".join(run(*arguments).stdout.split())
    value = json.loads(run(*arguments, "--json").stdout)
    assert value["images_for_next_decimal"] == stats.images_for_next_digit
    assert value["mean_decimals_known"] == stats.digits


def test_a_long_quarantine_list_stays_short_in_the_terminal(photos, tmp_path):
    for k in range(40):
        Image.new("L", (4, 4)).save(photos / f"good{k}.png")
    for k in range(30):
        (photos / f"bad{k:02d}.png").write_bytes(b"")
    shown = run("scan", photos, "--no-page", "-o", tmp_path / "s.json").stdout
    assert "bad19.png" in shown
    assert "bad20.png" not in shown
    assert "and 10 more" in shown


def test_prepare_makes_the_four_files(tmp_path):
    import torch
    from safetensors.torch import load_file

    from firstlight.models import small_cnn

    done = run("prepare", "-o", tmp_path / "out", "--batch", "16")
    assert done.returncode == 0, done.stderr
    assert "report.html" in done.stdout.splitlines()[-1]
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["recipe.json", "report.html", "statistics.json", "weights.safetensors"]
    model = small_cnn(3, 2)
    model.load_state_dict(load_file(tmp_path / "out" / "weights.safetensors"), strict=True)
    # 27 terms make a variance of one, where none of them falls on the border: 94 of 96 taps do not, along each axis.
    assert model.conv1.weight.std().item() == pytest.approx((27 * (94 / 96) ** 2) ** -0.5, rel=0.05)
    recipe = fl.Recipe.load(tmp_path / "out" / "recipe.json")
    stats = fl.Statistics.load(tmp_path / "out" / "statistics.json")
    flat = np.rint(stats.mean * 255).astype(np.uint8) * np.ones((4, 4, 1), np.uint8)
    assert np.abs(recipe(flat)).max() < 0.01
    assert torch.isfinite(model(torch.zeros(1, 3, 32, 32))).all()


def test_prepare_as_json_on_digits(tmp_path):
    done = run("prepare", "demo:digits", "-o", tmp_path / "out", "--batch", "8", "--json")
    value = json.loads(done.stdout)
    assert value["format"] == "firstlight.prepare/1"
    assert value["summary"]["images"] == 1797
    assert value["labels"] == "labels: the folders' 10 classes"
    assert all(node["nonfinite"] == 0 for node in value["measurements"]["nodes"])


def test_prepare_with_a_network_of_ones_own(tmp_path, photos):
    Path(tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)]\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), *head)\n"
    )
    done = run("prepare", photos, f"{tmp_path}/net.py:net", "-o", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "The images differ in size" in done.stdout
    assert not (tmp_path / "__pycache__").exists()


def test_init_prints_one_line_per_parameter_and_writes_the_weights(tmp_path):
    done = run("init", "torchvision:resnet18", "--input", "3x32x32", "-o", tmp_path / "w.safetensors")
    assert done.returncode == 0, done.stderr
    assert "layer1.0.conv1.weight" in done.stdout
    assert (tmp_path / "w.safetensors").exists()


def test_prepare_takes_the_options_of_a_scan(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (12, 16, 16, 3), dtype=np.uint8)
    pixels[:, :4] = 255
    np.savez(tmp_path / "a.npz", images=pixels, others=pixels[..., 0])
    done = run("prepare", tmp_path / "a.npz", "--key", "images", "--nodata", "255", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    stats = fl.Statistics.load(tmp_path / "out" / "statistics.json")
    assert stats.provenance.nodata == 255
    assert stats.pixels.tolist() == [12 * 12 * 16] * 3
    done = run("prepare", tmp_path / "a.npz", "--key", "images", "--sample", "5", "-o", tmp_path / "few")
    assert done.returncode == 0, done.stderr
    assert fl.Statistics.load(tmp_path / "few" / "statistics.json").pixels.tolist() == [5 * 16 * 16] * 3
    done = run("prepare", tmp_path / "a.npz", "--key", "images", "--alpha", "pink", "-o", tmp_path / "no")
    assert done.returncode == 2
    assert "not a policy" in done.stderr
