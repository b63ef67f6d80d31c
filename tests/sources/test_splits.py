"""The train-split guard: training statistics must not see test images, and must not be refused for nothing."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import firstlight as fl
from corpus import encoded, photo

PNG = encoded(photo(8, 9), "PNG")
Written = Callable[..., Path]


def refusal(source: object, **options: object) -> fl.FirstlightError:
    with pytest.raises(fl.FirstlightError) as caught:
        fl.scan(source, **options)
    return caught.value


@pytest.mark.parametrize(
    "names",
    [
        ("train/a/1.png", "val/a/1.png", "test/a/1.png"),
        ("train/1.png", "test/1.png"),
        ("Training/1.png", "Validation/1.png"),
        ("TRAIN/a/1.png", "valid/a/1.png"),
        ("images/train/1.png", "images/dev/1.png"),
        ("deep/er/training/x/1.png", "deep/er/testing/x/1.png"),
    ],
    ids=lambda names: names[0],
)
def test_folders_that_show_splits_need_a_word(written: Written, names: tuple[str, ...]) -> None:
    root = written(dict.fromkeys(names, PNG))
    error = refusal(root)
    assert error.slug == "several-splits"
    assert "train (1)" in error.cause
    assert "--split train" in error.way_out
    assert "all_splits=True" in error.way_out
    stats = fl.scan(root, split="train")
    assert stats.count == 1
    assert stats.provenance.split == "train"
    everything = fl.scan(root, all_splits=True)
    assert everything.count == len(names)
    assert everything.provenance.split == "all"


@pytest.mark.parametrize(
    "names",
    [
        ("train/1.png", "bus/1.png", "car/1.png"),  # a class of trains
        ("dog/1.png", "cat/1.png"),
        ("test/1.png", "test/2.png"),
        ("train.png", "test.png"),  # names of images, not of folders
        ("trainer/1.png", "testament/1.png"),
        ("a/train/1.png", "train/b/1.png"),  # no common depth
        ("train-1.png", "test-1.png"),
    ],
    ids=lambda names: names[0] + "+" + names[1],
)
def test_names_that_only_look_like_splits_are_fine(written: Written, names: tuple[str, ...]) -> None:
    stats = fl.scan(written(dict.fromkeys(names, PNG)))
    assert stats.count == len(names)
    assert stats.provenance.split == ""


def test_synonyms_name_the_same_split(written: Written) -> None:
    root = written({"training/1.png": PNG, "valid/1.png": PNG, "valid/2.png": PNG, "dev/3.png": PNG})
    assert fl.scan(root, split="validation").count == 3
    assert fl.scan(root, split="VAL").provenance.split == "val"
    assert fl.open_source(root).names[0] == "dev/3.png"


def test_a_split_that_is_not_there(written: Written) -> None:
    root = written({"train/1.png": PNG, "test/1.png": PNG})
    error = refusal(root, split="val")
    assert error.slug == "no-such-split"
    assert "test, train" in error.cause
    assert refusal(written({"x.png": PNG}, "plain"), split="train").cause.endswith("the names show no splits")


def test_images_outside_all_splits_belong_to_none(written: Written) -> None:
    root = written({"train/1.png": PNG, "test/1.png": PNG, "extra/1.png": PNG})
    assert fl.scan(root, split="train").count == 1
    assert fl.scan(root, all_splits=True).count == 3


def test_a_split_is_scanned_with_its_own_names(written: Written) -> None:
    root = written({"train/1.png": PNG, "train/2.png": PNG, "train/bad.png": b"", "test/1.png": PNG})
    stats = fl.scan(root, split="train", workers=2)
    assert stats.quarantine == (("train/bad.png", "the file is empty (0 bytes)"),)
    assert stats.provenance.sources[0]["images"] == 3


def shard(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("1.png")
        info.size = len(PNG)
        archive.addfile(info, io.BytesIO(PNG))


def test_shards(tmp_path: Path) -> None:
    for name in ("set-train-000.tar", "set-train-001.tar", "set-val-000.tar"):
        shard(tmp_path / name)
    assert refusal(str(tmp_path / "set-*.tar")).slug == "several-splits"
    assert fl.scan(str(tmp_path / "set-*.tar"), split="train").count == 2
    assert fl.scan(str(tmp_path / "set-train-{000..001}.tar")).provenance.split == ""


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test-00000-of-00001.parquet"),
        ("data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"),
        ("default/train/0000.parquet", "default/test/0000.parquet"),
        ("train/0.parquet", "val/0.parquet"),
    ],
    ids=lambda names: names[0],
)
def test_parquet_files_as_the_hub_names_them(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"image": [{"bytes": PNG, "path": "x.png"}] * 2}), tmp_path / name)
    assert refusal(tmp_path).slug == "several-splits"
    train = [name for name in names if "train" in name]
    assert fl.scan(tmp_path, split="train").count == 2 * len(train)
    names_of_all = fl.open_source(tmp_path)
    assert len(set(names_of_all.names)) == 2 * len(names)
    names_of_all.close()
