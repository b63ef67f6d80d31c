"""Cases for the tests of rules: a network, real images, labels and a loss, as `check` would put them together."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits, load_sample_images
from torch import Tensor, nn

from firstlight.diagnosis import Case, Finding, Rule
from firstlight.errors import FirstlightError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
MNIST = ((0.1307,), (0.3081,))
HALF = ((0.5,) * 3, (0.5,) * 3)


def case(
    model: nn.Module,
    batch: Any,
    labels: Tensor | None = None,
    loss: Callable[..., Tensor] | None = None,
    *,
    optimizer: Any = None,
    run: bool = True,
    **facts: Any,
) -> Case:
    """A case with three measured steps; without them when the model does not run, or `run` is False."""
    from firstlight.probe import run_steps

    measured, reasons = None, {"run": "nobody asked"}
    if run:
        try:
            measured, reasons = run_steps(model, batch, labels, loss, optimizer=optimizer), {}
        except FirstlightError as error:
            reasons = {"run": error.cause}
    return Case(model, batch, labels, loss, measured, reasons=reasons, **facts)


def still(batch: Any, labels: Tensor | None = None, model: nn.Module | None = None, **facts: Any) -> Case:
    """A case that never ran: for rules that only look at the batch."""
    return Case(model or convnet(), batch, labels, None, None, reasons={"run": "nobody asked"}, **facts)


def codes(rule: Rule, case: Case) -> list[tuple[str, str]]:
    """(severity, place) of what a rule finds."""
    return [(finding.severity, finding.where) for finding in rule.examine(case)]


def only(rule: Rule, case: Case) -> Finding:
    """The one finding of a rule; every finding says everything it should."""
    found = list(rule.examine(case))
    assert len(found) == 1, found
    finding = found[0]
    assert (finding.code, finding.name) == (rule.code, rule.name)
    assert all((finding.title, finding.evidence, finding.cause, finding.fix)), finding
    return finding


@cache
def _photographs() -> tuple[np.ndarray, ...]:
    return tuple(load_sample_images().images)


def photographs(count: int = 16, side: int = 64, seed: int = 0) -> Tensor:
    """Random crops of two real photographs, uint8 ``[count, 3, side, side]``, RGB."""
    rng = np.random.default_rng(seed)
    crops = []
    for k in range(count):
        picture = _photographs()[k % 2]
        top, left = (int(rng.integers(0, extent - side)) for extent in picture.shape[:2])
        crops.append(picture[top : top + side, left : left + side])
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous()


def digits(count: int = 64) -> tuple[Tensor, Tensor]:
    """Real handwritten digits, uint8 0…255 in 17 levels, ``[count, 1, 8, 8]``, and their labels."""
    bunch = load_digits()
    images = np.rint(bunch.images[:count] * (255 / 16)).astype(np.uint8)
    return torch.from_numpy(images)[:, None], torch.from_numpy(bunch.target[:count]).long()


def normalized(images: Tensor, constants: Sequence[Sequence[float]] = IMAGENET) -> Tensor:
    """(x/255 − mean) / std."""
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in constants)
    return (images.float() / 255 - mean) / std


def convnet(channels: int = 3, classes: int = 10, norm: bool = True) -> nn.Module:
    """A small convolutional network for images of any size, with its head called ``head``."""
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("stem", nn.Conv2d(channels, 16, 3, padding=1))
    if norm:
        model.add_module("norm", nn.BatchNorm2d(16))
    model.add_module("act", nn.ReLU())
    model.add_module("pool", nn.AdaptiveAvgPool2d(1))
    model.add_module("flat", nn.Flatten())
    model.add_module("head", nn.Linear(16, classes))
    return model
