"""What mixes samples is named, and what only looks as if it did is not."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from firstlight.probe import Mixing, run_steps

SAMPLES, CHANNELS, SIDE = 4, 8, 8


class Do(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Tokens(nn.Module):
    """Attention over the positions of a map; `arrange` brings it to tokens, `back` to a map."""

    def __init__(self, arrange: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor], first: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(CHANNELS, 2, batch_first=first)
        self.arrange, self.back = arrange, back

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.arrange(x)
        return self.back(self.attention(tokens, tokens, tokens, need_weights=False)[0])


def found(middle: nn.Module, *, act: nn.Module | None = None) -> Mixing:
    """What is found in a small network around `middle`."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, CHANNELS, 3, padding=1), middle, act or nn.ReLU(), nn.Flatten(), nn.Linear(CHANNELS * SIDE**2, 4)
    )
    images = torch.randn(SAMPLES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    run = run_steps(model, images, steps=1, histograms=False)
    assert run.mixing is not None, run.notes
    return run.mixing


def windows(x: Tensor) -> Tensor:
    """[N, C, 8, 8] to [4 N, 16, C]: four windows of each map, as in Swin."""
    n, c, _, _ = x.shape
    return x.reshape(n, c, 2, 4, 2, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)


def unwindowed(x: Tensor) -> Tensor:
    return x.reshape(-1, 2, 2, 4, 4, x.shape[-1]).permute(0, 5, 1, 3, 2, 4).reshape(-1, x.shape[-1], SIDE, SIDE)


def by_heads(x: Tensor) -> Tensor:
    """Attention of channels to channels with the heads folded into the samples, transposed in memory."""
    n, c, h, w = x.shape
    y = x.reshape(n * 2, c // 2, h * w)
    return (torch.softmax(y @ y.mT / h, -1) @ y).mT.reshape(n, h, w, c).permute(0, 3, 1, 2)


def shuffled(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.reshape(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


SILENT = {
    "group norm": nn.GroupNorm(2, CHANNELS),
    "layer norm": nn.LayerNorm((CHANNELS, SIDE, SIDE)),
    "instance norm": nn.InstanceNorm2d(CHANNELS),
    "batch norm with running statistics": nn.BatchNorm2d(CHANNELS),
    "dropout": nn.Dropout(0.5),
    "attention": Tokens(lambda x: x.flatten(2).mT, lambda y: y.mT.unflatten(2, (SIDE, SIDE)), True),
    "attention in windows": Tokens(windows, unwindowed, True),
    "attention between channels": Do(by_heads),
    "shuffled channels": Do(shuffled),
    "pixels into channels and back": nn.Sequential(nn.PixelUnshuffle(2), nn.PixelShuffle(2)),
    "softmax over channels": nn.Softmax(1),
    "a mean of each sample": Do(lambda x: x - x.mean((1, 2, 3), keepdim=True)),
    "samples one by one": Do(lambda x: torch.stack([sample * 2 for sample in x])),
    "channels last": Do(lambda x: x.contiguous(memory_format=torch.channels_last)),
}
MIXED: dict[str, tuple[nn.Module, str]] = {
    "a reshape that should have been a transposition": (Do(lambda x: x.transpose(0, 1).reshape(x.shape)), "reshape"),
    "softmax over samples": (nn.Softmax(0), "softmax"),
    "a mean over samples": (Do(lambda x: x - x.mean(0)), "sub"),
    "a norm over everything": (Do(lambda x: x / x.norm()), "div"),
    "neighbours added": (Do(lambda x: x + x.roll(1, 0)), "roll"),
    "batch norm without running statistics": (nn.BatchNorm2d(CHANNELS, track_running_stats=False), "batch_norm"),
    "attention over samples": (
        Tokens(lambda x: x.flatten(2).mT, lambda y: y.mT.unflatten(2, (SIDE, SIDE)), False),
        "scaled_dot_product_attention",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SILENT)
def test_what_keeps_samples_apart_is_silent(name: str) -> None:
    assert found(SILENT[name]) == Mixing(None)


@pytest.mark.parametrize("name", MIXED)
def test_what_mixes_samples_is_named(name: str) -> None:
    middle, operation = MIXED[name]
    mixing = found(middle)
    assert mixing.node is not None
    assert mixing.node.rpartition(":")[2].startswith(operation), mixing
    assert mixing.change > 0.01


def test_rounding_in_an_exploding_network_is_no_mixing() -> None:
    """A sum over one sample may be taken in another order than over two, and thirty saturated layers make it large."""
    layers: list[nn.Module] = []
    for _ in range(30):
        layers += [nn.Linear(64, 64), nn.Tanh()]
    torch.manual_seed(0)
    model = nn.Sequential(*layers, nn.Linear(64, 4))
    with torch.no_grad():
        for layer in layers[::2]:
            layer.weight.mul_(100)
    x = torch.randn(6, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        alone, together = model(x[:1]), model(x[:2])[:1]
    assert float((alone - together).abs().max() / alone.abs().max()) > 1e-3  # so it is large
    assert run_steps(model, x, steps=1, histograms=False).mixing == Mixing(None)
    mixed = nn.Sequential(*layers[:2], nn.Softmax(0), *layers[2:], nn.Linear(64, 4))
    assert run_steps(mixed, x, steps=1, histograms=False).mixing.node == "2:softmax"


def test_a_change_that_is_small_in_eval_mode_is_mixing_too() -> None:
    """Two companions leave an honest result the same to the last bit, so that next to nothing is enough."""
    faint = nn.Sequential(nn.Conv2d(3, 8, 3), Do(lambda x: x * 1e-4), nn.Softmax(0), nn.Flatten(), nn.LazyLinear(4))
    x = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    faint(x)
    mixing = run_steps(faint, x, steps=1, histograms=False).mixing
    assert mixing.node == "2:softmax"
    assert mixing.change < 1e-3
