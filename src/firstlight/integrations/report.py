"""What the callbacks share: the first batch without a trace, and what to do with what is found."""

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


class OnStart:
    """A check when training starts, and what to do with what it finds.

    Attributes:
        found: the check, once it was made.
    """

    def __init__(
        self,
        fail_on: Severity = "fail",
        on_finding: OnFinding = "raise",
        output: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        """
        Args:
            fail_on: from which severity on `on_finding` acts.
            on_finding: "raise" (`FirstlightError`, slug ``check-failed``), "warn", or a callable of the check.
            output: where to write the report, see `Check.save`.
            options: those of `firstlight.check`, such as ``mean=``, ``std=``, ``class_counts=``.
        """
        self.fail_on, self.on_finding, self.output, self.options = fail_on, on_finding, output, options
        self.found: Check | None = None

    def act(self, found: Check) -> None:
        """Write the report, then raise, warn or call, when something of `fail_on` or worse was found.

        Raises:
            FirstlightError: slug ``check-failed``.
        """
        self.found = found
        if self.output is not None:
            found.save(self.output)
        if not found.at_least(self.fail_on):
            return
        if callable(self.on_finding):
            self.on_finding(found)
        elif self.on_finding == "warn":
            warnings.warn(str(found), stacklevel=3)
        else:
            where = "" if self.output is None else f"; the report is in {os.fspath(self.output)}"
            raise FirstlightError(
                str(found), f'mend it, or pass on_finding="warn"{where}', slug="check-failed", call="firstlight check"
            )
