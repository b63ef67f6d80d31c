"""One readable decision for each parameter, before any number is drawn."""

import dataclasses
import fnmatch
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from firstlight._text import short, table
from firstlight.errors import FirstlightError

FORMAT = "firstlight.plan/1"

Distribution: TypeAlias = Literal[
    "constant", "normal", "truncated-normal", "uniform", "orthogonal", "delta-orthogonal", "reset"
]


@dataclass(frozen=True, slots=True)
class Decision:
    """What one parameter starts as, and why.

    Attributes:
        name: the parameter's dotted name; tied parameters have one decision, under the first name.
        rule: short name of the rule that decided (``"kaiming"``, ``"bias"``, ``"norm"``).
        distribution: ``"constant"`` when every element starts equal; ``"normal"``, ``"truncated-normal"``,
            ``"uniform"``; ``"orthogonal"``, where the flattened matrix is, and ``"delta-orthogonal"``, where the middle
            tap of a convolution is and the others are zero; ``"reset"``, what the module's own ``reset_parameters``
            draws.
        mean: of the distribution; the value itself when constant.
        std: standard deviation of the elements, exactly, also of a truncated normal; root mean square of an orthogonal
            matrix; 0 when constant, and for ``"reset"``, where it is not known before.
        fan_in: inputs that one output sums; ``None`` where nothing is summed.
        fan_out: outputs that one input reaches; likewise.
        gain: factor that makes up for the nonlinearity, ``std = gain / sqrt(fan_in)``; ``None`` without a fan.
        reason: one sentence for a person.
        bounds: where a truncated normal ends, in standard deviations before the cut, on both sides of the mean.
        blocks: matrices stacked along the first dimension, each orthogonal by itself.
        values: of a constant vector whose elements differ (the bias of a head), instead of `mean`.
    """

    name: str
    rule: str
    distribution: Distribution
    mean: float
    std: float
    fan_in: float | None
    fan_out: float | None
    gain: float | None
    reason: str
    bounds: float = 2.0
    blocks: int = 1
    values: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """One parameter on which two plans differ; a side is ``None`` where that plan does not decide it."""

    name: str
    before: Decision | None
    after: Decision | None

    def __str__(self) -> str:
        return f"{self.name}: {_brief(self.before)} → {_brief(self.after)}"


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
            (d.name, d.rule, short(d.fan_in), short(d.gain), short(d.mean), short(d.std), d.reason)
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

    def override(self, rules: Mapping[str, Mapping[str, Any]]) -> "Plan":
        """The plan with some decisions changed by name.

        Args:
            rules: for each pattern of names (``"head.*"``, ``"*.bias"``) the fields of `Decision` to change
                (``{"std": 0.01}``); the last pattern that matches a name decides. A parameter that no rule covered is
                covered afterwards: normal, unless the change says otherwise.

        Raises:
            FirstlightError: slug ``override-matches-nothing``, for a pattern without a parameter;
                ``override-not-understood``, for a field that does not exist or an unknown distribution.
        """
        made = {decision.name: decision for decision in self.decisions}
        left = list(self.uncovered)
        for pattern, change in rules.items():
            names = [name for name in [*made, *left] if fnmatch.fnmatchcase(name, pattern)]
            _check_override(pattern, change, names)
            for name in names:
                base = made.get(name) or Decision(name, "override", "normal", 0.0, 0.0, None, None, None, "")
                said = ", ".join(f"{field} {value}" for field, value in change.items())
                plain = {"rule": "override", "reason": f"asked for by {pattern!r}: {said}", "values": None}
                made[name] = dataclasses.replace(base, **plain | dict(change))
            left = [name for name in left if name not in made]
        return Plan(self.scheme, tuple(made.values()), tuple(left))

    def diff(self, other: "Plan") -> tuple[Difference, ...]:
        """Every parameter that this plan and `other` decide differently, in this plan's order, then the other's."""
        mine, theirs = ({d.name: d for d in plan.decisions} for plan in (self, other))
        names = dict.fromkeys([*mine, *theirs])
        return tuple(Difference(n, mine.get(n), theirs.get(n)) for n in names if mine.get(n) != theirs.get(n))

    @classmethod
    def _from(cls, content: Any) -> "Plan":
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}")
        decisions = tuple(
            Decision(**d | {"values": None if d.get("values") is None else tuple(d["values"])})
            for d in content["decisions"]
        )
        return cls(content["scheme"], decisions, tuple(content["uncovered"]))


def _check_override(pattern: str, change: Mapping[str, Any], names: Sequence[str]) -> None:
    fields = {field.name for field in dataclasses.fields(Decision)} - {"name"}
    call = f"override({{{pattern!r}: ...}})"
    if not names:
        raise FirstlightError(
            f"no parameter is called like {pattern!r}",
            "print the plan to see the names; * stands for any characters, dots too",
            slug="override-matches-nothing",
            call=call,
        )
    odd = sorted(set(change) - fields)
    if odd or change.get("distribution", "normal") not in get_args(Distribution):
        cause = (
            f"there is nothing called {odd[0]!r} to change" if odd else f"no distribution {change['distribution']!r}"
        )
        raise FirstlightError(
            cause,
            f"change one of {', '.join(sorted(fields))}; distributions are {', '.join(get_args(Distribution))}",
            slug="override-not-understood",
            call=call,
        )


def _brief(decision: Decision | None) -> str:
    if decision is None:
        return "not decided"
    if decision.distribution == "constant":
        value = f"{decision.mean:.4g}" if decision.values is None else f"{len(decision.values)} values"
        return f"{value} ({decision.rule})"
    return f"{decision.distribution}, std {decision.std:.4g} ({decision.rule})"
