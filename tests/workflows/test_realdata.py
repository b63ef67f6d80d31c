"""CIFAR-10 and full-size photographs, where they lie beside the project."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import firstlight as fl
from references import two_pass

pytestmark = pytest.mark.realdata
Find = Callable[[str], Path]


def pillow(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))


def test_cifar10_agrees_with_two_passes_in_float64(realdata: Find, tmp_path: Path) -> None:
    path = realdata("cifar10.zip")
    with pytest.raises(fl.FirstlightError) as refusal:
        fl.scan(path)
    assert refusal.value.slug == "several-splits"
    with zipfile.ZipFile(path) as archive:
        names = sorted(n for n in archive.namelist() if "train/" in n and n.endswith((".jpg", ".png")))
        chosen = names[:: len(names) // 3000][:3000]
        with zipfile.ZipFile(tmp_path / "subset.zip", "w") as subset:
            for name in chosen:
                subset.writestr(name, archive.read(name))
        images = np.stack([pillow(archive, name) for name in chosen])
    stats = fl.scan(tmp_path / "subset.zip")
    truth = two_pass(list(images))
    assert stats.count == 3000
    np.testing.assert_allclose(stats.mean * 255, truth.mean, rtol=1e-12)
    np.testing.assert_allclose(stats.std * 255, truth.std, rtol=1e-12)
    np.testing.assert_allclose(stats.per_image_std * 255, truth.per_image_std, rtol=1e-12)
    np.testing.assert_allclose(stats.covariance * 255**2, truth.covariance, rtol=1e-12)
    np.testing.assert_allclose(stats.confidence * 255, truth.confidence, rtol=1e-10)
    np.testing.assert_allclose(stats.mean_image * 255, images.astype(np.float64).mean(0), rtol=1e-12)
    # The published figures, as far as 3,000 images know them; and which std is which.
    published = np.array([0.49139968, 0.48215827, 0.44653124])
    assert (np.abs(stats.mean - published) < 2 * stats.confidence).all()
    np.testing.assert_allclose(stats.std, [0.24703, 0.24348, 0.26159], atol=0.005)
    np.testing.assert_allclose(stats.per_image_std, [0.2023, 0.1994, 0.2010], atol=0.005)
    stats.save(tmp_path / "one.json")
    fl.scan(tmp_path / "subset.zip", workers=7).save(tmp_path / "seven.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "seven.json").read_bytes()


def test_photographs_of_every_size_and_subsampling(realdata: Find) -> None:
    path = realdata("photos.zip")
    stats = fl.scan(path, sample=40, all_splits=True)
    assert stats.quarantine == ()
    assert stats.count == 40
    assert stats.mean_image is None
    resized = fl.scan(path, sample=40, all_splits=True, resize=64, crop=56)
    assert resized.mean_image.shape == (56, 56, 3)
    with zipfile.ZipFile(path) as archive:
        source = fl.open_source(path)
        names = sorted(source.names, key=lambda name: hash_of(name))[:40]
        source.close()
        images = [pillow(archive, name) for name in names]
    truth = two_pass(images)
    np.testing.assert_allclose(stats.mean * 255, truth.mean, rtol=1e-12)
    np.testing.assert_allclose(stats.std * 255, truth.std, rtol=1e-12)
    np.testing.assert_allclose(stats.per_image_std * 255, truth.per_image_std, rtol=1e-12)


def hash_of(name: str) -> bytes:
    """The random order of seed 0, as documented."""
    import hashlib

    return hashlib.blake2b(f"0 {name}".encode(), digest_size=16).digest()
