"""Carry a plan out, with random numbers that depend on the seed and the parameter's name and on nothing else."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from firstlight._text import short, table
from firstlight.errors import FirstlightError
from firstlight.graph.untouched import kept_random
from firstlight.initialization.drawing import draw_parts
from firstlight.initialization.memory import check_buffers, fresh_buffers, materialize
from firstlight.initialization.plan import Decision, Plan
from firstlight.initialization.sharding import held, moments


@dataclass(frozen=True, slots=True)
class Initialized:
    """One parameter after initialization: the decision, and the size that came out.

    Attributes:
        decision: the plan's decision; its fields are here too (``name``, ``rule``, ``fan_in``, ``gain``, ``std``, ...).
        measured_mean: mean of the elements as they now are.
        measured_std: their standard deviation (over n).
    """

    decision: Decision
    measured_mean: float
    measured_std: float

    @property
    def name(self) -> str:
        """Dotted name of the parameter."""
        return self.decision.name

    @property
    def rule(self) -> str:
        """Short name of the rule that decided."""
        return self.decision.rule

    @property
    def fan_in(self) -> float | None:
        """Inputs that one output sums."""
        return self.decision.fan_in

    @property
    def fan_out(self) -> float | None:
        """Outputs that one input reaches."""
        return self.decision.fan_out

    @property
    def gain(self) -> float | None:
        """Factor that makes up for the nonlinearity."""
        return self.decision.gain

    @property
    def std(self) -> float:
        """Standard deviation that was asked for."""
        return self.decision.std

    @property
    def reason(self) -> str:
        """Why, in one sentence."""
        return self.decision.reason


@dataclass(frozen=True, slots=True)
class InitReport:
    """What initialization did.

    Attributes:
        plan: the plan that was carried out.
        seed: the seed of its random numbers.
        parameters: one entry for each parameter that was set, in the plan's order.
        uncovered: parameters that no rule covers, which kept the values they had.
        buffers: running statistics, which were put back to their start; no other buffer is touched.
        warnings: what will not train as it stands, and why parameters are uncovered, one sentence each.
    """

    plan: Plan
    seed: int
    parameters: tuple[Initialized, ...]
    uncovered: tuple[str, ...]
    buffers: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        head = ("parameter", "rule", "fan in", "gain", "std", "measured", "reason")
        rows = [
            (p.name, p.rule, short(p.fan_in), short(p.gain), short(p.std), short(p.measured_std), p.reason)
            for p in self.parameters
        ]
        rows += [(name, "-", "", "", "", "", "no rule covers it: left as it was") for name in self.uncovered]
        ends = [f"Warning: {warning}" for warning in self.warnings]
        if self.buffers:
            shown = ", ".join(self.buffers[:3]) + (", …" if len(self.buffers) > 3 else "")
            ends.insert(0, f"Running statistics put back to their start: {len(self.buffers)} ({shown})")
        return "\n".join([table(head, rows), *ends])


def apply(plan: Plan, model: nn.Module, *, seed: int = 0, device: torch.device | str | None = None) -> InitReport:
    """Set the parameters of `model` as `plan` says, and put running statistics back to their start.

    The same plan and seed give the same weights, whatever the order of the parameters, their memory format, their
    sharding (DTensor), and, up to rounding, their element type and device. The global random generators are not used.
    A parameter on the meta device gets memory and is drawn straight into it.

    Args:
        plan: the decisions; every parameter of the model must have one, or be listed as uncovered.
        model: the network, changed in place.
        seed: any integer.
        device: where parameters on the meta device get memory; by default the CPU, or the device of their mesh.

    Raises:
        FirstlightError: slug ``plan-does-not-fit``, when plan and model do not have the same parameters;
            ``values-without-rule``, when something on the meta device would get memory but no values. Nothing is
            changed then.
    """
    names = dict(model.named_parameters())
    _check(plan, names)
    kept = _kept(plan, model)
    _check_values(kept, names)
    check_buffers(model)
    materialize(model, device)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        if any(decision.distribution == "reset" for decision in plan.decisions):
            _reset(model, seed)
        _set(plan, parameters, seed)
        touched = fresh_buffers(model)
        done = tuple(Initialized(d, *moments(parameters[d.name])) for d in plan.decisions if d.name not in kept)
    return InitReport(plan, seed, done, kept, touched)


def _check(plan: Plan, parameters: dict[str, nn.Parameter]) -> None:
    planned = {decision.name for decision in plan.decisions} | set(plan.uncovered)
    odd = sorted(planned ^ parameters.keys())
    if odd:
        whose = "the plan does not have" if odd[0] in parameters else "the model does not have"
        raise FirstlightError(
            f"plan and model do not fit: {whose} {odd[0]!r}" + (f" and {len(odd) - 1} more" if len(odd) > 1 else ""),
            "make the plan from a graph of this very model",
            slug="plan-does-not-fit",
            call="apply(plan, model)",
        )


def _kept(plan: Plan, model: nn.Module) -> tuple[str, ...]:
    """Parameters that keep their values: not covered, or left to a module that has no way to reset them."""
    reset = [decision.name for decision in plan.decisions if decision.distribution == "reset"]
    if not reset:
        return plan.uncovered
    able = {id(p) for m in model.modules() if _resetter(m) is not None for p in m.parameters(recurse=False)}
    parameters = dict(model.named_parameters())
    return (*plan.uncovered, *(name for name in reset if id(parameters[name]) not in able))


def _check_values(kept: tuple[str, ...], parameters: dict[str, nn.Parameter]) -> None:
    empty = [name for name in kept if parameters[name].is_meta]
    if empty:
        raise FirstlightError(
            f"{empty[0]} is on the meta device and no rule covers it, so it would get memory but no values",
            f"say how it starts: plan.override({{{empty[0]!r}: {{'std': 0.02}}}})",
            slug="values-without-rule",
            call="apply(plan, model)",
        )


def _set(plan: Plan, parameters: dict[str, nn.Parameter], seed: int) -> None:
    drawn = []
    for decision in plan.decisions:
        if decision.distribution == "reset":
            continue
        local, box = held(parameters[decision.name])
        if decision.values is not None and decision.distribution == "constant":
            local.copy_(torch.tensor(decision.values, device="cpu")[box.offset[0] : box.offset[0] + box.size[0]])
        elif decision.distribution == "constant":
            local.fill_(decision.mean)
        elif local.numel():
            drawn.append((local, decision, box))
    draw_parts(drawn, seed)


def _reset(model: nn.Module, seed: int) -> None:
    """Let every module draw its own parameters, children first, which is the order in which they are constructed."""
    with kept_random():
        torch.manual_seed(seed)
        model.apply(_reset_one)


def _reset_one(module: nn.Module) -> None:
    reset = _resetter(module)
    if reset is not None:
        reset()


def _resetter(module: nn.Module) -> Callable[[], None] | None:
    reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    return reset if callable(reset) else None
