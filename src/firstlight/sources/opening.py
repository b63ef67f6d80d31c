"""`open_source`: looks at what it is given and says what it chose."""

import glob
import gzip
import os
import re
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.errors import FirstlightError
from firstlight.sources import arrays
from firstlight.sources.archive import TarArchive, ZipArchive
from firstlight.sources.demo import open_demo
from firstlight.sources.files import FileList, Folder, RemoteFolder
from firstlight.sources.source import Source, Stream, is_image

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_WAYS = (
    "a folder, zip, tar, .npy, .npz, IDX or Parquet file, shards like name-{000..127}.tar, "
    "an array, a dataset, or any iterable of images"
)


def open_source(source: Any, *, key: str | None = None) -> Source:
    """Find out what `source` is and open it.

    Args:
        source: a path or fsspec URL of a folder, an image, a zip, tar (also compressed), WebDataset shards
            (``name-{000..127}.tar``), .npy, .npz, IDX or Parquet file (or a folder of Parquet files);
            ``demo:photos`` and ``demo:digits`` for the images that come with scikit-learn; a NumPy
            array N×H×W×C or N×H×W; a torch ``Dataset`` or ``DataLoader``; any iterable of images or paths.
        key: which array of a .npz, or which column of a Parquet file.

    Raises:
        FirstlightError: when there is nothing there, or nothing that holds images.
    """
    if isinstance(source, Source):
        return source
    if isinstance(source, (str, os.PathLike)):
        return _open_path(os.fspath(source), key)
    if isinstance(source, np.ndarray):
        return arrays.Array(source, "array", f"array of shape {source.shape}")
    name = type(source).__name__
    if isinstance(source, (list, tuple)) and source and all(isinstance(item, (str, os.PathLike)) for item in source):
        return FileList(source, f"{len(source)} paths")
    if hasattr(source, "dataset") and hasattr(source, "batch_size"):
        return Stream(_unbatched(source), "DataLoader", name)
    random_access = hasattr(source, "__getitem__") and hasattr(source, "__len__")
    # torch's IterableDataset inherits a __getitem__ that only raises.
    streamed = any(base.__name__ == "IterableDataset" for base in type(source).__mro__)
    if random_access and not streamed and not isinstance(source, (dict, bytes)):
        return arrays.TorchDataset(source, name)
    if isinstance(source, Iterable) and not isinstance(source, (dict, bytes)):
        return Stream(_unbatched(source), "iterable", name)
    raise FirstlightError(
        f"a {name} is not a source of images", f"pass {_WAYS}", slug="not-a-source", call="open_source"
    )


def _open_path(location: str, key: str | None) -> Source:
    if location.startswith("demo:"):
        return open_demo(location)
    if "://" in location or "::" in location:
        return _open_url(location, key)
    path = os.path.expanduser(location)
    if _BRACES.search(path) or (glob.has_magic(path) and not os.path.exists(path)):
        return _open_several(_expanded(path), location, key)
    if os.path.isdir(path):
        return _open_folder(path, location, key)
    if not os.path.isfile(path):
        raise FirstlightError(
            f"there is no file or folder {location!r} in {os.getcwd()!r}",
            "check the spelling, or give an absolute path",
            slug="no-such-source",
            call=f"open_source({location!r})",
        )
    return _open_file(path, location, key)


def _open_file(path: str, location: str, key: str | None) -> Source:
    """By content first, then by suffix."""
    head = _head(path)
    if head.startswith(b"\x93NUMPY"):
        return arrays.open_npy(path, location)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        if path.lower().endswith(".npz"):
            return arrays.open_npz(path, location, key)
        return _opened(lambda: ZipArchive(path, location), location)
    if head.startswith(b"PAR1"):
        return _parquet([path], location, key)
    if _is_tar(path):
        return _opened(lambda: TarArchive([path], location), location)
    if arrays.is_idx(_unzipped_head(path)):
        return arrays.open_idx(path, location)
    if path.lower().endswith((".zip", ".tar", ".tgz", ".npz", ".npy", ".parquet")) or ".tar." in path.lower():
        raise FirstlightError(
            f"{location!r} is not what its name says: its content is damaged or of another kind",
            "download or pack it again",
            slug="damaged-file",
            call=f"open_source({location!r})",
        )
    return FileList([path], location)


def _open_folder(path: str, location: str, key: str | None) -> Source:
    folder = Folder(Path(path), location)
    if not len(folder):
        parquet = sorted(glob.glob(os.path.join(glob.escape(path), "**", "*.parquet"), recursive=True))
        if parquet:
            return _parquet(parquet, location, key)
        raise FirstlightError(
            f"there are no images in {location!r} ({folder.skipped} other files)",
            "point at the folder that holds them; archives and arrays are opened by their own path",
            slug="no-images",
            call=f"open_source({location!r})",
        )
    return folder


def _open_several(paths: list[str], location: str, key: str | None) -> Source:
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing or not paths:
        raise FirstlightError(
            f"{location!r} names {len(paths)} files, of which {len(missing)} are missing"
            + (f" (first: {missing[0]!r})" if missing else ""),
            "check the range or the pattern",
            slug="no-such-source",
            call=f"open_source({location!r})",
        )
    if all(path.endswith(".parquet") for path in paths):
        return _parquet(paths, location, key)
    if all(_is_tar(path) for path in paths):
        return _opened(lambda: TarArchive(paths, location), location)
    return FileList(paths, location)


def _open_url(location: str, key: str | None) -> Source:
    import fsspec

    call = f"open_source({location!r})"
    try:
        filesystem, path = fsspec.core.url_to_fs(location)
        if path.lower().endswith(".zip") and filesystem.isfile(path):
            return _opened(lambda: ZipArchive(filesystem.open(path, "rb"), location), location)
        single = is_image(path) and not path.lower().endswith(".npy")
        if filesystem.isfile(path) and not single:  # a tar, array or table: read from a local copy
            return _open_file(fsspec.open_local(f"simplecache::{location}"), location, key)
        source = RemoteFolder(filesystem, path, location)
    except ImportError as error:
        raise FirstlightError(
            f"no driver for this URL: {error}", "install the fsspec package that it names", slug="no-driver", call=call
        ) from None
    except (OSError, ValueError) as error:
        raise FirstlightError(
            f"cannot be listed: {error}",
            "check the URL, the network and your permissions",
            slug="no-such-source",
            call=call,
        ) from None
    if not len(source):
        raise FirstlightError(
            f"there are no images below it ({source.skipped} other files)", "check the URL", slug="no-images", call=call
        )
    return source


def _parquet(paths: list[str], location: str, key: str | None) -> Source:
    from firstlight.sources.parquet import Parquet

    return Parquet(paths, location, key)


def _opened(open_archive: Any, path: str) -> Source:
    """An archive that opens and holds images, or the reason why not."""
    call = f"open_source({path!r})"
    try:
        source: Source = open_archive()
    except Exception as error:  # each library has its own exceptions for damaged bytes
        raise FirstlightError(
            f"the archive is damaged: {error}", "download it again", slug="damaged-file", call=call
        ) from None
    if not len(source):
        source.close()
        raise FirstlightError(
            f"there are no images in it ({source.skipped} other files)",
            "check that it is the right archive",
            slug="no-images",
            call=call,
        )
    return source


def _expanded(pattern: str) -> list[str]:
    """Paths of ``name-{000..127}.tar`` in order, or of a glob pattern, sorted."""
    match = _BRACES.search(pattern)
    if match is None:
        return sorted(glob.glob(pattern, recursive=True))
    first, last = match.groups()
    names = [f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)]
    return [
        path for name in names for path in _expanded_or_self(pattern[: match.start()] + name + pattern[match.end() :])
    ]


def _expanded_or_self(pattern: str) -> list[str]:
    return _expanded(pattern) if _BRACES.search(pattern) else [pattern]


def _unbatched(samples: Iterable[Any]) -> Any:
    """Single images from an iterable of images or of batches (rank 4), labels left out."""
    for sample in samples:
        first = sample
        if isinstance(sample, dict):
            first = next((sample[key] for key in ("image", "img", "pixel_values") if key in sample), sample)
        elif isinstance(sample, (tuple, list)) and len(sample):
            first = sample[0]
        if getattr(first, "ndim", 0) == 4:
            yield from first
        else:
            yield first


def _is_tar(path: str) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except Exception:  # a damaged compressed file can make tarfile raise almost anything
        return False


def _head(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(8)


def _unzipped_head(path: str) -> bytes:
    try:
        with gzip.open(path, "rb") as file:
            return file.read(8)
    except (OSError, EOFError, zlib.error):
        return _head(path)
