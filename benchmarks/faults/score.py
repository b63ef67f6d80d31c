"""What a tool said about a setting, and whether it is right."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from faults.catalogue import Case
from faults.setting import Places

ALARMS = ("fail", "warn")


@dataclass(frozen=True)
class Alarm:
    """One thing that a tool said.

    Attributes:
        code: one of firstlight's codes; for a peer's rule, all that it can mean, as "FL301/FL401".
        where: dotted path of a module, or "input", "labels", "loss", "optimizer".
        severity: "fail", "warn" or "note"; only the first two are alarms.
        title: in the tool's own words.
    """

    code: str
    where: str
    severity: str = "warn"
    title: str = ""

    def __str__(self) -> str:
        return f"{self.severity} {self.code} {self.where}: {self.title}"


@dataclass(frozen=True)
class Row:
    """One run of one tool, as it goes into the file.

    Attributes:
        name: of the case, the twin or the model.
        tool: which.
        detected: any alarm at all.
        code: an alarm with a right code.
        place: an alarm with a right code at a right place.
        first: the first alarm is that one.
        right: alarms with a right code.
        alarms: all of them.
        said: every finding, one line each.
        expected: codes and places that would have been right.
        seconds: of the tool's work.
        error: what it raised; "" when it did not.
    """

    name: str
    tool: str
    detected: bool = False
    code: bool = False
    place: bool = False
    first: bool = False
    right: int = 0
    alarms: int = 0
    fails: int = 0
    said: list[str] = field(default_factory=list)
    expected: str = ""
    seconds: float = 0.0
    error: str = ""

    @classmethod
    def of(cls, name: str, tool: str, said: Sequence[Alarm], seconds: float, error: str = "") -> Self:
        """What was said about something healthy."""
        alarms = [alarm for alarm in said if alarm.severity in ALARMS]
        fails = sum(alarm.severity == "fail" for alarm in alarms)
        lines = [str(alarm) for alarm in said]
        return cls(name, tool, bool(alarms), alarms=len(alarms), fails=fails, said=lines, seconds=seconds, error=error)

    @classmethod
    def judged(
        cls, case: Case, places: Places, tool: str, said: Sequence[Alarm], seconds: float, error: str = ""
    ) -> Self:
        """What was said about a fault."""
        alarms = [alarm for alarm in said if alarm.severity in ALARMS]
        right = [alarm for alarm in alarms if set(alarm.code.split("/")) & set(case.fault.codes)]
        exact = [alarm for alarm in right if at(alarm.where, places)]
        return cls(
            case.name,
            tool,
            bool(alarms),
            bool(right),
            bool(exact),
            bool(exact) and alarms[0] is exact[0],
            len(right),
            len(alarms),
            sum(alarm.severity == "fail" for alarm in alarms),
            [str(alarm) for alarm in said],
            f"{'/'.join(case.fault.codes)} at {', '.join(places[:4])}{' …' if len(places) > 4 else ''}",
            seconds,
            error,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def at(where: str, places: Places) -> bool:
    """Whether a place is one of these, or inside one of them."""
    return any(where == place or where.startswith(f"{place}.") for place in places)


def share(flags: Iterable[bool]) -> float:
    """Of the true ones; NaN when there are none at all."""
    values = list(flags)
    return sum(values) / len(values) if values else float("nan")


def faults_table(rows: Sequence[Row]) -> str:
    """One line per tool."""
    lines = [f"{'':22s} cases  detected  right code  right place  first  precision  seconds (median, most)"]
    for tool in dict.fromkeys(row.tool for row in rows):
        own = [row for row in rows if row.tool == tool]
        alarms = sum(row.alarms for row in own)
        precision = sum(row.right for row in own) / alarms if alarms else float("nan")
        times = sorted(row.seconds for row in own)
        lines.append(
            f"{tool:22s} {len(own):5d}  {share(r.detected for r in own):8.1%}  {share(r.code for r in own):10.1%}  "
            f"{share(r.place for r in own):11.1%}  {share(r.first for r in own):5.1%}  {precision:9.1%}  "
            f"{times[len(times) // 2]:.2f}, {times[-1]:.2f}"
        )
    return "\n".join(lines)


def healthy_table(rows: Sequence[Row], what: str, true: Callable[[str, str], bool] = lambda name, said: False) -> str:
    """Alarms on what should be healthy, one line per tool.

    Args:
        rows: of healthy twins or of a zoo.
        what: they are.
        true: whether an alarm on a network of this name is right: nothing is left out because of it, but networks with
            no other alarm are counted in the columns "of them true".
    """
    lines = [f"{what:22s}     n  with a failure  of them true  with an alarm  of them true  alarms each  errors"]
    for tool in dict.fromkeys(row.tool for row in rows):
        own = [row for row in rows if row.tool == tool]
        ran = [row for row in own if not row.error]
        if not ran:
            lines.append(f"{tool:22s} {0:5d}  (all {len(own)} raised)")
            continue
        alarmed = [[(row, said) for said in row.said if said.split()[0] in ALARMS] for row in ran]
        failed = [[(row, said) for row, said in alarms if said.startswith("fail")] for alarms in alarmed]
        columns = [
            (
                share(bool(found) for found in kind),
                sum(all(true(r.name, s) for r, s in found) for found in kind if found),
            )
            for kind in (failed, alarmed)
        ]
        counted = "  ".join(
            f"{part:{width}.1%}  {right:12d}" for (part, right), width in zip(columns, (14, 13), strict=True)
        )
        each = sum(row.alarms for row in ran) / len(ran)
        lines.append(f"{tool:22s} {len(ran):5d}  {counted}  {each:11.2f}  {len(own) - len(ran):6d}")
    return "\n".join(lines)


def by_fault(rows: Sequence[Row]) -> str:
    """One line per kind of fault, the worst first."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.name.partition("@")[0]].append(row)
    ranked = sorted(groups.items(), key=lambda item: share(r.code for r in item[1]) + share(r.place for r in item[1]))
    lines = [f"{'fault':30s}     n  code  place"]
    for name, own in ranked:
        lines.append(f"{name:30s} {len(own):5d}  {share(r.code for r in own):4.0%}  {share(r.place for r in own):5.0%}")
    return "\n".join(lines)


def by_alarm(rows: Sequence[Row]) -> str:
    """Which rules spoke on healthy networks, and where."""
    count: Counter[str] = Counter()
    names: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        for code in dict.fromkeys(" ".join(line.split()[:2]) for line in row.said):
            count[code] += 1
            names[code].append(row.name)
    return "\n".join(f"{n:4d}  {code}: {', '.join(names[code][:12])}" for code, n in count.most_common())
