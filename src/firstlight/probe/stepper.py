"""Optimizer steps by an optimizer like the user's, and what each of them did to every parameter."""

import copy
import inspect
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from firstlight.graph.trace import reason
from firstlight.probe.moments import fetch, in_memory_order, root_mean_square
from firstlight.probe.run import OptimizerFacts, ParameterStep

Optimizing = Optimizer | Callable[[Iterable[nn.Parameter]], Optimizer]

_ABSENT = -1.0
_DEFAULT = "Adam with a learning rate of 1e-4"


class Stepper:
    """Makes steps and measures them; the caller puts the parameters back.

    Args:
        model: whose parameters are stepped.
        optimizer: the one to be like, or a callable that makes one.
        notes: where to say what could not be done.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizing | None, notes: list[str]) -> None:
        self._parameters = dict(model.named_parameters())
        self._notes = notes
        self._made: list[list[Tensor]] = []
        self._given = optimizer is not None
        try:
            self._optimizer = _made(optimizer, self._parameters)
        except Exception as error:
            self._replace(error)
        known = optimizer if isinstance(optimizer, Optimizer) else self._optimizer
        self.facts = self._facts(known, isinstance(optimizer, Optimizer) or self._given)

    @torch.no_grad()
    def step(self) -> None:
        """Make one step with the gradients there are."""
        rows = [[root_mean_square(p), *_gradient(p)] for p in self._parameters.values()]
        before = {name: p.detach().clone() for name, p in self._parameters.items() if p.grad is not None}
        while not self._stepped():
            for name, values in before.items():
                self._parameters[name].copy_(values)
        for (name, p), row in zip(self._parameters.items(), rows, strict=True):
            row += _moved(p, before[name].sub_(p)) if name in before else [torch.zeros_like(row[0])] * 2
        self._made.append([torch.stack(row) for row in rows])

    def _stepped(self) -> bool:
        """Whether a step could be made; if not, another optimizer, or none, has taken the place."""
        try:
            if self._optimizer is not None:
                with torch.enable_grad():
                    self._optimizer.step()
        except Exception as error:
            self._replace(error)
            return False
        return True

    def _replace(self, error: Exception) -> None:
        given, self._given = self._given, False
        self._optimizer = _made(None, self._parameters) if given else None
        maker = _DEFAULT if given else "nobody"
        self._notes.append(f"steps by {'the given optimizer' if given else _DEFAULT}: {reason(error)}; made by {maker}")

    def steps(self) -> list[tuple[ParameterStep, ...]]:
        """What every step did to every parameter, in one transfer."""
        numbers = iter(fetch([row for rows in self._made for row in rows]))
        return [tuple(_as_step(name, next(numbers)) for name in self._parameters) for _ in self._made]

    def _facts(self, optimizer: Optimizer | None, given: bool) -> OptimizerFacts:
        names = {id(parameter): name for name, parameter in self._parameters.items()}
        groups = [] if optimizer is None else optimizer.param_groups
        held = [(names.get(id(p)), float(group.get("lr", math.nan))) for group in groups for p in group["params"]]
        return OptimizerFacts(
            name=type(optimizer).__name__ if optimizer is not None else "Adam",
            learning_rate={name: rate for name, rate in held if name is not None},
            given=given,
            strangers=sum(name is None for name, _ in held),
        )


def _gradient(parameter: Tensor) -> list[Tensor]:
    """Root mean square of its gradient, and share of zeros; -1 and 1 when there is none."""
    if parameter.grad is None:
        return [torch.full((), x, dtype=torch.float64, device=parameter.device) for x in (_ABSENT, 1.0)]
    flat = in_memory_order(parameter.grad)
    return [root_mean_square(flat), 1 - torch.count_nonzero(flat).double() / max(flat.numel(), 1)]


def _moved(parameter: Tensor, less: Tensor) -> list[Tensor]:
    """Root mean square of a change, and the change of the loss to first order; `less` is before minus after."""
    gradient = parameter.grad.to_dense() if parameter.grad is not None and parameter.grad.is_sparse else parameter.grad
    assert gradient is not None, "what has no gradient is not asked"
    wide = torch.promote_types(torch.float32, gradient.dtype)
    return [root_mean_square(less), -(gradient.to(wide) * less.to(wide)).sum(dtype=torch.float64)]


def _as_step(name: str, numbers: list[float]) -> ParameterStep:
    size, gradient, zero, update, slope = numbers
    return ParameterStep(name, size, None if gradient == _ABSENT else gradient, zero, update, slope)


def _made(optimizer: Optimizing | None, parameters: Mapping[str, nn.Parameter]) -> Optimizer | None:
    """An optimizer over these parameters: a twin of the given one, what the callable makes, or the default one.

    None when there is nothing to optimize.
    """
    if isinstance(optimizer, Optimizer):
        return _twin(optimizer, parameters.values())
    if optimizer is not None:
        return optimizer(parameters.values())
    trainable = [parameter for parameter in parameters.values() if parameter.requires_grad]
    # Adam divides by √v + eps: 1e-8 is zero in float16, as is v, and 0/0 would be our fault and not the network's.
    eps = max([1e-8, *(torch.finfo(p.dtype).tiny for p in trainable if p.is_floating_point())])
    return torch.optim.Adam(trainable, lr=1e-4, eps=eps) if trainable else None


def _twin(optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """A fresh optimizer of the same class with the same hyperparameters, over those of the parameters that it holds.

    What else it holds must not move, and is left out. A class that cannot be built from parameter groups and defaults
    alone (it wraps another one, say) is copied around the parameters instead, with the state it has.
    """
    own = {id(parameter): parameter for parameter in parameters}
    groups = [
        {key: [p for p in value if id(p) in own] if key == "params" else _copy(value) for key, value in group.items()}
        for group in optimizer.param_groups
    ]
    known = inspect.signature(type(optimizer)).parameters
    settings = {key: _copy(value) for key, value in optimizer.defaults.items() if key in known}
    try:
        return type(optimizer)(groups, **settings)
    except Exception:
        return _around(optimizer, dict(own))


def _around(optimizer: Optimizer, kept: dict[int, Any]) -> Optimizer:
    """A deep copy of all but what is in `kept` by its identity, and without anyone's hooks.

    Attribute by attribute, for an optimizer's own way of being copied forgets those of subclasses.
    """
    copied = object.__new__(type(optimizer))
    for key, value in vars(optimizer).items():
        if key.endswith("_hooks"):
            vars(copied)[key] = OrderedDict()
        elif key != "step":  # a scheduler's patch, bound to the optimizer it was made for
            vars(copied)[key] = copy.deepcopy(value, kept)
    return copied


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else copy.copy(value)
