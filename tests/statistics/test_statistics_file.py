"""`Statistics` as a file and as a value that adds."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import firstlight as fl
from firstlight.statistics import Statistics

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (40, 9, 8, 3), np.uint8)
KINDS = {
    "uint8": BYTES,
    "uint16": RNG.integers(0, 65_536, (12, 9, 8, 3)).astype(np.uint16),
    "float": RNG.normal(size=(12, 9, 8, 2)).astype(np.float32),
    "mixed sizes": [BYTES[0], BYTES[1, :4], BYTES[2, :, :, :1]],
}


@pytest.mark.parametrize("images", KINDS.values(), ids=KINDS)
def test_save_and_load_are_exact(tmp_path: Path, images: object) -> None:
    stats = fl.scan(images)
    stats.save(tmp_path / "new" / "stats.json")
    back = Statistics.load(tmp_path / "new" / "stats.json")
    assert back.to_json() == stats.to_json()
    assert back.provenance == stats.provenance
    for name in ("mean", "std", "covariance", "per_image_std", "histogram", "mean_image", "std_image", "confidence"):
        np.testing.assert_array_equal(getattr(back, name), getattr(stats, name))
    back.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "new" / "stats.json").read_bytes()


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_the_sum_of_two_scans_is_the_scan_of_both(kind: str) -> None:
    images = KINDS[kind]
    total = fl.scan(images[:5]) + fl.scan(images[5:])
    whole = fl.scan(images)
    assert json.dumps(total.tally.to_dict()) == json.dumps(whole.tally.to_dict())
    assert total.summary() == whole.summary()


def test_loaded_statistics_add_like_fresh_ones(tmp_path: Path) -> None:
    a, b = fl.scan(BYTES[:5]), fl.scan(BYTES[5:])
    a.save(tmp_path / "a.json")
    b.save(tmp_path / "b.json")
    assert (Statistics.load(tmp_path / "a.json") + Statistics.load(tmp_path / "b.json")).to_json() == (a + b).to_json()


def test_the_sum_knows_both_sources_and_all_bad_files() -> None:
    total = fl.scan([BYTES[0], BYTES[1], b""]) + fl.scan(BYTES[:3])
    assert [source["kind"] for source in total.provenance.sources] == ["dataset", "array"]
    assert total.count == 5
    assert total.quarantine == (("item 00000002", "the file is empty (0 bytes)"),)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"resize": 4}, r"transform 'none' against 'resize 4 bilinear'"),
        ({"resize": (9, 8), "resample": "nearest"}, "transform"),
        ({"crop": 4}, r"transform 'none' against 'center crop 4'"),
        ({"alpha": "drop"}, r"alpha 'mask' against 'drop'"),
        ({"orientation": True}, r"orientation 'as stored' against 'EXIF applied'"),
        ({"nodata": 0}, r"nodata None against 0"),
    ],
)
def test_what_was_scanned_differently_does_not_add(other: dict, message: str) -> None:
    with pytest.raises(fl.FirstlightError, match=message) as refusal:
        fl.scan(BYTES) + fl.scan(BYTES, **other)
    assert refusal.value.slug == "do-not-belong-together"


def test_other_channels_and_ranges_do_not_add() -> None:
    for other, message in (
        (BYTES[..., :1], "3 channels against 1"),
        (BYTES.astype(np.uint16), "uint8 pixels against uint16"),
        (BYTES / 255.0, "uint8 pixels against float"),
    ):
        with pytest.raises(fl.FirstlightError, match=message) as refusal:
            fl.scan(BYTES) + fl.scan(other)
        assert refusal.value.slug == "do-not-belong-together"


def test_the_summary_holds_no_nan_and_is_json() -> None:
    for images in (*KINDS.values(), [BYTES[0]], np.full((3, 2, 2, 3), 5, np.uint8)):
        text = fl.scan(images).to_json()

        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is not JSON")

        value = json.loads(text, parse_constant=refuse)
        assert set(value) == {"format", "summary", "provenance", "tally"}
        assert value["format"] == "firstlight.statistics/1"


def test_the_summary_says_which_std_is_which() -> None:
    stats = fl.scan(BYTES)
    summary = stats.summary()
    assert summary["std_pooled"] == stats.std.tolist()
    assert summary["std_mean_of_per_image"] == stats.per_image_std.tolist()
    assert summary["images"] == 40
    assert summary["pixels_per_channel"] == [40 * 72] * 3
    assert summary["full_scale"] == 255
    assert summary["mean_image_shape"] == [9, 8, 3]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"format": "firstlight.recipe/1"}',
        '{"format": 3}',
        '{"format": "firstlight.statistics/1"}',
        '{"format": "firstlight.statistics/1", "tally": [], "provenance": {}}',
        '{"format": "firstlight.statistics/1", "tally": {"joints": [3]}, "provenance": {}}',
    ],
)
def test_what_is_no_statistics_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(fl.FirstlightError, match="does not hold statistics") as refusal:
        Statistics.load(path)
    assert refusal.value.slug == "not-statistics"


def test_damage_inside_the_numbers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    value = json.loads(fl.scan(BYTES).to_json())
    for damage in ("AAAA", "%%%", None):
        value["tally"]["joints"][0]["histogram"]["counts"]["zlib"] = damage
        path.write_text(json.dumps(value))
        with pytest.raises(fl.FirstlightError) as refusal:
            Statistics.load(path)
        assert refusal.value.slug == "not-statistics"


def test_binary_files_folders_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"\xff\xfe\0binary")
    with pytest.raises(fl.FirstlightError) as refusal:
        Statistics.load(tmp_path / "x.json")
    assert refusal.value.slug == "not-statistics"
    for path in (tmp_path, tmp_path / "gone.json"):
        with pytest.raises(fl.FirstlightError) as refusal:
            Statistics.load(path)
        assert refusal.value.slug == "no-such-file"
        assert str(path) in str(refusal.value)


def test_a_newer_format_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    value = json.loads(fl.scan(BYTES).to_json())
    path.write_text(json.dumps({**value, "format": "firstlight.statistics/2"}))
    with pytest.raises(fl.FirstlightError, match=r"statistics/2, this firstlight reads") as refusal:
        Statistics.load(path)
    assert refusal.value.slug == "newer-format"
    assert refusal.value.way_out == "upgrade firstlight"


class TestWriting:
    """The old file or the new one, never half of one."""

    def test_a_full_disk_leaves_the_old_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "stats.json"
        path.write_text("old")
        real = os.fdopen

        def full(handle: int, mode: str) -> object:
            class Full:
                def __init__(self) -> None:
                    self.file = real(handle, mode)

                def __enter__(self) -> "Full":
                    return self

                def __exit__(self, *_: object) -> None:
                    self.file.close()

                def write(self, data: bytes) -> None:
                    self.file.write(data[: len(data) // 2])
                    raise OSError(28, "No space left on device")

            return Full()

        monkeypatch.setattr(os, "fdopen", full)
        with pytest.raises(fl.FirstlightError, match="No space left on device") as refusal:
            fl.scan(BYTES).save(path)
        assert refusal.value.slug == "cannot-write"
        assert path.read_text() == "old"
        assert os.listdir(tmp_path) == ["stats.json"]

    def test_a_failing_rename_leaves_the_old_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "stats.json"
        path.write_text("old")
        monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
        with pytest.raises(fl.FirstlightError, match="Permission denied"):
            fl.scan(BYTES).save(path)
        assert path.read_text() == "old"
        assert os.listdir(tmp_path) == ["stats.json"]

    def test_a_file_in_place_of_the_folder(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        with pytest.raises(fl.FirstlightError) as refusal:
            fl.scan(BYTES).save(tmp_path / "file" / "stats.json")
        assert refusal.value.slug == "cannot-write"

    def test_the_file_has_the_permissions_of_any_other(self, tmp_path: Path) -> None:
        fl.scan(BYTES).save(tmp_path / "stats.json")
        (tmp_path / "other").write_text("x")
        assert (tmp_path / "stats.json").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_provenance_says_how_the_numbers_came_about(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", BYTES)
    stats = fl.scan(tmp_path / "images.npy", resize=8, crop=6, resample="bicubic", nodata=3, sample=10, seed=4)
    provenance = stats.provenance
    (source,) = provenance.sources
    assert source["kind"] == ".npy array"
    assert source["location"] == str(tmp_path / "images.npy")
    assert source["images"] == 40
    assert len(source["names_hash"]) == 32
    assert provenance.transform == "resize 8 bicubic, center crop 6"
    assert provenance.channel_order == "RGB"
    assert provenance.alpha == "mask"
    assert provenance.orientation == "as stored"
    assert provenance.nodata == 3
    assert provenance.sample == "10 of 40 images in the random order of seed 4"
    assert provenance.version == fl.__version__
    assert "pillow" in provenance.decoders
    assert "simplejpeg" in provenance.decoders
    assert type(provenance).from_dict(json.loads(json.dumps(provenance.to_dict()))) == provenance


def test_equal_scans_give_equal_bytes_whenever_and_wherever(tmp_path: Path) -> None:
    a, b = fl.scan(BYTES, workers=1), fl.scan(BYTES.copy(), workers=3)
    assert a.to_json() == b.to_json()


def test_provenance_of_a_sum_shows_where_the_parts_differ() -> None:
    a = fl.scan(BYTES).provenance
    both = a + replace(a, version="0.0.1", sample="10 of 40 images")
    assert both.version == f"{a.version}; 0.0.1"
    assert both.sample == "none; 10 of 40 images"
    assert both.decoders == a.decoders
    assert len(both.sources) == 2


def test_a_bad_percentile_is_refused() -> None:
    for q in (-1, 100.5, float("nan")):
        with pytest.raises(fl.FirstlightError) as refusal:
            fl.scan(BYTES).percentile(q)
        assert refusal.value.slug == "bad-percentile"
    np.testing.assert_array_equal(fl.scan(BYTES).percentile(50), np.percentile(BYTES, 50, axis=(0, 1, 2)) / 255)


def test_repr_shows_the_numbers() -> None:
    assert repr(fl.scan(np.full((2, 2, 2, 1), 51, np.uint8))) == "Statistics(2 images, uint8, mean 0.2000, std 0.0000)"
