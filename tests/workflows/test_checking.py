"""The sentence `check`: what it takes, what it gives, its forms, and fixes tried on a copy."""

import json
from xml.etree import ElementTree

import pytest
import torch
from torch import nn
from torch.nn import functional

import firstlight as fl
from firstlight.diagnosis import all_rules
from firstlight.errors import FirstlightError


def network(constant: float | None = None) -> nn.Module:
    torch.manual_seed(0)
    built = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    fl.initialize(built, torch.zeros(2, 3, 16, 16), scheme="kaiming", seed=0)
    if constant is not None:
        for parameter in built.parameters():
            nn.init.constant_(parameter, constant)
    return built


def batch(count: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, 16, 16, generator=generator), torch.randint(10, (count,), generator=generator)


@pytest.fixture(scope="module")
def healthy():
    return fl.check(network(), batch(), functional.cross_entropy)


@pytest.fixture(scope="module")
def broken():
    return fl.check(network(0.01), batch(), functional.cross_entropy)


# ---- what it gives --------------------------------------------------------------------------------------


def test_healthy_is_clean_and_says_what_was_not_checked(healthy):
    assert healthy.ok
    assert not healthy.at_least("warn")
    every = {rule.code for rule in all_rules()}
    seen = set(healthy.clean) | {code for code, _ in healthy.not_checked} | {f.code for f in healthy.findings}
    seen |= {line.split()[0] for f in healthy.findings for line in f.victims}
    assert seen == every
    assert all(reason for _, reason in healthy.not_checked)
    assert len(healthy.run.steps) == 3
    assert healthy.prediction is not None
    assert {n.name for n in healthy.measurements.nodes} & {n.name for n in healthy.prediction.nodes}


def test_one_culprit_with_its_victims_under_it(broken):
    assert not broken.ok
    first = broken.findings[0]
    assert first.severity == "fail"
    assert first.code in ("FL203", "FL201")
    for field in (first.title, first.evidence, first.cause, first.fix):
        assert field
    assert len([f for f in broken.findings if f.severity == "fail"]) == 1
    assert first.code in str(broken)


# ---- what it takes --------------------------------------------------------------------------------------


def test_labels_come_in_the_batch_or_beside_it():
    images, labels = batch()
    together = fl.check(network(), [images, labels], functional.cross_entropy, histograms=False)
    beside = fl.check(network(), images, functional.cross_entropy, labels=labels, histograms=False)
    alone = fl.check(network(), (images,), histograms=False)
    assert together.run.steps[0].loss == beside.run.steps[0].loss
    assert alone.case.labels is None
    assert alone.run.first.loss_kind.startswith("surrogate")


def test_a_mapping_with_labels():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, pixel_values, labels=None):
            logits = self.inner(pixel_values)
            if labels is None:
                return logits
            return {"loss": functional.cross_entropy(logits, labels), "logits": logits}

    images, labels = batch()
    own = fl.check(Wrapped(), {"pixel_values": images, "labels": labels}, histograms=False)
    assert own.run.first.loss_kind == "the model's own loss"
    given = fl.check(Wrapped(), {"pixel_values": images, "labels": labels}, functional.cross_entropy, histograms=False)
    assert given.run.steps[0].loss == pytest.approx(own.run.steps[0].loss, rel=1e-6)


def test_what_the_rules_can_explain_is_a_finding_and_no_error():
    images, labels = batch()
    found = fl.check(network(), (images, labels + 5), functional.cross_entropy, histograms=False)
    assert found.run is None
    assert found.findings[0].where == "labels"
    assert {code for code, _ in found.not_checked} >= {"FL301", "FL401", "FL501"}


def test_what_they_cannot_explain_is_an_error():
    images, labels = batch()
    with pytest.raises(FirstlightError) as error:
        fl.check(network(), (images[:, :2], labels), functional.cross_entropy)
    assert error.value.slug == "model-does-not-run"
    with pytest.raises(FirstlightError) as error:
        fl.check(network(), (images, labels), lambda output, labels: output.nope)
    assert error.value.slug == "loss-does-not-fit"


def test_leaves_no_trace():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    before = [p.clone() for p in model.parameters()]
    random = torch.get_rng_state()
    model.eval()
    fl.check(model, batch(), functional.cross_entropy, optimizer=optimizer)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters())
    assert not model.training
    assert not optimizer.state
    assert torch.equal(random, torch.get_rng_state())


# ---- fixes ----------------------------------------------------------------------------------------------


def test_a_fix_is_tried_on_a_copy_and_shown_before_and_after():
    model = network(0.01)
    found = fl.check(model, batch(), functional.cross_entropy, histograms=False).repaired()
    assert found.trials
    trial = found.trials[0]
    assert trial.mended, trial
    assert trial.before == found.findings[0].title
    assert trial.after.startswith("gone")
    assert all(bool((p == 0.01).all()) for p in model.parameters())
    assert "The fixes, tried on a copy" in [section.title for section in found.document.sections]


def test_images_labels_and_rate_are_mended_too():
    images, labels = batch()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e5)
    found = fl.check(model, (images, labels), functional.cross_entropy, optimizer=optimizer, histograms=False)
    rates = [t for t in found.repaired().trials if t.where == "optimizer"]
    assert rates
    assert optimizer.param_groups[0]["lr"] == 1e5


# ---- forms ----------------------------------------------------------------------------------------------


def test_json(broken, tmp_path):
    broken.save(tmp_path / "check.json")
    value = json.loads((tmp_path / "check.json").read_text())
    assert value["format"] == "firstlight.check/1"
    assert value["ok"] is False
    assert value["findings"][0]["code"] == broken.findings[0].code
    assert len(value["measurements"]["nodes"]) == len(broken.measurements.nodes)


def test_junit(broken, tmp_path):
    broken.save(tmp_path / "check.xml")
    suite = ElementTree.parse(tmp_path / "check.xml").getroot()
    assert suite.tag == "testsuite"
    assert len(suite.findall("testcase")) == len(all_rules()) == int(suite.get("tests"))
    failed = [case for case in suite.findall("testcase") if case.find("failure") is not None]
    assert [case.get("name").split()[0] for case in failed] == [broken.findings[0].code]
    assert int(suite.get("failures")) == 1
    assert int(suite.get("skipped")) == len(suite.findall("testcase/skipped")) == len(broken.not_checked)


def test_sarif(broken, tmp_path):
    broken.save(tmp_path / "check.sarif")
    log = json.loads((tmp_path / "check.sarif").read_text())
    assert log["version"] == "2.1.0"
    run = log["runs"][0]
    assert {rule["id"] for rule in run["tool"]["driver"]["rules"]} == {rule.code for rule in all_rules()}
    result = run["results"][0]
    assert result["ruleId"] == broken.findings[0].code
    assert result["level"] == "error"
    assert result["locations"][0]["logicalLocations"][0]["fullyQualifiedName"]


def test_page(healthy, broken, tmp_path):
    for found in (healthy, broken):
        found.save(tmp_path / "check.html")
        page = (tmp_path / "check.html").read_text()
        assert len(page) < 1_000_000
        assert "<script" not in page
        assert "The signal along depth" in page
        assert 'src="http' not in page
        assert 'href="http' not in page
    assert broken.findings[0].code in page
    assert "<iframe" in healthy._repr_html_()


def test_an_unknown_form_is_refused(healthy, tmp_path):
    with pytest.raises(FirstlightError) as error:
        healthy.save(tmp_path / "check.pdf")
    assert error.value.slug == "unknown-report-form"
    assert not list(tmp_path.iterdir())


# ---- what strangers bring -------------------------------------------------------------------------------


class Detector(nn.Module):
    """Takes lists of images and of targets, as torchvision's do, and returns its losses."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.scores = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, images, targets=None):
        pooled = torch.stack([self.features(image).relu().mean((1, 2)) for image in images])
        scores = self.scores(pooled)
        if targets is None:
            return scores
        boxes = torch.stack([target["boxes"] for target in targets])
        if bool((boxes <= 0).any()):
            raise ValueError("boxes have a positive size")
        return {"labels": functional.cross_entropy(scores, torch.stack([target["labels"] for target in targets]))}


def test_a_detector_with_its_lists_of_images_and_targets():
    torch.manual_seed(0)
    images = [torch.rand(3, 12 + k, 16) for k in range(4)]
    targets = [{"boxes": torch.rand(4) + 1, "labels": torch.tensor(k)} for k in range(4)]
    found = fl.check(Detector(), (images, targets))
    assert found.ok
    assert found.run.first.loss_kind == "sum of the model's own losses"
    assert found.run.mixing is not None, found.run.notes
    assert fl.check(Detector(), (images, torch.arange(4)), functional.cross_entropy).ok
    with pytest.raises(FirstlightError, match="does not fit"):
        fl.check(Detector(), images, functional.cross_entropy)


def test_a_loss_that_fits_a_tensor_and_not_a_mapping_is_told_what_came():
    class Segmenter(nn.Conv2d):
        def forward(self, x):
            return {"out": super().forward(x), "aux": x}

    labels = torch.zeros(4, 16, 16, dtype=torch.long)
    with pytest.raises(FirstlightError, match="returns a mapping of out, aux"):
        fl.check(Segmenter(3, 5, 1), (batch(4)[0], labels), functional.cross_entropy)
    assert fl.check(Segmenter(3, 5, 1), (batch(4)[0], labels), lambda y, t: functional.cross_entropy(y["out"], t)).ok


def test_the_default_optimizer_breaks_nothing_in_half_precision():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 32), nn.ReLU(), nn.Linear(32, 10)).half()
    inputs, labels = batch()
    found = fl.check(model, (inputs.half(), labels), functional.cross_entropy)
    assert found.ok, found
    assert all(step.loss == step.loss for step in found.run.steps)


def test_one_reason_for_many_rules_is_one_line(healthy):
    inputs, labels = batch()
    found = fl.check(network(), (inputs, labels + 5), functional.cross_entropy)
    section = next(s for s in found.document.sections if s.title == "What was not looked at")
    rows = section.blocks[0].rows
    assert len({reason for _, reason in rows}) == len(rows)
    assert any(codes.startswith("FL201 to") for codes, _ in rows)
