"""Networks and the means to measure them: the independent side of every comparison."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from firstlight.graph import trace
from firstlight.probe import probe
from firstlight.theory import InputMoments, Prediction, as_they_are, propagate


def predicted(model: nn.Module, example: Tensor, drawn: dict[str, tuple[float, float]] | None = None) -> Prediction:
    """The theory's word for a model with its weights as they are, or of the given moments."""
    return propagate(trace(model, example), as_they_are(model) if drawn is None else drawn)


def normal(model: nn.Module, variance: float = 1.0) -> nn.Module:
    """Draw every matrix from N(0, variance / fan-in) and set every vector to zero, norms left alone."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.dim() > 1:
                fan = parameter[0].numel()
                nn.init.normal_(parameter, 0.0, (variance / fan) ** 0.5)
            elif name == "bias":
                nn.init.zeros_(parameter)
    return model


@dataclass(frozen=True)
class Measured:
    """Mean over draws of each node's second moments, and the standard error of that mean."""

    forward: dict[str, tuple[float, float]]
    backward: dict[str, tuple[float, float]]


def random_direction(output: Tensor) -> Tensor:
    """A loss whose gradient by the output is white noise, independent of the output."""
    return (output * torch.randn_like(output)).sum()


def measured(build: Callable[[], nn.Module], shape: Iterable[int], draws: int) -> Measured:
    """Draw the model and its input `draws` times, run both passes, and average."""
    forward: dict[str, list[float]] = {}
    backward: dict[str, list[float]] = {}
    for seed in range(draws):
        torch.manual_seed(seed)
        found = probe(build(), torch.randn(*shape), loss=random_direction)
        for node in found.nodes:
            forward.setdefault(node.name, []).append(node.forward_std**2 + node.forward_mean**2)
            if node.gradient_std is not None:
                backward.setdefault(node.name, []).append(node.gradient_std**2)
    return Measured(_summary(forward), _summary(backward))


def disagreements(build: Callable[[], nn.Module], shape: Sequence[int], draws: int, within: float) -> list[str]:
    """Second moments off by more than four standard errors and the share `within`, for what a finite width adds.

    An operation without a rule is a failure: nothing would be compared.
    """
    found = measured(build, shape, draws)
    torch.manual_seed(0)
    said = predicted(build(), torch.zeros(*shape))
    assert not said.opaque
    wrong = []
    for node in said.nodes:
        for side, value in (("forward", node.forward_second_moment), ("backward", node.backward_second_moment)):
            seen = getattr(found, side)
            if node.name in seen and value is not None:
                mean, error = seen[node.name]
                if not abs(mean - value) <= 4 * error + within * mean:
                    wrong.append(f"{side} {node.name}: predicted {value:.5g}, measured {mean:.5g} ± {error:.2g}")
    return wrong


def gradients(
    build: Callable[[], nn.Module], batch: Tensor, draws: int
) -> tuple[dict[str, float], dict[str, float | None]]:
    """Measured and predicted second moments of the gradient by each node, the data told."""
    seen: dict[str, list[float]] = {}
    for seed in range(draws):
        torch.manual_seed(seed)
        for node in probe(build(), batch, loss=random_direction).nodes:
            if node.gradient_std is not None:
                seen.setdefault(node.name, []).append(node.gradient_std**2)
    torch.manual_seed(0)
    model = build()
    said = propagate(trace(model, batch), as_they_are(model), inputs=InputMoments.of(batch))
    return {name: float(np.mean(v)) for name, v in seen.items()}, {n.name: n.backward_second_moment for n in said.nodes}


def _summary(values: dict[str, list[float]]) -> dict[str, tuple[float, float]]:
    return {
        name: (float(np.mean(found)), float(np.std(found, ddof=1) / len(found) ** 0.5))
        for name, found in values.items()
    }


class Residual(nn.Module):
    """``x + branch(x)``."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch."""
        return x + self.branch(x)


class Written(nn.Module):
    """Any function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Apply it."""
        return self.function(x)
