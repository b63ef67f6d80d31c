"""An optimizer like the user's, that can make steps without the user's knowing of them."""

import copy
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from firstlight.probe.run import OptimizerFacts

Optimizing = Optimizer | Callable[[Iterable[nn.Parameter]], Optimizer]

_DEFAULT_RATE = 1e-4


def default_optimizer(model: nn.Module) -> Optimizer | None:
    """Adam with a small learning rate; None for a model in which nothing can be learned."""
    trainable = [p for p in model.parameters() if p.requires_grad and not p.is_complex()]
    return torch.optim.Adam(trainable, lr=_DEFAULT_RATE) if trainable else None


def twin(optimizer: Optimizing, model: nn.Module) -> Optimizer:
    """A fresh optimizer of the same class with the same hyperparameters over the same parameters.

    A class that cannot be built from its parameter groups and defaults alone (it wraps another one, say) is copied
    around the parameters instead, with the state it has.
    """
    if not isinstance(optimizer, Optimizer):
        return optimizer(model.parameters())
    groups = [
        {key: list(value) if key == "params" else _own(value) for key, value in group.items()}
        for group in optimizer.param_groups
    ]
    try:
        known = inspect.signature(type(optimizer)).parameters
        settings = {key: _own(value) for key, value in optimizer.defaults.items() if key in known}
        return type(optimizer)(groups, **settings)
    except Exception:
        held = {id(parameter): parameter for group in groups for parameter in group["params"]}
        copied = copy.deepcopy(optimizer, held)
        vars(copied).pop("step", None)  # a scheduler's patch, bound to the optimizer it was made for
        return copied


def _own(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else copy.copy(value)


def facts(optimizer: Optimizer | None, model: nn.Module, given: bool) -> OptimizerFacts:
    """What the optimizer holds."""
    if optimizer is None:
        return OptimizerFacts("Adam", {}, given)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates: dict[str, float] = {}
    strangers = 0
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) in names:
                rates[names[id(parameter)]] = float(group.get("lr", float("nan")))
            else:
                strangers += 1
    return OptimizerFacts(type(optimizer).__name__, rates, given, strangers)
