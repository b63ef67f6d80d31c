"""Kernels of wide networks by Monte Carlo: the references that the theory's numbers are held against.

    python tests/theory/kernel_references.py [--draws N] [--width N]

A wide network with random weights is a Gaussian process (Lee et al., 2018; Novak et al., 2019, and the
`neural-tangents` library compute its kernel in closed form). Here each network is simply drawn, again and again, and
its kernel measured: the product of one channel at two places, averaged over channels and draws, for a place with
itself, with another site of the sample, and with another sample. The error is the standard error over draws.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from wide_networks import Residual, normal

from firstlight.graph import record, trace
from firstlight.theory import as_they_are, walk
from firstlight.theory.signal import Signal

Build = Callable[[int], nn.Module]


class Attention(nn.Module):
    """Softmax attention of one head, its logits scaled by 1/√d."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [N, T, C] that look at each other."""
        logits = self.query(x) @ self.key(x).transpose(1, 2) / x.shape[-1] ** 0.5
        return torch.softmax(logits, -1) @ self.value(x)


class Joined(nn.Module):
    """Two branches beside each other."""

    def __init__(self, one: nn.Module, two: nn.Module) -> None:
        super().__init__()
        self.one, self.two = one, two

    def forward(self, x: Tensor) -> Tensor:
        """Join their channels."""
        return torch.cat([self.one(x), self.two(x)], 1)


def convolutions(width: int) -> nn.Module:
    """Convolutions with padding and stride, average pooling, a global average."""
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.GELU(),
        nn.AvgPool2d(2), nn.Conv2d(width, width, 3, padding=1, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, width), nn.Tanh(),
    )  # fmt: skip


def branches(width: int) -> nn.Module:
    """A sum with a shortcut and a join of two activations."""
    block = nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))
    sides = Joined(nn.Sequential(nn.Conv2d(width, width, 1), nn.ReLU()), nn.Conv2d(width, width, 1))
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1), Residual(block), sides, nn.Conv2d(2 * width, width, 1))


def transformer(width: int) -> nn.Module:
    """One block: layer norm, attention, layer norm, two linear layers, both with shortcuts; then a mean of tokens."""
    mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
    return nn.Sequential(
        nn.Linear(width, width), Residual(nn.Sequential(nn.LayerNorm(width), Attention(width))), Residual(mlp),
        nn.LayerNorm(width),
    )  # fmt: skip


def perceptron(width: int) -> nn.Module:
    """Linear layers with a root-mean-square norm between them."""
    return nn.Sequential(
        nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.RMSNorm(width), nn.Linear(width, width),
        nn.Tanh(), nn.Linear(width, width),
    )  # fmt: skip


# What builds a stack of a width, and the shape of its input, with -1 for the width.
STACKS: dict[str, tuple[Build, tuple[int, ...]]] = {
    "convolutions": (convolutions, (3, -1, 8, 8)),
    "branches": (branches, (3, -1, 6, 6)),
    "transformer": (transformer, (3, 12, -1)),
    "perceptron": (perceptron, (4, -1)),
}
_VARIANCE = 1.5  # of a weight, times the numbers it sums


@dataclass(frozen=True)
class Entry:
    """One number of a kernel: measured with its error, and foreseen."""

    node: str
    what: str
    measured: float
    error: float
    foreseen: float


def kernel(x: Tensor) -> tuple[float, float, float]:
    """A place with itself, with another site, with another sample; `x` [N, C, *sites], [N, T, C] or [N, C]."""
    z = x.double()
    z = (z.transpose(1, 2) if z.dim() == 3 else z).flatten(2) if z.dim() > 2 else z[..., None]
    n, sites = z.shape[0], z.shape[2]
    own, sums = float(z.square().mean()), z.sum(2)
    far = float((sums.square() - z.square().sum(2)).mean()) / (sites * (sites - 1)) if sites > 1 else own
    means = sums / sites
    other = float((means.sum(0).square() - means.square().sum(0)).mean()) / (n * (n - 1))
    return own, far, other


def references(name: str, draws: int, width: int) -> list[Entry]:
    """Measure and foresee the kernel of each operation of a stack; every draw has weights and inputs of its own."""
    build, sizes = STACKS[name]
    shape = tuple(width if size < 0 else size for size in sizes)
    seen: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for seed in range(draws):
        torch.manual_seed(seed)
        model, found = normal(build(width), _VARIANCE), {}
        with torch.no_grad():
            run = record(
                model,
                (torch.randn(shape),),
                {},
                how="",
                observe=lambda node, x, f=found: f.update({node.name: kernel(x)}),
            )
        for draft, values in found.items():
            if draft in run.names:
                seen[run.names[draft]].append(values)
    weights = {n: (0.0, _VARIANCE / p[0].numel()) for n, p in model.named_parameters() if p.dim() > 1}
    context, steps, _ = walk(trace(model, torch.zeros(shape)), as_they_are(model) | weights)
    return [entry for node in steps if node in seen for entry in _entries(context.signals[node], seen[node])]


def _entries(signal: Signal, seen: list[tuple[float, float, float]]) -> list[Entry]:
    values = np.array(seen)
    errors = values.std(0, ddof=1) / len(values) ** 0.5
    _, *foreseen = signal.scalars()
    sites = 2 if signal.sites() > 1 else 1
    rows = zip(("second", "far", "other"), values.mean(0), errors, foreseen, strict=True)
    return [Entry(signal.name, *row) for row in rows if sites > 1 or row[0] != "far"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--width", type=int, default=512)
    options = parser.parse_args()
    for name in STACKS:
        for e in references(name, options.draws, options.width):
            print(
                f"{name:13} {e.node:30} {e.what:7} {e.foreseen:10.5f} measured {e.measured:10.5f} ± {e.error:.5f}"
                f"  {(e.foreseen - e.measured) / max(e.error, 1e-300):+6.1f} standard errors",
                flush=True,
            )


if __name__ == "__main__":
    main()
