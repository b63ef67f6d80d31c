"""Carry a plan out, with random numbers that depend on the seed and the parameter's name and on nothing else."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from firstlight.errors import FirstlightError
from firstlight.initialization.plan import Decision, Plan, table


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
    """

    plan: Plan
    seed: int
    parameters: tuple[Initialized, ...]
    uncovered: tuple[str, ...]

    def __str__(self) -> str:
        head = ("parameter", "rule", "fan in", "gain", "std", "measured", "reason")
        rows = [
            (p.name, p.rule, _short(p.fan_in), _short(p.gain), _short(p.std), _short(p.measured_std), p.reason)
            for p in self.parameters
        ]
        return table(
            head, rows + [(name, "-", "", "", "", "", "no rule covers it: left as it was") for name in self.uncovered]
        )


def apply(plan: Plan, model: nn.Module, *, seed: int = 0) -> InitReport:
    """Set the parameters of `model` as `plan` says.

    The same plan and seed give the same weights, whatever the order of the parameters, their memory format, and (up to
    rounding) their element type. The global random generators are not used.

    Args:
        plan: the decisions; every parameter of the model must have one, or be listed as uncovered.
        model: the network, changed in place.
        seed: any integer.

    Raises:
        FirstlightError: slug ``plan-does-not-fit``, when plan and model do not have the same parameters;
            ``model-without-memory``, when the model is on the meta device. Nothing is changed then.
    """
    parameters = dict(model.named_parameters())
    _check(plan, parameters)
    with torch.no_grad():
        for decision in plan.decisions:
            _set(parameters[decision.name], decision, seed)
    done = tuple(
        Initialized(decision, *measured)
        for decision, measured in zip(plan.decisions, _measure(plan, parameters), strict=True)
    )
    return InitReport(plan, seed, done, plan.uncovered)


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
    if any(parameter.is_meta for parameter in parameters.values()):
        raise FirstlightError(
            "the model is on the meta device, where there is no memory for weights",
            "give it memory first: model.to_empty(device='cpu')",
            slug="model-without-memory",
            call="apply(plan, model)",
        )


def _set(parameter: Tensor, decision: Decision, seed: int) -> None:
    if decision.distribution == "constant":
        parameter.fill_(decision.mean)
        return
    generator = torch.Generator().manual_seed(stream(seed, decision.name))
    # Drawn contiguously in float32 on the CPU: torch draws other numbers for another layout, type or device.
    drawn = torch.empty(parameter.shape, dtype=torch.float32).normal_(decision.mean, decision.std, generator=generator)
    parameter.copy_(drawn)


def stream(seed: int, name: str) -> int:
    """The 63-bit seed of one parameter's own random numbers."""
    digest = hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=8, person=b"firstlight").digest()
    return int.from_bytes(digest, "little") >> 1


def _measure(plan: Plan, parameters: dict[str, nn.Parameter]) -> Iterator[tuple[float, float]]:
    """Mean and standard deviation of each parameter, fetched from the device in one go."""
    if not plan.decisions:
        return iter(())
    moments = [
        torch.stack([values.mean(), values.std(correction=0)]).cpu()
        for values in (parameters[decision.name].detach().double() for decision in plan.decisions)
    ]
    return ((float(mean), float(std)) for mean, std in torch.stack(moments).tolist())


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
