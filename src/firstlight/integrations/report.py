"""What the callbacks share: the first batch without a trace, and what to do with what was found."""

import os
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Literal

from firstlight.diagnosis import Severity
from firstlight.errors import FirstlightError
from firstlight.graph.untouched import kept_random
from firstlight.workflows.checking import Check

OnFinding = Literal["raise", "warn"] | Callable[[Check], None]


def first_batch(loader: Iterable[Any]) -> Any:
    """The first batch; the order that training will see is the one it would have seen without this.

    Raises:
        FirstlightError: slug ``empty-loader``.
    """
    with kept_random():
        for batch in loader:
            return batch
    raise FirstlightError(
        "the training data loader yields no batch", "give it images", slug="empty-loader", call="firstlight check"
    )


def act(found: Check, severity: Severity, on_finding: OnFinding, output: str | os.PathLike[str] | None) -> None:
    """Write the report, then raise, warn or call, when something of `severity` or worse was found.

    Raises:
        FirstlightError: slug ``check-failed``.
    """
    if output is not None:
        found.save(output)
    if not found.at_least(severity):
        return
    if callable(on_finding):
        on_finding(found)
    elif on_finding == "warn":
        warnings.warn(str(found), stacklevel=3)
    else:
        where = "" if output is None else f"; the report is in {os.fspath(output)}"
        raise FirstlightError(
            str(found), f'mend it, or pass on_finding="warn"{where}', slug="check-failed", call="firstlight check"
        )
