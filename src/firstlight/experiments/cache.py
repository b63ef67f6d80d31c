"""Finished chapters, kept as JSON under a key of everything that decides their numbers."""

import hashlib
import json
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import torch

from firstlight._files import write_atomically

_DRAWING = ("report", "cli")  # how a page looks does not change what was measured


def key_of(*parts: Any) -> str:
    """A short name for settings, images and the code that would run."""
    text = json.dumps([*map(str, parts), _code(), torch.__version__])
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


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


@cache
def _code() -> str:
    """A hash of the library's source, drawing left out."""
    h = hashlib.blake2b(digest_size=12)
    for name, text in sorted(_sources(files("firstlight"), "")):
        h.update(f"{name}\0".encode() + text + b"\0")
    return h.hexdigest()


def _sources(folder: Traversable, prefix: str) -> list[tuple[str, bytes]]:
    found = []
    for entry in folder.iterdir():
        name = f"{prefix}{entry.name}"
        if entry.is_dir() and name not in _DRAWING:
            found += _sources(entry, f"{name}/")
        elif name.endswith(".py"):
            found.append((name, entry.read_bytes()))
    return found
