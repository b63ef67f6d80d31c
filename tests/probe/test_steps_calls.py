"""What a loss calls, and with what, is heard; samples that influence each other are found where they meet."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from firstlight.probe import LossCall, Mixing, run_steps

LABELS = torch.tensor([0, 1, 2, 3, 0, 2])
ONE_HOT = F.one_hot(LABELS, 4).float()


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def heard(loss: Callable[..., Tensor] | None, labels: Tensor | None = LABELS, model: nn.Module | None = None) -> Any:
    return run_steps(model or nn.Sequential(nn.Linear(8, 4)), images(6, 8), labels, loss, steps=1, mixing=False)


def only(loss: Callable[..., Tensor] | None, labels: Tensor | None = LABELS) -> LossCall:
    (call,) = heard(loss, labels).losses
    return call


@pytest.mark.parametrize(
    ("loss", "labels", "function"),
    [
        (nn.CrossEntropyLoss(), LABELS, "cross_entropy"),
        (F.cross_entropy, LABELS, "cross_entropy"),
        (None, LABELS, "cross_entropy"),
        (nn.NLLLoss(), LABELS, "nll_loss"),
        (nn.MSELoss(), ONE_HOT, "mse_loss"),
        (nn.L1Loss(), ONE_HOT, "l1_loss"),
        (nn.SmoothL1Loss(), ONE_HOT, "smooth_l1_loss"),
        (nn.HuberLoss(), ONE_HOT, "huber_loss"),
        (nn.KLDivLoss(reduction="batchmean"), ONE_HOT, "kl_div"),
        (nn.BCEWithLogitsLoss(), ONE_HOT, "binary_cross_entropy_with_logits"),
        (nn.MultiLabelSoftMarginLoss(), ONE_HOT, "multilabel_soft_margin_loss"),
    ],
)
def test_losses_are_heard_as_functions(loss: Any, labels: Tensor, function: str) -> None:
    run = heard(loss, labels)
    (call,) = run.losses
    assert (call.function, call.node, call.between) == (function, "0:linear", ())
    assert torch.equal(call.input, run.output)
    assert torch.equal(call.target, labels)
    assert not call.input.requires_grad


def test_arguments_come_by_name() -> None:
    weight = torch.ones(4)
    call = only(nn.CrossEntropyLoss(weight=weight, reduction="sum", label_smoothing=0.1, ignore_index=3))
    assert call.arguments["weight"] is weight
    assert {k: v for k, v in call.arguments.items() if k != "weight"} == {
        "reduction": "sum", "label_smoothing": 0.1, "ignore_index": 3,
    }  # fmt: skip
    assert only(lambda y, t: F.cross_entropy(y, target=t)).arguments["reduction"] == "mean"
    assert only(lambda y, t: F.mse_loss(y, ONE_HOT, reduction="none").sum()).arguments == {"reduction": "none"}


@pytest.mark.parametrize(
    ("loss", "between"),
    [
        (lambda y, t: F.cross_entropy(y.softmax(1), t), ("softmax",)),
        (lambda y, t: F.cross_entropy(nn.Softmax(1)(y), t), ("softmax",)),
        (lambda y, t: F.cross_entropy(torch.softmax(y, 1).log(), t), ("softmax", "log")),
        (lambda y, t: F.nll_loss(F.log_softmax(y, dim=1), t), ("log_softmax",)),
        (lambda y, t: F.cross_entropy(nn.LogSoftmax(1)(y), t), ("log_softmax",)),
        (lambda y, t: F.binary_cross_entropy_with_logits(y.sigmoid(), ONE_HOT), ("sigmoid",)),
        (lambda y, t: F.binary_cross_entropy(torch.sigmoid(y), ONE_HOT), ("sigmoid",)),
        (lambda y, t: F.cross_entropy(2 - y / 3, t), ("div", "rsub")),
        (lambda y, t: F.cross_entropy(y.clone().sigmoid_(), t), ("sigmoid",)),
        (lambda y, t: F.cross_entropy(y.float().view(-1, 4)[:, :].contiguous(), t), ()),
    ],
)
def test_what_the_loss_does_before(loss: Any, between: tuple[str, ...]) -> None:
    call = only(loss)
    assert (call.between, call.node) == (between, None if between else "0:linear")


def test_several_calls_and_none() -> None:
    calls = heard(lambda y, t: F.cross_entropy(y, t) + 0.1 * F.mse_loss(y, torch.zeros_like(y))).losses
    assert [call.function for call in calls] == ["cross_entropy", "mse_loss"]
    assert heard(lambda y, t: -y.log_softmax(1)[torch.arange(6), t].mean()).losses == ()
    assert heard(None, labels=None).losses == ()
    elsewhere = only(lambda y, t: F.cross_entropy(images(6, 4), t) + 0 * y.sum())
    assert (elsewhere.node, elsewhere.between) == (None, ())


def test_a_loss_with_its_own_parameters_on_several_outputs() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(8, 4), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"one": self.one(x), "two": self.two(x)}

    run = heard(lambda out, t: F.cross_entropy(out["one"], t) + out["two"].square().mean(), model=Heads())
    assert [(call.function, call.node) for call in run.losses] == [("cross_entropy", "one:linear")]
    assert set(run.output) == {"one", "two"}
    assert not any(value.requires_grad for value in run.output.values())


class Detector(nn.Module):
    """Takes lists and returns its own losses."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        scores = self.conv(torch.stack(images)).mean((2, 3))
        if targets is None:
            return scores
        labels = torch.stack([target["label"] for target in targets])
        boxes = torch.stack([target["box"] for target in targets])
        return {
            "class": F.cross_entropy(scores, labels, reduction="sum"),
            "box": F.smooth_l1_loss(scores, boxes, beta=0.5),
        }


def test_losses_inside_a_model_are_heard() -> None:
    targets = [{"label": torch.tensor(i), "box": torch.full((4,), float(i))} for i in range(3)]
    run = run_steps(Detector(), (list(images(3, 3, 8, 8)), targets))
    first, second = run.losses
    assert (first.function, first.node, first.arguments["reduction"]) == ("cross_entropy", "mean", "sum")
    assert first.target.tolist() == [0, 1, 2]
    assert (second.function, second.arguments["beta"]) == ("smooth_l1_loss", 0.5)
    assert F.cross_entropy(first.input, first.target, reduction="sum") + F.smooth_l1_loss(
        second.input, second.target, beta=0.5
    ) == pytest.approx(run.steps[0].loss)
    assert run.first.loss_kind == "sum of the model's own losses"
    assert run.mixing == Mixing(None)


class Centered(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True)


def mixing(*middle: nn.Module, batch: Tensor | None = None) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), *middle, nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))
    return run_steps(model, images(6, 3, 8, 8) if batch is None else batch, None, steps=1)


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d(4), nn.LayerNorm((4, 6, 6)), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.Dropout(0.5)]
)
def test_samples_that_keep_to_themselves(norm: nn.Module) -> None:
    run = mixing(norm)
    assert run.mixing == Mixing(None)
    assert run.notes == ()


@pytest.mark.parametrize(
    ("layer", "op"),
    [(Centered(), "sub"), (nn.BatchNorm2d(4, track_running_stats=False), "batch_norm"), (nn.Softmax(0), "softmax")],
)
def test_samples_that_influence_each_other(layer: nn.Module, op: str) -> None:
    for batch in (images(6, 3, 8, 8), images(1, 3, 8, 8), images(1, 3, 8, 8).expand(4, 3, 8, 8)):
        found = mixing(layer, batch=batch).mixing
        assert found is not None
        assert found.node == f"1:{op}"
        assert found.change > 0.01


class Attention(nn.Module):
    """Self-attention over positions; with `wrong`, over samples, as when `batch_first` is forgotten."""

    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=not wrong)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).mT
        return self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1)


@pytest.mark.parametrize("wrong", [False, True])
def test_attention_over_samples_is_found(wrong: bool) -> None:
    found = run_steps(Attention(wrong), images(5, 8, 3, 3), None, steps=1).mixing
    assert found is not None
    assert (found.node is not None) == wrong


def test_what_cannot_be_compared_is_said() -> None:
    class Fixed(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.view(6, 8))

    class Noisy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.randn(4)

    for model, word in ((Fixed(8, 4), "two samples"), (Noisy(8, 4), "random numbers")):
        run = run_steps(model, images(6, 8), LABELS)
        assert run.mixing is None
        assert any(note.startswith("samples influencing each other: ") and word in note for note in run.notes)
    assert run_steps(Fixed(8, 4), images(6, 8), LABELS, mixing=False).notes == ()
