"""What is checked: a network with its batch, loss and optimizer, healthy until a fault is put in."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import firstlight as fl
from faults.architectures import ARCHITECTURES, CLASSES, Architecture
from faults.photographs import crops
from firstlight.sources.arrays import Array

BATCH, SIDE, TRAINING_SET = 32, 32, 512


@dataclass(eq=False)
class Setting:
    """A network as it will be trained.

    Attributes:
        architecture: names the places in it.
        model: the network.
        pixels: the batch before preprocessing, ``[N, H, W, 3]`` uint8.
        images: the batch, ``[N, 3, H, W]`` float32.
        labels: ``[N]`` int64, or ``[N, 10]`` float32 for tags.
        loss: callable of output and labels.
        optimizer: of the model's parameters.
        declared: what the user says beside: mean, std, classes, class_counts, statistics.
    """

    architecture: Architecture
    model: nn.Module
    pixels: np.ndarray
    images: Tensor
    labels: Tensor
    loss: Callable[[Tensor, Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    declared: dict[str, Any] = field(default_factory=dict)

    def layers(self) -> Iterator[tuple[str, nn.Module]]:
        """Every convolution and linear layer but the head, by name."""
        for name, module in self.model.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d) and name != "head":
                yield name, module

    def of_kind(self, *kinds: type[nn.Module]) -> Iterator[tuple[str, Any]]:
        """Every module of these kinds, by name."""
        return ((name, module) for name, module in self.model.named_modules() if isinstance(module, kinds))

    def get(self, name: str) -> Any:
        """A module by name."""
        return self.model.get_submodule(name)

    def put(self, name: str, module: nn.Module) -> None:
        """Replace a module, and give the optimizer the parameters that are there now."""
        parent, _, child = name.rpartition(".")
        setattr(self.model.get_submodule(parent), child, module)
        self.optimizer = optimizer_for(self.architecture, self.model)


Places = tuple[str, ...]


@dataclass(frozen=True)
class Fault:
    """One way to get it wrong.

    Attributes:
        name: after what was done.
        why: it matters because, in one line.
        codes: findings that name it, the most exact one first; any of them is right.
        apply: puts it into a setting, and returns the places (dotted module paths, or "input", "labels", "loss",
            "optimizer") any of which is the right culprit.
        unless: traits of architectures where it is no fault, with the reason.
        only: traits without which it cannot be made or is no fault, with the reason.
        tags: many yes-or-no labels per image with BCE instead of one class with cross-entropy.
    """

    name: str
    why: str
    codes: tuple[str, ...]
    apply: Callable[[Setting], Places]
    unless: Mapping[str, str] = field(default_factory=dict)
    only: Mapping[str, str] = field(default_factory=dict)
    tags: bool = False

    def excluded(self, architecture: Architecture) -> str:
        """Why it is no fault of an architecture; "" when it is one."""
        against = [why for trait, why in self.unless.items() if trait in architecture.traits]
        lacking = [why for trait, why in self.only.items() if trait not in architecture.traits]
        return next(iter(against + lacking), "")


def optimizer_for(architecture: Architecture, model: nn.Module) -> torch.optim.Optimizer:
    """What its original was trained with."""
    if "adam" in architecture.traits:
        return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    rate = 0.1 if "normalizes" in architecture.traits else 0.01
    return torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=1e-4)


@cache
def training_statistics() -> tuple[fl.Statistics, tuple[float, ...], tuple[float, ...]]:
    """Of the whole training set, with mean and std per channel."""
    source = Array(np.asarray(crops(TRAINING_SET, SIDE)), "crops of photographs", "benchmark")
    statistics = fl.scan(source, workers=1)
    return statistics, tuple(statistics.mean.tolist()), tuple(statistics.std.tolist())


def normalized(pixels: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 ``[N, H, W, 3]`` to float32 ``[N, 3, H, W]`` with constants in units of full scale."""
    values = (pixels.astype(np.float64) / 255 - mean) / std
    return torch.from_numpy(values.astype(np.float32)).permute(0, 3, 1, 2).contiguous()


def healthy(name: str, *, tags: bool = False, seed: int = 0) -> Setting:
    """The twin: everything as it should be."""
    architecture = ARCHITECTURES[name]
    torch.manual_seed(seed)
    model = architecture.build().train()
    statistics, mean, std = training_statistics()
    pixels = np.asarray(crops(TRAINING_SET, SIDE)[seed * BATCH : (seed + 1) * BATCH])
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(BATCH)[torch.randperm(BATCH, generator=generator)] % CLASSES
    loss: nn.Module = nn.CrossEntropyLoss()
    declared: dict[str, Any] = {"mean": mean, "std": std, "statistics": statistics}
    if tags:
        labels = torch.bernoulli(torch.full((BATCH, CLASSES), 0.5), generator=generator)
        loss = nn.BCEWithLogitsLoss()
    else:
        declared |= {"classes": CLASSES, "class_counts": (TRAINING_SET // CLASSES,) * CLASSES}
    images = normalized(pixels, mean, std)
    return Setting(architecture, model, pixels, images, labels, loss, optimizer_for(architecture, model), declared)
