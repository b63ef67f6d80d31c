"""Initialization against torch, timm and the lsuv package, in turns in one process; ratios are medians of pairs.

    python benchmarks/init.py [--rounds 5] [--vit] [--only PART ...]

The lsuv package is compared with when it is installed (``pip install --no-deps lsuv``), in one round of minutes.
On a machine with a GPU, filling 2³⁰ weights there is compared with writing zeros to the same memory.
"""

import argparse
import contextlib
import io
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

import firstlight as fl
from firstlight.graph import trace
from firstlight.initialization import SCHEMES, apply, lsuv
from firstlight.initialization.orthogonal import orthonormal_
from firstlight.initialization.streams import Box, Normal, draw
from firstlight.models import open_model


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(label: str, ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Print the medians and the median ratio, and return the medians."""
    ours()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    ratio = statistics.median(their / our for our, their in pairs)
    mine, other = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"{label:<66} {mine * 1e3:9.1f} ms  against {other * 1e3:9.1f} ms   ratio {ratio:6.2f}", flush=True)
    return mine, other


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
    all_ = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = statistics.median(seconds(lambda: draw(Normal(), 1, box)) for _ in range(rounds))
    torch.set_num_threads(all_)
    together = statistics.median(seconds(lambda: draw(Normal(), 1, box)) for _ in range(rounds))
    print(f"normal on 1 thread {n / alone / 1e6:.0f} M/s, on {all_} threads {n / together / 1e6:.0f} M/s")


def orthogonal(rounds: int) -> None:
    """With the limit: n reflections of n numbers are 4/3 n³ operations, a product of matrices is 2 n³."""
    n = 4096
    made = torch.empty(n, n)

    def ours() -> Tensor:
        return orthonormal_(draw(Normal(), 1, Box.whole((n, n)), out=made))

    def theirs() -> Tensor:
        return nn.init.orthogonal_(torch.empty(n, n))

    _, other = compare("orthogonal 4096², torch.nn.init.orthogonal_", ours, theirs, max(1, rounds // 2))
    product = min(seconds(lambda: made @ made) for _ in range(3))
    print(f"  as fast as a matrix product of as many operations: ratio {other / (2 / 3 * product):.2f}")
    for label, q in (("firstlight", ours()), ("torch", theirs())):
        wide = q.double()
        gap = wide @ wide.mT - torch.eye(n).double()
        print(f"  |QQᵀ - I|, {label}: Frobenius {float(gap.norm()):.2e}, largest {float(gap.abs().max()):.2e}")


def whole(name: str, rounds: int) -> None:
    """From meta, or from nothing, to initialized, against the library's constructor, with and without a plan."""
    image = torch.zeros(2, 3, 224, 224, device="meta")

    def empty() -> nn.Module:
        with torch.device("meta"):
            return open_model(name)

    plan = SCHEMES["kaiming"](trace(empty(), image))
    ready = iter([empty() for _ in range(2 * rounds + 2)])
    steps: dict[str, Callable[[], object]] = {
        "initialized by a plan": lambda: apply(plan, next(ready)),
        "traced, planned, initialized": lambda: fl.initialize(next(ready), image, scheme="kaiming"),
        "built on meta, initialized by a plan": lambda: apply(plan, empty()),
        "built on meta, traced, planned, initialized": lambda: fl.initialize(empty(), image, scheme="kaiming"),
    }
    for label, ours in steps.items():
        compare(f"{name}: {label}, its own constructor", ours, lambda: open_model(name), rounds)


def measured(name: str) -> None:
    """LSUV: time and how many layers have unit variance, in the mode in which each calibrates and as the other does."""
    batch = torch.randn(8, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    model = open_model(name)
    took = seconds(lambda: apply(lsuv(trace(model, batch), model, batch), model))
    print(f"LSUV, {name}, batch 8: {took:.1f} s with the trace")
    _report("firstlight", model, batch)
    try:
        from lsuv import lsuv_with_singlebatch
    except ImportError:
        print("  the lsuv package is not installed, so there is nothing to compare with")
        return
    theirs = open_model(name)
    with contextlib.redirect_stdout(io.StringIO()):
        other = seconds(lambda: lsuv_with_singlebatch(theirs, batch, verbose=False))
    print(f"  lsuv package: {other:.1f} s, ratio {other / took:.1f}")
    _report("lsuv package", theirs, batch)


def _report(label: str, model: nn.Module, batch: Tensor) -> None:
    for training in (True, False):
        stds = list(_stds(model.train(training), batch))
        near = sum(abs(std - 1) < 0.1 for std in stds), sum(abs(std - 1) < 0.01 for std in stds)
        mode = "train" if training else "eval"
        print(
            f"  {label:<13} {mode} mode: {near[0]} of {len(stds)} layers within 10 % of std 1, {near[1]} within 1 %, "
            f"from {min(stds):.3g} to {max(stds):.3g}"
        )


def _stds(model: nn.Module, batch: Tensor) -> Iterator[float]:
    found: list[float] = []
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [m.register_forward_hook(lambda m, x, y: found.append(float(y.std()))) for m in layers]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        model(batch)
    for hook in hooks:
        hook.remove()
    model.load_state_dict(state)  # running statistics, which a pass in train mode moves
    yield from found


def on_gpu(rounds: int) -> None:
    """Share of write bandwidth: filling 2³⁰ weights with normal numbers against writing zeros."""
    out = torch.empty(1 << 30, device="cuda")

    def timed(work: Callable[[], object]) -> float:
        def waited() -> None:
            work()
            torch.cuda.synchronize()

        return min(seconds(waited) for _ in range(rounds))

    ours, zeros = timed(lambda: draw(Normal(), 1, Box.whole(out.shape), "cuda", out=out)), timed(out.zero_)
    torch_ = timed(out.normal_)
    print(
        f"normal, 2³⁰ on {torch.cuda.get_device_name()}: {ours * 1e3:.1f} ms, {zeros / ours:.1%} of write bandwidth; "
        f"torch.normal_ {torch_ * 1e3:.1f} ms"
    )


def main() -> None:
    parts = ("fills", "orthogonal", "whole", "lsuv", "gpu")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vit", action="store_true", help="ViT-L too; it needs 2.5 GB")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    if "fills" in options.only:
        fills(options.rounds)
    if "orthogonal" in options.only:
        orthogonal(options.rounds)
    if "whole" in options.only:
        for name in ("timm:resnet50", *(("timm:vit_large_patch16_224",) if options.vit else ())):
            whole(name, options.rounds)
    if "lsuv" in options.only:
        for name in ("timm:resnet50", "timm:mobilenetv3_large_100"):
            measured(name)
    if "gpu" in options.only and torch.cuda.is_available():
        on_gpu(options.rounds)


if __name__ == "__main__":
    main()
