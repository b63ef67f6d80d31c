"""Faults of the loss and of the head."""

import torch
from torch import nn

from faults.kinds.signal import _put, _Scale
from faults.setting import Fault, Places, Setting

_TAIL = ("loss", "tail", "head")


def _tail(module: nn.Module, loss: nn.Module | None = None):
    def apply(setting: Setting) -> Places:
        setting.put("tail", module)
        setting.loss = loss or setting.loss
        return _TAIL

    return apply


def _loss(loss):
    def apply(setting: Setting) -> Places:
        setting.loss = loss
        return _TAIL

    return apply


@torch.no_grad()
def _biased_head(setting: Setting) -> Places:
    """A bias for another order of classes, or another prior."""
    setting.get("head").bias.copy_(torch.linspace(-8, 8, 10))
    return _TAIL


@torch.no_grad()
def _loud_head(setting: Setting) -> Places:
    setting.get("head").weight.normal_(std=3.0)
    return _TAIL


def _mean_over_all(scores, labels):
    """A squared error on class indices."""
    return ((scores.argmax(1).float() - labels.float()) ** 2).mean() + 0 * scores.sum()


FAULTS = (
    Fault(
        "softmax-before-cross-entropy",
        "softmax twice: the loss cannot fall below 1.46",
        ("FL502",),
        _tail(nn.Softmax(1)),
    ),
    Fault(
        "softmax-in-loss",
        "softmax in the loss function before cross-entropy",
        ("FL502",),
        _loss(lambda scores, labels: nn.functional.cross_entropy(torch.softmax(scores, 1), labels)),
    ),
    Fault(
        "softmax-with-nll",
        "NLL wants logarithms: of probabilities it is linear and negative",
        ("FL502", "FL503", "FL501"),
        _tail(nn.Softmax(1), nn.NLLLoss()),
    ),
    Fault(
        "nll-on-scores",
        "NLL without log-softmax has no lower bound",
        ("FL501", "FL502", "FL503"),
        _loss(nn.NLLLoss()),
    ),
    Fault(
        "sigmoid-before-logits-loss",
        "sigmoid twice: probabilities between 0.5 and 0.73",
        ("FL504",),
        _tail(nn.Sigmoid()),
        tags=True,
    ),
    Fault("summed-loss", "the step grows with the batch size", ("FL505",), _loss(nn.CrossEntropyLoss(reduction="sum"))),
    Fault("biased-head", "a bias that contradicts the labels", ("FL501", "FL506"), _biased_head),
    Fault("loud-head", "logits of ±20 before anything is learned", ("FL501", "FL206"), _loud_head),
    Fault(
        "scaled-scores",
        "a temperature of 1/3000: confident at random",
        ("FL501",),
        _put("tail", lambda: _Scale(3000.0)),
    ),
    Fault("no-slope-in-loss", "the loss is computed from argmax", ("FL403", "FL401"), _loss(_mean_over_all)),
)
