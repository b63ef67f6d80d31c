"""Recipes against torchvision, a memory copy, Kornia and scikit-learn, as ratios measured in one run.

    python benchmarks/recipe.py [--data cifar10.zip] [--memory]

Times are the best of several runs, taken in turns. `--memory` also fits rank 512 at 224×224×3 in a process of its
own and prints its peak memory. Without `--data` smooth random images stand in for photographs.
"""

import argparse
import io
import resource
import subprocess
import sys
import time
import zipfile

import numpy as np
import torch

import firstlight as fl
from firstlight import fit
from firstlight.recipe import Recipe
from firstlight.statistics.vectors import Vectors


def best(*calls, rounds=7):
    """Best time of each call in milliseconds; the calls take turns, so that a busy moment hits all."""
    times = [[] for _ in calls]
    for _ in range(rounds + 1):
        for number, call in enumerate(calls):
            start = time.perf_counter()
            call()
            times[number].append((time.perf_counter() - start) * 1e3)
    return [min(series[1:]) for series in times]


def row(name, ours, theirs, what):
    print(f"{name:<44} {ours:9.2f} ms   {theirs / ours:6.2f}× as fast as {what} ({theirs:.2f} ms)")


def pictures(count, size, seed=0):
    """Correlated uint8 images with a falling spectrum, as photographs have."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    images = np.empty((count, size, size, 3), np.uint8)
    for image in images:
        noise = rng.normal(size=(3, size, size)) + 0.8 * rng.normal(size=(1, size, size))
        shaped = np.fft.irfft2(np.fft.rfft2(noise) / (frequency + 1 / size), s=(size, size))
        image[:] = np.clip(120 + 55 * shaped / shaped.std() + 20 * rng.normal(), 0, 255).transpose(1, 2, 0)
    return images


def cifar(path, count):
    """The first training images of CIFAR-10 as JPEG files in a zip archive."""
    from PIL import Image

    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.startswith("train/") and name.endswith(".jpg"))
        chosen = names[:: max(1, len(names) // count)][:count]
        return np.stack([np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in chosen])


def applying():
    """uint8 batch to normalized float32."""
    from torchvision.transforms import v2

    images = pictures(64, 224)
    recipe = Recipe.resnet(fl.scan(images))
    batch = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    mean, std = (recipe.steps[k].value.tolist() for k in (0, 1))
    theirs = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])
    assert torch.allclose(theirs(batch), recipe(batch), atol=1e-5)
    floats = batch.float()
    ours, torchvision, copy = best(lambda: recipe(batch), lambda: theirs(batch), lambda: floats.clone())
    row("resnet recipe, 64×3×224×224 uint8", ours, torchvision, "torchvision v2")
    row("", ours, copy, "a copy of the float32 result")
    (numpy,) = best(lambda: recipe(images))
    row("the same, NumPy N×H×W×C", numpy, torchvision, "torchvision v2")
    module = recipe.module()
    (eager,) = best(lambda: module(batch))
    row("recipe.module(), eager", eager, torchvision, "torchvision v2")


def whitening(images):
    """ZCA over channels and patches against Kornia's full matrix over pixels."""
    import kornia

    batch = torch.from_numpy(images[:2000].transpose(0, 3, 1, 2).copy())
    unit = batch.float() / 255
    pixels = kornia.enhance.ZCAWhitening(eps=1e-3, compute_inv=False).fit(unit)
    rows = unit.permute(0, 2, 3, 1).reshape(-1, 3)
    channels = kornia.enhance.ZCAWhitening(eps=1e-6, compute_inv=False).fit(rows)
    ours = Recipe.zca(fl.scan(images))
    patches = Recipe.zca(fit(images[:500], over="patches", size=5))
    times = best(
        lambda: ours(batch), lambda: channels(unit.permute(0, 2, 3, 1).reshape(-1, 3)), lambda: patches(batch),
        lambda: patches.module()(batch), lambda: pixels(unit), rounds=4,
    )  # fmt: skip
    row("zca over channels, 2,000 × 32×32×3", times[0], times[1], "Kornia over channels (floats given)")
    row("zca over patches 5×5", times[2], times[4], "Kornia over pixels")
    row("zca over patches 5×5, module", times[3], times[4], "Kornia over pixels")


def covariance(images):
    """Exact pixel covariance at 32×32×3, and a low rank, against IncrementalPCA."""
    from sklearn.decomposition import IncrementalPCA

    flat = images.reshape(len(images), -1)
    batch = 500

    def incremental(rank):
        model = IncrementalPCA(rank, batch_size=batch)
        for start in range(0, len(flat), batch):
            model.partial_fit(flat[start : start + batch].astype(np.float32) / 255)
        return model

    rank = 100
    start = time.perf_counter()
    model = incremental(rank)
    theirs = (time.perf_counter() - start) * 1e3
    (ours,) = best(lambda: Vectors.of_pixels(images), rounds=2)
    row(f"exact covariance, {len(images):,} × 32×32×3", ours, theirs, f"IncrementalPCA({rank})")
    start = time.perf_counter()
    exact = Vectors.of_pixels(images).eigen[0]
    whole = (time.perf_counter() - start) * 1e3
    row("  with all 3,072 eigenvectors", whole, theirs, f"IncrementalPCA({rank})")
    (low,) = best(lambda: fit(images, rank=rank, passes=4), rounds=2)
    found = fit(images, rank=rank, passes=4)
    row(f"low rank {rank}, four passes", low, theirs, f"IncrementalPCA({rank})")
    held = float(np.sum(model.explained_variance_) * (len(flat) - 1) / len(flat) / exact.sum())
    print(f"  variance held: best {exact[:rank].sum() / exact.sum():.4f}, ours {found.captured:.4f}, theirs {held:.4f}")


def large():
    """Low rank at 224×224×3 at equal rank; both captured variances are printed."""
    from sklearn.decomposition import IncrementalPCA

    images, rank = pictures(256, 224, seed=1), 32
    flat = images.reshape(len(images), -1)
    start = time.perf_counter()
    model = IncrementalPCA(rank, batch_size=128)
    for begin in range(0, len(flat), 128):
        model.partial_fit(flat[begin : begin + 128].astype(np.float32) / 255)
    theirs = (time.perf_counter() - start) * 1e3
    start = time.perf_counter()
    found = fit(images, rank=rank, passes=4)
    ours = (time.perf_counter() - start) * 1e3
    row(f"low rank {rank}, 256 × 224×224×3, four passes", ours, theirs, f"IncrementalPCA({rank})")

    def held(vectors, mean):
        rows = flat.astype(np.float32) / 255 - mean.astype(np.float32)
        return float(np.sum((rows @ vectors) ** 2, dtype=np.float64) / np.sum(rows**2, dtype=np.float64))

    print(
        f"  variance held: ours {held(found.vectors, found.mean.reshape(-1)):.4f} (promised {found.captured:.4f}), "
        f"theirs {held(model.components_.T.astype(np.float32), model.mean_):.4f}"
    )


def memory():
    """Fit and apply rank 512 at 224×224×3; prints the peak of this process."""
    images = pictures(600, 224, seed=2)
    start = time.perf_counter()
    recipe = Recipe.zca(fit(images, rank=512))
    fitted = time.perf_counter() - start
    result = recipe(images[:4])
    assert np.isfinite(result).all()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"rank 512 at 224×224×3: {fitted:.1f} s for 600 images, peak {peak:.2f} GB in all; a D×D matrix: 181 GB")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="CIFAR-10 as a zip of JPEG files, train/<class>/<n>.jpg")
    parser.add_argument("--memory", action="store_true", help="also fit rank 512 at 224×224×3 and print the peak")
    parser.add_argument("--memory-only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_only:
        memory()
        return
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, numpy {np.__version__}")
    applying()
    small = cifar(options.data, 5000) if options.data else pictures(5000, 32)
    whitening(small)
    covariance(small)
    large()
    if options.memory:
        subprocess.run([sys.executable, __file__, "--memory-only"], check=True)


if __name__ == "__main__":
    main()
