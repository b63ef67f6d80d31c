"""The same images through everything that can hold images give the same statistics, names and order."""

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import firstlight as fl
from corpus import encoded, photo
from firstlight.sources import Source, Stream

IMAGES = np.stack([photo(24, 20, seed=k) for k in range(13)])
FILES = {f"class{k % 3}/{k:02d}.png": encoded(image, "PNG") for k, image in enumerate(IMAGES)}
TRUTH = fl.scan(IMAGES)


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(files: dict[str, bytes], prefix: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(prefix + name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def parquet(path: Path, files: dict[str, bytes], **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"bytes": data, "path": name} for name, data in files.items()]
    pq.write_table(pa.table({"image": rows, "label": list(range(len(rows)))}), path, **options)
    return path


def idx(images: np.ndarray, code: int = 8) -> bytes:
    sizes = b"".join(int(n).to_bytes(4, "big") for n in images.shape)
    return bytes([0, 0, code, images.ndim]) + sizes + images.tobytes()


def part(start: int, stop: int) -> dict[str, bytes]:
    return dict(list(FILES.items())[start:stop])


class Pairs:
    """A map-style dataset of (image, label)."""

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(IMAGES[index]), index


class Streamed(IterableDataset):
    """An iterable dataset that knows its length, as many do."""

    def __len__(self) -> int:
        return len(IMAGES)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(torch.from_numpy(IMAGES).permute(0, 3, 1, 2))


def _folder(root: Path) -> object:
    for name, data in reversed(FILES.items()):  # created in any order
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def _file(name: str, data: bytes) -> Callable[[Path], object]:
    def make(root: Path) -> object:
        (root / name).write_bytes(data)
        return root / name

    return make


def _shards(root: Path) -> object:
    for k, (start, stop) in enumerate([(0, 5), (5, 6), (6, 13)]):
        (root / f"set-{k:03d}.tar").write_bytes(tarred(part(start, stop)))
    return str(root / "set-{000..002}.tar")


def _shards_of_one_name(root: Path) -> object:
    for k, (start, stop) in enumerate([(0, 5), (5, 13)]):
        (root / f"part{k}").mkdir()
        (root / f"part{k}" / "data.tar").write_bytes(
            tarred({f"x{n:02d}.png": d for n, d in enumerate(part(start, stop).values())})
        )
    return str(root / "part{0..1}" / "data.tar")


def _parquet_files(root: Path) -> object:
    parquet(root / "data" / "a.parquet", part(0, 7), row_group_size=3)
    parquet(root / "data" / "deep" / "a.parquet", part(7, 13), row_group_size=2)
    return root


def _npy(root: Path) -> object:
    np.save(root / "images.npy", IMAGES)
    return root / "images.npy"


def _npz(root: Path) -> object:
    np.savez(root / "set.npz", images=IMAGES, labels=np.arange(13), names=np.array([object()] * 13, object))
    return root / "set.npz"


def _paths(root: Path) -> object:
    _folder(root)
    return [root / name for name in reversed(FILES)]


def _npy_folder(root: Path) -> object:
    for k, image in enumerate(IMAGES):
        np.save(root / f"{k:02d}.npy", image)
    return root


def _memory_folder(root: Path) -> object:
    filesystem = fsspec.filesystem("memory")
    for name, data in FILES.items():
        filesystem.pipe(f"/kinds/folder/{name}", data)
    return "memory://kinds/folder"


def _memory_file(name: str, data: bytes) -> Callable[[Path], object]:
    def make(root: Path) -> object:
        fsspec.filesystem("memory").pipe(f"/kinds/{name}", data)
        return f"memory://kinds/{name}"

    return make


def _npy_bytes() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, IMAGES)
    return buffer.getvalue()


TENSORS = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
KINDS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "folder": ("folder", _folder),
    "folder as text": ("folder", lambda root: str(_folder(root)) + os.sep),
    "list of paths": ("list of files", _paths),
    "generator of paths": ("iterable", lambda root: iter(sorted(_paths(root)))),
    "glob": ("list of files", lambda root: str(_folder(root) / "*" / "*.png")),
    "folder of npy": ("folder", _npy_folder),
    "zip": ("zip archive", _file("a.zip", zipped(FILES))),
    "zip, deflated": ("zip archive", _file("a.zip", zipped(FILES, zipfile.ZIP_DEFLATED))),
    "zip, bz2": ("zip archive", _file("a.zip", zipped(FILES, zipfile.ZIP_BZIP2))),
    "zip, lzma": ("zip archive", _file("a.zip", zipped(FILES, zipfile.ZIP_LZMA))),
    "zip without its suffix": ("zip archive", _file("archive", zipped(FILES))),
    "tar": ("tar archive", _file("a.tar", tarred(FILES))),
    "tar with dots": ("tar archive", _file("a.tar", tarred(FILES, "./"))),
    "tar.gz": ("tar archive", _file("a.tar.gz", gzip.compress(tarred(FILES)))),
    "tgz": ("tar archive", _file("a.tgz", gzip.compress(tarred(FILES)))),
    "tar.bz2": ("tar archive", _file("a.tar.bz2", bz2.compress(tarred(FILES)))),
    "tar.xz": ("tar archive", _file("a.tar.xz", lzma.compress(tarred(FILES)))),
    "shards": ("3 tar shards", _shards),
    "shards of one name": ("2 tar shards", _shards_of_one_name),
    "npy": (".npy array", _npy),
    "npz": (".npz array 'images'", _npz),
    "memory map": ("array", lambda root: np.load(_npy(root), mmap_mode="r")),
    "idx": ("IDX file", _file("images-idx4-ubyte", idx(IMAGES))),
    "idx.gz": ("IDX file", _file("images-idx4-ubyte.gz", gzip.compress(idx(IMAGES)))),
    "parquet": ("Parquet file", lambda root: parquet(root / "a.parquet", FILES, row_group_size=4)),
    "parquet folder": ("2 Parquet files", _parquet_files),
    "parquet glob": ("Parquet file", lambda root: str(parquet(root / "a.parquet", FILES).with_name("*.parquet"))),
    "array": ("array", lambda root: IMAGES),
    "strided array": ("array", lambda root: np.asfortranarray(IMAGES)),
    "list of arrays": ("dataset", lambda root: list(IMAGES)),
    "list of bytes": ("dataset", lambda root: list(FILES.values())),
    "map-style dataset": ("dataset", lambda root: Pairs()),
    "tensor dataset": ("dataset", lambda root: TensorDataset(TENSORS, torch.arange(13))),
    "tensor": ("dataset", lambda root: TENSORS),
    "iterable dataset": ("iterable", lambda root: Streamed()),
    "data loader": ("DataLoader", lambda root: DataLoader(TensorDataset(TENSORS, torch.arange(13)), batch_size=4)),
    "loader of dicts": ("DataLoader", lambda root: DataLoader([{"image": t} for t in TENSORS], batch_size=5)),
    "generator": ("iterable", lambda root: (image for image in IMAGES)),
    "generator of batches": ("iterable", lambda root: (IMAGES[k : k + 4] for k in range(0, 13, 4))),
    "memory:// folder": ("remote folder", _memory_folder),
    "memory:// zip": ("zip archive", _memory_file("a.zip", zipped(FILES))),
    "memory:// tar": ("tar archive", _memory_file("a.tar", tarred(FILES))),
    "memory:// tar.gz": ("tar archive", _memory_file("a.tar.gz", gzip.compress(tarred(FILES)))),
    "memory:// npy": (".npy array", _memory_file("a.npy", _npy_bytes())),
    "file://": ("remote folder", lambda root: f"file://{_folder(root)}"),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "make"), KINDS.values(), ids=KINDS)
def test_the_same_images_give_the_same_statistics(tmp_path: Path, kind: str, make: Callable[[Path], object]) -> None:
    source = make(tmp_path)
    stats = fl.scan(source, workers=2)
    assert stats.quarantine == ()
    assert stats.count == len(IMAGES)
    assert json.dumps(stats.tally.to_dict()["joints"]) == json.dumps(TRUTH.tally.to_dict()["joints"])
    (entry,) = stats.provenance.sources
    assert entry["kind"] == kind
    assert entry["images"] == len(IMAGES)


@pytest.mark.parametrize(("kind", "make"), KINDS.values(), ids=KINDS)
def test_names_are_unique_sorted_and_the_same_next_time(
    tmp_path: Path, kind: str, make: Callable[[Path], object]
) -> None:
    source = fl.open_source(make(tmp_path))
    if isinstance(source, Stream):
        return
    names = list(source.names)
    assert len(set(names)) == len(names) == len(source) == len(IMAGES)
    assert names == sorted(names) or "Parquet" in kind
    assert repr(source) == f"{kind} {source.location!r} with 13 images"
    source.close()


def test_a_single_image_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(FILES["class0/00.png"])
    stats = fl.scan(tmp_path / "a.png")
    np.testing.assert_allclose(stats.mean * 255, IMAGES[0].mean((0, 1)), rtol=1e-12)


def test_an_open_source_is_left_open(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped(FILES))
    source = fl.open_source(tmp_path / "a.zip")
    assert fl.open_source(source) is source
    assert fl.scan(source).to_json() == fl.scan(source).to_json()
    source.close()


def test_the_order_is_that_of_names_whatever_the_archive_says(tmp_path: Path) -> None:
    backwards = dict(sorted(FILES.items(), reverse=True))
    (tmp_path / "a.zip").write_bytes(zipped(backwards))
    (tmp_path / "a.tar").write_bytes(tarred(backwards))
    for name in ("a.zip", "a.tar"):
        source = fl.open_source(tmp_path / name)
        assert source.names == sorted(FILES)
        assert source.read(0) == FILES[min(FILES)]
        source.close()


def test_a_name_that_occurs_twice_is_the_last_one(tmp_path: Path) -> None:
    good, other = FILES["class0/00.png"], FILES["class1/01.png"]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for data in (other, good):
            info = tarfile.TarInfo("a.png")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    (tmp_path / "a.tar").write_bytes(buffer.getvalue())
    source = fl.open_source(tmp_path / "a.tar")
    assert source.names == ["a.png"]
    assert source.read(0) == good
    source.close()


def test_what_is_no_image_is_skipped_and_counted(tmp_path: Path) -> None:
    extra = {"labels.csv": b"x", "__MACOSX/._00.png": b"x", ".hidden.png": b"x"}
    (tmp_path / "a.zip").write_bytes(zipped({**FILES, **extra}))
    (tmp_path / "a.tar").write_bytes(tarred({**FILES, **extra}))
    for name in ("a.zip", "a.tar"):
        stats = fl.scan(tmp_path / name)
        assert stats.count == len(FILES)
        assert stats.provenance.sources[0]["other_files"] == 3


def test_webdataset_members_are_named_with_their_shard(tmp_path: Path) -> None:
    for k in range(2):
        (tmp_path / f"set-{k}.tar").write_bytes(
            tarred({"0.png": FILES["class0/00.png"], "0.cls": b"1", "0.json": b"{}"})
        )
    source = fl.open_source(str(tmp_path / "set-{0..1}.tar"))
    assert source.names == ["set-0.tar/0.png", "set-1.tar/0.png"]
    assert source.skipped == 4
    source.close()


def test_two_ranges_of_braces(tmp_path: Path) -> None:
    for a in range(2):
        for b in range(3):
            (tmp_path / f"{a}-{b:02d}.tar").write_bytes(tarred({"0.png": FILES["class0/00.png"]}))
    source = fl.open_source(str(tmp_path / "{0..1}-{00..02}.tar"))
    assert len(source) == 6
    source.close()


class TestArrays:
    """Arrays of every type and layout."""

    @pytest.mark.parametrize("dtype", [">u2", "<u2", ">f4", "<f8", "f2"])
    def test_byte_order_does_not_matter(self, tmp_path: Path, dtype: str) -> None:
        images = (IMAGES / 255 * (1 if "f" in dtype else 65_535)).astype(dtype)
        np.save(tmp_path / "a.npy", images)
        native = images.astype(images.dtype.newbyteorder("="))
        for source in (images, tmp_path / "a.npy"):
            stats = fl.scan(source)
            assert stats.kind == ("float" if "f" in dtype else "uint16")
            np.testing.assert_allclose(stats.mean, fl.scan(native).mean, rtol=1e-12)

    def test_masked_arrays_keep_their_mask(self) -> None:
        images = np.ma.masked_greater(IMAGES, 200)
        stats = fl.scan(images)
        np.testing.assert_allclose(stats.mean * 255, np.asarray(images.mean((0, 1, 2))), rtol=1e-12)
        np.testing.assert_array_equal(stats.pixels, (IMAGES <= 200).sum((0, 1, 2)))

    def test_gray_arrays_need_no_channel_axis(self) -> None:
        stats = fl.scan(IMAGES[..., 0])
        assert stats.channels == 1
        np.testing.assert_array_equal(stats.mean, TRUTH.mean[:1])

    @pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64, np.uint32])
    def test_other_integers_are_taken_as_they_are(self, dtype: type) -> None:
        stats = fl.scan(IMAGES.astype(dtype) - (dtype == np.int16) * 300)
        np.testing.assert_allclose(stats.mean, TRUTH.mean * 255 - (dtype == np.int16) * 300, rtol=1e-12)
        assert list(stats.tally.remarks) == [f"{np.dtype(dtype)} values taken as they are, not scaled"]

    def test_booleans_are_black_and_white(self) -> None:
        stats = fl.scan(IMAGES > 127)
        np.testing.assert_allclose(stats.mean, (IMAGES > 127).mean((0, 1, 2)), rtol=1e-12)

    @pytest.mark.parametrize("shape", [(5,), (5, 4), (8, 8, 3), (8, 8, 4), (2, 3, 4, 5, 3)])
    def test_shapes_that_are_not_clearly_many_images(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(fl.FirstlightError) as refusal:
            fl.scan(np.zeros(shape, np.uint8))
        assert refusal.value.slug == "ambiguous-array"

    def test_several_arrays_in_a_npz_need_a_key(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", x_train=IMAGES, x_test=IMAGES[:3], y=np.arange(3))
        with pytest.raises(fl.FirstlightError, match="x_train, x_test") as refusal:
            fl.scan(tmp_path / "a.npz")
        assert refusal.value.slug == "which-array"
        assert fl.scan(tmp_path / "a.npz", key="x_test").count == 3
        with pytest.raises(fl.FirstlightError, match="'z'") as refusal:
            fl.scan(tmp_path / "a.npz", key="z")
        assert refusal.value.slug == "which-array"

    def test_several_columns_in_a_parquet_file_need_a_key(self, tmp_path: Path) -> None:
        data = list(FILES.values())
        pq.write_table(pa.table({"a": data, "b": data, "c": list(range(13))}), tmp_path / "a.parquet")
        with pytest.raises(fl.FirstlightError, match="a, b") as refusal:
            fl.scan(tmp_path / "a.parquet")
        assert refusal.value.slug == "which-column"
        assert fl.scan(tmp_path / "a.parquet", key="b").to_json().count("quarantine") == 2

    def test_a_parquet_row_without_an_image_is_quarantined(self, tmp_path: Path) -> None:
        rows = [{"bytes": data, "path": None} for data in FILES.values()] + [None, {"bytes": None, "path": "x.png"}]
        pq.write_table(pa.table({"image": rows}), tmp_path / "a.parquet")
        stats = fl.scan(tmp_path / "a.parquet")
        assert stats.count == 13
        assert {reason for _, reason in stats.quarantine} == {"the row holds no image bytes"}
        assert stats.quarantine[0][0] == "a.parquet#13"

    @pytest.mark.parametrize(("code", "dtype"), [(9, "i1"), (11, ">i2"), (12, ">i4"), (13, ">f4"), (14, ">f8")])
    def test_idx_of_other_types(self, tmp_path: Path, code: int, dtype: str) -> None:
        images = (IMAGES[..., 0] // 3).astype(dtype)
        (tmp_path / "a.idx").write_bytes(idx(images, code))
        np.testing.assert_allclose(fl.scan(tmp_path / "a.idx").mean, images.astype(float).mean(), rtol=1e-12)


class Moody:
    """A dataset that raises what user code raises."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> np.ndarray:
        if index in (3, 7):
            raise (KeyError("annotation 3"), ZeroDivisionError("division by zero"))[index == 7]
        return IMAGES[index]


def test_an_item_that_a_dataset_cannot_give_is_quarantined() -> None:
    stats = fl.scan(Moody())
    assert stats.count == 10
    assert dict(stats.quarantine) == {
        "item 00000003": "cannot be read: KeyError: 'annotation 3'",
        "item 00000007": "cannot be read: ZeroDivisionError: division by zero",
    }


def test_a_dataset_is_asked_by_one_thread_at_a_time() -> None:
    busy: list[int] = []

    class Jealous:
        def __len__(self) -> int:
            return 200

        def __getitem__(self, index: int) -> np.ndarray:
            busy.append(index)
            assert len(busy) == 1
            image = photo(101, 101, seed=index % 5)
            busy.remove(index)
            return image

    assert fl.scan(Jealous(), workers=4).quarantine == ()


class TestDamage:
    """A container that is damaged as a whole is an error; a damaged member is quarantined."""

    @pytest.mark.parametrize(
        ("name", "data"),
        [
            ("a.zip", zipped(FILES)),
            ("a.tar", tarred(FILES)),
            ("a.tar.gz", gzip.compress(tarred(FILES))),
            ("a.tar.bz2", bz2.compress(tarred(FILES))),
            ("a.tar.xz", lzma.compress(tarred(FILES))),
            ("a.npy", _npy_bytes()),
            ("images-idx4-ubyte", idx(IMAGES)),
            ("images-idx4-ubyte.gz", gzip.compress(idx(IMAGES))),
        ],
    )
    def test_half_an_archive(self, tmp_path: Path, name: str, data: bytes) -> None:
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(fl.FirstlightError) as refusal:
            fl.scan(tmp_path / name)
        assert refusal.value.slug == "damaged-file"
        assert name in str(refusal.value)

    @pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz", "a.tar.xz", "a.npy", "a.npz", "a.parquet"])
    @pytest.mark.parametrize("content", [b"", b"<html>404</html>", bytes(2000)])
    def test_a_file_that_is_not_what_its_name_says(self, tmp_path: Path, name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(fl.FirstlightError) as refusal:
            fl.scan(tmp_path / name)
        assert refusal.value.slug in ("damaged-file", "no-images")

    def test_half_a_npz_and_a_parquet_file(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", images=IMAGES)
        parquet(tmp_path / "a.parquet", FILES)
        for name in ("a.npz", "a.parquet"):
            data = (tmp_path / name).read_bytes()
            (tmp_path / name).write_bytes(data[: len(data) // 2])
            with pytest.raises(fl.FirstlightError) as refusal:
                fl.scan(tmp_path / name)
            assert refusal.value.slug == "damaged-file"

    @pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_a_flipped_byte_in_a_zip_costs_one_image(self, tmp_path: Path, method: int) -> None:
        bitmaps = {f"{k:02d}.bmp": encoded(image, "BMP") for k, image in enumerate(IMAGES)}
        whole = zipped(bitmaps, method)
        rng = np.random.default_rng(0)
        lost = 0
        for at in rng.integers(40, len(whole) // 2, 25):
            data = bytearray(whole)
            data[at] ^= 0xFF
            (tmp_path / "a.zip").write_bytes(data)
            stats = fl.scan(tmp_path / "a.zip")
            assert stats.count + len(stats.quarantine) == 13
            assert len(stats.quarantine) <= 1
            if method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                assert all(reason.startswith("damaged in the archive: ") for _, reason in stats.quarantine)
            lost += len(stats.quarantine)
        assert lost > 15

    @pytest.mark.parametrize("kind", ["tar.gz", "tar.xz", "tar.bz2", "npz", "idx.gz", "parquet", "tar", "npy"])
    def test_a_flipped_byte_never_escapes_as_another_exception(self, tmp_path: Path, kind: str) -> None:
        whole = {
            "tar": lambda: tarred(FILES),
            "tar.gz": lambda: gzip.compress(tarred(FILES)),
            "tar.xz": lambda: lzma.compress(tarred(FILES)),
            "tar.bz2": lambda: bz2.compress(tarred(FILES)),
            "idx.gz": lambda: gzip.compress(idx(IMAGES)),
            "npz": lambda: _npz(tmp_path).read_bytes(),
            "npy": _npy_bytes,
            "parquet": lambda: parquet(tmp_path / "p", FILES, row_group_size=4).read_bytes(),
        }[kind]()
        rng = np.random.default_rng(1)
        places = [
            *rng.integers(0, len(whole), 12),
            *rng.integers(0, 200, 12),
            *rng.integers(len(whole) - 200, len(whole), 12),
        ]
        for at in places:
            data = bytearray(whole)
            data[at] ^= 0xFF
            (tmp_path / f"x.{kind}").write_bytes(data)
            try:
                assert fl.scan(tmp_path / f"x.{kind}").count > 0
            except fl.FirstlightError as refusal:
                assert refusal.slug  # noqa: PT017 - either outcome is right

    def test_a_second_shard_that_is_damaged(self, tmp_path: Path) -> None:
        (tmp_path / "s-0.tar").write_bytes(tarred(part(0, 6)))
        (tmp_path / "s-1.tar").write_bytes(tarred(part(6, 13))[:3000])
        with pytest.raises(fl.FirstlightError) as refusal:
            fl.scan(str(tmp_path / "s-{0..1}.tar"))
        assert refusal.value.slug == "damaged-file"

    def test_an_encrypted_member_is_quarantined(self, tmp_path: Path) -> None:
        data = bytearray(zipped(FILES))
        entry = data.rfind(b"PK\x01\x02")
        data[entry + 8] |= 1  # the flag "encrypted" in the last entry of the directory
        local = data.rfind(b"PK\x03\x04")
        data[local + 6] |= 1
        (tmp_path / "a.zip").write_bytes(data)
        stats = fl.scan(tmp_path / "a.zip")
        assert stats.count == 12
        assert "encrypted" in stats.quarantine[0][1]


def test_every_source_is_a_source_and_says_where_it_is(tmp_path: Path) -> None:
    for source in (IMAGES, _folder(tmp_path), Pairs(), iter(IMAGES)):
        opened = fl.open_source(source)
        assert isinstance(opened, Source)
        assert opened.identity()["location"] == opened.location
