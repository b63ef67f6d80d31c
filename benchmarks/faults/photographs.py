"""Crops of real photographs: ImageNet samples where the archive is there, otherwise scikit-learn's two pictures."""

import io
import zipfile
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data import archive


@cache
def _originals() -> tuple[str, tuple[Image.Image, ...]]:
    source = archive("photos.zip")
    if source is None:
        from sklearn.datasets import load_sample_images

        return "scikit-learn's 2 photographs", tuple(Image.fromarray(i) for i in load_sample_images().images)
    with zipfile.ZipFile(source) as file:
        names = sorted(n for n in file.namelist() if n.lower().endswith((".jpeg", ".jpg")))
        pictures = [Image.open(io.BytesIO(file.read(name))) for name in names]
        for picture in pictures:
            picture.draft("RGB", (320, 320))
        return f"{len(names)} photographs", tuple(picture.convert("RGB") for picture in pictures)


def kind() -> str:
    """What the crops are cut from."""
    return _originals()[0]


@cache
def crops(count: int, side: int, seed: int = 0) -> NDArray[np.uint8]:
    """`count` random square crops at several scales, ``[count, side, side, 3]``, the same for the same arguments."""
    rng = np.random.default_rng(seed)
    originals = _originals()[1]
    order = np.concatenate([rng.permutation(len(originals)) for _ in range(-(-count // len(originals)))])[:count]
    images = np.empty((count, side, side, 3), np.uint8)
    for k, index in enumerate(order):
        picture = originals[index]
        cut = int(min(picture.size) * rng.uniform(0.25 if len(originals) == 2 else 0.6, 1.0))
        left, top = (int(rng.integers(0, extent - cut + 1)) for extent in picture.size)
        box = (left, top, left + cut, top + cut)
        images[k] = np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR, box=box))
    images.setflags(write=False)
    return images
