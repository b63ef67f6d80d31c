"""What a rule is: a code, a name after the fault, a docstring that is its help page, and one question."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

from firstlight.diagnosis.case import Case
from firstlight.diagnosis.finding import Finding, Severity


class Rule(ABC):
    """One kind of fault.

    The class's docstring is its help page (``firstlight explain FL201``): the fault in its first line, then what is
    measured, why that is expected, what usually causes it and what mends it, with the source.

    Attributes:
        code: "FL" and three digits: 1xx input and labels, 2xx weights, 3xx forward, 4xx backward, 5xx loss and head,
            6xx optimizer step.
        name: after the fault, words joined by hyphens.
        explains: codes of faults that follow from this one, whose findings are folded under it.
        exact: of its findings, unless they say otherwise; see `Finding`.
    """

    code: ClassVar[str]
    name: ClassVar[str]
    explains: ClassVar[frozenset[str]] = frozenset()
    exact: ClassVar[bool] = False

    @abstractmethod
    def examine(self, case: Case) -> Iterator[Finding]:
        """Yield what is wrong, the worst first; nothing when it was checked and is clean.

        Raises:
            NotChecked: when the case lacks what the question needs.
        """

    @classmethod
    def page(cls) -> str:
        """The help page, as Markdown."""
        return inspect.cleandoc(cls.__doc__ or "")

    def finding(self, severity: Severity, where: str, title: str, **rest: Any) -> Finding:
        """A finding of this rule; see `Finding` for the rest."""
        return Finding(self.code, self.name, severity, where, title, **{"exact": self.exact, **rest})
