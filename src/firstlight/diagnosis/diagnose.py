"""Ask every rule, and fold what follows from one culprit under it."""

import dataclasses
from collections.abc import Sequence
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
    """Examine a case by every rule."""
    findings: list[Finding] = []
    clean, not_checked = [], []
    for rule in rules:
        try:
            found = list(rule.examine(case))
        except NotChecked as reason:
            not_checked.append((rule.code, str(reason)))
            continue
        findings += found
        if not found:
            clean.append(rule.code)
    return Diagnosis(_folded(findings, {rule.code: rule for rule in rules}), tuple(clean), tuple(not_checked))


def _folded(findings: Sequence[Finding], rules: dict[str, Rule]) -> tuple[Finding, ...]:
    """Culprits only: a finding that another one explains becomes a line among that one's victims.

    A finding of a worse severity than its explanation stays: a note must not hide a fault.
    """
    culprits = {id(finding): finding for finding in findings}
    victims: dict[int, list[str]] = {key: [] for key in culprits}
    for finding in findings:
        culprit = next((f for f in findings if _explains(rules[f.code], f, finding)), None)
        if culprit is not None:
            del culprits[id(finding)]
            victims[id(culprit)].append(f"{finding.code} {finding.where}: {finding.title}")
    kept = [dataclasses.replace(f, victims=(*f.victims, *victims[key])) for key, f in culprits.items()]
    return tuple(sorted(kept, key=lambda f: (SEVERITIES.index(f.severity), f.code)))


def _explains(rule: Rule, culprit: Finding, finding: Finding) -> bool:
    at_least_as_bad = SEVERITIES.index(culprit.severity) <= SEVERITIES.index(finding.severity)
    return culprit is not finding and finding.code in rule.explains and at_least_as_bad
