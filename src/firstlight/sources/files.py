"""A folder of image files, anywhere fsspec reaches; a single file; a list of paths."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from firstlight.errors import FirstlightError
from firstlight.sources.source import Source, digest, is_image, printable


class Folder(Source):
    """All image files below a local folder, by relative path with forward slashes."""

    kind = "folder"

    def __init__(self, root: Path, location: str) -> None:
        self.location = location
        self._root = os.path.join(root, "")
        files = [path[len(self._root) :].replace(os.sep, "/") for path in _walk(os.fspath(root))]
        self._files = sorted(filter(is_image, files))
        self.skipped = len(files) - len(self._files)
        self.names = [printable(name) for name in self._files]

    def read(self, index: int) -> bytes:
        """The bytes of one file."""
        return _read(self._root + self._files[index])

    def stamp(self) -> str:
        """Names, sizes and modification times."""
        return _stamp([self._root + name for name in self._files])


class FileList(Source):
    """Named local files, sorted by path."""

    kind = "list of files"

    def __init__(self, paths: Sequence[str | os.PathLike[str]], location: str) -> None:
        self.location = location
        self._paths = sorted(os.fspath(path) for path in paths)
        self.names = [printable(path.replace(os.sep, "/")) for path in self._paths]

    def read(self, index: int) -> bytes:
        """The bytes of one file."""
        return _read(self._paths[index])

    def stamp(self) -> str:
        """Names, sizes and modification times."""
        return _stamp(self._paths)


class RemoteFolder(Source):
    """All image files below a folder of any fsspec file system (``s3://``, ``memory://``, …)."""

    kind = "remote folder"

    def __init__(self, filesystem: Any, root: str, location: str) -> None:
        self.location = location
        self._filesystem = filesystem
        listing = filesystem.find(root, detail=True)
        found = sorted((path[len(root) :].strip("/") or path, path) for path in listing)
        images = [(name, path) for name, path in found if is_image(name)]
        self.skipped = len(found) - len(images)
        self.names = [printable(name) for name, _ in images]
        self._paths = [path for _, path in images]
        self._stamp = [
            f"{path} {info.get('size')} {info.get('mtime') or info.get('ETag')}" for path, info in listing.items()
        ]

    def read(self, index: int) -> bytes:
        """The bytes of one file."""
        return bytes(self._filesystem.cat_file(self._paths[index]))

    def stamp(self) -> str:
        """Names and what the file system says of sizes and times."""
        return digest(sorted(self._stamp))


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read()


def _stamp(paths: Sequence[str]) -> str:
    def size_and_time(path: str) -> tuple[int, int]:
        try:
            status = os.stat(path)
        except OSError:
            return -1, -1
        return status.st_size, status.st_mtime_ns

    return digest([f"{path} {size_and_time(path)}" for path in paths])


def _walk(root: str) -> list[str]:
    """Every file below `root`, links followed, each folder entered once however many links lead to it."""
    seen: set[tuple[int, int]] = set()
    pending, files = [root], list[str]()
    while pending:
        folder = pending.pop()
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with _entries(folder) as entries:
            for entry in entries:
                if _is_dir(entry):
                    pending.append(entry.path)
                elif entry.is_symlink() or entry.is_file():  # opening a pipe would wait for ever
                    files.append(entry.path)
    return files


def _entries(folder: str) -> Any:
    try:
        return os.scandir(folder)
    except OSError as error:
        raise FirstlightError(
            f"the folder {folder!r} cannot be listed: {error.strerror or error}",
            "make it readable, or move it out of the source",
            slug="unreadable-folder",
        ) from None


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False
