"""A recipe as JSON: small arrays as numbers that people read, large ones as bytes in base64."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from firstlight._files import write_atomically
from firstlight.errors import FirstlightError

FORMAT = "firstlight.recipe/1"

READABLE = 4096
"""Arrays of float64 up to this many numbers are written as lists."""


def dumps(fields: dict[str, Any]) -> str:
    """The text of a recipe's file. Equal recipes give equal bytes."""
    return json.dumps({"format": FORMAT, **_plain(fields)}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def save(fields: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a recipe's file, whole or not at all."""
    write_atomically(path, dumps(fields))


def read_json(path: str | os.PathLike[str], what: str) -> Any:
    """Any JSON file.

    Raises:
        FirstlightError: slugs ``no-such-file`` and ``not-a-recipe``.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise FirstlightError(
            f"cannot read {str(path)!r}: {error.strerror or error}", f"name {what}", slug="no-such-file"
        ) from None
    except ValueError as error:
        raise FirstlightError(f"{str(path)!r} is not JSON ({error})", f"name {what}", slug="not-a-recipe") from None


def decoded(value: Any) -> Any:
    """Plain JSON values with arrays put back where `dumps` encoded them."""
    if isinstance(value, dict):
        if set(value) == {"dtype", "shape", "base64"}:
            flat = np.frombuffer(base64.b64decode(value["base64"]), np.dtype(value["dtype"]))
            return flat.reshape(value["shape"]).astype(flat.dtype.newbyteorder("="))
        return {name: decoded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [decoded(item) for item in value]
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype == np.float64 and value.size <= READABLE:
            return value.tolist()
        little = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
        text = base64.b64encode(little.data).decode("ascii")
        return {"dtype": little.dtype.str, "shape": list(value.shape), "base64": text}
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
