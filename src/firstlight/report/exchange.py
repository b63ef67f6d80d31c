"""A diagnosis in the forms that programs read: JSON, JUnit XML, SARIF."""

import dataclasses
import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from firstlight._files import plain
from firstlight.diagnosis import SEVERITIES, Diagnosis, Finding, Severity, all_rules

if TYPE_CHECKING:
    from firstlight.diagnosis import Case

_LEVELS = {"fail": "error", "warn": "warning", "note": "note"}


def check_dict(subject: str, diagnosis: Diagnosis, case: "Case") -> dict[str, Any]:
    """Plain values for JSON, ``firstlight.check/1``; what is not finite is null, for JSON has no word for it."""
    run, prediction = case.measured, case.prediction
    value = {
        "format": "firstlight.check/1",
        "firstlight": version("firstlight"),
        "subject": subject,
        "ok": not any(finding.severity == "fail" for finding in diagnosis.findings),
        "findings": [dataclasses.asdict(finding) for finding in diagnosis.findings],
        "clean": list(diagnosis.clean),
        "not_checked": [{"code": code, "reason": reason} for code, reason in diagnosis.not_checked],
        "measurements": None if run is None else dataclasses.asdict(run.first),
        "steps": [] if run is None else [dataclasses.asdict(step) for step in run.steps],
        "final_loss": None if run is None else run.final_loss,
        "optimizer": None if run is None else dataclasses.asdict(run.optimizer),
        "graph": None if run is None else run.graph.how,
        "prediction": None if prediction is None else [dataclasses.asdict(node) for node in prediction.nodes],
        "notes": [*(() if run is None else run.notes), *(f"{what}: {why}" for what, why in case.reasons.items())],
    }
    made: dict[str, Any] = plain(value)
    return made


def junit(subject: str, diagnosis: Diagnosis, fail_on: Severity = "fail") -> str:
    """JUnit XML: one test case for each rule, failed when it found something of `fail_on` or worse.

    What is milder stands in the case's output; a rule that could not be applied is skipped, with its reason.
    """
    reasons = dict(diagnosis.not_checked)
    limit = SEVERITIES.index(fail_on)
    found: dict[str, list[Finding]] = {}
    for finding in diagnosis.findings:
        found.setdefault(finding.code, []).append(finding)
    suite = ElementTree.Element("testsuite", name=f"firstlight check {subject}")
    failures = 0
    for rule in all_rules():
        case = ElementTree.SubElement(suite, "testcase", classname="firstlight", name=f"{rule.code} {rule.name}")
        if rule.code in reasons:
            ElementTree.SubElement(case, "skipped", message=reasons[rule.code])
        severe = [f for f in found.get(rule.code, ()) if SEVERITIES.index(f.severity) <= limit]
        mild = [f for f in found.get(rule.code, ()) if f not in severe]
        if severe:
            failures += 1
            failure = ElementTree.SubElement(case, "failure", message=f"{severe[0].where}: {severe[0].title}")
            failure.text = _printable("\n\n".join(_paragraph(finding) for finding in severe))
        if mild:
            ElementTree.SubElement(case, "system-out").text = _printable("\n\n".join(_paragraph(f) for f in mild))
    suite.attrib |= {"tests": str(len(suite)), "failures": str(failures), "skipped": str(len(reasons)), "errors": "0"}
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)


def _printable(text: str) -> str:
    """Without the control characters that XML cannot hold."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


def _paragraph(finding: Finding) -> str:
    lines = [f"{finding.severity} {finding.code} {finding.where}: {finding.title}"]
    lines += [f"source: {finding.source}"] if finding.source else []
    lines += [f"evidence: {finding.evidence}", f"cause: {finding.cause}", f"fix: {finding.fix}"]
    return "\n".join([*lines, *(f"follows: {victim}" for victim in finding.victims)])


def sarif(diagnosis: Diagnosis) -> str:
    """SARIF 2.1.0: a result for each finding, at file and line where they are known, else at the module's path."""
    log = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "firstlight",
                        "version": version("firstlight"),
                        "rules": [
                            {
                                "id": rule.code,
                                "name": rule.name,
                                "shortDescription": {"text": rule.page().splitlines()[0]},
                                "help": {"text": rule.page(), "markdown": rule.page()},
                            }
                            for rule in all_rules()
                        ],
                    }
                },
                "results": [_result(finding) for finding in diagnosis.findings],
                "invocations": [
                    {
                        "executionSuccessful": True,
                        "toolExecutionNotifications": [
                            {
                                "level": "note",
                                "message": {"text": f"not checked: {reason}"},
                                "associatedRule": {"id": code},
                            }
                            for code, reason in diagnosis.not_checked
                        ],
                    }
                ],
            }
        ],
    }
    return json.dumps(log, indent=1)


def _result(finding: Finding) -> dict[str, Any]:
    location: dict[str, Any] = {"logicalLocations": [{"fullyQualifiedName": finding.where or "model"}]}
    file, _, line = (finding.source or "").rpartition(":")
    if file and line.isdigit():
        location["physicalLocation"] = {
            "artifactLocation": {"uri": _uri(file)},
            "region": {"startLine": int(line)},
        }
    text = f"{finding.title}. {finding.evidence} Cause: {finding.cause} Fix: {finding.fix}"
    return {
        "ruleId": finding.code,
        "level": _LEVELS[finding.severity],
        "message": {"text": text},
        "locations": [location],
    }


def _uri(file: str) -> str:
    """Relative to here where the file lies below, as services that show SARIF beside the code want it."""
    path = Path(file).resolve()
    return path.relative_to(Path.cwd()).as_posix() if path.is_relative_to(Path.cwd()) else path.as_uri()
