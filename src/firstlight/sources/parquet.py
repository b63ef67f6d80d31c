"""Parquet with an image column: Hugging Face's layout (a struct of bytes and path) or plain bytes."""

import threading
from collections.abc import Sequence
from typing import Any

from firstlight._extras import require
from firstlight.errors import FirstlightError
from firstlight.sources.arrays import file_stamp
from firstlight.sources.picture import Unreadable
from firstlight.sources.source import Source, digest, short_names


class Parquet(Source):
    """The image column of one or more Parquet files; row r of file f is named ``f#r``.

    A row group is read when one of its rows is asked for and the last few are kept, so reading in order
    reads every group once.
    """

    KEEP = 4

    def __init__(self, paths: Sequence[str], location: str, key: str | None) -> None:
        self._arguments = (paths, location, key)
        pq = require("pyarrow.parquet", extra="parquet")
        self.kind = "Parquet file" if len(paths) == 1 else f"{len(paths)} Parquet files"
        self.location = location
        self._paths = sorted(paths)
        self._files: list[Any] = []
        try:
            for path in self._paths:
                self._files.append(_opened(pq, path, location))
            self._column = _image_column(self._files[0].schema_arrow, location, key)
        except BaseException:
            self.close()
            raise
        self._lock = threading.Lock()
        self._groups: dict[tuple[int, int], list[Any]] = {}
        counts = [
            [file.metadata.row_group(g).num_rows for g in range(file.metadata.num_row_groups)] for file in self._files
        ]
        self._places = [
            (f, g, r) for f, groups in enumerate(counts) for g, rows in enumerate(groups) for r in range(rows)
        ]
        self.names = []
        short = short_names(self._paths)
        for path, groups in zip(self._paths, counts, strict=True):
            digits = max(len(str(sum(groups))), 1)
            self.names += [f"{short[path]}#{row:0{digits}d}" for row in range(sum(groups))]

    def read(self, index: int) -> bytes:
        """The encoded bytes of one row."""
        file, group, row = self._places[index]
        with self._lock:
            if (file, group) not in self._groups:
                column = self._files[file].read_row_group(group, columns=[self._column]).column(0)
                while len(self._groups) >= self.KEEP:
                    self._groups.pop(next(iter(self._groups)))
                self._groups[file, group] = column
            value = self._groups[file, group][row].as_py()
        if isinstance(value, dict):
            value = value.get("bytes")
        if value is None:
            raise Unreadable("the row holds no image bytes")
        return bytes(value)

    def stamp(self) -> str:
        """Names, sizes and times of the files."""
        return digest([file_stamp(path) for path in self._paths])

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()


def _opened(pq: Any, path: str, location: str) -> Any:
    try:
        return pq.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise FirstlightError(
            f"the Parquet file {path!r} is damaged: {error}",
            "download it again",
            slug="damaged-file",
            call=f"open_source({location!r})",
        ) from None


def _image_column(schema: Any, location: str, key: str | None) -> str:
    types = require("pyarrow.types", extra="parquet")

    def holds_bytes(kind: Any) -> bool:
        if types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    candidates = [field.name for field in schema if holds_bytes(field.type)]
    chosen = [name for name in schema.names if name == key] if key else candidates
    if len(chosen) != 1:
        raise FirstlightError(
            f"{location!r} has the columns {', '.join(schema.names)}: no single one of images"
            + (f" named {key!r}" if key else ""),
            f"name one with key=… (--key): {', '.join(candidates) or 'none holds encoded images'}",
            slug="which-column",
            call=location,
        )
    return str(chosen[0])
