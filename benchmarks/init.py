"""Initialization against torch and timm, in turns in one process; ratios are medians of pairs.

Usage: python benchmarks/init.py [--rounds 5] [--vit]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

import firstlight as fl
from firstlight.graph import trace
from firstlight.initialization import SCHEMES, apply, lsuv
from firstlight.initialization.orthogonal import orthonormal
from firstlight.initialization.streams import Box, Normal, draw
from firstlight.models import open_model
from firstlight.probe import probe


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(label: str, ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> None:
    ours()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    ratio = statistics.median(their / our for our, their in pairs)
    mine, other = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"{label:<58} {mine * 1e3:9.1f} ms  against {other * 1e3:9.1f} ms   ratio {ratio:6.2f}", flush=True)


def fills(rounds: int) -> None:
    n = 1 << 24
    box, out = Box.whole((n,)), torch.empty(n)
    compare("normal, 16.8 M, torch.normal_", lambda: draw(Normal(), 1, box), lambda: torch.empty(n).normal_(), rounds)
    compare(
        "truncated normal ±2σ, 16.8 M, torch.nn.init.trunc_normal_",
        lambda: draw(Normal(0, 0.02, -2, 2), 1, box),
        lambda: nn.init.trunc_normal_(out, std=0.02, a=-0.04, b=0.04),
        max(1, rounds // 2),
    )
    one = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = statistics.median(seconds(lambda: draw(Normal(), 1, box)) for _ in range(rounds))
    torch.set_num_threads(one)
    both = statistics.median(seconds(lambda: draw(Normal(), 1, box)) for _ in range(rounds))
    print(f"normal on 1 thread {n / alone / 1e6:.0f} M/s, on {one} threads {n / both / 1e6:.0f} M/s")


def orthogonal(rounds: int) -> None:
    n = 4096
    compare(
        "orthogonal 4096², torch.nn.init.orthogonal_",
        lambda: orthonormal(draw(Normal(), 1, Box.whole((n, n)))),
        lambda: nn.init.orthogonal_(torch.empty(n, n)),
        max(1, rounds // 2),
    )
    for label, q in (
        ("firstlight", orthonormal(draw(Normal(), 1, Box.whole((n, n))))),
        ("torch", nn.init.orthogonal_(torch.empty(n, n))),
    ):
        wide = q.double()
        print(f"  |QᵀQ - I|, Frobenius, {label}: {float((wide.mT @ wide - torch.eye(n).double()).norm()):.2e}")


def whole(name: str, rounds: int) -> None:
    """From nothing to initialized: built on meta and drawn once, against the library's constructor."""
    with torch.device("meta"):
        empty = open_model(name)
    plan = SCHEMES["kaiming"](trace(empty, torch.zeros(2, 3, 224, 224, device="meta")))

    def ours() -> None:
        with torch.device("meta"):
            model = open_model(name)
        apply(plan, model)

    compare(f"{name}, meta to initialized, its own constructor", ours, lambda: open_model(name), rounds)


def measured(name: str) -> None:
    """LSUV: time, and how many sums have unit standard deviation on the batch it measured."""
    model, batch = open_model(name), torch.randn(8, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    graph = fl.trace(model, batch)
    start = time.perf_counter()
    apply(lsuv(graph, model, batch), model)
    took = time.perf_counter() - start
    stds = [node.forward_std for node in probe(model, batch).nodes if node.op in ("conv2d", "linear")]
    right = sum(abs(std - 1) < 0.02 for std in stds)
    print(f"LSUV, {name}, batch 8: {took:.1f} s, {right} of {len(stds)} sums within 2 % of std 1, max {max(stds):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vit", action="store_true", help="ViT-L too; it needs 2.5 GB")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    fills(options.rounds)
    orthogonal(options.rounds)
    for name in ("timm:resnet50", *(("timm:vit_large_patch16_224",) if options.vit else ())):
        whole(name, options.rounds)
    for name in ("timm:resnet50", "timm:mobilenetv3_large_100"):
        measured(name)


if __name__ == "__main__":
    main()
