"""Faults that show in the forward pass."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from faults.setting import Fault, Places, Setting

_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.GELU, nn.Tanh)
_CAN_DIE = {"tanh": "tanh units do not die"}


class _Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class _Log(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.log(x - 10)


class _Sqrt(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sqrt(x - 10)


class _Divide(nn.Module):
    """A share of the height above each sample's minimum, which is 0 / 0 there."""

    def forward(self, x: Tensor) -> Tensor:
        lowest = x.flatten(1).amin(1).view(-1, *[1] * (x.dim() - 1))
        return (x - lowest) / (x - lowest)


class _Overflow(nn.Module):
    """Softmax by hand, without taking the maximum away."""

    def forward(self, x: Tensor) -> Tensor:
        e = torch.exp(x * 1000)
        return e / e.sum(-1, keepdim=True) + x


def _put(place: str, module: Callable[[], nn.Module]) -> Callable[[Setting], Places]:
    def apply(setting: Setting) -> Places:
        setting.put(place, module())
        return (place,)

    return apply


def _swap_activations(setting: Setting, kind: type[nn.Module]) -> Places:
    names = [name for name, _ in setting.of_kind(*_ACTIVATIONS)]
    for name in names:
        setting.put(name, kind())
    return tuple(names)


def _biases(setting: Setting) -> list[tuple[str, nn.Parameter]]:
    """Biases right before an activation, of layers or of the normalization between."""
    found = []
    for name, unit in setting.model.named_modules():
        if isinstance(getattr(unit, "act", None), _ACTIVATIONS) and hasattr(unit, "layer"):
            place = "norm" if isinstance(unit.norm, nn.BatchNorm2d) else "layer"
            found.append((f"{name}.{place}", getattr(unit, place).bias))
    return found


def _with_activations(names: list[str]) -> Places:
    return tuple(names) + tuple(f"{name.rpartition('.')[0]}.act" for name in names)


@torch.no_grad()
def _negative_bias(setting: Setting) -> Places:
    biases = _biases(setting)
    for _, bias in biases:
        bias.fill_(-10.0)
    return _with_activations([name for name, _ in biases])


@torch.no_grad()
def _half_dead(setting: Setting) -> Places:
    """Half of the units of one hidden layer."""
    unit = setting.architecture.hidden.rpartition(".")[0]
    name, bias = next((name, bias) for name, bias in _biases(setting) if name.startswith(unit))
    bias[: len(bias) // 2] = -20.0
    return _with_activations([name])


@torch.no_grad()
def _saturated(setting: Setting) -> Places:
    """Tanh units fed with thirty times what they were made for."""
    for name in _swap_activations(setting, nn.Tanh):
        layer = setting.get(f"{name.rpartition('.')[0]}.layer")
        layer.weight.mul_(30)
    layers = [name for name, _ in setting.layers()]
    return (*layers, *(name for name, _ in setting.of_kind(nn.Tanh)))


@torch.no_grad()
def _sigmoids(setting: Setting) -> Places:
    acts = _swap_activations(setting, nn.Sigmoid)
    return (*acts, *(name for name, _ in setting.layers()))


@torch.no_grad()
def _loud_branch(setting: Setting) -> Places:
    """One branch a thousand times louder than it starts in the original."""
    branch = setting.get(setting.architecture.branch)
    branch.weight.normal_(std=100 if branch.weight.dim() == 1 or branch.weight.shape[-1] == 1 else 5)
    block = setting.architecture.branch.partition(".branch")[0]
    return (setting.architecture.branch, block, f"{block}.branch")


class _Bare(nn.Module):
    """A block that lost its shortcut."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.branch, self.act = block.branch, block.act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.branch(x))


def _no_shortcuts(setting: Setting) -> Places:
    from faults.architectures import Residual

    names = [name for name, block in setting.of_kind(Residual) if isinstance(block.shortcut, nn.Identity)]
    for name in names:
        setting.put(name, _Bare(setting.get(name)))
    return tuple(names)


def _single_value(setting: Setting) -> Places:
    """Group normalization with a group for each channel, on a map of one pixel."""
    features = setting.get("head").in_features
    setting.put("neck", nn.GroupNorm(features, features))
    return ("neck",)


FAULTS = (
    Fault(
        "negative-biases",
        "no unit is ever active: nothing passes and nothing is learned",
        ("FL304",),
        _negative_bias,
        _CAN_DIE,
    ),
    Fault("half-dead-layer", "half of a layer's units are never active", ("FL304",), _half_dead, _CAN_DIE),
    Fault(
        "saturated-units",
        "tanh at thirty times its scale passes no gradient",
        ("FL303", "FL206", "FL302"),
        _saturated,
        {"normalizes": "normalizations absorb the weights' scale"},
    ),
    Fault(
        "sigmoid-units",
        "sigmoid under He's weights: a slope of a quarter and a mean of a half in every layer",
        ("FL301", "FL401", "FL305", "FL206"),
        _sigmoids,
        {"normalizes": "normalizations bring the signal back"},
    ),
    Fault(
        "loud-branch",
        "one branch drowns the shortcut and everything that came before",
        ("FL306", "FL206", "FL302"),
        _loud_branch,
        only={"residual": "it has no branches"},
    ),
    Fault(
        "lost-shortcuts",
        "branches that start at zero, or small, without the shortcut beside them",
        ("FL305", "FL301", "FL202", "FL206", "FL401"),
        _no_shortcuts,
        only={"small-branches": "it has no shortcuts, or its branches start at full size and do without"},
    ),
    Fault(
        "single-value-normalization",
        "a value minus itself is zero: every image gives the same output",
        ("FL307",),
        _single_value,
    ),
    Fault("log-of-negative", "NaN in the first forward pass", ("FL308",), _put("middle", _Log)),
    Fault("square-root-of-negative", "NaN in the first forward pass", ("FL308",), _put("neck", _Sqrt)),
    Fault("division-by-zero", "0 / 0 where the map has its minimum", ("FL308",), _put("middle", _Divide)),
    Fault("exponential-overflow", "Inf / Inf in a softmax by hand", ("FL308",), _put("neck", _Overflow)),
    Fault(
        "shrinking-middle",
        "the signal is divided by a million, below any normalization's epsilon",
        ("FL301", "FL206"),
        _put("middle", lambda: _Scale(1e-6)),
    ),
    Fault(
        "growing-middle",
        "the signal is multiplied by a million",
        ("FL302", "FL206"),
        _put("middle", lambda: _Scale(1e6)),
        {"normalizes": "the next normalization absorbs it"},
    ),
)
