"""One readable decision for each parameter, before any number is drawn."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from firstlight.errors import FirstlightError

FORMAT = "firstlight.plan/1"


@dataclass(frozen=True, slots=True)
class Decision:
    """What one parameter starts as, and why.

    Attributes:
        name: the parameter's dotted name; tied parameters have one decision, under the first name.
        rule: short name of the rule that decided (``"kaiming"``, ``"bias"``, ``"norm"``).
        distribution: ``"normal"``, or ``"constant"`` when every element starts equal.
        mean: of the distribution; the value itself when constant.
        std: standard deviation of the elements; 0 when constant.
        fan_in: inputs that one output sums; ``None`` where nothing is summed.
        fan_out: outputs that one input reaches; likewise.
        gain: factor that makes up for the nonlinearity, ``std = gain / sqrt(fan_in)``; ``None`` without a fan.
        reason: one sentence for a person.
    """

    name: str
    rule: str
    distribution: Literal["normal", "constant"]
    mean: float
    std: float
    fan_in: float | None
    fan_out: float | None
    gain: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The decisions of one scheme on one network: the same plan and seed always give the same weights.

    Attributes:
        scheme: name of the scheme.
        decisions: one for each parameter, in the model's order.
        uncovered: parameters that no rule covers, which keep the values they have.
    """

    scheme: str
    decisions: tuple[Decision, ...]
    uncovered: tuple[str, ...] = ()

    def __str__(self) -> str:
        head = ("parameter", "rule", "fan in", "gain", "mean", "std", "reason")
        rows = [
            (d.name, d.rule, _short(d.fan_in), _short(d.gain), _short(d.mean), _short(d.std), d.reason)
            for d in self.decisions
        ]
        rows += [(name, "-", "", "", "", "", "no rule covers it: left as it is") for name in self.uncovered]
        return table(head, rows)

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON."""
        content = {"format": FORMAT, **dataclasses.asdict(self)}
        Path(path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "Plan":
        """Read a plan that `save` wrote.

        Raises:
            FirstlightError: slug ``not-a-plan``, when the file is something else.
            OSError: when it cannot be read.
        """
        try:
            return cls._from(json.loads(Path(path).read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError) as error:
            raise FirstlightError(
                f"{path} is not a plan that this version reads ({error})",
                f"give a file written by Plan.save, with format {FORMAT!r}",
                slug="not-a-plan",
                call=f"Plan.load({str(path)!r})",
            ) from None

    @classmethod
    def _from(cls, content: Any) -> "Plan":
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}")
        decisions = tuple(Decision(**decision) for decision in content["decisions"])
        return cls(content["scheme"], decisions, tuple(content["uncovered"]))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns of plain text, as wide as they need to be."""
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
