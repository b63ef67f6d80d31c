"""A fixture for tests of training code, installed with the package: ``def test_it_trains(assert_trains): …``."""

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="session")
def assert_trains() -> Callable[..., Any]:
    """A function ``assert_trains(model, batch, loss=None, *, fail_on="fail", **options)``.

    It runs `firstlight.check` and fails the test with every finding of `fail_on` or worse; options are those of
    `firstlight.check`. It returns the check. The model is left as it was.
    """

    def run(model: Any, batch: Any, loss: Any = None, *, fail_on: Any = "fail", **options: Any) -> Any:
        __tracebackhide__ = True
        import firstlight as fl

        found = fl.check(model, batch, loss, **options)
        if found.at_least(fail_on):
            pytest.fail("\n".join(_lines(found, fail_on)), pytrace=False)
        return found

    return run


def _lines(found: Any, fail_on: Any) -> list[str]:
    lines = [found.document.verdict]
    for finding in found.at_least(fail_on):
        lines += ["", f"{finding.severity} {finding.code} {finding.where}: {finding.title}"]
        lines += [f"  source: {finding.source}"] if finding.source else []
        lines += [f"  evidence: {finding.evidence}", f"  cause: {finding.cause}", f"  fix: {finding.fix}"]
    return lines
