"""The key under which a finished chapter is kept: everything that decides its numbers."""

import hashlib
import json
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import torch

_DRAWING = ("report", "cli")  # how a page looks does not change what was measured


def key_of(*parts: Any) -> str:
    """A short name for settings, images and the code that would run."""
    text = json.dumps([*map(str, parts), _code(), torch.__version__])
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


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
