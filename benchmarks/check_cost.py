"""What a check costs: its three measured steps against three plain ones, its memory, and all of it for a ResNet-50.

Usage: python benchmarks/check_cost.py [--models NAME ...] [--batch 16] [--size 224] [--rounds 5] [--threads 2]
                                       [--no-time] [--no-memory] [--no-check]

Plain and measured steps take turns in one process, with the same optimizer, and a last forward pass after them; the
ratio is that of the medians. The peak of memory is that of fresh processes, less what they had before the model was
built. Bars: 1.5 times the time, 1.3 times the memory, 30 s for a whole check on two cores.
"""

import argparse
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import firstlight as fl
from firstlight.models import open_model
from firstlight.probe import run_steps

MODELS = ("timm:resnet18", "timm:convnext_tiny", "timm:vit_small_patch16_224")
STEPS = 3
loss = nn.CrossEntropyLoss()


def data(batch: int, size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 3, size, size, generator=generator), torch.arange(batch)


def plain(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    model.train()
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss(model(images), labels).backward()
        optimizer.step()
    with torch.no_grad():
        loss(model(images), labels)


def measured(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    run_steps(model, images, labels, loss, steps=STEPS)


WAYS = {"plain": plain, "measured": measured}


def clocked(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the wall, and of processor time, which other processes disturb less."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def compare_time(name: str, batch: int, size: int, rounds: int) -> None:
    model, (images, labels) = open_model(name), data(batch, size)
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for turn in range(rounds + 1):
        for way, run in WAYS.items():
            taken = clocked(lambda run=run: run(model, images, labels))  # type: ignore[misc]
            if turn:  # the first round warms up
                times[way].append(taken)
    for clock, kind in enumerate(("wall", "processor")):
        ours, theirs = (statistics.median(row[clock] for row in times[way]) for way in ("measured", "plain"))
        print(
            f"{name:<28} {kind:<10} plain {theirs:7.2f} s  measured {ours:7.2f} s  ratio {ours / theirs:5.2f}",
            flush=True,
        )


def compare_memory(name: str, batch: int, size: int) -> None:
    peaks = {}
    for way in WAYS:
        command = [
            sys.executable,
            __file__,
            "--peak",
            way,
            "--models",
            name,
            "--batch",
            str(batch),
            "--size",
            str(size),
        ]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        peaks[way] = [float(number) for number in said.split()]
    (plain_base, plain_peak), (base, peak) = peaks["plain"], peaks["measured"]
    net = (peak - base) / (plain_peak - plain_base)
    print(
        f"{name:<28} memory     plain {plain_peak - plain_base:5.0f} MB  measured {peak - base:5.0f} MB  "
        f"ratio {net:5.2f}  (whole processes: {peak / plain_peak:4.2f})",
        flush=True,
    )


def peak(way: str, name: str, batch: int, size: int) -> None:
    base = _high_water()
    WAYS[way](open_model(name), *data(batch, size))
    print(base, _high_water())


def _high_water() -> float:
    """Largest resident memory of this very process, MB; `ru_maxrss` would count the parent's, too."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / 1024  # type: ignore[index]


def whole_check(batch: int, size: int) -> None:
    model, (images, labels) = open_model("timm:resnet50"), data(batch, size)
    wall, processor = clocked(lambda: fl.check(model, (images, labels), loss))
    print(
        f"check of timm:resnet50, batch {batch}: {wall:.1f} s on the wall, {processor:.1f} s of processor time",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--no-time", dest="time", action="store_false")
    parser.add_argument("--no-memory", dest="memory", action="store_false")
    parser.add_argument("--no-check", dest="check", action="store_false")
    parser.add_argument("--peak", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        peak(options.peak, options.models[0], options.batch, options.size)
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch {options.batch}, {options.size}²")
    for name in options.models:
        if options.time:
            compare_time(name, options.batch, options.size, options.rounds)
        if options.memory:
            compare_memory(name, options.batch, options.size)
    if options.check:
        whole_check(options.batch, options.size)


if __name__ == "__main__":
    main()
