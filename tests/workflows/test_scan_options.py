"""Sampling, stopping, masks, nodata, progress: what `scan` does with its options, and every refusal."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import firstlight as fl
from corpus import ODD_FILES, encoded, photo
from references import two_pass

PNG = encoded(photo(8, 9), "PNG")
Written = Callable[..., Path]
RNG = np.random.default_rng(0)
MANY = RNG.normal(0.5, 0.05, (4000, 3, 3, 1)) + RNG.normal(0, 0.1, (4000, 1, 1, 1))


class TestSampling:
    """A random order that depends on the seed and the names alone."""

    def test_a_sample_has_its_size_and_says_so(self) -> None:
        stats = fl.scan(MANY, sample=100, seed=3)
        assert stats.count == 100
        assert stats.provenance.sample == "100 of 4,000 images in the random order of seed 3"

    def test_the_seed_decides(self) -> None:
        a, b, c = (fl.scan(MANY, sample=50, seed=seed) for seed in (1, 1, 2))
        assert a.to_json() == b.to_json()
        assert a.mean != c.mean

    def test_a_smaller_sample_is_part_of_a_larger_one(self, written: Written) -> None:
        root = written({f"{k:03d}.png": encoded(np.full((2, 2), k, np.uint8), "PNG") for k in range(100)})
        small, large = (set(np.flatnonzero(fl.scan(root, sample=n).histogram[0])) for n in (10, 40))
        assert len(small) == 10
        assert small < large

    def test_another_file_changes_little(self, written: Written) -> None:
        files = {f"{k:03d}.png": encoded(np.full((2, 2), k, np.uint8), "PNG") for k in range(100)}
        before = set(np.flatnonzero(fl.scan(written(files), sample=30).histogram[0]))
        after = set(np.flatnonzero(fl.scan(written({**files, "new.png": PNG}), sample=30).histogram[0]))
        assert len(before & after) >= 29

    def test_it_is_random(self) -> None:
        ramp = np.arange(256, dtype=np.uint8).repeat(10).reshape(-1, 1, 1, 1)
        means = np.array([fl.scan(ramp, sample=100, seed=seed).mean[0] * 255 for seed in range(30)])
        assert abs(means.mean() - 127.5) < 5
        assert 5 < means.std() < 10  # 73.9 / √100

    def test_more_than_there_are_is_all_of_them(self) -> None:
        stats = fl.scan(MANY[:20], sample=1000)
        assert stats.count == 20
        assert stats.provenance.sample == "20 of 20 images in the random order of seed 0"

    def test_the_interval_of_a_sample_covers_the_mean_of_all(self) -> None:
        truth = fl.scan(MANY).mean
        inside = [abs(s.mean - truth) <= s.confidence for s in (fl.scan(MANY, sample=60, seed=k) for k in range(40))]
        assert np.mean(inside) > 0.85

    def test_a_stream_has_no_random_order(self) -> None:
        for options in ({"sample": 5}, {"tolerance": 0.1}):
            with pytest.raises(fl.FirstlightError) as refusal:
                fl.scan(iter(MANY), **options)
            assert refusal.value.slug == "stream-sample"


class TestTolerance:
    """Stop when the mean is known well enough."""

    def test_it_stops_when_reached_and_says_so(self) -> None:
        stats = fl.scan(MANY, tolerance=0.01)
        assert (stats.confidence <= 0.01).all()
        assert 300 < stats.count < 700  # (1.96 · 0.1 / 0.01)² = 384
        text = (
            f"{stats.count:,} of 4,000 images in the random order of seed 0, stopped when the mean was known to ±0.01"
        )
        assert stats.provenance.sample == text

    def test_it_says_when_it_was_not_reached(self) -> None:
        stats = fl.scan(MANY[:300], tolerance=1e-6)
        assert stats.count == 300
        assert stats.provenance.sample == "300 of 300 images in the random order of seed 0; ±1e-06 was not reached"

    def test_it_never_stops_on_a_handful(self) -> None:
        stats = fl.scan(np.full((500, 2, 2, 3), 9, np.uint8), tolerance=0.5)
        assert 30 <= stats.count <= 100

    def test_it_wants_every_channel(self) -> None:
        images = np.concatenate([np.full((1000, 2, 2, 1), 0.5), MANY[:1000, :2, :2]], axis=3)
        assert fl.scan(images, tolerance=0.01).count > 300

    def test_the_estimate_for_the_next_digit_is_about_right(self) -> None:
        stats = fl.scan(MANY, sample=200)
        needed = stats.images_for(0.004)
        assert fl.scan(MANY, sample=needed).confidence.max() == pytest.approx(0.004, rel=0.15)


class TestMasks:
    """A second source of the same names says which pixels count."""

    def test_masked_pixels_are_left_out(self, written: Written) -> None:
        images = [photo(12, 10, seed=k) for k in range(5)]
        masks = [RNG.integers(0, 2, (12, 10)).astype(np.uint8) * (255 if k % 2 else 1) for k in range(5)]
        root = written({f"x/{k}.jpg": encoded(image, "PNG") for k, image in enumerate(images)})
        where = written({f"x/{k}.png": encoded(mask, "PNG") for k, mask in enumerate(masks)}, "masks")
        stats = fl.scan(root, masks=where)
        truth = two_pass(images, [np.repeat(m[..., None] > 0, 3, axis=2) for m in masks])
        np.testing.assert_allclose(stats.mean * 255, truth.mean, rtol=1e-12)
        np.testing.assert_allclose(stats.covariance * 255**2, truth.covariance, rtol=1e-12)
        np.testing.assert_array_equal(stats.pixels, truth.pixels)

    def test_masks_go_through_the_transform_with_their_image(self, written: Written) -> None:
        image = np.full((40, 40, 3), 200, np.uint8)
        image[:, :20] = 10
        mask = np.zeros((40, 40), np.uint8)
        mask[:, 20:] = 1
        stats = fl.scan(
            written({"a.png": encoded(image, "PNG")}),
            masks=written({"a.png": encoded(mask, "PNG")}, "masks"),
            resize=17,
            resample="lanczos",
        )
        np.testing.assert_allclose(stats.mean * 255, 200, atol=1)
        assert 0 < stats.pixels[0] < 17 * 17 / 2

    def test_a_mask_that_is_missing_broken_or_of_another_size(self, written: Written) -> None:
        root = written({f"{k}.png": PNG for k in range(8)})
        good = encoded(np.ones((8, 9), np.uint8), "PNG")
        masks = {f"{k}.png": good for k in range(5)}
        masks |= {"5.png": b"", "6.png": encoded(np.ones((3, 3), np.uint8), "PNG")}
        stats = fl.scan(root, masks=written(masks, "masks"))
        assert stats.count == 5
        assert dict(stats.quarantine) == {
            "5.png": "its mask is unusable: the file is empty (0 bytes)",
            "6.png": "its mask has the size (3, 3), the image (8, 9)",
            "7.png": "there is no mask '7'",
        }

    def test_an_image_that_is_masked_altogether_counts_no_pixel(self, written: Written) -> None:
        root = written({"a.png": PNG, "b.png": encoded(np.full((8, 9, 3), 255, np.uint8), "PNG")})
        where = written(
            {f"{n}.png": encoded(np.full((8, 9), v, np.uint8), "PNG") for n, v in (("a", 1), ("b", 0))}, "m"
        )
        stats = fl.scan(root, masks=where)
        np.testing.assert_allclose(stats.mean * 255, photo(8, 9).mean((0, 1)), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_nodata_is_left_out_of_everything(dtype: type) -> None:
    images = (RNG.integers(1, 200, (6, 9, 8, 3))).astype(dtype)
    images[RNG.random(images.shape) < 0.2] = 0
    stats = fl.scan(images, nodata=0)
    truth = two_pass(list(images), list(images != 0))
    np.testing.assert_allclose(stats.mean * stats.full_scale, truth.mean, rtol=1e-12)
    np.testing.assert_allclose(stats.std * stats.full_scale, truth.std, rtol=1e-12)
    np.testing.assert_allclose(stats.min * stats.full_scale, truth.low)


def test_nodata_of_files_that_declare_it(written: Written) -> None:
    odd = next(odd for odd in ODD_FILES if odd.name == "nodata.tif")
    stats = fl.scan(written({odd.name: odd.data}) / odd.name)
    values = odd.pixels[odd.pixels != 9999]
    np.testing.assert_allclose(stats.mean * 65_535, values.mean(), rtol=1e-12)


class TestFamilies:
    """What has no common scale is not averaged."""

    def test_the_first_readable_image_decides(self) -> None:
        gray, colour, deep = photo(channels=1), photo(), photo().astype(np.uint16)
        floats, bands = photo() / 255, photo(channels=5)
        stats = fl.scan([b"", gray, colour, deep, floats, bands])
        assert stats.count == 3
        reasons = dict(stats.quarantine)
        first = "where the first image of the source has integer pixels of 1 or 3 channels"
        assert reasons["item 00000004"] == f"float pixels of 1 or 3 channels, {first}"
        assert reasons["item 00000005"] == f"integer pixels of 5 channels, {first}"

    def test_modes_and_sizes_are_reported(self) -> None:
        stats = fl.scan([encoded(photo(), "PNG"), encoded(photo(channels=1), "JPEG"), encoded(photo(7, 9), "BMP")])
        assert stats.tally.modes == {"RGB": 2, "L": 1}
        assert stats.tally.heights == {52: 2, 7: 1}
        assert stats.tally.widths == {43: 2, 9: 1}


def test_progress_counts_up_to_the_total(written: Written) -> None:
    root = written({**{f"{k:03d}.png": PNG for k in range(50)}, "bad.png": b""})
    calls: list[tuple[int, int | None]] = []
    threads: set[int] = set()

    def note(done: int, total: int | None) -> None:
        calls.append((done, total))
        threads.add(threading.get_ident())

    fl.scan(root, workers=2, progress=note)
    assert calls[0] == (0, 51)
    assert calls[-1] == (51, 51)
    assert calls == sorted(calls)
    assert threads == {threading.get_ident()}
    stream: list[int | None] = []
    fl.scan(iter(MANY[:70]), progress=lambda done, total: stream.append(total))
    assert set(stream) == {None}


def test_an_exception_of_the_callback_leaves_nothing_running(written: Written) -> None:
    root = written({f"{k:03d}.png": PNG for k in range(50)})
    before = threading.active_count()

    def stop(done: int, total: int | None) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        fl.scan(root, workers=2, progress=stop)
    assert threading.active_count() == before


REFUSALS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "nothing there": ("no-such-source", lambda tmp: fl.scan(tmp / "gone")),
    "no shard there": ("no-such-source", lambda tmp: fl.scan(str(tmp / "set-{0..3}.tar"))),
    "no match": ("no-such-source", lambda tmp: fl.scan(str(tmp / "*.png"))),
    "an empty bucket": ("no-images", lambda tmp: fl.scan("memory://gone/a.zip")),
    "no such demo": ("no-such-source", lambda tmp: fl.scan("demo:gone")),
    "no protocol": ("no-such-source", lambda tmp: fl.scan("nonsense://bucket/images")),
    "an empty folder": ("no-images", lambda tmp: fl.scan(tmp)),
    "an empty list": ("no-images", lambda tmp: fl.scan([])),
    "an empty array": ("no-images", lambda tmp: fl.scan(np.zeros((0, 4, 4, 3), np.uint8))),
    "an empty generator": ("no-images", lambda tmp: fl.scan(iter(()))),
    "a number": ("not-a-source", lambda tmp: fl.scan(7)),
    "a dict": ("not-a-source", lambda tmp: fl.scan({"a": PNG})),
    "bytes": ("not-a-source", lambda tmp: fl.scan(PNG)),
    "none": ("not-a-source", lambda tmp: fl.scan(None)),
    "a row": ("ambiguous-array", lambda tmp: fl.scan(np.zeros(9))),
    "no sample": ("bad-sample", lambda tmp: fl.scan(MANY, sample=0)),
    "no tolerance": ("bad-tolerance", lambda tmp: fl.scan(MANY, tolerance=0)),
    "tolerance nan": ("bad-tolerance", lambda tmp: fl.scan(MANY, tolerance=float("nan"))),
    "tolerance inf": ("bad-tolerance", lambda tmp: fl.scan(MANY, tolerance=float("inf"))),
    "nodata nan": ("bad-nodata", lambda tmp: fl.scan(MANY, nodata=float("nan"))),
    "nodata inf": ("bad-nodata", lambda tmp: fl.scan(MANY, nodata=float("-inf"))),
    "all nan": ("no-pixels", lambda tmp: fl.scan(np.full((3, 4, 4, 3), np.nan))),
    "all nodata": ("no-pixels", lambda tmp: fl.scan(np.full((3, 4, 4, 3), 7, np.uint8), nodata=7)),
    "one side in a tuple": ("bad-size", lambda tmp: fl.scan(MANY, resize=(10,))),
    "three sides": ("bad-size", lambda tmp: fl.scan(MANY, crop=(10, 10, 3))),
    "true for a size": ("bad-size", lambda tmp: fl.scan(MANY, resize=True)),
    "no half-width": ("bad-half-width", lambda tmp: fl.scan(MANY).images_for(0)),
    "no interval": ("no-interval", lambda tmp: fl.scan(MANY[:1]).images_for(0.1)),
    "a vast resize": ("bad-size", lambda tmp: fl.scan(MANY, resize=20_000)),
    "a vast crop": ("bad-size", lambda tmp: fl.scan(MANY, crop=(20_000, 20_000))),
    "a split and all": ("split-or-all", lambda tmp: fl.scan(MANY, split="train", all_splits=True)),
    "no workers": ("bad-workers", lambda tmp: fl.scan(MANY, workers=0)),
    "alpha": ("bad-alpha", lambda tmp: fl.scan(MANY, alpha="white")),
    "alpha colour": ("bad-alpha", lambda tmp: fl.scan(MANY, alpha="composite #fff")),
    "split": ("no-such-split", lambda tmp: fl.scan(MANY, split="train")),
    "all bad": ("mostly-bad", lambda tmp: fl.scan([b"", b"x", b"y"])),
    "masks": ("no-such-source", lambda tmp: fl.scan(MANY, masks=tmp / "gone")),
    "checkpoint": ("cannot-write", lambda tmp: fl.scan(MANY, checkpoint=tmp / "file" / "x", progress=_interrupt)),
}


def _interrupt(done: int, total: int | None) -> None:
    if done:
        raise KeyboardInterrupt


@pytest.mark.parametrize(("slug", "call"), REFUSALS.values(), ids=REFUSALS)
def test_every_refusal_says_what_why_and_what_to_do(tmp_path: Path, slug: str, call: Callable[[Path], object]) -> None:
    if slug == "cannot-write":
        (tmp_path / "file").write_text("not a folder")
    with pytest.raises(fl.FirstlightError) as refusal:
        call(tmp_path)
    error = refusal.value
    assert error.slug == slug
    assert len(error.cause) > 10
    assert len(error.way_out) > 5
    assert not error.cause.endswith(".")
    assert f"Way out: {error.way_out}" in str(error)
    assert "Traceback" not in str(error)


def test_an_extra_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    (tmp_path / "a.parquet").write_bytes(b"PAR1" + bytes(20) + b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)
    with pytest.raises(fl.FirstlightError) as refusal:
        fl.scan(tmp_path / "a.parquet")
    assert refusal.value.slug == "missing-extra"
    assert "firstlight[parquet]" in refusal.value.way_out


def test_a_driver_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    def missing(*_: object, **__: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(fl.FirstlightError, match="Install s3fs") as refusal:
        fl.scan("s3://bucket/images")
    assert refusal.value.slug == "no-driver"


def test_scan_loads_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, numpy as np, firstlight as fl; fl.scan(np.zeros((3, 4, 4, 3), np.uint8)); "
        "assert not {'torch', 'pyarrow', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_samples_are_read_as_strictly_as_the_scan(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import ImageFile

    from firstlight.engines import Observer
    from firstlight.sources import Policy, Transform, open_source
    from firstlight.workflows.samples import sample_images

    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    whole = encoded(photo(64, 64), "PNG")
    root = written({"cut.png": whole[: len(whole) // 2], "whole.png": whole})
    shown = sample_images(open_source(root), Observer(Policy(), Transform()), 5)
    assert [name for name, _ in shown] == ["whole.png"]
    assert ImageFile.LOAD_TRUNCATED_IMAGES
