"""Does the signal flow? Rules that look at a run, the theory and the weights, and name one culprit with its cause."""

from firstlight.diagnosis.case import Case, NotChecked
from firstlight.diagnosis.diagnose import Diagnosis, diagnose
from firstlight.diagnosis.finding import SEVERITIES, Finding, Repair, Severity
from firstlight.diagnosis.rule import Rule
from firstlight.diagnosis.rules import all_rules, find_rule

__all__ = [
    "SEVERITIES",
    "Case",
    "Diagnosis",
    "Finding",
    "NotChecked",
    "Repair",
    "Rule",
    "Severity",
    "all_rules",
    "diagnose",
    "find_rule",
]
