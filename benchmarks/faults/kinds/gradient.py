"""Faults of the backward pass, and of what is trained at all."""

import copy

import torch
from torch import Tensor, nn

from faults.kinds.signal import _put
from faults.setting import Fault, Places, Setting, optimizer_for


class _BelowTheTop(nn.Module):
    """Root of the distance from the largest channel, which is at distance zero from itself."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sqrt(x.amax(1, keepdim=True) - x)


class _Length(nn.Module):
    """Distance of a vector from itself: a finite length with no slope."""

    def forward(self, x: Tensor) -> Tensor:
        lowest = x - x.detach()
        return x + lowest.flatten(1).square().sum(1).sqrt().view(-1, *[1] * (x.dim() - 1))


class _Detach(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


class _NoGrad(nn.Module):
    """A trained-elsewhere part that was left under no_grad."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.inner(x)


class _Round(nn.Module):
    """Quantization without a straight-through estimator."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.round(x * 16) / 16


class _Gate(nn.Module):
    """A hard gate: a comparison has no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return (x > 0.5).to(x.dtype)


class _Scramble(nn.Module):
    """A reshape that was meant to swap two axes."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(0, 1).reshape(x.shape)


class _SoftmaxOverBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x, 0) * len(x)


class _Centre(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


def _no_grad(setting: Setting) -> Places:
    setting.put("early", _NoGrad(setting.get("early")))
    return ("early", "middle")


def _frozen(setting: Setting) -> Places:
    """A layer in the middle: a frozen first layer can be meant."""
    for parameter in setting.get(setting.architecture.hidden).parameters():
        parameter.requires_grad_(False)
    return (setting.architecture.hidden,)


def _unused(setting: Setting) -> Places:
    setting.put("auxiliary", nn.Linear(16, 16))
    return ("auxiliary",)


def _outside(setting: Setting) -> Places:
    """A layer that was replaced after the optimizer had been made."""
    old = setting.optimizer
    name = setting.architecture.main
    setting.put(name, copy.deepcopy(setting.get(name)))
    setting.optimizer = old
    return (name, "optimizer")


def _stale(setting: Setting) -> Places:
    """The optimizer of another copy of the network."""
    setting.optimizer = optimizer_for(setting.architecture, copy.deepcopy(setting.model))
    return ("optimizer",)


def _biases_only(setting: Setting) -> Places:
    """The weights were filtered out with what was to get no weight decay."""
    named = list(setting.model.named_parameters())
    setting.optimizer = torch.optim.SGD([p for _, p in named if p.dim() == 1], lr=0.01)
    return ("optimizer", *(name.rpartition(".")[0] for name, p in named if p.dim() > 1))


FAULTS = (
    Fault(
        "square-root-at-zero",
        "an infinite slope less an infinite slope is NaN",
        ("FL407",),
        _put("middle", _BelowTheTop),
    ),
    Fault("length-of-nothing", "the slope of a length is 0 / 0 at zero", ("FL407",), _put("neck", _Length)),
    Fault("detached-middle", "nothing before the middle learns", ("FL403",), _put("middle", _Detach)),
    Fault("features-under-no-grad", "nothing of the first half learns", ("FL403",), _no_grad),
    Fault(
        "rounded-middle",
        "rounding has slope zero: nothing before it learns",
        ("FL403", "FL401"),
        _put("middle", _Round),
    ),
    Fault(
        "gated-middle",
        "a comparison has no gradient: nothing before it learns",
        ("FL403", "FL401"),
        _put("middle", _Gate),
    ),
    Fault("frozen-layer", "one layer of a new network does not learn", ("FL404",), _frozen),
    Fault("unused-layer", "a module that no output depends on", ("FL403",), _unused),
    Fault("replaced-layer", "made after the optimizer, so it is never updated", ("FL405",), _outside),
    Fault("stale-optimizer", "it updates the parameters of another copy", ("FL405",), _stale),
    Fault("biases-only", "the optimizer holds no weights", ("FL405",), _biases_only),
    Fault("scrambled-batch", "every image's map is made of other images'", ("FL406",), _put("middle", _Scramble)),
    Fault("softmax-over-batch", "images of a batch compete", ("FL406",), _put("neck", _SoftmaxOverBatch)),
    Fault("centred-over-batch", "an image's result depends on its batch", ("FL406",), _put("neck", _Centre)),
)
