"""Ask every rule, and fold what follows from one culprit under it."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from firstlight.diagnosis.case import Case, NotChecked
from firstlight.diagnosis.finding import SEVERITIES, Finding
from firstlight.diagnosis.rule import Rule


@dataclass(frozen=True)
class Diagnosis:
    """What was found, what is clean, and what was not looked at.

    Attributes:
        findings: culprits, the worst first; what follows from one is in its `victims`.
        clean: codes of rules that found nothing.
        not_checked: (code, reason) of rules that could not be applied.
    """

    findings: tuple[Finding, ...]
    clean: tuple[str, ...]
    not_checked: tuple[tuple[str, str], ...]


def diagnose(case: Case, rules: Sequence[Rule]) -> Diagnosis:
    """Examine a case by every rule.

    A rule that finds something before it lacks what it needs for the rest has both: its findings, and a reason.
    """
    findings: list[Finding] = []
    clean, not_checked = [], []
    for rule in rules:
        before = len(findings)
        try:
            for finding in rule.examine(case):
                findings.append(finding)
        except NotChecked as reason:
            not_checked.append((rule.code, str(reason)))
            continue
        except Exception as error:  # a defect of one rule must not take the findings of the others with it
            not_checked.append((rule.code, f"the rule itself failed: {type(error).__name__}: {error}"))
            continue
        if len(findings) == before:
            clean.append(rule.code)
    explains = {rule.code: rule.explains for rule in rules}
    return Diagnosis(folded(findings, explains), tuple(clean), tuple(not_checked))


def folded(findings: Sequence[Finding], explains: Mapping[str, frozenset[str]]) -> tuple[Finding, ...]:
    """Culprits only: a finding that another one explains becomes a line among the victims of the last explanation.

    Nothing is lost: each finding stays, or is a line (with its own victims behind it) under one that stays. A finding
    of a worse severity than its explanation stays, for a guess must not hide a fault; but a warning that is exact takes
    it in, and becomes as bad as the worst of what follows from it. What is exact follows from nothing that is not. Of
    findings that explain one another, the first by severity and code stays.

    Args:
        findings: in any order.
        explains: codes that follow from each code.
    """
    ranked = sorted(findings, key=_rank)
    reasons = [
        [j for j, other in enumerate(ranked) if j != k and _explains(other, finding, explains)]
        for k, finding in enumerate(ranked)
    ]
    above = [_last(k, reasons) for k in range(len(ranked))]
    kept = []
    for k, finding in enumerate(ranked):
        if above[k] == k:
            victims = [other for j, other in enumerate(ranked) if j != k and above[j] == k]
            lines = [line for other in victims for line in _lines(other)]
            worst = min((f.severity for f in (finding, *victims)), key=SEVERITIES.index)
            kept.append(dataclasses.replace(finding, severity=worst, victims=(*finding.victims, *lines)))
    return tuple(sorted(kept, key=_rank))


def _rank(finding: Finding) -> tuple[int, str]:
    return SEVERITIES.index(finding.severity), finding.code


def _last(start: int, reasons: Sequence[Sequence[int]]) -> int:
    """The explanation that nothing explains; in a circle, its first member.

    The first explanation is followed at each turn, so everyone who comes to a circle goes round the same one, and
    leaves it at the same member.
    """
    way = [start]
    while reasons[way[-1]]:
        step = reasons[way[-1]][0]
        if step in way:
            return min(way[way.index(step) :])
        way.append(step)
    return way[-1]


def _explains(culprit: Finding, finding: Finding, explains: Mapping[str, frozenset[str]]) -> bool:
    if culprit.code == finding.code or finding.code not in explains.get(culprit.code, ()):
        return False
    if finding.exact and not culprit.exact:
        return False
    at_least_as_bad = SEVERITIES.index(culprit.severity) <= SEVERITIES.index(finding.severity)
    return at_least_as_bad or (culprit.severity == "warn" and culprit.exact)


def _lines(finding: Finding) -> tuple[str, ...]:
    return (f"{finding.code} {finding.where}: {finding.title}", *finding.victims)
