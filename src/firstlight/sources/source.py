"""Where images come from: named samples in a canonical order."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from numpy.typing import NDArray

from firstlight.sources.picture import Unreadable

IMAGE_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "dib", "tif", "tiff", "gif"),
        *("ppm", "pgm", "pbm", "pnm", "jp2", "j2k", "npy", "img", "ntf"),
    )
)


@dataclass(frozen=True)
class Block:
    """A stretch of a source: the unit of work, and of what is merged in order.

    Attributes:
        names: names of the samples, in order.
        samples: the samples themselves or, for a source with random access, a sequence that reads them.
    """

    names: Sequence[str]
    samples: Sequence[Any] | NDArray[Any]


class Source(ABC):
    """Named samples with random access, in canonical order (sorted names, whatever the storage says).

    Attributes:
        kind: what was recognised ("folder", "zip archive", …).
        location: where, as the user wrote it.
        names: stable, unique names in canonical order.
        skipped: files seen that are not images by their suffix.
    """

    kind: str
    location: str
    names: Sequence[str]
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def read(self, index: int) -> Any:
        """The sample at `index`: encoded bytes, an array, a tensor or a Pillow image. Safe to call from threads.

        Raises:
            OSError, Unreadable: when this sample cannot be had; the scan goes on without it.
        """

    def stamp(self) -> str:
        """Changes when the content may have changed: names, and sizes and times where there are any."""
        return digest(self.names)

    def identity(self) -> dict[str, Any]:
        """What provenance records."""
        return {
            "kind": self.kind,
            "location": printable(self.location),
            "images": len(self),
            "names_hash": digest(self.names),
            "other_files": self.skipped,
        }

    def block_size(self, images: int) -> int:
        """Images per block when `images` are counted: about 256 blocks, to share the work and lose little to a kill.

        Blocks are the grain of the result for floats, so this depends on the source alone.
        """
        return min(max(images // 256, 16), 1024)

    def blocks(self, size: int, order: Sequence[int] | None = None) -> Iterator[Block]:
        """Cut into blocks of `size` in canonical order, or in `order` (indices)."""
        order = range(len(self)) if order is None else order
        for start in range(0, len(order), size):
            yield _block(self, order[start : start + size])

    def close(self) -> None:  # noqa: B027 - most sources hold nothing open
        """Release files. A closed source is not read again."""

    def __reduce__(self) -> Any:
        """In another process a source that holds open files or locks is opened anew from its arguments."""
        arguments = getattr(self, "_arguments", None)
        return super().__reduce__() if arguments is None else (type(self), arguments)

    def __repr__(self) -> str:
        return f"{self.kind} {self.location!r} with {len(self):,} image{'' if len(self) == 1 else 's'}"


class Subset(Source):
    """Some samples of another source, under their own names."""

    def __init__(self, source: Source, keep: Sequence[int]) -> None:
        self.source = source
        self.keep = keep
        self.kind, self.location, self.skipped = source.kind, source.location, source.skipped
        self.names = [source.names[i] for i in keep]

    def read(self, index: int) -> Any:
        """See `Source.read`."""
        return self.source.read(self.keep[index])

    def stamp(self) -> str:
        """See `Source.stamp`."""
        return digest([self.source.stamp(), *self.names])

    def close(self) -> None:
        """See `Source.close`."""
        self.source.close()


class Stream(Source):
    """Samples that come once, in their own order, and number we learn at the end: an iterable, a DataLoader."""

    def __init__(self, samples: Iterator[Any], kind: str, location: str) -> None:
        self.samples = samples
        self.kind, self.location = kind, location
        self.names = []

    def read(self, index: int) -> Any:
        """A stream has no random access."""
        raise TypeError("a stream is read through blocks()")

    def blocks(self, size: int, order: Sequence[int] | None = None) -> Iterator[Block]:
        """Blocks of `size` in the order in which the samples come; names count them."""
        names = self.names
        assert isinstance(names, list)
        while samples := list(islice(self.samples, size)):
            fresh = [f"item {len(names) + k:08d}" for k in range(len(samples))]
            names.extend(fresh)
            yield Block(fresh, samples)

    def __repr__(self) -> str:
        return f"{self.kind} {self.location!r}"


class Reader(Sequence[Any]):
    """The samples of a block, read when they are asked for."""

    def __init__(self, source: Source, indices: Sequence[int]) -> None:
        self.source, self.indices = source, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, k: Any) -> Any:
        index = self.indices[k]
        try:
            return self.source.read(index)
        except (OSError, Unreadable):
            raise
        except Exception as error:  # libraries that unpack damaged bytes, and datasets of users, raise anything
            raise Unreadable(f"cannot be read: {type(error).__name__}: {error}") from error


def _block(source: Source, indices: Sequence[int]) -> Block:
    return Block([source.names[i] for i in indices], Reader(source, indices))


def digest(parts: Sequence[str]) -> str:
    """A short hash of a sequence of strings."""
    h = hashlib.blake2b(digest_size=16)
    for start in range(0, len(parts), 4096):
        h.update("\0".join(parts[start : start + 4096]).encode("utf-8", "surrogatepass") + b"\0")
    return h.hexdigest()


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """Each path without the folders that all of them share, with forward slashes."""
    parents = [os.path.dirname(os.path.abspath(path)) for path in paths]
    common = os.path.commonpath(parents) if parents else ""
    return {path: printable(os.path.relpath(path, common).replace(os.sep, "/")) for path in paths}


def printable(name: str) -> str:
    """A file name as valid Unicode: bytes that are not UTF-8 become \\xNN."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return name


def is_image(name: str) -> bool:
    """Whether a file's suffix promises an image; hidden files (`.x.jpg`, `__MACOSX/`) do not count."""
    parts = name.rsplit("/", 1)
    base = parts[-1]
    dot = base.rfind(".")
    return dot > 0 and base[dot:].lower() in IMAGE_SUFFIXES and not base.startswith(".") and "__MACOSX/" not in name
