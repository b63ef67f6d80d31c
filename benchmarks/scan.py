"""Scan against its limits: pure decoding with the same decoder and threads, and the loop of the tutorials.

Everything runs in turns in one process group on the same cores; ratios are medians of pairs.
Usage: python benchmarks/scan.py [--rounds 5]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

import firstlight as fl
from data import photographs, thumbnails
from firstlight.engines.local import run
from firstlight.sources import Policy, decode, open_source

CORES = len(os.sched_getaffinity(0))
LOADER_WORKERS = 2


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def decode_only(paths: list[str], threads: int) -> None:
    """Read and decode every image with the scan's own decoder, on its own threads, and throw the pixels away."""
    source = open_source(paths)

    def work(block):
        for k in range(len(block.names)):
            decode(block.samples[k], Policy())

    for _ in run(work, source.blocks(source.block_size(len(source))), threads):
        pass


def tutorial(paths: list[str], root: Path, batch: int) -> tuple:
    """torchvision's ImageFolder + ToTensor + DataLoader, mean and std per batch: what people copy."""
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    dataset = datasets.ImageFolder(root, transforms.ToTensor())
    dataset.samples = [(path, 0) for path in paths]
    loader = DataLoader(dataset, batch_size=batch, num_workers=LOADER_WORKERS)
    mean = std = count = 0
    for images, _ in loader:
        flat = images.view(images.shape[0], images.shape[1], -1)
        mean = mean + flat.mean(2).sum(0)
        std = std + flat.std(2).sum(0)
        count += images.shape[0]
    return mean / count, std / count


def compare(title: str, root: Path, batch: int, limit: int, repeat: int, rounds: int) -> None:
    found = sorted(str(p) for p in root.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))[:limit]
    paths = found * repeat
    threads = 1 if batch > 1 else CORES  # what the scan itself chooses for thumbnails
    contenders = {
        "pure decode": lambda: decode_only(paths, threads),
        "full scan": lambda: fl.scan(paths, workers=CORES, all_splits=True),
        "tutorial loop": lambda: tutorial(paths, root, batch),
    }
    fl.scan(paths[:64], all_splits=True)  # kernels warm
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            times[name].append(seconds(work))
    print(f"\n{title}: {len(paths):,} images, {CORES} cores, {rounds} rounds")
    for name, spent in times.items():
        print(f"  {name:14s} {len(paths) / statistics.median(spent):10,.0f} images/s")
    against_decode = [d / s for d, s in zip(times["pure decode"], times["full scan"], strict=True)]
    against_loop = [t / s for t, s in zip(times["tutorial loop"], times["full scan"], strict=True)]
    print(f"  full scan / pure decode   {statistics.median(against_decode):6.2f}")
    print(f"  full scan / tutorial loop {statistics.median(against_loop):6.1f}x")
    limit = statistics.median(against_loop) / statistics.median(against_decode)
    print(f"  pure decode / tutorial    {limit:6.1f}x (the limit)")


def arrays(rounds: int) -> None:
    print("\nuint8 arrays in memory, one thread (limit: one pass of numpy.sum over the same bytes)")
    generator = np.random.default_rng(0)
    for shape in ((60_000, 32, 32, 3), (1_200, 224, 224, 3)):
        # Smooth images: neighbouring pixels alike, as in photographs.
        images = generator.integers(0, 256, (shape[0], 8, 8, 3), dtype=np.uint8)
        images = images.repeat(shape[1] // 8, axis=1).repeat(shape[2] // 8, axis=2)
        images += generator.integers(0, 8, images.shape, dtype=np.uint8)
        scan = statistics.median(seconds(lambda a=images: fl.scan(a, workers=1)) for _ in range(rounds))
        read = statistics.median(seconds(lambda a=images: a.sum(dtype=np.uint64)) for _ in range(rounds))
        ours, limit = images.nbytes / scan / 1e9, images.nbytes / read / 1e9
        print(f"  {'×'.join(map(str, shape)):18s} {ours:5.2f} GB/s; numpy.sum {limit:5.2f} GB/s")


def memory(root: Path) -> None:
    print("\nPeak memory of a scan (resident, whole process)")
    # VmHWM, not getrusage: its maximum survives exec and would show the parent's size.
    code = (
        "import json, sys, firstlight as fl; fl.scan(json.load(open(sys.argv[1])), all_splits=True); "
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    found = sorted(str(p) for p in root.rglob("*") if p.suffix == ".jpg")
    peaks = {}
    for count in (1_000, 10_000, 60_000):
        paths = (found * (count // len(found) + 1))[:count]
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(paths, file)
            file.flush()
            peaks[count] = int(subprocess.check_output([sys.executable, "-c", code, file.name])) / 1024
        print(f"  {count:7,} images {peaks[count]:7.0f} MiB")
    print(f"  60,000 / 10,000  {peaks[60_000] / peaks[10_000]:.3f}")


def cold(root: Path) -> None:
    found = sorted(str(p) for p in root.rglob("*") if p.suffix == ".jpg")[:100]
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
        code = f"import firstlight as fl; fl.scan({found!r}, all_splits=True)"
        first = seconds(lambda: subprocess.run([sys.executable, "-c", code], check=True, env=environment))
        second = seconds(lambda: subprocess.run([sys.executable, "-c", code], check=True, env=environment))
    print(f"\nWhole process, 100 small images: kernels cold {first:.2f} s, kernels cached {second:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    warnings.filterwarnings("ignore", category=UserWarning)
    title, root = photographs()
    compare(title, root, batch=1, limit=10**6, repeat=3, rounds=rounds)
    title, root = thumbnails()
    compare(title, root, batch=64, limit=20_000, repeat=1, rounds=rounds)
    arrays(rounds)
    memory(root)
    cold(root)


if __name__ == "__main__":
    main()
