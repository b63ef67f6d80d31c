"""Real images for the benchmarks: archives beside the project, or scikit-learn's photographs where there are none."""

import os
import zipfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
WORK = HERE / ".work"


def archive(name: str) -> Path | None:
    """The archive `name` in $FIRSTLIGHT_DATA or ../shared/data, or None."""
    folders = [os.environ.get("FIRSTLIGHT_DATA"), HERE.parent.parent / "shared" / "data"]
    return next((Path(f) / name for f in folders if f and (Path(f) / name).is_file()), None)


def photographs() -> tuple[str, Path]:
    """A folder with one class folder of full-size JPEG photographs, and what they are."""
    source = archive("photos.zip")
    if source is not None:
        return "186 photographs", _unpacked(source, "photos")
    folder = WORK / "sklearn-photos"
    if not folder.exists():
        from sklearn.datasets import load_sample_images

        (folder / "a").mkdir(parents=True)
        for k, image in enumerate(load_sample_images().images * 40):
            Image.fromarray(image).save(folder / "a" / f"{k:03d}.jpg", quality=90)
    return "scikit-learn's 2 photographs, 40 times", folder


def thumbnails() -> tuple[str, Path]:
    """A folder of class folders of 32×32 JPEG files, and what they are."""
    source = archive("cifar10.zip")
    if source is not None:
        return "CIFAR-10 as 60,000 files", _unpacked(source, "cifar10")
    folder = WORK / "sklearn-patches"
    if not folder.exists():
        from firstlight.sources import open_source

        patches = open_source("demo:photos")
        (folder / "a").mkdir(parents=True)
        for k in range(5200):
            Image.fromarray(patches.read(k % len(patches))).save(folder / "a" / f"{k:05d}.jpg", quality=90)
    return "5,200 patches of scikit-learn's photographs", folder


def _unpacked(source: Path, name: str) -> Path:
    folder = WORK / name
    if not folder.exists():
        with zipfile.ZipFile(source) as file:
            file.extractall(WORK / f"{name}.part")
        (WORK / f"{name}.part").rename(folder)
    return folder
