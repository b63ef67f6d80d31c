"""Zip, tar and WebDataset shards. Members are indexed once and read in place, in any order, from threads."""

import gzip
import os
import shutil
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Sequence
from typing import IO, Any

from firstlight.sources.picture import Unreadable
from firstlight.sources.source import Source, digest, is_image, printable, short_names


class ZipArchive(Source):
    """The image members of a zip file. A name that occurs twice means its last member, as for unzip."""

    kind = "zip archive"

    def __init__(self, file: IO[bytes] | str, location: str) -> None:
        self._arguments = (file, location)
        self.location = location
        self._zip = zipfile.ZipFile(file)
        self._file = file
        members = {info.filename: info for info in self._zip.infolist() if not info.is_dir()}
        images = {name: members[name] for name in sorted(members) if is_image(name)}
        self.skipped = len(members) - len(images)
        self.names = [printable(name) for name in images]
        self._members = list(images.values())

    def read(self, index: int) -> bytes:
        """The bytes of one member, checksum verified."""
        try:
            return self._zip.read(self._members[index])
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise Unreadable(f"damaged in the archive: {error}") from None

    def stamp(self) -> str:
        """Names, sizes and checksums."""
        return digest([f"{info.filename} {info.file_size} {info.CRC}" for info in self._members])

    def close(self) -> None:
        """Close the archive."""
        self._zip.close()
        if not isinstance(self._file, str):
            self._file.close()


class TarArchive(Source):
    """The image members of one or more tar files; shards of a WebDataset are named ``shard/member``.

    A compressed tar has no index and cannot be read in name order, so it is unpacked to a temporary file first.
    """

    def __init__(self, paths: Sequence[str], location: str) -> None:
        self._arguments = (paths, location)
        self.kind = "tar archive" if len(paths) == 1 else f"{len(paths)} tar shards"
        self.location = location
        self._shards: list[_Shard] = []
        try:
            for path in paths:
                self._shards.append(_Shard(path))
        except BaseException:
            self.close()
            raise
        found: dict[str, tuple[_Shard, int, int]] = {}
        self.skipped = 0
        names = short_names(paths)
        for path, shard in zip(paths, self._shards, strict=True):
            prefix = "" if len(paths) == 1 else f"{names[path]}/"
            for name, offset, size in shard.members:
                if is_image(name):
                    found[prefix + name] = (shard, offset, size)
                else:
                    self.skipped += 1
        order = sorted(found)
        self.names = [printable(name) for name in order]
        self._members = [found[name] for name in order]

    def read(self, index: int) -> bytes:
        """The bytes of one member."""
        shard, offset, size = self._members[index]
        return shard.read(offset, size)

    def stamp(self) -> str:
        """Names, places and sizes of members, sizes and times of the shards."""
        members = [f"{name} {offset} {size}" for name, (_, offset, size) in zip(self.names, self._members, strict=True)]
        return digest([*members, *(shard.stamp for shard in self._shards)])

    def close(self) -> None:
        """Close the shards."""
        for shard in self._shards:
            shard.close()


class _Shard:
    """One tar file, plain on disk, and where its regular members lie in it."""

    def __init__(self, path: str) -> None:
        status = os.stat(path)
        self.stamp = f"{path} {status.st_size} {status.st_mtime_ns}"
        self._file = _plain(path)
        self._lock = threading.Lock()
        try:
            with tarfile.open(fileobj=self._file, mode="r:") as tar:
                files = [info for info in tar if info.isreg()]
        except BaseException:
            self._file.close()
            raise
        self.members = [(info.name.removeprefix("./"), info.offset_data, info.size) for info in files]

    def read(self, offset: int, size: int) -> bytes:
        with self._lock:
            self._file.seek(offset)
            data = self._file.read(size)
        if len(data) < size:
            raise Unreadable(f"the archive ends {size - len(data)} bytes before the file does")
        return data

    def close(self) -> None:
        self._file.close()


def _plain(path: str) -> IO[bytes]:
    """The file itself, or a temporary uncompressed copy of it."""
    file = open(path, "rb")  # noqa: SIM115 - the shard owns and closes it
    magic = file.read(6)
    file.seek(0)
    opener: Any = None
    if magic.startswith(b"\x1f\x8b"):
        opener = gzip.open
    elif magic.startswith(b"BZh"):
        import bz2

        opener = bz2.open
    elif magic == b"\xfd7zXZ\0":
        import lzma

        opener = lzma.open
    if opener is None:
        return file
    copy = tempfile.TemporaryFile()  # noqa: SIM115
    try:
        with file, opener(file) as unpacked:
            shutil.copyfileobj(unpacked, copy, 2**20)
    except BaseException:
        copy.close()
        raise
    copy.seek(0)
    return copy
