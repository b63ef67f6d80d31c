"""Exactness on real data: against two passes of NumPy in float64, from 1, 2 and 7 workers, and after kill -9.

Usage: python benchmarks/exact.py [--seed 0]
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import simplejpeg

import firstlight as fl
from data import thumbnails


def two_passes(paths: list[Path]) -> dict[str, np.ndarray]:
    """Mean, pooled std and mean of per-image std, in float64, the textbook way."""
    images = np.stack([simplejpeg.decode_jpeg(p.read_bytes(), fastdct=False, fastupsample=False) for p in paths])
    pixels = images.reshape(-1, 3)
    step = 2**22
    total = sum(pixels[k : k + step].sum(axis=0, dtype=np.float64) for k in range(0, len(pixels), step))
    mean = total / len(pixels)
    squares = sum(((pixels[k : k + step] - mean) ** 2).sum(axis=0) for k in range(0, len(pixels), step))
    stds = np.concatenate(
        [images[k : k + 1000].std(axis=(1, 2), dtype=np.float64) for k in range(0, len(images), 1000)]
    )
    return {
        "mean": mean / 255,
        "pooled std": np.sqrt(squares / len(pixels)) / 255,
        "mean of per-image std": stds.mean(axis=0) / 255,
    }


def scan_file(folder: Path, output: Path, workers: int, kill_after: float | None = None) -> bytes | None:
    command = [sys.executable, "-m", "firstlight", "scan", str(folder), "--all-splits", "--no-page"]
    command += ["--workers", str(workers), "-o", str(output)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    if kill_after is not None:
        try:
            process.wait(kill_after)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return None
    process.wait()
    return output.read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    chance = random.Random(parser.parse_args().seed)
    title, folder = thumbnails()
    paths = sorted(p for p in folder.rglob("*.jpg"))
    print(f"{title}")
    reference = two_passes(paths)
    stats = fl.scan(folder, all_splits=True)
    ours = {"mean": stats.mean, "pooled std": stats.std, "mean of per-image std": stats.per_image_std}
    for name, value in reference.items():
        error = np.max(np.abs(ours[name] / value - 1))
        print(f"  {name:22s} {ours[name]}  relative difference {error:.1e}")
    with tempfile.TemporaryDirectory() as work:
        files = {w: scan_file(folder, Path(work) / f"{w}.json", w) for w in (1, 2, 7)}
        print(f"  same bytes from 1, 2 and 7 workers: {len(set(files.values())) == 1}")
        start = time.perf_counter()
        scan_file(folder, Path(work) / "timed.json", 2)
        whole = time.perf_counter() - start
        for k in range(3):
            moment = chance.uniform(0.2, 0.95) * whole
            output = Path(work) / f"killed{k}.json"
            first = scan_file(folder, output, 2, kill_after=moment)
            kept = output.with_name(output.name + ".partial").exists()
            again = scan_file(folder, output, 2)
            print(
                f"  killed after {moment:.2f} s of {whole:.2f} s: {'ended before' if first else 'killed'}, "
                f"{'blocks kept' if kept else 'nothing kept yet'}, same bytes after going on: {again == files[1]}"
            )


if __name__ == "__main__":
    main()
