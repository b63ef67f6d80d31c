"""The lecture's images: scikit-learn's photographs and digits, or any source whose folders are classes."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import firstlight as fl
from firstlight.engines import Observer
from firstlight.errors import FirstlightError
from firstlight.recipe import Recipe
from firstlight.sources import Policy, Source, Stream, Subset, Transform, decode
from firstlight.sources.splits import splits_of
from firstlight.statistics import Statistics
from firstlight.workflows.samples import batch_of, class_of, sample_images

SIDE = 32
_CLASSES = 10


@dataclass(frozen=True, eq=False)
class Images:
    """Pictures with labels.

    Attributes:
        what: which, for people.
        pixels: uint8 N×H×W×C.
        labels: N, each an index into `classes`.
        classes: their names.
    """

    what: str
    pixels: NDArray[np.uint8]
    labels: Tensor
    classes: tuple[str, ...]

    @cached_property
    def stamp(self) -> str:
        """Changes with any pixel or label."""
        h = hashlib.blake2b(self.pixels.tobytes(), digest_size=12)
        h.update(str((self.pixels.shape, self.labels.tolist(), self.classes)).encode())
        return h.hexdigest()

    @cached_property
    def statistics(self) -> Statistics:
        """Of all of them."""
        return fl.scan(self.pixels, workers=1)

    def through(self, recipe: Recipe) -> Tensor:
        """N×C×H×W, preprocessed."""
        return torch.from_numpy(np.ascontiguousarray(np.moveaxis(recipe(self.pixels), 3, 1)))

    @cached_property
    def normalized(self) -> Tensor:
        """N×C×H×W with mean 0 and std 1 in every channel."""
        return self.through(Recipe.resnet(self.statistics))

    def vectors(self, count: int, side: int) -> Tensor:
        """count × side², gray, each of mean 0 and mean square 1: what `y = Wx` of the lecture is fed with.

        One image with more contrast than another would have a larger signal at every layer, and the theory is about
        one size. An image of one colour is left out; the others are taken in a fixed random order.
        """
        resized = Transform(resize=(side, side))
        rows = []
        for image in self.pixels[np.random.default_rng(0).permutation(len(self.pixels))]:
            gray = resized(decode(image, Policy())).pixels.mean(axis=2).astype(np.float64).ravel()
            if gray.std() > 1:
                rows.append((gray - gray.mean()) / gray.std())
            if len(rows) == count:
                break
        return torch.from_numpy(np.stack(rows)).float()


@dataclass(frozen=True, eq=False)
class Album:
    """What the chapters look at.

    Attributes:
        pictures: in colour, 32×32, for convolutional networks.
        digits: for networks of linear layers; the same as `pictures` unless they are scikit-learn's.
    """

    pictures: Images
    digits: Images

    @property
    def what(self) -> str:
        """Which images, for people."""
        both = (self.pictures.what,) if self.pictures is self.digits else (self.pictures.what, self.digits.what)
        return " and ".join(both)

    @property
    def stamp(self) -> str:
        """Changes with any pixel or label."""
        return f"{self.pictures.stamp} {self.digits.stamp}"


def open_album(data: Any = None, *, limit: int, seed: int) -> Album:
    """Read the images of the lecture.

    Args:
        data: anything `open_source` opens, with a folder per class; its training split if it shows one, its first ten
            classes by name, images brought to 32×32. None takes scikit-learn's.
        limit: images at most, chosen by `seed`.
        seed: of that choice.

    Raises:
        FirstlightError: slugs ``no-classes`` (fewer than two folders), ``stream-source``, ``not-pictures`` (pixels
            that are no integers), and what opening raises.
    """
    if data is not None:
        pictures = _read(data, limit, seed)
        return Album(pictures, pictures)
    return Album(_read("demo:photos", limit, seed), _read("demo:digits", limit, seed, side=8))


def _read(data: Any, limit: int, seed: int, side: int = SIDE) -> Images:
    source = fl.open_source(data)
    try:
        if isinstance(source, Stream):
            raise _error("a stream gives its images once", "give a folder, an archive or a data set", "stream-source")
        source, classes = _classes(source)
        found = sample_images(source, Observer(Policy(), Transform(resize=side, crop=side)), limit, seed)
        if not found or any(pixels.dtype.kind != "u" for _, pixels in found):
            raise _error("no pictures of 8 or 16 bits were found", "give photographs", "not-pictures")
        found.sort(key=lambda pair: pair[0])
        channels = max(pixels.shape[2] for _, pixels in found) if data == "demo:digits" else 3
        labels = torch.tensor([classes.index(class_of(name)) for name, _ in found])
        return Images(_words(source, len(found)), _stacked(found, channels), labels, classes)
    finally:
        source.close()


def _classes(source: Source) -> tuple[Source, tuple[str, ...]]:
    """The training split, of the first ten classes."""
    splits = splits_of(source)
    if "train" in splits:
        source = Subset(source, splits["train"])
    classes = tuple(sorted({class_of(name) for name in source.names} - {""}))[:_CLASSES]
    if len(classes) < 2:
        raise _error(
            f"{source.location!r} does not say what its images show: fewer than two folders hold them",
            "put the images of each class into a folder of its own, or leave --data out",
            "no-classes",
        )
    known = set(classes)
    return Subset(source, [k for k, name in enumerate(source.names) if class_of(name) in known]), classes


def _stacked(found: list[tuple[str, NDArray[Any]]], channels: int) -> NDArray[np.uint8]:
    """All as uint8 N×H×W×C; of more than three channels the first three."""
    eight = [(name, (p if p.dtype == np.uint8 else (p // 257).astype(np.uint8))[..., :3]) for name, p in found]
    return np.ascontiguousarray(batch_of(eight, channels, "uint8"))


def _words(source: Source, count: int) -> str:
    known = {"demo:photos": "patches of scikit-learn's two photographs", "demo:digits": "of scikit-learn's digits"}
    return f"{count:,} {known.get(source.location, f'images of {source.location}')}"


def _error(cause: str, way_out: str, slug: str) -> FirstlightError:
    return FirstlightError(cause, way_out, slug=slug, call="lecture")
