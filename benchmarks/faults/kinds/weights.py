"""Faults of the weights."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from faults.setting import Fault, Places, Setting

_SCALE_ABSORBED = {"normalizes": "normalizations absorb the weights' scale, and a branch may start near zero"}
_DEEP = {"deep": "with fewer layers the signal only shrinks or grows by a small factor"}
_PLAIN_OR_TOKENS = {"absorbs": "the next normalization absorbs the scale of this layer"}


def _everywhere(draw: Callable[[Tensor], object]) -> Callable[[Setting], Places]:
    """`draw` every weight but the head's."""

    @torch.no_grad()
    def apply(setting: Setting) -> Places:
        for _, layer in setting.layers():
            draw(layer.weight)
        return tuple(name for name, _ in setting.layers())

    return apply


def _main(change: Callable[[Tensor], object]) -> Callable[[Setting], Places]:
    """`change` one weight that the whole signal passes."""

    @torch.no_grad()
    def apply(setting: Setting) -> Places:
        change(setting.get(setting.architecture.main).weight)
        return (setting.architecture.main,)

    return apply


@torch.no_grad()
def _zero_hidden(setting: Setting) -> Places:
    name = setting.architecture.hidden
    setting.get(name).weight.zero_()
    return (name,)


def _torch_default(setting: Setting) -> Places:
    for _, layer in setting.layers():
        layer.reset_parameters()
    return tuple(name for name, _ in setting.layers())


def _tile(weight: Tensor) -> None:
    weight.copy_(weight[:1].expand_as(weight).clone())


@torch.no_grad()
def _tile_everywhere(setting: Setting) -> Places:
    """Every unit of a layer alike, and every unit treats its inputs alike: permanent, but not constant over layers."""
    for _, layer in setting.layers():
        spread = layer.weight.std()
        layer.weight.fill_(float(torch.randn(())) * spread)
    setting.get("head").weight.copy_(setting.get("head").weight[:, :1].expand_as(setting.get("head").weight).clone())
    return tuple(name for name, _ in setting.layers())


@torch.no_grad()
def _twin_units(setting: Setting) -> Places:
    """A layer widened by copying its units without noise: pairs stay equal for ever."""
    first = setting.get(setting.architecture.hidden)
    half = first.weight.shape[0] // 2
    first.weight[half:] = first.weight[:half]
    for name in setting.architecture.next:
        following = setting.get(name)
        following.weight[:, half:] = following.weight[:, :half]
    return (setting.architecture.hidden, *setting.architecture.next)


def _outliers(weight: Tensor) -> None:
    """One weight in a thousand, as a corrupt file leaves them."""
    generator = torch.Generator().manual_seed(0)
    count = max(2, weight.numel() // 1000)
    chosen = torch.randperm(weight.numel(), generator=generator)[:count]
    weight.view(-1)[chosen] *= 1000


def _rank_one(weight: Tensor) -> None:
    """Outer product of normal numbers and signs, at the layer's own scale: no weight of it is an outlier."""
    rows = weight.flatten(1)
    generator = torch.Generator().manual_seed(0)
    units = torch.randn(rows.shape[0], 1, generator=generator)
    signs = torch.randint(2, (1, rows.shape[1]), generator=generator) * 2.0 - 1
    weight.copy_((units @ signs * rows.std()).view_as(weight))


@torch.no_grad()
def _identical_layers(setting: Setting) -> Places:
    """The generator seeded anew before each layer."""
    places = []
    seen: dict[tuple[int, ...], tuple[str, Tensor]] = {}
    for name, layer in setting.layers():
        shape = tuple(layer.weight.shape)
        if shape in seen:
            layer.weight.copy_(seen[shape][1])
            places += [seen[shape][0], name]
        else:
            seen[shape] = name, layer.weight
    return tuple(dict.fromkeys(places))


def _he(gain: float) -> Callable[[Tensor], object]:
    def draw(weight: Tensor) -> None:
        nn.init.normal_(weight, std=gain * math.sqrt(2 / weight[0].numel()))

    return draw


FAULTS = (
    Fault(
        "zero-everywhere",
        "no signal passes, and no gradient but the last layer's; all units alike",
        ("FL202", "FL201"),
        _everywhere(nn.init.zeros_),
    ),
    Fault(
        "zero-layer",
        "a layer of ReLU units at exactly zero has no gradient and never wakes up",
        ("FL202", "FL201"),
        _zero_hidden,
        only={"relu": "GELU and tanh have a slope at zero, so that the layer wakes up in the second step"},
    ),
    Fault(
        "constant-everywhere",
        "all units of a layer compute and learn the same for ever",
        ("FL203", "FL201"),
        _everywhere(lambda w: nn.init.constant_(w, 0.01)),
    ),
    Fault(
        "constant-layer",
        "one number is all that is left of the signal behind this layer",
        ("FL203", "FL201"),
        _main(lambda w: nn.init.constant_(w, 0.02)),
    ),
    Fault("tiled-layer", "every unit is a copy of the first: one feature for all behind", ("FL201",), _main(_tile)),
    Fault(
        "one-value-per-layer",
        "each layer is constant at a random value: symmetric for ever",
        ("FL203", "FL201"),
        _tile_everywhere,
    ),
    Fault("twin-units", "half of the units are copies with equal gradients for ever", ("FL201",), _twin_units),
    Fault(
        "standard-normal",
        "std 1 in every layer: the signal grows tenfold in each",
        ("FL206", "FL302", "FL303"),
        _everywhere(nn.init.normal_),
        _SCALE_ABSORBED,
    ),
    Fault(
        "tiny-normal",
        "std 0.001 in every layer: the signal is gone after three",
        ("FL206", "FL301"),
        _everywhere(lambda w: nn.init.normal_(w, std=1e-3)),
        _SCALE_ABSORBED,
    ),
    Fault(
        "hundredth-normal",
        "std 0.01, right for AlexNet's fans, loses an order of magnitude in each narrow layer",
        ("FL206", "FL301"),
        _everywhere(lambda w: nn.init.normal_(w, std=1e-2)),
        _SCALE_ABSORBED,
    ),
    Fault(
        "xavier-for-relu",
        "half of the variance is lost in every ReLU layer",
        ("FL206", "FL301"),
        _everywhere(nn.init.xavier_normal_),
        only=_DEEP,
    ),
    Fault(
        "framework-default",
        "PyTorch's own uniform weights lose five sixths of the variance in every ReLU layer",
        ("FL206", "FL301"),
        _torch_default,
        only=_DEEP,
    ),
    Fault(
        "gain-too-large",
        "twice He's std: the signal doubles in every layer",
        ("FL206", "FL302"),
        _everywhere(_he(2.0)),
        _SCALE_ABSORBED,
        only={"relu": "tanh takes it with a few saturated units"},
    ),
    Fault(
        "gain-too-small",
        "half of He's std: the signal halves in every layer",
        ("FL206", "FL301"),
        _everywhere(_he(0.5)),
        only=_DEEP,
    ),
    Fault(
        "loud-layer",
        "one layer a hundred times too large",
        ("FL206", "FL302", "FL303", "FL306"),
        _main(lambda w: w.mul_(100)),
        _PLAIN_OR_TOKENS,
    ),
    Fault(
        "quiet-layer",
        "one layer a thousand times too small: nothing but its bias passes",
        ("FL206", "FL301"),
        _main(lambda w: w.mul_(1e-3)),
        _SCALE_ABSORBED,
    ),
    Fault("outliers", "one weight in a thousand is a thousand times too large", ("FL204",), _main(_outliers)),
    Fault(
        "identical-layers",
        "layers with the same numbers are not independent, as every derivation assumes",
        ("FL205",),
        _identical_layers,
        only={"repeats": "no two layers have one shape"},
    ),
    Fault(
        "rank-one-layer",
        "all units of a layer are multiples of one feature",
        ("FL305", "FL201"),
        _main(_rank_one),
    ),
)
