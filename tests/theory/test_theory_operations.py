"""One operation at a time, on inputs and gradients whose sites and samples agree: its kernel, forward and backward."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from kernel_references import kernel
from torch import Tensor, nn
from wide_networks import Written, normal

from firstlight.graph import trace
from firstlight.theory import InputMoments, as_they_are, walk

WIDTH, DRAWS = 64, 12
MEAN, FAR, OTHER = 0.4, 0.5, 0.3
IMAGE, TOKENS, FEW = (4, WIDTH, 8, 8), (4, 12, WIDTH), (4, 3, WIDTH)
INPUTS = InputMoments(MEAN, 1 + MEAN**2, far=FAR, other=OTHER)
Function = Callable[[Tensor], Tensor]


def inputs(shape: tuple[int, ...]) -> Tensor:
    """Of variance one, with `FAR` between sites of a sample and `OTHER` between samples."""
    one = [1 if d != (1 if len(shape) != 3 else 2) else n for d, n in enumerate(shape)]
    sample = [shape[0], *one[1:]]
    parts = (OTHER, one), (FAR - OTHER, sample), (1 - FAR, shape)
    return MEAN + sum(math.sqrt(share) * torch.randn(size) for share, size in parts)


class Summed(nn.Module):
    """What an operation makes, and the sum of it over all sites: its gradients at two sites agree by one half."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        y = self.inner(x)
        sites = tuple(range(2, y.dim())) if y.dim() != 3 else (1,)
        return (y, y.sum(sites)) if y.dim() > 2 else y


def there(x: Tensor) -> Tensor:
    """[N, C, sites, 1]: those that are not zero throughout, as padding is and the gradient of what was left out."""
    z = (x.transpose(1, 2) if x.dim() == 3 else x).flatten(2) if x.dim() > 2 else x[..., None]
    return z[:, :, z.abs().sum((0, 1)) > 0, None]


def measure(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> list[tuple[float, float]]:
    """Mean and standard error of the result's kernel, and of that of the gradient by the input."""
    found = []
    for seed in range(DRAWS):
        torch.manual_seed(seed)
        model, x = Summed(build()), inputs(shape).requires_grad_()
        out = model(x)
        outputs = out if isinstance(out, tuple) else (out,)
        (back,) = torch.autograd.grad(sum((y * torch.randn_like(y)).sum() for y in outputs), x)
        y = there(outputs[0].detach())
        found.append([float(y.mean()), *kernel(y), *kernel(there(back))[:2]])
    values = np.array(found)
    return list(zip(values.mean(0).tolist(), (values.std(0, ddof=1) / DRAWS**0.5).tolist(), strict=True))


def foresee(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> list[float]:
    """The same from the theory."""
    torch.manual_seed(0)
    model = Summed(build())
    graph = trace(model, torch.zeros(shape))
    context, steps, gradients = walk(graph, as_they_are(model), INPUTS)
    assert not any(step.opaque for step in steps.values())
    back = gradients[next(node.name for node in graph.nodes if node.kind == "input")]
    out = context.signals[graph.outputs[0]]
    found = []
    for second, *maps in ((out.second, *out.maps()), (back.second, back.second, back.far)):
        found += [
            float(full[some].mean()) for some, *all_ in [torch.broadcast_tensors(second > 0, *maps)] for full in all_
        ]
    return found


def layer(*modules: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: normal(nn.Sequential(*(build() for build in modules)))


def written(function: Function) -> Callable[[], nn.Module]:
    return lambda: Written(function)


def conv(*sizes: int, **options: int) -> Callable[[], nn.Module]:
    return layer(lambda: nn.Conv2d(WIDTH, WIDTH, *sizes, **options))


class Gated(nn.Module):
    """A gate of each sample's mean."""

    def __init__(self, variance: float = 1.0) -> None:
        super().__init__()
        self.layer = normal(nn.Conv2d(WIDTH, WIDTH, 1), variance)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.layer(x.mean((2, 3), keepdim=True)))


class Attending(nn.Module):
    """One head with small logits."""

    def __init__(self, *, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.query, self.key, self.value = (normal(nn.Linear(WIDTH, WIDTH, bias=False)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = 0.5 * self.query(x), self.key(x), self.value(x)
        if self.fused:
            return nn.functional.scaled_dot_product_attention(q, k, v)
        return torch.softmax(q @ k.transpose(1, 2) / WIDTH**0.5, -1) @ v


class Divided(nn.Module):
    """One projection divided by the length of another."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = (normal(nn.Linear(WIDTH, WIDTH, bias=False)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) / torch.linalg.vector_norm(self.two(x), dim=-1, keepdim=True)


class Weighted(nn.Module):
    """Einsum, of one weight for all tokens or one for each."""

    def __init__(self, equation: str, *shape: int) -> None:
        super().__init__()
        self.equation, self.weight = equation, nn.Parameter(torch.randn(shape) / WIDTH**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum(self.equation, x, self.weight)


CASES = {
    "linear": (layer(lambda: nn.Linear(WIDTH, 2 * WIDTH)), TOKENS),
    "patches of tokens": (
        layer(written(lambda x: x.reshape(4, 3, -1)), lambda: nn.Linear(4 * WIDTH, WIDTH)), TOKENS,
    ),
    "layer of sites": (layer(written(lambda x: x.transpose(1, 2)), lambda: nn.Linear(12, WIDTH)), TOKENS),
    "convolution": (conv(3, padding=1), IMAGE),
    "strided": (conv(3, stride=2, padding=1), IMAGE),
    "dilated": (conv(3, dilation=2), IMAGE),
    "patches": (conv(4, stride=4), IMAGE),
    "grouped": (conv(3, groups=4), IMAGE),
    "transposed": (layer(lambda: nn.ConvTranspose2d(WIDTH, WIDTH, 3, stride=2)), IMAGE),
    "transposed by one": (layer(lambda: nn.ConvTranspose2d(WIDTH, WIDTH, 3, padding=1)), IMAGE),
    "average pool": (written(lambda x: nn.functional.avg_pool2d(x, 3, 2, 1)), IMAGE),
    "average pool side by side": (written(lambda x: nn.functional.avg_pool2d(x, 2)), IMAGE),
    "average pool inside": (written(lambda x: nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)), IMAGE),
    "adaptive pool": (lambda: nn.AdaptiveAvgPool2d(4), IMAGE),
    "adaptive pool to more": (lambda: nn.AdaptiveAvgPool2d(16), IMAGE),
    "global pool": (lambda: nn.AdaptiveAvgPool2d(1), IMAGE),
    "mean of tokens": (written(lambda x: x.mean(1)), TOKENS),
    "sum of channels": (written(lambda x: x.sum(-1, keepdim=True)), TOKENS),
    "max pool": (lambda: nn.MaxPool2d(2), IMAGE),
    "max pool overlap": (lambda: nn.MaxPool2d(3, 2, 1), IMAGE),
    "max pool of relu": (written(lambda x: nn.functional.max_pool2d(x.relu(), 3, 1, 1)), IMAGE),
    "relu": (lambda: nn.ReLU(), IMAGE),
    "gelu": (lambda: nn.GELU(), TOKENS),
    "glu": (lambda: nn.GLU(), TOKENS),
    "nearest": (written(lambda x: nn.functional.interpolate(x, scale_factor=2)), IMAGE),
    "bilinear": (written(lambda x: nn.functional.interpolate(x, (16, 16), mode="bilinear")), IMAGE),
    "slice": (written(lambda x: x[:, 3:9]), TOKENS),
    "roll": (written(lambda x: x.roll(3, 1)), TOKENS),
    "part": (written(lambda x: x.chunk(3, 1)[1]), TOKENS),
    "flip": (written(lambda x: x.flip(1)), TOKENS),
    "joined": (written(lambda x: torch.cat([x, 2 * x], -1)), TOKENS),
    "repeated": (written(lambda x: x.mean(1, keepdim=True).expand(-1, 12, -1)), TOKENS),
    "padded": (written(lambda x: nn.functional.pad(x, (1, 1, 1, 1))), IMAGE),
    "dropout": (lambda: nn.Dropout(0.3), IMAGE),
    "dropout of channels": (lambda: nn.Dropout2d(0.3), IMAGE),
    "gate": (Gated, IMAGE),
    "gate before a function": (lambda: nn.Sequential(Gated(4.0), nn.ReLU()), IMAGE),
    "einsum": (lambda: Weighted("btc,cd->btd", WIDTH, WIDTH), TOKENS),
    "einsum by token": (lambda: Weighted("btc,tcd->btd", 12, WIDTH, WIDTH), TOKENS),
    "layer norm": (lambda: nn.LayerNorm(WIDTH), TOKENS),
    "root mean square norm": (lambda: nn.RMSNorm(WIDTH), TOKENS),
    "batch norm": (lambda: nn.BatchNorm2d(WIDTH), IMAGE),
    "batch norm of tokens": (lambda: nn.BatchNorm1d(12), TOKENS),
    "group norm": (lambda: nn.GroupNorm(4, WIDTH), IMAGE),
    "instance norm": (lambda: nn.InstanceNorm2d(WIDTH), IMAGE),
    "response norm": (lambda: nn.LocalResponseNorm(5, 0.1, 0.75, 1.0), IMAGE),
    "largest": (written(lambda x: x.max(1, keepdim=True)[0]), TOKENS),
    "largest of a dimension": (written(lambda x: x.amax(1)), TOKENS),
    "length": (written(lambda x: torch.linalg.vector_norm(x, dim=-1, keepdim=True)), TOKENS),
    "times noise": (written(lambda x: x * torch.rand_like(x)), TOKENS),
    "plus noise": (written(lambda x: x + torch.randn_like(x)), TOKENS),
    "softmax": (lambda: nn.Softmax(-1), TOKENS),
    "softmax of sites": (lambda: nn.Softmax(1), TOKENS),
    "attention": (lambda: Attending(fused=True), TOKENS),
    "attention by hand": (lambda: Attending(fused=False), TOKENS),
    "attention of few": (lambda: Attending(fused=True), FEW),
    "attention of few by hand": (lambda: Attending(fused=False), FEW),
    "deviation": (written(lambda x: x.std(-1, keepdim=True)), TOKENS),
    "quotient": (lambda: Divided(), TOKENS),
    "root": (written(lambda x: (x.square().mean(-1, keepdim=True) + 1).sqrt()), TOKENS),
    "power": (written(lambda x: x.pow(3)), TOKENS),
    "sum with itself": (written(lambda x: x + 0.5 * x.relu()), TOKENS),
    "copies": (written(lambda x: x.repeat(1, 2, 1)), TOKENS),
}  # fmt: skip
WITHIN = {"instance norm": 0.05}


@pytest.mark.parametrize("name", CASES)
def test_an_operation_has_the_kernels_that_are_measured(name: str) -> None:
    build, shape = CASES[name]
    said, seen = foresee(build, shape), measure(build, shape)
    what = ("mean", "second", "far", "other", "back", "back far")
    wrong = [
        f"{part}: said {value:.4g}, measured {mean:.4g} ± {error:.2g}"
        for part, value, (mean, error), scale in zip(
            what, said, seen, [seen[1][0] ** 0.5] + 3 * [seen[1][0]] + 2 * [seen[4][0]], strict=True
        )
        if abs(value - mean) > 4 * error + WITHIN.get(name, 0.03) * scale
    ]
    assert not wrong
