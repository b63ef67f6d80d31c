"""Finished blocks on disk while a scan or a fit runs, so that the same command goes on after a kill."""

import json
import os
import time
from pathlib import Path
from typing import Any, Protocol, Self

from firstlight._files import write_atomically
from firstlight.errors import FirstlightError
from firstlight.statistics import Tally

FORMAT = "firstlight.partial-scan/1"


class Stored(Protocol):
    """A value that travels through JSON. Made without arguments it is what there is before the first block."""

    def __init__(self) -> None: ...

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Self:
        """The inverse of `to_dict`."""


class Checkpoint:
    """What the first k blocks of one scan or fit add up to.

    Blocks are merged in order, so a scan that goes on from block k does exactly the additions an
    uninterrupted one does.

    Attributes:
        path: the file; it exists only while the work is unfinished.
        key: what the work is: source stamp, options and version. Another key is other work.
        noun: type of the value, `Tally` for a scan.
        kept: blocks in the file as it was last read or written.
    """

    def __init__(self, path: str | os.PathLike[str], key: str, noun: type[Stored] = Tally) -> None:
        self.path = Path(path)
        self.key = key
        self.noun = noun
        self.kept = 0
        self._due = time.monotonic() + 1.0

    def load(self) -> tuple[int, Any]:
        """Blocks done and the `noun` of them; (0, empty) when there is nothing to go on from.

        Raises:
            FirstlightError: slug ``source-changed``, when the file belongs to other work.
        """
        try:
            value = json.loads(self.path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            self.save(0, self.noun())  # now, so that a place that cannot be written to is known before the work
            return 0, self.noun()
        except (OSError, ValueError):
            value = {}
        if not isinstance(value, dict) or value.get("format") != FORMAT or value.get("key") != self.key:
            raise FirstlightError(
                f"{str(self.path)!r} holds unfinished work on other images or options: did the source change?",
                "delete that file or pass restart=True (--restart) to begin anew",
                slug="source-changed",
            )
        self.kept = value["blocks"]
        return self.kept, self.noun.from_dict(value["tally"])

    def offer(self, blocks: int, value: Stored) -> None:
        """Save, unless the last save was so recent that saving would take more than a twentieth of the time."""
        if time.monotonic() >= self._due:
            self.save(blocks, value)

    def save(self, blocks: int, value: Stored) -> None:
        """Write the state after `blocks` blocks."""
        start = time.monotonic()
        content = {"format": FORMAT, "key": self.key, "blocks": blocks, "tally": value.to_dict()}
        write_atomically(self.path, json.dumps(content))
        self.kept = blocks
        end = time.monotonic()
        self._due = end + max(1.0, 20 * (end - start))

    def remove(self) -> None:
        """The work is finished: nothing to go on from."""
        self.path.unlink(missing_ok=True)
