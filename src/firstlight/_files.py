"""Writing files so that a reader never sees half of one, and JSON that every reader understands."""

import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

from firstlight.errors import FirstlightError


def write_atomically(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write to a temporary file beside `path`, then rename: the old content or the new one, never a part.

    Raises:
        FirstlightError: slug ``cannot-write``, naming the path and the system's reason.
    """
    target = Path(path)
    raw = data.encode("utf-8") if isinstance(data, str) else data
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(raw)
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise FirstlightError(
            f"cannot write {str(target)!r}: {error.strerror or error}",
            "name a file in a folder that exists, has room and may be written to",
            slug="cannot-write",
        ) from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def to_json(value: Any) -> str:
    """A result as JSON; what is not finite becomes null, for JSON has no word for it."""
    return json.dumps(plain(value), indent=1, allow_nan=False)


def plain(value: Any) -> Any:
    """Dictionaries with names, lists, texts, finite numbers and None; arrays as lists, anything else as its text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return plain(value.tolist()) if hasattr(value, "tolist") else str(value)
