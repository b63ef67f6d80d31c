"""Writing files so that a reader never sees half of one."""

import os
import tempfile
from pathlib import Path

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
