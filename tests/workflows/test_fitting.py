"""A fit walks its source as a scan does: the same bits for any workers and after a kill, guarded, with a quarantine."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

import firstlight as fl
from firstlight.engines import Checkpoint
from firstlight.sources import Stream
from firstlight.statistics.vectors import Vectors

RNG = np.random.default_rng(3)
BYTES = RNG.integers(0, 256, (900, 9, 8, 3), np.uint8)
FLOATS = RNG.normal(0.4, 0.2, (900, 9, 8, 3)).astype(np.float32)
WIDE = RNG.integers(0, 65536, (900, 9, 8, 1), np.uint16)
MIXED = [RNG.random((9 + k % 4, 8, 3)) for k in range(90)]
LONG = RNG.integers(0, 256, (520, 20, 20, 3), np.uint8)  # D = 1200: too long for the workers to count
FITS = {
    "bytes, patches": (BYTES, {"over": "patches", "size": 3}),
    "bytes, pixels": (BYTES, {"over": "pixels"}),
    "floats, patches": (FLOATS, {"over": "patches", "size": 3}),
    "floats, pixels": (FLOATS, {"over": "pixels"}),
    "16 bits, pixels": (WIDE, {"over": "pixels"}),
    "floats of many sizes": (MIXED, {"over": "patches", "size": 5}),
    "resized": (MIXED, {"over": "pixels", "resize": (5, 5)}),
    "long patches": (LONG, {"over": "patches", "size": 19}),
    "long pixels": (LONG, {"over": "pixels"}),
    "low rank": (LONG, {"over": "pixels", "rank": 4, "passes": 2}),
}


class Listed:
    """Images one by one, so that a fit has many blocks."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


class Stop:
    """Raises KeyboardInterrupt once `after` images are done."""

    def __init__(self, after):
        self.after = after

    def __call__(self, done, total):
        if done >= self.after:
            raise KeyboardInterrupt


def bits(found):
    if isinstance(found, Vectors):
        return json.dumps(found.to_dict())
    return found.values.tobytes() + found.vectors.tobytes() + found.mean.tobytes()


@pytest.mark.parametrize(("images", "options"), FITS.values(), ids=FITS)
def test_any_number_of_workers_gives_the_same_bits(images, options):
    assert len({bits(fl.fit(Listed(images), workers=workers, **options)) for workers in (1, 2, 7)}) == 1


@pytest.mark.parametrize("name", [name for name in FITS if "sizes" not in name and name not in ("resized", "low rank")])
def test_a_fit_is_what_numpy_says(name):
    images, options = FITS[name]
    found = fl.fit(Listed(images), **options)
    side = options.get("size")
    if side:
        windows = np.lib.stride_tricks.sliding_window_view(images, (side, side), (1, 2))
        rows = np.moveaxis(windows, 3, 5).reshape(-1, side * side * images.shape[3])
    else:
        rows = images.reshape(len(images), -1)
    scale = 1 if images.dtype.kind == "f" else np.iinfo(images.dtype).max
    rows = rows.astype(np.float64) / scale
    np.testing.assert_allclose(found.mean.reshape(-1), rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(rows.T, bias=True), rtol=1e-9, atol=1e-12)
    assert (found.count, found.images) == (len(rows), len(images))


@pytest.mark.parametrize("name", ["bytes, patches", "bytes, pixels", "16 bits, pixels", "long patches"])
def test_two_fits_add_up_to_one(name):
    images, options = FITS[name]
    whole = fl.fit(images, **options)
    both = fl.fit(images[:333], **options) + fl.fit(images[333:], **options)
    for part in ("sums", "products", "count", "images", "low", "high"):
        np.testing.assert_array_equal(getattr(both, part), getattr(whole, part))
    assert [source["images"] for source in both.provenance.sources] == [333, len(images) - 333]


@pytest.mark.parametrize("workers", [1, 7])
@pytest.mark.parametrize(("images", "options"), FITS.values(), ids=FITS)
def test_interrupted_and_resumed_it_is_the_same(tmp_path, images, options, workers):
    store = tmp_path / "fit.partial"
    for stop in (0, len(images) // 2, len(images)):
        try:
            fl.fit(Listed(images), checkpoint=store, workers=workers, progress=Stop(stop), **options)
        except KeyboardInterrupt:
            assert store.exists()
    seen = []
    found = fl.fit(Listed(images), checkpoint=store, progress=lambda done, total: seen.append((done, total)), **options)
    assert bits(found) == bits(fl.fit(Listed(images), **options))
    passes = options.get("passes", 1)
    assert seen[-1] == (passes * len(images), passes * len(images))
    assert not store.exists()


KILLED = """
import sys, time, numpy as np, firstlight as fl
from firstlight.engines import Checkpoint
Checkpoint.offer = Checkpoint.save  # after every block, not once a second

class Slow:
    def __len__(self):
        return 400
    def __getitem__(self, index):
        time.sleep(0.004)
        return np.random.default_rng(index).normal(size=(20, 20, 3))

fl.fit(Slow(), over="patches", size=3, checkpoint=sys.argv[1]).save(sys.argv[2])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_killed_with_signal_9_and_resumed_it_is_the_same_file(tmp_path):
    store, output = tmp_path / "fit.partial", tmp_path / "vectors.json"
    command = [sys.executable, "-c", KILLED, str(store)]

    def blocks():
        return json.loads(store.read_text())["blocks"] if store.exists() else 0

    process = subprocess.Popen([*command, str(output)])
    end = time.monotonic() + 60
    while blocks() < 5 and process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not output.exists()
    assert blocks() >= 5
    subprocess.run([*command, str(output)], check=True)
    subprocess.run([*command[:-1], str(tmp_path / "other.partial"), str(tmp_path / "whole.json")], check=True)
    assert output.read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert not store.exists()


def test_an_addition_that_was_cut_off_is_not_kept(tmp_path, monkeypatch):
    """Sums are added up in place, so an interrupt in the middle leaves arrays that nobody may go on from."""
    images, calls, real = Listed(LONG), [], Vectors.add

    def cut(self, *arguments):
        real(self, *arguments)
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(Vectors.empty(self.over, self.kind, self.shape), *arguments)

    monkeypatch.setattr(Vectors, "add", cut)
    with pytest.raises(KeyboardInterrupt):
        fl.fit(images, checkpoint=tmp_path / "fit.partial", workers=1)
    monkeypatch.undo()
    found = fl.fit(images, checkpoint=tmp_path / "fit.partial", workers=1)
    assert bits(found) == bits(fl.fit(images))


@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
def test_the_same_bits_from_ray():
    program = (
        "import json, numpy as np, firstlight as fl\n"
        "images = np.random.default_rng(0).integers(0, 256, (60, 9, 9, 3), np.uint8)\n"
        "for options in ({'over': 'patches', 'size': 3}, {'over': 'pixels'}):\n"
        "    one, many = (fl.fit(list(images), workers=2, engine=e, **options).to_dict() for e in ('local', 'ray'))\n"
        "    assert json.dumps(one) == json.dumps(many)\n"
        "print('same')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "same", done.stderr[-2000:]


class TestCheckpoint:
    @pytest.fixture
    def store(self, tmp_path):
        store = tmp_path / "fit.partial"
        with pytest.raises(KeyboardInterrupt) as interrupt:
            fl.fit(MIXED, over="patches", checkpoint=store, progress=Stop(30))
        assert "goes on" in interrupt.value.__notes__[0]
        return store

    @pytest.mark.parametrize(
        "options", [{"size": 3}, {"over": "pixels"}, {"resize": 12}, {"alpha": "drop"}, {"nodata": 0.0}], ids=str
    )
    def test_of_other_options_is_refused_and_kept(self, store, options):
        with pytest.raises(fl.FirstlightError, match="did the source change") as refusal:
            fl.fit(MIXED, checkpoint=store, **{"over": "patches", **options})
        assert refusal.value.slug == "source-changed"
        assert store.exists()

    def test_of_a_scan_is_not_that_of_a_fit(self, store):
        with pytest.raises(fl.FirstlightError, match="did the source change"):
            fl.scan(MIXED, checkpoint=store)

    def test_restart_begins_anew(self, store):
        seen = []
        fl.fit(MIXED, over="patches", size=3, checkpoint=store, restart=True, progress=lambda d, _: seen.append(d))
        assert seen[0] == 0

    def test_going_on_does_not_count_again(self, store):
        seen = []
        fl.fit(MIXED, over="patches", checkpoint=store, progress=lambda done, _: seen.append(done))
        assert seen[0] >= 30

    def test_a_stream_keeps_none(self, tmp_path):
        found = fl.fit((image for image in BYTES), over="patches", checkpoint=tmp_path / "x")
        assert bits(replaced(found)) == bits(replaced(fl.fit(BYTES, over="patches")))
        assert not (tmp_path / "x").exists()


def replaced(found):
    from dataclasses import replace

    return replace(found, provenance=None)


class TestWhatIsLeftOut:
    def test_patches_that_touch_it(self):
        images = FLOATS[:40].copy()
        images[::3, 4, 5, 1] = np.nan
        found = fl.fit(images, over="patches", size=3)
        windows = np.lib.stride_tricks.sliding_window_view(images, (3, 3), (1, 2))
        rows = np.moveaxis(windows, 3, 5).reshape(-1, 27).astype(np.float64)
        rows = rows[np.isfinite(rows).all(axis=1)]
        assert (found.count, found.images) == (len(rows), 40)
        np.testing.assert_allclose(found.covariance, np.cov(rows.T, bias=True), rtol=1e-9)

    def test_images_over_pixels(self):
        images = FLOATS[:40].copy()
        images[::3, 4, 5, 1] = np.inf
        found = fl.fit(images, over="pixels")
        whole = fl.fit(np.delete(images, np.s_[::3], axis=0), over="pixels")
        np.testing.assert_array_equal(found.products, whole.products)
        assert [name for name, _ in found.quarantine] == [f"{k:02d}" for k in range(0, 40, 3)]
        assert "1 of its values are left out" in found.quarantine[0][1]

    def test_transparent_pixels_by_the_policy(self, tmp_path):
        for k in range(6):
            rgba = np.concatenate([BYTES[k], np.full((9, 8, 1), 255, np.uint8)], axis=2)
            rgba[0, 0, 3] = 0 if k < 2 else 255
            Image.fromarray(rgba).save(tmp_path / f"{k}.png")
        masked, dropped = fl.fit(tmp_path), fl.fit(tmp_path, alpha="drop")
        assert (masked.images, dropped.images) == (4, 6)
        assert fl.fit(tmp_path, over="patches", size=2).count == 2 * 55 + 4 * 56
        np.testing.assert_array_equal(dropped.products, Vectors.of_pixels(BYTES[:6]).products)
        with pytest.raises(fl.FirstlightError, match="alpha") as refusal:
            masked + dropped
        assert refusal.value.slug == "do-not-belong-together"

    def test_nodata(self):
        images = np.maximum(BYTES[:30], 1)
        images[0, 0, 0] = 0
        assert fl.fit(images, nodata=0).images == 29
        assert fl.fit(images, over="patches", size=9 - 1, nodata=0).count == 30 * 2 - 1

    def test_small_and_unreadable_files_are_listed(self, tmp_path):
        for k in range(5):
            Image.fromarray(BYTES[k]).save(tmp_path / f"{k}.png")
        Image.fromarray(BYTES[0, :2, :2]).save(tmp_path / "small.png")
        (tmp_path / "bad.png").write_bytes(b"no image")
        found = fl.fit(tmp_path, over="patches", size=3)
        assert [name for name, _ in found.quarantine] == ["bad.png", "small.png"]
        assert "smaller than a patch" in found.quarantine[1][1]
        found.save(tmp_path / "vectors.json")
        again = Vectors.load(tmp_path / "vectors.json")
        assert (again.quarantine, again.provenance, again.shape) == (found.quarantine, found.provenance, (3, 3, 3))


def test_gray_and_8_bit_images_among_others_are_counted_exactly():
    wide = RNG.integers(0, 65536, (10, 6, 6, 3), np.uint16)
    gray = BYTES[:10, :6, :6, :1]
    found = fl.fit([*gray, *wide], over="pixels")
    same = np.concatenate([np.repeat(gray.astype(np.uint16) * 257, 3, axis=3), wide])
    np.testing.assert_array_equal(found.products, Vectors.of_pixels(same).products)
    late = fl.fit([*BYTES[:40], *wide], over="patches", size=3)
    assert len(late.quarantine) == 10
    assert "first images" in late.quarantine[0][1]


def test_one_split_is_used(tmp_path):
    for k in range(8):
        folder = tmp_path / ("train" if k < 6 else "test")
        folder.mkdir(exist_ok=True)
        Image.fromarray(BYTES[k]).save(folder / f"{k}.png")
    with pytest.raises(fl.FirstlightError, match="several splits"):
        fl.fit(tmp_path)
    found = fl.fit(tmp_path, split="train")
    assert (found.images, found.provenance.split) == (6, "train")
    assert fl.fit(tmp_path, all_splits=True).images == 8


def test_refusals():
    empty = Stream(iter([]), "stream", "nowhere")
    cases = {
        "bad-over": lambda: fl.fit(BYTES, over="channels"),
        "bad-patch": lambda: fl.fit(BYTES, over="patches", size=0),
        "bad-rank": lambda: fl.fit(BYTES, over="patches", rank=3),
        "too-many-components": lambda: fl.fit(np.zeros((2, 80, 80, 3), np.uint8)),
        "sizes-differ": lambda: fl.fit(MIXED),
        "mostly-bad": lambda: fl.fit(BYTES, over="patches", size=30),
        "no-images": lambda: fl.fit(empty),
        "bad-alpha": lambda: fl.fit(BYTES, alpha="white"),
        "bad-nodata": lambda: fl.fit(BYTES, nodata=np.nan),
        "bad-workers": lambda: fl.fit(BYTES, workers=0),
        "no-such-engine": lambda: fl.fit(BYTES, engine="dask"),
        "no-such-split": lambda: fl.fit(BYTES, split="train"),
    }
    for slug, call in cases.items():
        with pytest.raises(fl.FirstlightError) as refusal:
            call()
        assert refusal.value.slug == slug
        assert refusal.value.way_out


def test_a_refused_source_leaves_no_checkpoint(tmp_path):
    with pytest.raises(fl.FirstlightError, match="images of"):
        fl.fit(MIXED, checkpoint=tmp_path / "fit.partial")
    with pytest.raises(fl.FirstlightError, match="cannot be counted"):
        fl.fit(BYTES, over="patches", size=30, checkpoint=tmp_path / "fit.partial")
    assert list(tmp_path.iterdir()) == []


def test_what_a_checkpoint_keeps_can_be_any_value(tmp_path):
    from firstlight.workflows.fitting import Fitting

    store = Checkpoint(tmp_path / "x", "key", Fitting)
    assert store.load()[0] == 0
    store.save(3, Fitting(1, Vectors.of_pixels(BYTES), (("a", "b"),)))
    done, value = store.load()
    assert (done, value.passed, value.quarantine, value.count) == (3, 1, (("a", "b"),), 900)
    np.testing.assert_array_equal(value.found.products, Vectors.of_pixels(BYTES).products)
