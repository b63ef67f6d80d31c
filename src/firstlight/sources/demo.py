"""Real images that come with a dependency: scikit-learn's two photographs and its handwritten digits."""

import numpy as np

from firstlight.errors import FirstlightError
from firstlight.sources.arrays import Array
from firstlight.sources.source import Source

PATCH = 32


def open_demo(name: str) -> Source:
    """``demo:photos`` (520 colour patches 32×32, classes china and flower) or ``demo:digits`` (1,797 gray 8×8)."""
    if name == "demo:photos":
        return _photos()
    if name == "demo:digits":
        return _digits()
    raise FirstlightError(f"there is no {name!r}", "choose demo:photos or demo:digits", slug="no-such-source")


def _photos() -> Source:
    from sklearn.datasets import load_sample_images

    bunch = load_sample_images()
    names, patches = [], []
    for path, image in zip(bunch.filenames, bunch.images, strict=True):
        title = path.replace("\\", "/").rsplit("/", 1)[-1].rpartition(".")[0]
        for row in range(image.shape[0] // PATCH):
            for column in range(image.shape[1] // PATCH):
                names.append(f"{title}/r{row:02d}c{column:02d}")
                patches.append(image[row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH])
    return Array(np.stack(patches), "scikit-learn's photographs in patches", "demo:photos", "scikit-learn", names)


def _digits() -> Source:
    from sklearn.datasets import load_digits

    bunch = load_digits()  # 17 gray levels, 0 to 16
    order = np.lexsort((np.arange(len(bunch.target)), bunch.target))
    names = [f"{bunch.target[i]}/{i:04d}" for i in order]
    images = np.rint(bunch.images[order] * (255 / 16)).astype(np.uint8)
    return Array(images, "scikit-learn's digits", "demo:digits", "scikit-learn", names)
