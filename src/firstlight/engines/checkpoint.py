"""Finished blocks on disk while a scan runs, so that the same command goes on after a kill."""

import json
import os
import time
from pathlib import Path

from firstlight._files import write_atomically
from firstlight.errors import FirstlightError
from firstlight.statistics import Tally

FORMAT = "firstlight.partial-scan/1"


class Checkpoint:
    """The merged tally of the first k blocks of one scan.

    Blocks are merged in order, so a scan that goes on from block k does exactly the additions an
    uninterrupted one does.

    Attributes:
        path: the file; it exists only while a scan is unfinished.
        key: what the scan is: source stamp, options and version. Another key is another scan.
    """

    def __init__(self, path: str | os.PathLike[str], key: str) -> None:
        self.path = Path(path)
        self.key = key
        self._due = time.monotonic() + 1.0

    def load(self) -> tuple[int, Tally]:
        """Blocks done and their tally; (0, empty) when there is nothing to go on from.

        Raises:
            FirstlightError: slug ``source-changed``, when the file belongs to another scan.
        """
        try:
            value = json.loads(self.path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            self.save(0, Tally())  # now, so that a place that cannot be written to is known before the work
            return 0, Tally()
        except (OSError, ValueError):
            value = {}
        if not isinstance(value, dict) or value.get("format") != FORMAT or value.get("key") != self.key:
            raise FirstlightError(
                f"{str(self.path)!r} holds an unfinished scan of other images or options: did the source change?",
                "delete that file or pass restart=True (--restart) to begin anew",
                slug="source-changed",
            )
        return value["blocks"], Tally.from_dict(value["tally"])

    def offer(self, blocks: int, tally: Tally) -> None:
        """Save, unless the last save was so recent that saving would take more than a twentieth of the time."""
        if time.monotonic() >= self._due:
            self.save(blocks, tally)

    def save(self, blocks: int, tally: Tally) -> None:
        """Write the state after `blocks` blocks."""
        start = time.monotonic()
        value = {"format": FORMAT, "key": self.key, "blocks": blocks, "tally": tally.to_dict()}
        write_atomically(self.path, json.dumps(value))
        end = time.monotonic()
        self._due = end + max(1.0, 20 * (end - start))

    def remove(self) -> None:
        """The scan is finished: nothing to go on from."""
        self.path.unlink(missing_ok=True)
