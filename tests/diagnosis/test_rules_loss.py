"""The first loss is judged by the labels' prior, and what was done to the scores is named at the right place."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from cases import case, codes, convnet, normalized, only, photographs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from firstlight.diagnosis import Case, Finding, NotChecked, Rule, all_rules, diagnose
from firstlight.diagnosis.rules.head_bias import HeadBias
from firstlight.diagnosis.rules.log_softmax_twice import LogSoftmaxTwice
from firstlight.diagnosis.rules.loss_at_start import LossAtStart
from firstlight.diagnosis.rules.loss_reduction import LossReduction
from firstlight.diagnosis.rules.sigmoid_before_logits_loss import SigmoidBeforeLogitsLoss
from firstlight.diagnosis.rules.softmax_before_cross_entropy import SoftmaxBeforeCrossEntropy
from firstlight.workflows.repairing import Setting, applied

LOSS = tuple(rule for rule in all_rules() if rule.code.startswith("FL50"))
IMAGES = normalized(photographs(64, 16))
DRAW = torch.Generator().manual_seed(0)
INDICES = torch.randint(0, 10, (64,), generator=DRAW)
BINARY = (INDICES > 4).float()[:, None]
TAGS = (torch.rand((64, 10), generator=DRAW) > 0.5).float()
NUMBERS = torch.randn((64, 1), generator=DRAW)
CE, BCE, MSE = nn.CrossEntropyLoss(), nn.BCEWithLogitsLoss(), nn.MSELoss()
Loss = Callable[..., Tensor] | None


def ending(tail: nn.Module, classes: int = 10) -> nn.Module:
    model = convnet(classes=classes)
    model.add_module("tail", tail)
    return model


def scaled(factor: float, classes: int = 10) -> nn.Module:
    model = convnet(classes=classes)
    with torch.no_grad():
        model.get_submodule("head").weight *= factor
    return model


class Times(nn.Module):
    """A fixed factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def focal(scores: Tensor, targets: Tensor) -> Tensor:
    losses = F.binary_cross_entropy_with_logits(scores, targets, reduction="none")
    return ((1 - (-losses).exp()) ** 2 * losses).mean()


SOUND: dict[str, tuple[nn.Module, Tensor, Loss]] = {
    "cross-entropy": (convnet(), INDICES, CE),
    "no loss given": (convnet(), INDICES, None),
    "in a function": (convnet(), INDICES, lambda z, y: F.cross_entropy(z, y)),
    "smoothed": (convnet(), INDICES, nn.CrossEntropyLoss(label_smoothing=0.1)),
    "weighted": (convnet(), INDICES, nn.CrossEntropyLoss(weight=torch.linspace(0.8, 1.2, 10))),
    "ignored": (convnet(), INDICES.where(INDICES != 3, -100), CE),
    "averaged by hand": (convnet(), INDICES, lambda z, y: F.cross_entropy(z, y, reduction="sum") / len(y)),
    "log-softmax and nll": (ending(nn.LogSoftmax(1)), INDICES, nn.NLLLoss()),
    "sigmoid and bce": (ending(nn.Sigmoid(), 1), BINARY, nn.BCELoss()),
    "bce": (convnet(classes=1), BINARY, BCE),
    "tags": (convnet(), TAGS, BCE),
    "focal": (convnet(), TAGS, focal),
    "squared": (convnet(classes=1), NUMBERS, MSE),
    "wide": (convnet(classes=1000), INDICES, CE),
    "zero head": (scaled(0.0), INDICES, CE),
    "two classes": (convnet(classes=2), INDICES % 2, CE),
    "relu head": (ending(nn.ReLU()), INDICES, CE),
    "temperature": (ending(Times(1.5)), INDICES, CE),
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_losses_are_silent(name: str) -> None:
    model, labels, loss = SOUND[name]
    looked_at = case(model, IMAGES, labels, loss)
    assert looked_at.measured is not None, looked_at.reasons
    assert diagnose(looked_at, LOSS).findings == ()


def test_a_loss_of_other_parts_is_not_checked() -> None:
    looked_at = case(convnet(), IMAGES, INDICES, lambda z, y: -z.log_softmax(1)[torch.arange(64), y].mean())
    diagnosis = diagnose(looked_at, LOSS)
    assert (diagnosis.findings, diagnosis.clean) == ((), ())
    assert {code for code, _ in diagnosis.not_checked} == {rule.code for rule in LOSS}


@pytest.mark.parametrize(
    ("model", "labels", "loss", "severity", "where"),
    [
        (scaled(15), INDICES, CE, "warn", "head"),
        (scaled(60), INDICES, CE, "fail", "head"),
        (scaled(60, 1), BINARY, BCE, "fail", "head"),
        (scaled(60), TAGS, BCE, "fail", "head"),
        (scaled(60), INDICES, None, "fail", "head"),
        (ending(Times(60)), INDICES, CE, "fail", "tail"),
        (ending(nn.LogSoftmax(1)), INDICES, nn.NLLLoss(), None, ""),
        (nn.Sequential(scaled(60), nn.LogSoftmax(1)), INDICES, nn.NLLLoss(), "fail", "0.head"),
        (convnet(), INDICES, nn.NLLLoss(), "fail", "loss"),
        (ending(nn.Softmax(1)), INDICES, nn.NLLLoss(), "fail", "tail"),
        (convnet(classes=1), NUMBERS + 30, MSE, "fail", "head"),
        (convnet(classes=1), NUMBERS + 6, MSE, "warn", "head"),
        (convnet(classes=1), NUMBERS / 100, MSE, "fail", "head"),
    ],
)
def test_loss_at_start(model: nn.Module, labels: Tensor, loss: Loss, severity: str | None, where: str) -> None:
    found = codes(LossAtStart(), case(model, IMAGES, labels, loss))
    assert found == ([] if severity is None else [(severity, where)])


def test_the_expected_loss_is_the_log_of_the_classes_plus_half_the_variance() -> None:
    """E ln Σ exp z of independent normal scores, for many classes."""
    draw = torch.Generator().manual_seed(0)
    for spread in (0.3, 0.7, 1.0):
        scores = spread * torch.randn((4000, 1000), generator=draw, dtype=torch.float64)
        assert float(torch.logsumexp(scores, 1).mean()) == pytest.approx(math.log(1000) + spread**2 / 2, abs=0.01)


def test_a_network_that_knows_the_labels_is_a_note() -> None:
    class Leaking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(10, 10)
            nn.init.eye_(self.head.weight)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(6 * F.one_hot(INDICES, 10).float() + 0 * images.mean())

    finding = only(LossAtStart(), case(Leaking(), IMAGES, INDICES, CE))
    assert finding.severity == "note"
    assert "knows nothing" in finding.title


@pytest.mark.parametrize(
    ("model", "loss", "where"),
    [
        (ending(nn.Softmax(1)), CE, "tail"),
        (ending(nn.Softmax(0)), CE, "tail"),
        (ending(nn.Sigmoid()), CE, "tail"),
        (convnet(), lambda z, y: F.cross_entropy(z.softmax(1), y), "loss"),
        (convnet(), lambda z, y: F.cross_entropy(torch.sigmoid(z), y), "loss"),
        (ending(nn.Softmax(1)), None, "tail"),
    ],
)
def test_softmax_before_cross_entropy(model: nn.Module, loss: Loss, where: str) -> None:
    looked_at = case(model, IMAGES, INDICES, loss)
    finding = only(SoftmaxBeforeCrossEntropy(), looked_at)
    assert (finding.severity, finding.where) == ("fail", where)


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_the_floor_of_a_softmax_before_cross_entropy(classes: int) -> None:
    finding = only(SoftmaxBeforeCrossEntropy(), case(ending(nn.Softmax(1), classes), IMAGES, INDICES % classes, CE))
    perfect = F.cross_entropy(torch.eye(classes, dtype=torch.float64), torch.arange(classes))
    assert f"{float(perfect):.3g}" in finding.title


@pytest.mark.parametrize(
    ("model", "loss", "severity", "where"),
    [
        (ending(nn.LogSoftmax(1)), CE, "note", "tail"),
        (convnet(), lambda z, y: F.cross_entropy(F.log_softmax(z, 1), y), "note", "loss"),
        (ending(nn.LogSoftmax(0)), nn.NLLLoss(), "fail", "tail"),
        (ending(nn.LogSoftmax(0)), CE, "fail", "tail"),
    ],
)
def test_log_softmax_twice(model: nn.Module, loss: Loss, severity: str, where: str) -> None:
    assert codes(LogSoftmaxTwice(), case(model, IMAGES, INDICES, loss)) == [(severity, where)]


@pytest.mark.parametrize(
    ("model", "labels", "loss", "severity", "where"),
    [
        (ending(nn.Sigmoid(), 1), BINARY, BCE, "fail", "tail"),
        (ending(nn.Sigmoid()), TAGS, BCE, "fail", "tail"),
        (convnet(), TAGS, lambda z, t: F.binary_cross_entropy_with_logits(torch.sigmoid(z), t), "fail", "loss"),
        (ending(nn.Sigmoid()), TAGS, focal, "fail", "tail"),
        (ending(nn.Softmax(1)), TAGS, BCE, "fail", "tail"),
        (convnet(), TAGS, lambda z, t: BCE(1 / (1 + torch.exp(-z)), t), "warn", "loss"),
    ],
)
def test_sigmoid_before_logits_loss(model: nn.Module, labels: Tensor, loss: Loss, severity: str, where: str) -> None:
    assert codes(SigmoidBeforeLogitsLoss(), case(model, IMAGES, labels, loss)) == [(severity, where)]


@pytest.mark.parametrize(
    ("classes", "labels", "loss", "severity"),
    [
        (10, INDICES, nn.CrossEntropyLoss(reduction="sum"), "warn"),
        (10, INDICES, lambda z, y: F.cross_entropy(z, y, reduction="none").sum(), "warn"),
        (10, TAGS, nn.BCEWithLogitsLoss(reduction="sum"), "warn"),
        (1, NUMBERS, nn.MSELoss(reduction="sum"), "warn"),
        (10, INDICES, lambda z, y: F.cross_entropy(z, y) / len(z), "note"),
    ],
)
def test_reduction(classes: int, labels: Tensor, loss: Loss, severity: str) -> None:
    assert codes(LossReduction(), case(convnet(classes=classes), IMAGES, labels, loss)) == [(severity, "loss")]


@pytest.mark.parametrize(
    ("rule", "model", "labels", "loss"),
    [
        (SoftmaxBeforeCrossEntropy(), ending(nn.Softmax(1)), INDICES, CE),
        (SoftmaxBeforeCrossEntropy(), ending(nn.Sigmoid()), INDICES, CE),
        (SoftmaxBeforeCrossEntropy(), convnet(), INDICES, lambda z, y: F.cross_entropy(z.softmax(1), y)),
        (LogSoftmaxTwice(), ending(nn.LogSoftmax(1)), INDICES, CE),
        (SigmoidBeforeLogitsLoss(), ending(nn.Sigmoid()), TAGS, BCE),
        (SigmoidBeforeLogitsLoss(), convnet(), TAGS, lambda z, t: BCE(torch.sigmoid(z), t)),
        (LossReduction(), convnet(), INDICES, nn.CrossEntropyLoss(reduction="sum", label_smoothing=0.1)),
        (LossAtStart(), convnet(), INDICES, nn.NLLLoss()),
        (LossAtStart(), ending(nn.Softmax(1)), INDICES, nn.NLLLoss()),
    ],
)
def test_the_repaired_loss_is_that_of_the_raw_scores(rule: Rule, model: nn.Module, labels: Tensor, loss: Loss) -> None:
    looked_at = case(model, IMAGES, labels, loss)
    repair = only(rule, looked_at).repair
    assert repair is not None
    mended, _ = applied(Setting(model, IMAGES, labels, loss, None), repair, looked_at)
    assert mended.loss is not None
    scores = nn.Sequential(*[part for name, part in model.named_children() if name != "tail"])(IMAGES)
    right = F.cross_entropy if labels.dim() == 1 else F.binary_cross_entropy_with_logits
    smooth = {"label_smoothing": 0.1} if rule.code == "FL505" else {}
    torch.testing.assert_close(mended.loss(mended.model(IMAGES), labels), right(scores, labels, **smooth))
    assert diagnose(case(mended.model, IMAGES, labels, mended.loss), [rule]).findings == ()


def with_bias(finding: Finding, looked_at: Case) -> Case:
    """The same case with the finding's repair in the model."""
    assert finding.repair is not None
    name, values = finding.repair.values["parameter"], finding.repair.values["values"]
    with torch.no_grad():
        looked_at.model.get_parameter(name).copy_(torch.tensor(values))
    facts = {"class_counts": looked_at.class_counts}
    return case(looked_at.model, looked_at.batch, looked_at.labels, looked_at.loss, **facts)


@settings(max_examples=6)
@given(st.lists(st.integers(1, 40), min_size=3, max_size=5))
def test_the_gain_of_the_bias_is_what_the_prior_says(tens: list[int]) -> None:
    """With zero scores: ln C before, the entropy of the shares after, and nothing to report once it is set."""
    counts = tuple(value**3 for value in tens)
    shares = torch.tensor(counts, dtype=torch.float64) / sum(counts)
    guess, entropy = math.log(len(counts)), float(torch.special.entr(shares).sum())
    model = scaled(0.0, len(counts))
    nn.init.zeros_(model.get_submodule("head").bias)
    looked_at = case(model, IMAGES[:8], INDICES[:8] % len(counts), CE, class_counts=counts)
    found = list(HeadBias().examine(looked_at))
    if guess - entropy < 0.09:
        assert found == []
    elif guess - entropy > 0.11:
        (finding,) = found
        assert finding.severity == ("warn" if guess - entropy > 0.5 * guess else "note")
        assert float(finding.title.split()[-3]) == pytest.approx(guess, rel=0.01)
        assert float(finding.title.split()[-1]) == pytest.approx(entropy, rel=0.05, abs=0.02)
        assert list(HeadBias().examine(with_bias(finding, looked_at))) == []


def test_rare_positives_and_shifted_targets_want_a_bias() -> None:
    rare = torch.zeros(64, 1)
    rare[5] = 1
    for labels, loss, severity in ((rare, BCE, "warn"), (NUMBERS + 10, MSE, "warn"), (NUMBERS + 2, MSE, "note")):
        looked_at = case(convnet(classes=1), IMAGES, labels, loss)
        finding = only(HeadBias(), looked_at)
        assert (finding.severity, finding.where) == (severity, "head")
        assert list(HeadBias().examine(with_bias(finding, looked_at))) == []


def test_weights_that_balance_the_classes_need_no_bias() -> None:
    counts = (900, 50, 50)
    balancing = nn.CrossEntropyLoss(weight=1000 / (3 * torch.tensor(counts)))
    looked_at = case(convnet(classes=3), IMAGES, INDICES % 3, balancing, class_counts=counts)
    assert codes(HeadBias(), looked_at) == []
    assert codes(HeadBias(), case(convnet(classes=3), IMAGES, INDICES % 3, CE, class_counts=counts)) != []


@pytest.mark.parametrize("rule", LOSS, ids=lambda rule: rule.code)
def test_a_network_that_did_not_run_is_not_checked(rule: Rule) -> None:
    with pytest.raises(NotChecked):
        list(rule.examine(case(convnet(), IMAGES, INDICES + 50, CE)))


@pytest.mark.parametrize(("loss", "labels"), [(CE, INDICES), (BCE, TAGS), (MSE, TAGS)])
def test_a_turned_sign_is_named_and_a_combined_loss_is_left_alone(loss, labels):
    negated = list(LossAtStart().examine(case(convnet(), IMAGES, labels, lambda o, t: -loss(o, t))))
    assert negated[0].severity == "fail"
    assert "sign was turned around" in negated[0].title
    for kept in (loss, lambda o, t: loss(o, t) - 5.0, lambda o, t: loss(o, t) - 2 * o.softmax(1).amax()):
        assert not [f for f in LossAtStart().examine(case(convnet(), IMAGES, labels, kept)) if "sign" in f.title]


def test_shares_say_nothing_where_the_loss_chooses_its_samples() -> None:
    """Hard negative mining, as SSD does it: nearly all labels are background, and few of them are in the loss."""
    labels = torch.where(torch.arange(64) < 4, 1, 0)

    def mined(scores: Tensor, target: Tensor) -> Tensor:
        losses = F.cross_entropy(scores, target, reduction="none")
        return torch.cat([losses[:4], losses[4:].topk(4).values]).mean()

    def plain(scores: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(scores, target, reduction="none").mean()

    with pytest.raises(NotChecked, match="chooses"):
        codes(HeadBias(), case(convnet(classes=2), IMAGES, labels, mined))
    assert codes(HeadBias(), case(convnet(classes=2), IMAGES, labels, plain)) != []
