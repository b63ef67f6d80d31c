"""The saved file is the same, byte for byte, for any number of workers and after a kill at any block."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import firstlight as fl
from corpus import encoded, photo
from firstlight.engines import Checkpoint
from firstlight.statistics import Statistics

RNG = np.random.default_rng(0)
FLOATS = RNG.normal(0.4, 0.2, (90, 12, 11, 3)).astype(np.float32)
FLOATS[::7, 3, 4] = np.nan
BYTES = RNG.integers(0, 256, (90, 12, 11, 3), np.uint8)
MIXED = [RNG.random((5 + k % 4, 130, 3)) if k % 2 else RNG.random((101, 103, 3)).astype(np.float32) for k in range(40)]
SOURCES = {"floats": FLOATS, "bytes": BYTES, "floats of many sizes": MIXED}


@pytest.mark.parametrize("images", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("options", [{}, {"resize": 9, "crop": 8}, {"sample": 31, "seed": 5}], ids=str)
def test_any_number_of_workers_gives_the_same_bits(images: object, options: dict) -> None:
    texts = {fl.scan(images, workers=workers, **options).to_json() for workers in (1, 2, 7)}
    assert len(texts) == 1


def test_workers_give_the_same_bits_on_files(written: Callable[..., Path]) -> None:
    files = {f"{k:02d}.jpg": encoded(photo(110 + k, 120, seed=k), "JPEG") for k in range(30)}
    root = written({**files, "bad.jpg": b"x", "gray.png": encoded(photo(channels=1), "PNG")})
    assert len({fl.scan(root, workers=workers).to_json() for workers in (1, 2, 7)}) == 1


def test_a_tolerance_stops_at_the_same_image_for_any_number_of_workers() -> None:
    images = RNG.normal(0.5, 0.05, (3000, 2, 2, 1)) + RNG.normal(0, 0.1, (3000, 1, 1, 1))
    results = [fl.scan(images, tolerance=0.01, workers=workers) for workers in (1, 2, 7)]
    assert len({result.to_json() for result in results}) == 1
    assert 30 <= results[0].count < 3000


class Stop:
    """Raises KeyboardInterrupt once `after` images are done."""

    def __init__(self, after: int) -> None:
        self.after = after

    def __call__(self, done: int, total: int | None) -> None:
        if done >= self.after:
            raise KeyboardInterrupt


@settings(max_examples=15)
@given(
    name=st.sampled_from(sorted(SOURCES)),
    stops=st.lists(st.integers(0, 89), min_size=1, max_size=3),
    workers=st.sampled_from([1, 2, 7]),
    sample=st.none() | st.integers(1, 90),
)
def test_interrupted_anywhere_and_resumed_it_is_the_same_file(
    tmp_path_factory: pytest.TempPathFactory, name: str, stops: list[int], workers: int, sample: int | None
) -> None:
    root = tmp_path_factory.mktemp("resume")
    images, checkpoint = SOURCES[name], root / "scan.partial"
    for stop in stops:
        try:
            fl.scan(images, sample=sample, checkpoint=checkpoint, workers=workers, progress=Stop(stop))
        except KeyboardInterrupt:
            assert checkpoint.exists()
    fl.scan(images, sample=sample, checkpoint=checkpoint).save(root / "resumed.json")
    fl.scan(images, sample=sample).save(root / "whole.json")
    assert (root / "resumed.json").read_bytes() == (root / "whole.json").read_bytes()
    assert not checkpoint.exists()


def test_a_resumed_scan_does_not_count_again_what_was_counted(tmp_path: Path) -> None:
    read: list[int] = []

    class Watched:
        def __len__(self) -> int:
            return 64

        def __getitem__(self, index: int) -> np.ndarray:
            read.append(index)
            return BYTES[index]

    checkpoint = tmp_path / "scan.partial"
    with pytest.raises(KeyboardInterrupt):
        fl.scan(Watched(), checkpoint=checkpoint, workers=1, progress=Stop(32))
    read.clear()
    seen: list[int] = []
    stats = fl.scan(Watched(), checkpoint=checkpoint, workers=1, progress=lambda done, _: seen.append(done))
    assert stats.count == 64
    assert seen[0] == 32
    assert min(read[1:]) == 32  # the very first image is looked at again, to know the kind of pixels


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

fl.scan(Slow(), checkpoint=sys.argv[1]).save(sys.argv[2])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_killed_with_signal_9_and_resumed_it_is_the_same_file(tmp_path: Path) -> None:
    checkpoint, output = tmp_path / "scan.partial", tmp_path / "stats.json"
    command = [sys.executable, "-c", KILLED, str(checkpoint)]

    def blocks() -> int:
        return json.loads(checkpoint.read_text())["blocks"] if checkpoint.exists() else 0

    done = 0
    for wait in (0.0, 0.05, 0.13):
        process = subprocess.Popen([*command, str(output)])
        end = time.monotonic() + 60
        while blocks() <= done and process.poll() is None and time.monotonic() < end:
            time.sleep(0.005)
        time.sleep(wait)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not output.exists()
        assert blocks() > done  # it went on where it had been killed
        done = blocks()
    subprocess.run([*command, str(output)], check=True)
    subprocess.run([*command[:-1], str(tmp_path / "other.partial"), str(tmp_path / "whole.json")], check=True)
    assert output.read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert Statistics.load(output).count == 400
    assert not checkpoint.exists()


class TestAnotherScan:
    """A checkpoint is of one scan: the same images, the same options, the same version."""

    @pytest.fixture
    def unfinished(self, written: Callable[..., Path], tmp_path: Path) -> tuple[Path, Path]:
        root = written({f"{k:02d}.png": encoded(photo(seed=k), "PNG") for k in range(40)})
        checkpoint = tmp_path / "scan.partial"
        with pytest.raises(KeyboardInterrupt):
            fl.scan(root, checkpoint=checkpoint, progress=Stop(16))
        return root, checkpoint

    def refused(self, root: object, checkpoint: Path, **options: object) -> None:
        with pytest.raises(fl.FirstlightError, match="did the source change") as refusal:
            fl.scan(root, checkpoint=checkpoint, **options)
        assert refusal.value.slug == "source-changed"
        assert "restart" in refusal.value.way_out
        assert checkpoint.exists()

    def test_the_same_scan_goes_on(self, unfinished: tuple[Path, Path]) -> None:
        root, checkpoint = unfinished
        assert fl.scan(root, checkpoint=checkpoint).to_json() == fl.scan(root).to_json()

    def test_another_number_of_workers_is_the_same_scan(self, unfinished: tuple[Path, Path]) -> None:
        root, checkpoint = unfinished
        assert fl.scan(root, checkpoint=checkpoint, workers=5).count == 40

    def test_a_touched_file(self, unfinished: tuple[Path, Path]) -> None:
        root, checkpoint = unfinished
        os.utime(root / "33.png", ns=(1, 1))
        self.refused(root, checkpoint)

    def test_a_changed_size(self, unfinished: tuple[Path, Path]) -> None:
        root, checkpoint = unfinished
        before = (root / "33.png").stat()
        (root / "33.png").write_bytes(encoded(photo(9, 9), "PNG"))
        os.utime(root / "33.png", ns=(before.st_atime_ns, before.st_mtime_ns))
        self.refused(root, checkpoint)

    def test_an_added_and_a_removed_file(self, unfinished: tuple[Path, Path]) -> None:
        root, checkpoint = unfinished
        (root / "99.png").write_bytes(encoded(photo(), "PNG"))
        self.refused(root, checkpoint)
        (root / "99.png").unlink()
        (root / "39.png").unlink()
        self.refused(root, checkpoint)

    @pytest.mark.parametrize(
        "options",
        [
            {"resize": 16},
            {"crop": 8},
            {"resample": "bicubic", "resize": 16},
            {"alpha": "drop"},
            {"orientation": True},
            {"nodata": 0},
            {"sample": 20},
            {"tolerance": 0.1},
            {"seed": 1, "sample": 20},
        ],
        ids=str,
    )
    def test_other_options(self, unfinished: tuple[Path, Path], options: dict) -> None:
        self.refused(*unfinished, **options)

    def test_masks_that_were_not_there(self, unfinished: tuple[Path, Path]) -> None:
        root, checkpoint = unfinished
        self.refused(root, checkpoint, masks=root)

    def test_restart_begins_anew(self, unfinished: tuple[Path, Path]) -> None:
        root, checkpoint = unfinished
        seen: list[int] = []
        stats = fl.scan(root, checkpoint=checkpoint, restart=True, resize=9, progress=lambda d, _: seen.append(d))
        assert seen[0] == 0
        assert stats.count == 40
        assert not checkpoint.exists()

    @pytest.mark.parametrize("content", ["", "{}", "[1]", "null", "\0\0\0", '{"format": "firstlight.partial-scan/1"}'])
    def test_a_file_that_is_no_checkpoint_is_never_overwritten(
        self, unfinished: tuple[Path, Path], content: str
    ) -> None:
        root, checkpoint = unfinished
        checkpoint.write_text(content)
        self.refused(root, checkpoint)
        assert checkpoint.read_text() == content

    @pytest.mark.parametrize("kind", ["zip", "npy", "array", "tar"])
    def test_every_kind_of_source_has_a_stamp(self, tmp_path: Path, kind: str) -> None:
        import tarfile
        import zipfile

        def source(images: np.ndarray) -> object:
            path = tmp_path / f"images.{kind}"
            if kind == "array":
                return images
            if kind == "npy":
                np.save(path, images)
                return path
            for k, image in enumerate(images):
                (tmp_path / f"{k:02d}.bmp").write_bytes(encoded(image, "BMP"))
            names = [f"{k:02d}.bmp" for k in range(len(images))]
            if kind == "zip":
                with zipfile.ZipFile(path, "w") as archive:
                    for name in names:
                        archive.write(tmp_path / name, name)
            else:
                with tarfile.open(path, "w") as archive:
                    for name in names:
                        archive.add(tmp_path / name, name)
            return path

        checkpoint = tmp_path / "scan.partial"
        images = BYTES[:20]
        # A .npy of this size is one block, so it is stopped before the first.
        with pytest.raises(KeyboardInterrupt):
            fl.scan(source(images), checkpoint=checkpoint, progress=Stop(0))
        changed = images.copy()
        changed[7, 3, 3] ^= 1
        time.sleep(0.01)
        self.refused(source(changed), checkpoint)


def test_a_stream_keeps_no_checkpoint_and_says_nothing(tmp_path: Path) -> None:
    stats = fl.scan((image for image in BYTES), checkpoint=tmp_path / "scan.partial")
    assert stats.count == 90
    assert not (tmp_path / "scan.partial").exists()


def test_saving_is_rare_where_it_is_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    store = Checkpoint(tmp_path / "x", "key")
    saved: list[int] = []

    def slow_save(blocks: int, tally: object, real: Callable = Checkpoint.save) -> None:
        saved.append(blocks)
        real(store, blocks, tally)

    monkeypatch.setattr(store, "save", slow_save)
    for block in range(100):
        now[0] += 0.1
        store.offer(block, fl.scan(BYTES[:1]).tally)
    assert 8 <= len(saved) <= 10
    assert store.load()[0] == saved[-1]
