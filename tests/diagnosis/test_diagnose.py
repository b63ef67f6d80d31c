"""Folding loses nothing, names roots, and healthy networks stay silent."""

import inspect
from collections.abc import Iterator
from dataclasses import replace

import pytest
import timm
import torch
import torchvision
from cases import case
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import batch, build

from firstlight.diagnosis import SEVERITIES, Case, Finding, NotChecked, Rule, all_rules, diagnose
from firstlight.diagnosis.diagnose import folded

CODES = [f"FL{k}" for k in range(901, 908)]


def finding(code: str, severity: str, where: str, victims: tuple[str, ...] = (), exact: bool = False) -> Finding:
    return Finding(code, code.lower(), severity, where, f"of {where}", "e", "c", "f", victims=victims, exact=exact)  # type: ignore[arg-type]


findings = st.lists(
    st.builds(
        finding, st.sampled_from(CODES), st.sampled_from(SEVERITIES), st.sampled_from("abcdefg"), exact=st.booleans()
    ),
    max_size=10,
)
explains = st.dictionaries(st.sampled_from(CODES), st.frozensets(st.sampled_from(CODES), max_size=4))


@given(findings, explains)
@settings(max_examples=300, deadline=None)
def test_every_finding_is_a_culprit_or_a_victim_exactly_once(
    found: list[Finding], known: dict[str, frozenset[str]]
) -> None:
    kept = folded(found, known)
    lines = [f"{f.code} {f.where}: {f.title}" for f in kept] + [line for f in kept for line in f.victims]
    assert sorted(lines) == sorted(f"{f.code} {f.where}: {f.title}" for f in found)


@given(findings, explains)
@settings(max_examples=300, deadline=None)
def test_a_note_never_hides_a_fault_and_the_worst_comes_first(
    found: list[Finding], known: dict[str, frozenset[str]]
) -> None:
    kept = folded(found, known)
    ranks = [SEVERITIES.index(f.severity) for f in kept]
    assert ranks == sorted(ranks)
    worst = {code: min((SEVERITIES.index(f.severity) for f in found if f.code == code), default=9) for code in CODES}
    for culprit in kept:
        for line in culprit.victims:
            hidden = [f for f in found if line == f"{f.code} {f.where}: {f.title}"]
            assert max(SEVERITIES.index(f.severity) for f in hidden) >= SEVERITIES.index(culprit.severity)
    assert (not found) or ranks[0] == min(worst.values())


def test_an_exact_warning_takes_in_what_is_worse_and_a_guess_does_not() -> None:
    cause, effect = finding(CODES[0], "warn", "a"), finding(CODES[1], "fail", "b")
    known = {CODES[0]: frozenset({CODES[1]})}
    assert [(f.code, f.severity) for f in folded([cause, effect], known)] == [(CODES[1], "fail"), (CODES[0], "warn")]
    (culprit,) = folded([replace(cause, exact=True), effect], known)
    assert (culprit.code, culprit.severity, len(culprit.victims)) == (CODES[0], "fail", 1)
    note = finding(CODES[0], "note", "a", exact=True)
    assert len(folded([note, effect], known)) == 2


def test_what_is_exact_follows_from_nothing_that_is_guessed() -> None:
    guess, known = finding(CODES[0], "fail", "a"), {CODES[0]: frozenset({CODES[1]}), CODES[1]: frozenset({CODES[0]})}
    read = finding(CODES[1], "warn", "b", exact=True)
    assert [f.code for f in folded([guess, replace(read, exact=False)], known)] == [CODES[0]]
    assert [f.code for f in folded([guess, read], known)] == [CODES[1]]
    assert [f.code for f in folded([replace(guess, exact=True), read], known)] == [CODES[0]]


def test_chains_and_circles() -> None:
    a, b, c = (finding(code, "fail", code, (f"of {code}",)) for code in CODES[:3])
    chain = {CODES[0]: frozenset({CODES[1]}), CODES[1]: frozenset({CODES[2]})}
    (root,) = folded([c, b, a], chain)
    assert root.code == CODES[0]
    assert len(root.victims) == 5  # its own, and two findings with one each
    circle = chain | {CODES[2]: frozenset({CODES[0]})}
    assert [f.code for f in folded([c, b, a], circle)] == [CODES[0]]
    assert [f.code for f in folded([a, b, c], {})] == CODES[:3]


def test_a_rule_may_find_something_and_still_lack_the_rest() -> None:
    class Half(Rule):
        """Half."""

        code, name = "FL998", "half"

        def examine(self, case: Case) -> Iterator[Finding]:
            yield self.finding("warn", "input", "found", evidence="e", cause="c", fix="f")
            raise NotChecked("the rest needs more")

    found = diagnose(case(build("mlp"), *batch(2), run=False), (Half(),))
    assert [f.title for f in found.findings] == ["found"]
    assert found.not_checked == (("FL998", "the rest needs more"),)
    assert found.clean == ()


def test_every_rule_has_a_page_and_explains_nothing_of_its_own() -> None:
    mine = [rule for rule in all_rules() if rule.code[2] in "2346" and rule.code < "FL900"]
    assert len(mine) == 23
    for rule in mine:
        page = rule.page()
        assert all(f"**{part}:**" in page for part in ("Measured", "Expected", "Usual causes", "Mends it")), rule.code
        assert rule.code not in rule.explains
        assert inspect.getfile(type(rule)).endswith(rule.name.replace("-", "_") + ".py")


HEALTHY = {
    "resnet18": lambda: (torchvision.models.resnet18(zero_init_residual=True), 64),
    "mobilenet_v3_small": lambda: (torchvision.models.mobilenet_v3_small(), 64),
    "squeezenet": lambda: (torchvision.models.squeezenet1_1(), 64),
    "convnext_atto": lambda: (timm.create_model("convnext_atto", num_classes=10), 64),
    "vit_tiny": lambda: (timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=10), 64),
    "nf_resnet26": lambda: (timm.create_model("nf_resnet26", num_classes=10), 32),
    "efficientnet_lite0": lambda: (timm.create_model("efficientnet_lite0", num_classes=10), 64),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_networks_raise_no_alarm(name: str) -> None:
    torch.manual_seed(0)
    model, side = HEALTHY[name]()
    rules = [rule for rule in all_rules() if rule.code[2] in "2346"]
    found = diagnose(case(model, *batch(8, side)), rules)
    assert [f for f in found.findings if f.severity != "note"] == []
