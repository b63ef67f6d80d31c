"""More than a hundred bad and odd files: each counted under its mode, or put on the quarantine list with a reason."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import corpus
import firstlight as fl
from corpus import ODD_FILES, Odd, encoded, photo
from firstlight.sources import Policy, Unreadable, decode

COUNTED = [odd for odd in ODD_FILES if odd.mode]
BAD = [odd for odd in ODD_FILES if not odd.mode]
GOOD = encoded(photo(), "PNG")


def test_the_corpus_is_large_and_its_names_are_unique() -> None:
    assert len(ODD_FILES) >= 40
    assert len({odd.name for odd in ODD_FILES}) == len(ODD_FILES)
    assert len(BAD) >= 30
    assert len(COUNTED) >= 30


@pytest.mark.parametrize("odd", COUNTED, ids=str)
def test_an_odd_file_is_counted_under_its_mode(odd: Odd) -> None:
    picture = decode(odd.data, Policy())
    assert picture.mode == odd.mode
    if odd.pixels is not None:
        assert picture.pixels.dtype == odd.pixels.dtype
        np.testing.assert_array_equal(picture.pixels, odd.pixels)
    if odd.remark:
        assert any(re.search(odd.remark, remark) for remark in picture.remarks)
    else:
        assert picture.remarks == ()


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("odd", BAD, ids=str)
def test_a_bad_file_is_refused_with_a_reason(odd: Odd) -> None:
    with pytest.raises(Unreadable) as refusal:
        decode(odd.data, Policy())
    reason = str(refusal.value)
    assert re.search(odd.reason, reason)
    assert "\n" not in reason
    assert len(reason) < 250


def test_a_folder_of_them_all_is_scanned_without_an_exception(written) -> None:
    root = written({f"good/{k:03d}.png": encoded(photo(seed=k), "PNG") for k in range(len(BAD))})
    written({f"odd/{odd.name}": odd.data for odd in ODD_FILES})
    stats = fl.scan(root, workers=2)
    reasons = dict(stats.quarantine)
    for odd in BAD:
        assert re.search(odd.reason, reasons.pop(f"odd/{odd.name}")), odd.name
    # What is left over is readable, but of another family: floats and five bands cannot be averaged with RGB.
    for name, reason in reasons.items():
        assert re.fullmatch(r"(float|integer) pixels of .*, where the first image of the source has integer .*", reason)
        assert name.removeprefix("odd/") in {"float-with-nan.tif", "5-bands.tif", "5-planes.tif", "int32.npy"}
    assert len(reasons) == 4
    assert stats.count == len(BAD) + len(COUNTED) - 4
    expected = [odd.mode for odd in COUNTED if f"odd/{odd.name}" not in reasons]
    assert stats.tally.modes == {m: expected.count(m) + len(BAD) * (m == "RGB") for m in expected}
    assert stats.kind == "uint16"  # deep images are in it, and nothing was narrowed
    assert "null" not in stats.to_json().split('"provenance"')[0].split('"quarantined"')[1].split('"mean_image')[0]


def test_a_pickle_in_a_data_set_is_never_run(written) -> None:
    objects = next(odd for odd in ODD_FILES if odd.name == "objects.npy")
    root = written({"a.png": GOOD, "b.png": GOOD, objects.name: objects.data})
    corpus.Tripwire.pulled = False
    assert [name for name, _ in fl.scan(root).quarantine] == ["objects.npy"]
    with pytest.raises(fl.FirstlightError) as refusal:
        fl.scan(root / "objects.npy")
    assert refusal.value.slug == "damaged-file"
    np.savez(root / "objects.npz", images=np.array([corpus.Tripwire()], object))
    with pytest.raises(fl.FirstlightError):
        fl.scan(root / "objects.npz", key="images")
    assert not corpus.Tripwire.pulled


def test_a_nodata_tag_leaves_its_pixels_out() -> None:
    odd = next(odd for odd in ODD_FILES if odd.name == "nodata.tif")
    picture = decode(odd.data, Policy())
    np.testing.assert_array_equal(picture.valid, odd.pixels != 9999)


class TestFolders:
    """What a file system can do to a folder."""

    def test_a_folder_named_like_an_image_is_a_folder(self, written) -> None:
        root = written({"x.jpg/inside.png": GOOD, "y.png": GOOD})
        assert fl.open_source(root).names == ["x.jpg/inside.png", "y.png"]

    def test_hidden_and_foreign_files_are_not_images(self, written) -> None:
        root = written({"a.png": GOOD, "._a.png": b"x", "__MACOSX/._a.png": b"x", "notes.txt": b"x", "Thumbs.db": b"x"})
        source = fl.open_source(root)
        assert source.names == ["a.png"]
        assert source.skipped == 4
        assert fl.scan(root).quarantine == ()

    def test_links_that_lead_nowhere_or_in_circles(self, written) -> None:
        root = written({f"{k}.png": GOOD for k in range(3)})
        (root / "dangling.png").symlink_to(root / "gone.png")
        (root / "itself.png").symlink_to(root / "itself.png")
        (root / "upwards").symlink_to(root, target_is_directory=True)
        stats = fl.scan(root)
        assert stats.count == 3
        reasons = dict(stats.quarantine)
        assert set(reasons) == {"dangling.png", "itself.png"}
        assert reasons["dangling.png"] == "cannot be read: No such file or directory"
        assert "symbolic links" in reasons["itself.png"]

    def test_a_link_to_a_folder_elsewhere_is_followed(self, written) -> None:
        elsewhere = written({"b.png": GOOD}, "elsewhere")
        root = written({"a.png": GOOD})
        (root / "link").symlink_to(elsewhere, target_is_directory=True)
        assert fl.open_source(root).names == ["a.png", "link/b.png"]

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
    def test_a_named_pipe_does_not_hang_the_scan(self, written) -> None:
        root = written({"a.png": GOOD})
        os.mkfifo(root / "pipe.png")
        code = f"import firstlight as fl; assert fl.scan({str(root)!r}).count == 1"
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
    def test_unreadable_files_and_folders(self, written) -> None:
        root = written({"a.png": GOOD, "b.png": GOOD, "secret.png": GOOD, "closed/c.png": GOOD})
        (root / "secret.png").chmod(0)
        assert dict(fl.scan(root).quarantine)["secret.png"] == "cannot be read: Permission denied"
        (root / "closed").chmod(0)
        with pytest.raises(fl.FirstlightError) as refusal:
            fl.scan(root)
        (root / "closed").chmod(0o700)
        assert refusal.value.slug == "unreadable-folder"

    def test_a_folder_that_cannot_be_listed_is_named(self, written, monkeypatch: pytest.MonkeyPatch) -> None:
        root = written({"a.png": GOOD, "closed/c.png": GOOD})
        real = os.scandir

        def scandir(path: str) -> object:
            if path.endswith("closed"):
                raise PermissionError(13, "Permission denied")
            return real(path)

        monkeypatch.setattr(os, "scandir", scandir)
        with pytest.raises(fl.FirstlightError, match="closed' cannot be listed: Permission denied") as refusal:
            fl.scan(root)
        assert refusal.value.slug == "unreadable-folder"

    @pytest.mark.skipif(sys.platform != "linux", reason="needs a file system that takes any bytes")
    def test_a_name_that_is_not_utf8_stays_printable(self, written) -> None:
        root = written({"a.png": GOOD})
        Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9.png")).write_bytes(GOOD)
        Path(os.fsdecode(os.fsencode(root) + b"/bad\xff.png")).write_bytes(b"")
        stats = fl.scan(root)
        assert stats.count == 2
        assert stats.quarantine == (("bad\\xff.png", "the file is empty (0 bytes)"),)
        assert fl.open_source(root).names[-1] == "caf\\xe9.png"
        stats.to_json().encode("utf-8")

    def test_a_file_that_vanishes_while_the_scan_runs(self, written) -> None:
        root = written({f"{k:02d}.png": GOOD for k in range(20)})

        def vanish(done: int, total: int | None) -> None:
            (root / "19.png").unlink(missing_ok=True)

        stats = fl.scan(root, progress=vanish, workers=1)
        assert stats.count == 19
        assert stats.quarantine == (("19.png", "cannot be read: No such file or directory"),)

    def test_more_than_half_bad_is_an_error_and_half_is_not(self, written) -> None:
        root = written({"a.png": GOOD, "b.png": b""})
        assert fl.scan(root).count == 1
        written({"c.png": b"hello"})
        with pytest.raises(
            fl.FirstlightError, match=r"2 of 3 images cannot be counted \(b.png: the file is empty"
        ) as e:
            fl.scan(root)
        assert e.value.slug == "mostly-bad"
        assert str(root) in e.value.call

    def test_a_bad_first_file_does_not_decide_anything(self, written) -> None:
        root = written({"0.png": b"", "1.png": b"x", "2.png": GOOD, "3.png": GOOD, "4.png": GOOD})
        assert fl.scan(root).count == 3


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize(
    "name",
    [odd.name for odd in COUNTED if odd.pixels is not None and 400 < len(odd.data) < 40_000 and "junk" not in odd.name],
)
def test_cut_anywhere_a_file_is_whole_or_refused(name: str) -> None:
    """No decoder may hand over the top of an image and filler below."""
    odd = next(odd for odd in COUNTED if odd.name == name)
    whole = decode(odd.data, Policy())
    refused = 0
    for cut in np.linspace(1, len(odd.data) - 1, 40).astype(int):
        try:
            picture = decode(odd.data[:cut], Policy())
        except Unreadable:
            refused += 1
        else:
            np.testing.assert_array_equal(picture.pixels, whole.pixels)
    assert refused > (8 if odd.remark else 25)  # of several frames only the first must be whole


def test_nothing_is_printed_about_bad_files(written) -> None:
    """Warnings of libraries would tear the progress bar; the quarantine list says it all."""
    root = written({"good.png": GOOD, "good2.png": GOOD, "good3.png": GOOD})
    bad = [odd for odd in BAD if odd.name in ("cut-095.tif", "nodata-nonsense.tif", "only-magic.png")]
    written({odd.name: odd.data for odd in bad})
    code = f"import firstlight as fl; assert len(fl.scan({str(root)!r}).quarantine) == 3"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stderr == ""
    assert ran.stdout == ""
