"""Images as numbers: NumPy arrays and files, memory maps, IDX (MNIST's format), torch datasets."""

import gzip
import math
import os
import threading
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.errors import FirstlightError
from firstlight.sources.source import Block, Source, digest

_IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


class Array(Source):
    """N images in one array: N×H×W×C, or N×H×W for gray ones. Memory maps are read piece by piece."""

    def __init__(
        self,
        images: NDArray[Any],
        kind: str,
        location: str,
        stamp: str | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        if images.ndim not in (3, 4) or (images.ndim == 3 and images.shape[-1] in (3, 4)):
            raise FirstlightError(
                f"an array of shape {images.shape} is not clearly N images",
                "pass N×H×W×C, or N×H×W for gray images; one image needs a leading axis: image[None]",
                slug="ambiguous-array",
                call=location,
            )
        self.kind, self.location = kind, location
        self._images = images
        self._stamp = stamp
        digits = max(len(str(len(images) - 1)), 1)
        self.names = names or [f"{i:0{digits}d}" for i in range(len(images))]

    def read(self, index: int) -> NDArray[Any]:
        """One image, H×W×C or H×W; a view, not a copy."""
        image: NDArray[Any] = self._images[index]
        return image

    def block_size(self, images: int) -> int:
        """At least 4 MB a block, so that the work is counting and not administration."""
        return max(super().block_size(images), 2**22 // max(self._images[:1].nbytes, 1))

    def blocks(self, size: int, order: Sequence[int] | None = None) -> Iterator[Block]:
        """In canonical order a block's samples are a slice of the array, so that they can be counted at once."""
        if order is not None:
            yield from super().blocks(size, order)
            return
        for start in range(0, len(self), size):
            images = self._images[start : start + size]
            if not isinstance(images, np.ma.MaskedArray):
                images = np.asarray(images)
            yield Block(self.names[start : start + size], images[..., None] if images.ndim == 3 else images)

    def stamp(self) -> str:
        """Shape, type, and the file's size and time or a checksum of the array."""
        content = self._stamp or f"{zlib.crc32(self._images.tobytes()):08x}"
        return digest([str(self._images.shape), str(self._images.dtype), content])


class TorchDataset(Source):
    """Any object with ``__len__`` and ``__getitem__`` whose items are images or start with one.

    Items are read under a lock: nothing says that a dataset may be asked from two threads at once.
    """

    kind = "dataset"

    def __init__(self, dataset: Any, location: str) -> None:
        self._arguments = (dataset, location)
        self.location = location
        self._dataset = dataset
        self._lock = threading.Lock()
        self.names = [f"item {i:08d}" for i in range(len(dataset))]

    def read(self, index: int) -> Any:
        """Item number `index`."""
        with self._lock:
            return self._dataset[index]


def open_npy(path: str, location: str) -> Source:
    """A .npy file, memory-mapped."""
    images = _loaded(path, path, mmap_mode="r")
    return Array(images, ".npy array", location, file_stamp(path))


def open_npz(path: str, location: str, key: str | None) -> Source:
    """One array of a .npz file: the only one that can be images, or the one that `key` names."""
    with open(path, "rb") as file, _loaded(path, file) as arrays:
        names = list(arrays.files)
        wanted = names if key is None else [name for name in names if name == key]
        found = {name: array for name in wanted if (array := _member(arrays, name, path)) is not None}
    candidates = [name for name, array in found.items() if key or array.ndim in (3, 4)]
    if len(candidates) != 1:
        problem = f"{path!r} holds {', '.join(names) or 'nothing'}"
        raise FirstlightError(
            f"{problem}: no single array of images" + (f" named {key!r}" if key else ""),
            f"name one with key=… (--key): {', '.join(candidates or names) or 'it has none'}",
            slug="which-array",
            call=location,
        )
    (name,) = candidates
    return Array(found[name], f".npz array {name!r}", location, file_stamp(path) + name)


def open_idx(path: str, location: str) -> Source:
    """An IDX file, gzip-compressed or not: two zero bytes, type, rank, big-endian sizes, then the values."""
    with open(path, "rb") as file:
        data = file.read()
    try:
        if data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
        shape = tuple(int(n) for n in np.frombuffer(data, ">u4", data[3], 4))
        dtype = np.dtype(_IDX_TYPES[data[2]])
        values = np.frombuffer(data, dtype, math.prod(shape), 4 + 4 * data[3])
    except (EOFError, LookupError, OSError, ValueError, zlib.error) as error:
        raise FirstlightError(
            f"{path!r} holds less than it promises, or is damaged: {error}",
            "download it again",
            slug="damaged-file",
            call=location,
        ) from None
    return Array(values.reshape(shape).astype(dtype.newbyteorder("=")), "IDX file", location, file_stamp(path))


def is_idx(head: bytes) -> bool:
    """Whether a file starts like IDX (after gunzip)."""
    return len(head) >= 4 and head[:2] == b"\0\0" and head[2] in _IDX_TYPES and 1 <= head[3] <= 4


def file_stamp(path: str) -> str:
    """Name, size and modification time."""
    status = os.stat(path)
    return f"{os.path.basename(path)} {status.st_size} {status.st_mtime_ns}"


def _loaded(path: str, file: Any, **options: Any) -> Any:
    try:
        return np.load(file, allow_pickle=False, **options)
    except Exception as error:  # a damaged header makes NumPy raise almost anything
        raise _damaged(path, error) from None


def _member(arrays: Any, name: str, path: str) -> NDArray[Any] | None:
    """One array of a .npz; None when it holds Python objects, which are never unpickled."""
    try:
        array: NDArray[Any] = arrays[name]
        return array
    except Exception as error:
        if isinstance(error, ValueError) and "allow_pickle" in str(error):
            return None
        raise _damaged(path, error) from None


def _damaged(path: str, error: Exception) -> FirstlightError:
    return FirstlightError(
        f"{path!r} cannot be loaded: {error}", "save a plain numeric array with numpy.save", slug="damaged-file"
    )
