"""Healthy networks: one of each of timm's families, torchvision's classifiers, on correctly normalized photographs."""

import contextlib
import functools
import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import nn

import theory_zoo
from faults.architectures import Architecture
from faults.photographs import crops
from faults.setting import Setting, normalized

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# One of each of torchvision's families, the smallest.
TORCHVISION = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3",
    "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf",
    "resnet18", "resnet50", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11",
    "vgg11_bn", "vit_b_16", "wide_resnet50_2",
)  # fmt: skip
# Alarms that are true, by model and code, with what is wrong with the model as its code draws it.
TRUE = {
    ("timm:csatv2", "FL307"): "its spatial attention reads one channel and normalizes it by LayerNorm(1): one value "
    "less itself is zero, so that a bias is all that is left, whatever the image",
}
# What torchvision's own code cannot run at another size.
_FIXED = {"inception_v3": 299, "maxvit_t": 224, "vit_b_16": 224}


def names() -> list[str]:
    """Every model, ``timm:NAME`` or ``torchvision:NAME``, light ones first."""
    every = [f"timm:{name}" for name in theory_zoo.families()] + [f"torchvision:{name}" for name in TORCHVISION]
    return sorted(every, key=_weight)


def _weight(name: str) -> float:
    """Pixels times parameters, counted without memory; last where that is not possible."""
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model, side = _built(name, 64)
        return sum(parameter.numel() for parameter in model.parameters()) * side**2
    except Exception:  # a model that cannot be built without memory is only sorted last
        return math.inf


def _built(name: str, size: int) -> tuple[nn.Module, int]:
    """The model and the side of its images."""
    library, _, model = name.partition(":")
    if library == "timm":
        return theory_zoo.build(model, size)
    import torchvision

    return torchvision.models.get_model_builder(model)(weights=None), _FIXED.get(model, max(size, 64))


def is_true(name: str, said: str) -> bool:
    """Whether a finding ("fail FL307 place: …") about a model names something that is wrong with it."""
    return (name.partition(",")[0], said.split()[1]) in TRUE


def healthy(name: str, size: int, batch: int, seed: int) -> Setting:
    """A network as its code draws it, photographs, random labels, cross-entropy, AdamW."""
    torch.manual_seed(seed)
    model, side = _built(name, size)
    declared: dict[str, Any] = {"mean": MEAN, "std": STD}
    if name.startswith("timm:"):
        import timm

        found = timm.get_pretrained_cfg(name.partition(":")[2])
        if found and len(found.mean) == 3:
            declared = {"mean": tuple(found.mean), "std": tuple(found.std)}
    side, classes = _smallest(model, side)
    pixels = np.asarray(crops(batch, side, seed))
    labels = torch.randint(classes, (batch,), generator=torch.Generator().manual_seed(seed))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    architecture = Architecture(nn.Identity, frozenset(), "", "", ())
    images = normalized(pixels, declared["mean"], declared["std"])
    return Setting(architecture, model.train(), pixels, images, labels, _loss, optimizer, declared)


def _smallest(model: nn.Module, side: int) -> tuple[int, int]:
    """The side of images that the model runs at, `side` or larger, and how many classes it has."""
    for larger in (side, 2 * side, 224, 299):
        with contextlib.suppress(RuntimeError), torch.no_grad():
            return larger, int(_main(model.eval()(torch.zeros(2, 3, larger, larger))).shape[1])
    raise RuntimeError("the model runs at no size of image")


def _main(output: Any) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output[0]


def _loss(output: Any, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, with auxiliary heads at 0.3 as their papers have it."""
    main = nn.functional.cross_entropy(_main(output), labels)
    rest = [] if isinstance(output, torch.Tensor) else [t for t in output[1:] if t is not None]
    return functools.reduce(lambda total, aux: total + 0.3 * nn.functional.cross_entropy(aux, labels), rest, main)
