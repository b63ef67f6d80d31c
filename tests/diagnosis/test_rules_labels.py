"""Faults of the labels are found whether or not the loss runs on them; sound labels are silent."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import case, codes, convnet, normalized, only, photographs, still
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from firstlight.diagnosis import Case, Finding, NotChecked, Rule, all_rules, diagnose
from firstlight.diagnosis.rules.labels_encoded import LabelsEncoded
from firstlight.diagnosis.rules.labels_equal import LabelsEqual
from firstlight.diagnosis.rules.labels_imbalanced import LabelsImbalanced
from firstlight.diagnosis.rules.labels_out_of_range import LabelsOutOfRange
from firstlight.diagnosis.rules.labels_shifted import LabelsShifted

LABELS = tuple(rule for rule in all_rules() if rule.code.startswith("FL12"))
IMAGES = normalized(photographs(32, 16))
INDICES = torch.arange(32) * 7 % 10
TAGS = (torch.rand((32, 10), generator=torch.Generator().manual_seed(0)) > 0.5).float()
BINARY = (INDICES > 4).float()[:, None]
CE, BCE, MSE = nn.CrossEntropyLoss(), nn.BCEWithLogitsLoss(), nn.MSELoss()
Loss = Callable[..., Tensor] | None


def by_hand(scores: Tensor, labels: Tensor) -> Tensor:
    """A loss of the user's own around one of PyTorch's."""
    return F.cross_entropy(2 * scores, labels) + 0.1


class Segmenter(nn.Module):
    """Scores for every pixel."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images)


MAP = torch.arange(32 * 256).reshape(32, 16, 16) * 7 % 5
SOUND: dict[str, tuple[int, Tensor, Loss]] = {
    "indices": (10, INDICES, CE),
    "no loss given": (10, INDICES, None),
    "function": (10, INDICES, F.cross_entropy),
    "own loss": (10, INDICES, by_hand),
    "wide head": (1000, INDICES, CE),
    "counting from one with a free class": (11, INDICES + 1, CE),
    "ignored": (10, INDICES.where(INDICES != 3, -100), CE),
    "own ignored index": (10, INDICES.where(INDICES != 3, -1), nn.CrossEntropyLoss(ignore_index=-1)),
    "binary": (1, BINARY, BCE),
    "tags": (10, TAGS, BCE),
    "soft labels": (10, torch.softmax(TAGS, 1), CE),
    "regression": (1, torch.linspace(-1, 1, 32)[:, None], MSE),
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_labels_are_silent(name: str) -> None:
    classes, labels, loss = SOUND[name]
    looked_at = case(convnet(classes=classes), IMAGES, labels, loss)
    assert looked_at.measured is not None, looked_at.reasons
    assert diagnose(looked_at, LABELS).findings == ()


def test_sound_maps_are_silent() -> None:
    void = MAP.clone()
    void[:, :2] = 255
    for labels, loss in ((MAP, CE), (void, nn.CrossEntropyLoss(ignore_index=255))):
        assert diagnose(case(Segmenter(5), IMAGES, labels, loss), LABELS).findings == ()


@pytest.mark.parametrize("loss", [CE, None, F.cross_entropy, by_hand])
@pytest.mark.parametrize(
    ("change", "rule", "words"),
    [
        (lambda y: y + 5, LabelsOutOfRange(), "labels 5…14 for 10 classes"),
        (lambda y: y * 28, LabelsOutOfRange(), "labels 0…252 for 10 classes"),
        (lambda y: y.where(y != 4, 255), LabelsOutOfRange(), "labels 0…255 for 10 classes"),
        (lambda y: y + 1, LabelsShifted(), "labels 1…10 for 10 classes: they start at 1"),
        (lambda y: y - 1, LabelsShifted(), "labels -1…8 for 10 classes: they start at -1"),
    ],
)
def test_labels_that_name_no_class(loss: Loss, change: Callable[[Tensor], Tensor], rule: Rule, words: str) -> None:
    looked_at = case(convnet(), IMAGES, change(INDICES), loss)
    assert looked_at.measured is None, "the loss cannot be computed"
    finding = only(rule, looked_at)
    assert (finding.severity, finding.where) == ("fail", "labels")
    assert words in finding.title
    others = [LabelsOutOfRange(), LabelsShifted()]
    assert sum(len(codes(other, looked_at)) for other in others) == 1, "one fault has one name"


def test_the_repair_of_a_shift_brings_the_labels_to_zero() -> None:
    for shift in (1, -1):
        finding = only(LabelsShifted(), case(convnet(), IMAGES, INDICES + shift, CE))
        assert finding.repair is not None
        assert finding.repair.values == {"shift": -shift}


def test_masks_of_bytes_and_void_labels_are_named() -> None:
    mask = (MAP > 2).long() * 255
    assert "mask // 255" in only(LabelsOutOfRange(), case(Segmenter(2), IMAGES, mask, CE)).fix
    void = MAP.clone()
    void[:, :2] = 255
    assert "ignore_index=255" in only(LabelsOutOfRange(), case(Segmenter(5), IMAGES, void, CE)).fix


@pytest.mark.parametrize(
    ("targets", "fix"),
    [
        (2 * BINARY - 1, "(target + 1) / 2"),
        (255 * BINARY, "mask / 255"),
        (INDICES[:, None].float(), "CrossEntropyLoss"),
    ],
)
def test_targets_that_are_no_probabilities(targets: Tensor, fix: str) -> None:
    looked_at = case(convnet(classes=1), IMAGES, targets, BCE)
    assert looked_at.measured is not None, "PyTorch does not complain"
    finding = only(LabelsOutOfRange(), looked_at)
    assert finding.severity == "fail"
    assert fix in finding.fix


@pytest.mark.parametrize(
    ("classes", "labels", "loss", "fix", "severity"),
    [
        (10, F.one_hot(INDICES, 10), CE, "argmax", "fail"),
        (10, F.one_hot(INDICES, 10), by_hand, "argmax", "fail"),
        (10, F.one_hot(INDICES, 10).float(), CE, "argmax", "note"),
        (10, F.one_hot(INDICES, 10).float(), nn.NLLLoss(), "argmax", "fail"),
        (10, INDICES.float(), CE, "long()", "fail"),
        (10, INDICES.int(), CE, "long()", "fail"),
        (10, INDICES[:, None], CE, "squeeze(1)", "fail"),
        (10, TAGS, CE, "BCEWithLogitsLoss", "warn"),
        (10, INDICES, BCE, "one_hot", "fail"),
        (1, BINARY[:, 0], BCE, "view(32, 1)", "fail"),
        (1, BINARY.long(), BCE, "float()", "fail"),
    ],
)
def test_labels_in_another_code(classes: int, labels: Tensor, loss: Loss, fix: str, severity: str) -> None:
    finding = only(LabelsEncoded(), case(convnet(classes=classes), IMAGES, labels, loss))
    assert fix in finding.fix
    assert (finding.severity, finding.where) == (severity, "labels")


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("loss", [MSE, nn.L1Loss(), nn.SmoothL1Loss()])
def test_targets_that_broadcast(loss: Loss) -> None:
    finding = only(LabelsEncoded(), case(convnet(classes=1), IMAGES, torch.randn(32), loss))
    assert "broadcast to (32, 32)" in finding.title
    assert "view(32, 1)" in finding.fix


def alone(labels: Tensor, **facts: object) -> Case:
    return still(IMAGES[: len(labels)], labels, **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("labels", "facts", "found"),
    [
        (torch.full((16,), 3), {}, True),
        (torch.full((16,), 3), {"class_counts": (1, 1, 1, 997)}, False),
        (torch.full((8,), 1), {"classes": 2}, False),
        (torch.full((11,), 1), {"classes": 2}, True),
        (torch.full((16,), 0.37), {}, True),
        (MAP[:1].expand(16, -1, -1), {}, True),
        (INDICES, {}, False),
    ],
)
def test_labels_equal_beyond_chance(labels: Tensor, facts: dict[str, object], found: bool) -> None:
    assert codes(LabelsEqual(), alone(labels, **facts)) == ([("fail", "labels")] if found else [])


@given(st.integers(2, 40), st.lists(st.integers(1, 1000), min_size=2, max_size=6))
def test_the_chance_of_equal_labels_is_that_of_drawing_them(samples: int, counts: list[int]) -> None:
    looked_at = alone(torch.zeros(samples, dtype=torch.int64)[:32], class_counts=tuple(counts))
    n = min(samples, 32)
    chance = sum((count / sum(counts)) ** n for count in counts)
    assert bool(codes(LabelsEqual(), looked_at)) == (chance < 0.001)


def imbalanced(looked_at: Case) -> list[Finding]:
    return list(LabelsImbalanced().examine(looked_at))


@pytest.mark.parametrize(
    ("counts", "found"),
    [((500,) * 10, False), ((5000, 4000, 3000, 2000), False), ((9100,) + (100,) * 9, True), ((990, 10), True)],
)
def test_imbalance_of_the_training_set(counts: tuple[int, ...], found: bool) -> None:
    findings = imbalanced(alone(INDICES, class_counts=counts))
    assert [finding.severity for finding in findings] == (["warn"] if found else [])


def test_imbalance_is_a_note_where_the_loss_or_the_sampler_makes_up_for_it() -> None:
    counts = (990, 10)
    even = torch.arange(32) % 2
    assert [f.severity for f in imbalanced(alone(even, class_counts=counts))] == ["note"]
    rare = (torch.arange(32) == 9).long()
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([0.5, 50.0]))
    looked_at = case(convnet(classes=2), IMAGES, rare, weighted, class_counts=counts)
    assert [f.severity for f in imbalanced(looked_at)] == ["note"]


def test_imbalance_of_a_batch_needs_confidence() -> None:
    with pytest.raises(NotChecked, match="says little"):
        imbalanced(alone(INDICES, classes=10))
    rng = np.random.default_rng(0)
    loud, model = 0, convnet(classes=4)
    for _ in range(100):
        labels = torch.from_numpy(rng.integers(0, 4, 64))
        loud += bool(imbalanced(still(IMAGES, labels, model, classes=4)))
    assert loud == 0
    rare = torch.zeros(400, dtype=torch.int64)
    rare[:4] = 1
    (finding,) = imbalanced(still(torch.zeros(400, 3, 4, 4), rare, classes=2))
    entropy = -(0.99 * math.log(0.99) + 0.01 * math.log(0.01))
    assert f"{math.exp(entropy):.3g} equal ones" in finding.title


def test_without_labels_nothing_is_checked() -> None:
    for rule in LABELS:
        if rule.code != "FL125":
            with pytest.raises(NotChecked):
                list(rule.examine(still(IMAGES)))
