"""Kaiming's gain is that of the activation that really follows, whichever way the network writes it."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from scipy import integrate, stats
from torch import Tensor, nn

from firstlight.graph import trace
from firstlight.initialization import kaiming

Function = Callable[[Tensor], Tensor]

MODULES: dict[str, Function] = {
    kind.__name__: kind()
    for kind in (
        nn.ReLU, nn.ReLU6, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Tanh, nn.Hardtanh,
        nn.Softplus, nn.Softshrink, nn.Hardshrink, nn.LogSigmoid, nn.PReLU,
    )
}  # fmt: skip
FUNCTIONAL: dict[str, Function] = {
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "gelu, tanh": lambda x: F.gelu(x, approximate="tanh"),
    "elu": lambda x: F.elu(x, 0.5),
    "in place": lambda x: F.relu_(x * 1.0),
    "clamp": lambda x: x.clamp(-0.5, 2.0),
    "threshold": lambda x: F.threshold(x, 0.3, 0.0),
    "tanh": torch.tanh,
}
WRITTEN: dict[str, Function] = {
    "silu": lambda x: x * torch.sigmoid(x),
    "silu, turned": lambda x: torch.sigmoid(x) * x,
    "quick gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "mish": lambda x: x * torch.tanh(F.softplus(x)),
    "mish by exp": lambda x: x * torch.tanh(torch.log1p(torch.exp(x))),
    "hard swish": lambda x: x * F.relu6(x + 3) / 6,
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
    "gelu by tanh": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu squared": lambda x: F.relu(x) ** 2,
    "scaled": lambda x: 1.7881 * F.silu(x),
    "shrunk before": lambda x: F.relu(0.5 * x),
    "snake": lambda x: x + torch.sin(x).square(),
    "lecun's tanh": lambda x: 1.7159 * torch.tanh(2 / 3 * x),
}


class Between(nn.Module):
    """Two linear layers and what is between them."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.one, self.two, self.function = nn.Linear(8, 8), nn.Linear(8, 8), function

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.function(self.one(x)))


def decided(function: Function) -> float | None:
    plan = kaiming(trace(Between(function), torch.zeros(2, 8)))
    return next(d.gain for d in plan.decisions if d.name == "one.weight")


def by_scipy(function: Function) -> float:
    """``1 / √E φ(z)²`` by adaptive quadrature over the function itself."""

    def integrand(z: float) -> float:
        with torch.no_grad():
            value = function(torch.tensor([z], dtype=torch.float64))
        return float(value) ** 2 * float(stats.norm.pdf(z))

    if isinstance(function, nn.Module):
        function.double()
    cuts = (-12, -3, -1, -0.5, 0, 0.3, 0.5, 1, 2, 3, 6, 12)
    parts = (integrate.quad(integrand, a, b, epsabs=1e-11)[0] for a, b in itertools.pairwise(cuts))
    return 1 / math.sqrt(sum(parts))


@pytest.mark.parametrize("name", [*MODULES, *FUNCTIONAL, *(f"{name} written out" for name in WRITTEN)])
def test_the_gain_is_that_of_the_function_that_follows(name: str) -> None:
    known = MODULES | FUNCTIONAL | {f"{n} written out": f for n, f in WRITTEN.items()}
    assert decided(known[name]) == pytest.approx(by_scipy(known[name]), rel=1e-6)


def test_a_function_ends_where_something_else_reads_it_or_comes_in() -> None:
    class Shared(Between):
        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(self.one(x))
            return self.two(y) + y**2  # relu is read twice: the second layer sees relu, not its square

    plan = kaiming(trace(Shared(torch.relu), torch.zeros(2, 8)))
    assert plan.decisions[0].gain == pytest.approx(math.sqrt(2))

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.value, self.out = (nn.Linear(8, 8) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.out(F.silu(self.gate(x)) * self.value(x))

    plan = kaiming(trace(Gated(), torch.zeros(2, 8)))
    gains = {d.name: d.gain for d in plan.decisions}
    assert gains["gate.weight"] == pytest.approx(by_scipy(F.silu), rel=1e-6)
    assert gains["value.weight"] == 1
