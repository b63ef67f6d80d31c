"""Finished pieces of long work, kept as JSON so that an interruption loses none of them."""

import json
from pathlib import Path
from typing import Any

from firstlight._files import write_atomically


def load(path: Path) -> Any:
    """The kept value; None when there is none that can be read."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def keep(path: Path, value: Any) -> Any:
    """Write the value, and return it as it will be read: a run and its repetition see the same numbers."""
    text = json.dumps(value)
    write_atomically(path, text)
    return json.loads(text)
