"""Faults of the labels."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from faults.architectures import CLASSES
from faults.setting import BATCH, Fault, Places, Setting


def _labels(change: Callable[[Tensor], Tensor]) -> Callable[[Setting], Places]:
    def apply(setting: Setting) -> Places:
        setting.labels = change(setting.labels)
        return ("labels",)

    return apply


def _void(labels: Tensor) -> Tensor:
    labels = labels.clone()
    labels[5] = 255
    return labels


def _imbalanced(setting: Setting) -> Places:
    """One class in 91 % of the images, the others in 1 % each; the head's bias is zero."""
    setting.labels = torch.zeros(BATCH, dtype=torch.int64)
    setting.labels[7], setting.labels[19] = 3, 8
    setting.declared["class_counts"] = (9100,) + (100,) * (CLASSES - 1)
    return ("labels", "loss", "head")


def _rare(setting: Setting) -> Places:
    """One tag in a hundred is yes; the head's bias is zero."""
    generator = torch.Generator().manual_seed(0)
    setting.labels = torch.bernoulli(torch.full((BATCH, 10 * CLASSES), 0.01), generator=generator)
    setting.put("head", nn.Linear(setting.get("head").in_features, 10 * CLASSES))
    nn.init.normal_(setting.get("head").weight, std=0.01)
    nn.init.zeros_(setting.get("head").bias)
    return ("labels", "loss", "head")


FAULTS = (
    Fault("void-label", "255 for unlabelled is no class of ten", ("FL121",), _labels(_void)),
    Fault("one-based-labels", "classes 1 … 10 where 0 … 9 are due", ("FL122", "FL121"), _labels(lambda y: y + 1)),
    Fault(
        "negative-labels",
        "classes -1 … 8: the index was decremented twice",
        ("FL122", "FL121"),
        _labels(lambda y: y - 1),
    ),
    Fault(
        "one-hot-labels",
        "integer one-hot rows where indices are due",
        ("FL123",),
        _labels(lambda y: nn.functional.one_hot(y, CLASSES)),
    ),
    Fault("float-labels", "indices as floats, as a table reader gives them", ("FL123",), _labels(lambda y: y.float())),
    Fault(
        "scaled-labels",
        "labels divided by 255 with the images and cast back: all are zero",
        ("FL124",),
        _labels(lambda y: (y / 255).long()),
    ),
    Fault(
        "equal-labels",
        "a sorted, unshuffled loader: one class in every batch",
        ("FL124",),
        _labels(lambda y: y * 0 + 7),
    ),
    Fault(
        "imbalanced-labels",
        "91 % of one class: the first epochs are spent on learning the prior",
        ("FL125", "FL501", "FL506"),
        _imbalanced,
    ),
    Fault(
        "rare-tags",
        "1 % of yes under a zero bias: the loss starts twelve times above the prior's",
        ("FL506", "FL501", "FL125"),
        _rare,
        tags=True,
    ),
)
