"""The pages of initialization: a row for every parameter, what is wrong on top, nothing that is not in the values."""

import re

import pytest
import torch
from torch import Tensor, nn

from firstlight.graph import trace
from firstlight.initialization import SCHEMES, InitAudit, InitReport, apply, audit_init
from firstlight.models import small_cnn
from firstlight.report import to_html
from firstlight.report.document import Card, Document, Plot, Table
from firstlight.report.init_page import audit_document, init_document
from firstlight.workflows import initialize


class Odd(nn.Module):
    """A parameter that no rule covers, a layer deep-copied, a unit that reads nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.load_state_dict(self.first.state_dict())
        with torch.no_grad():
            self.first.weight[3], self.second.weight[3] = 0, 0
        self.angle = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu()) + torch.sin(self.angle).atan2(self.angle)


def tables(document: Document, title: str) -> list[Table]:
    blocks = next(section.blocks for section in document.sections if section.title == title)
    return [block for block in blocks if isinstance(block, Table)]


@pytest.fixture(scope="module")
def report() -> InitReport:
    return initialize(small_cnn(), torch.zeros(2, 3, 32, 32), scheme="kaiming", seed=4)


@pytest.fixture(scope="module")
def audit() -> InitAudit:
    return audit_init(Odd(), torch.randn(4, 8, generator=torch.Generator().manual_seed(0)))


def test_every_parameter_has_its_row_under_its_module(report: InitReport) -> None:
    document = init_document("net.py:build", report)
    assert document.tone == "good"
    every = tables(document, "Every parameter")
    rows = {row[0]: dict(zip(table.head, row, strict=True)) for table in every for row in table.rows}
    assert list(rows) == [p.name for p in report.parameters]
    assert all(name.startswith(table.caption + ".") and table.folded for table in every for name, *_ in table.rows)
    row, entry = rows["conv4.weight"], next(p for p in report.parameters if p.name == "conv4.weight")
    assert (row["rule"], row["distribution"], row["fan in"], row["gain"]) == ("kaiming", "normal", "576", "1.414")
    assert float(row["asked for"]) == pytest.approx(entry.std, abs=1e-5)
    assert float(row["std"]) == pytest.approx(entry.measured_std, abs=1e-5)
    assert row["reason"] == entry.reason
    assert (rows["conv4.bias"]["asked for"], rows["conv4.bias"]["std"]) == ("0", "0")


def test_the_sizes_along_depth_are_those_of_the_weights(report: InitReport) -> None:
    (plot,) = (b for s in init_document("m", report).sections for b in s.blocks if isinstance(b, Plot))
    weights = [p for p in report.parameters if p.name.endswith("weight")]
    lines = {series.label: series.y for series in plot.series}
    assert lines["asked for"] == tuple(p.std for p in weights)
    assert lines["measured"] == tuple(p.measured_std for p in weights)
    assert lines["1/√fan-in"] == pytest.approx([p.fan_in**-0.5 for p in weights])


def test_what_no_rule_covers_and_warnings_stand_on_top() -> None:
    model, x = Odd(), torch.randn(2, 8)
    report = apply(SCHEMES["kaiming"](trace(model, x)), model)
    assert report.uncovered == ("angle",)
    document = init_document("m", report)
    assert (document.tone, document.sections[0].title) == ("warn", "Left as they were")
    warned = initialize(small_cnn(), torch.zeros(2, 3, 32, 32), scheme="zeros")
    document = init_document("m", warned)
    assert (document.tone, document.sections[0].title) == ("warn", "Warnings")
    assert [block.title for block in document.sections[0].blocks if isinstance(block, Card)] == list(warned.warnings)


def test_findings_of_an_audit_are_cards_and_every_parameter_a_row(audit: InitAudit) -> None:
    document = audit_document("m", audit)
    assert document.tone == "bad"
    cards = [block for block in document.sections[0].blocks if isinstance(block, Card)]
    assert [f"{card.place}: {card.title}" for card in cards] == list(audit.findings)
    assert any("identical to first.weight" in card.title for card in cards)
    rows = [row[0] for table in tables(document, "Every parameter") for row in table.rows]
    assert sorted(rows) == sorted(p.name for p in audit.parameters)
    assert sum(int(row[2]) for row in tables(document, "How they were drawn")[0].rows) == len(audit.parameters)


def test_an_audit_without_findings_is_good_and_says_what_it_did_not_see() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 8, device="meta"))
    document = audit_document("m", audit_init(model))
    assert document.tone == "good"
    assert [section.title for section in document.sections][-1] == "Not looked at"


def test_pages_are_self_contained_and_escaped(report: InitReport, audit: InitAudit) -> None:
    for page in (to_html(init_document("<b>&", report)), to_html(audit_document("<b>&", audit))):
        assert "&lt;b&gt;&amp;" in page
        assert "<b>" not in page
        assert not re.search(r"<script|https?://|src=\"(?!data:)", page)
        assert "conv4.weight" in page or "first.weight" in page
