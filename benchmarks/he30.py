"""He et al. (2015), figure 3, in miniature: thirty layers learn from Kaiming's start and stall from Xavier's.

    [FIRSTLIGHT_DATA=../shared/data] python benchmarks/he30.py [--steps N] [--seeds N]

A plain network of 27 convolutions with ReLU and 3 linear layers, no normalization and no shortcut, is trained by SGD
with momentum on scikit-learn's digits, enlarged, or with ``FIRSTLIGHT_DATA`` on 2,000 images of its ``cifar10.zip``,
where it takes more steps to tell the schemes apart: the first 150 change nothing there, whatever the scheme.
Printed are the loss before the first step and the mean of the last tenth of the steps, over seeds; ln 10 = 2.303 is
what a network that has learned nothing gets.
"""

import argparse
import io
import os
import statistics
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import firstlight as fl

SCHEMES = ("xavier", "kaiming", "auto", "normal")  # normal: standard deviation 0.01, as in the paper's section 2.2


def network(width: int) -> nn.Module:
    """27 convolutions in three stages, 3 linear layers: 30 weights."""
    layers: list[nn.Module] = []
    channels = 3
    for stage in range(3):
        for _ in range(9):
            layers += [nn.Conv2d(channels, width << stage, 3, padding=1), nn.ReLU()]
            channels = width << stage
        layers.append(nn.MaxPool2d(2))
    layers += [nn.Flatten(), nn.Linear(channels * 4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)]
    return nn.Sequential(*layers)


def images(count: int) -> tuple[Tensor, Tensor, str]:
    """Normalized 16×16 images, their labels, and where they are from."""
    archive = Path(os.environ.get("FIRSTLIGHT_DATA", "")) / "cifar10.zip"
    if "FIRSTLIGHT_DATA" in os.environ and archive.is_file():
        with zipfile.ZipFile(archive) as file:
            names = sorted(name for name in file.namelist() if "train/" in name and name.endswith(".jpg"))
            kept = [names[k] for k in np.random.default_rng(0).choice(len(names), count, replace=False)]
            pixels = np.stack([np.asarray(Image.open(io.BytesIO(file.read(name))).convert("RGB")) for name in kept])
        classes = sorted({name.split("/")[-2] for name in names})
        labels = torch.tensor([classes.index(name.split("/")[-2]) for name in kept])
        x = F.avg_pool2d(torch.from_numpy(pixels).permute(0, 3, 1, 2).float(), 2)
        origin = "CIFAR-10"
    else:
        from sklearn.datasets import load_digits

        digits = load_digits()
        x = F.interpolate(torch.from_numpy(digits.images).float()[:count, None].expand(-1, 3, -1, -1), scale_factor=2)
        labels, origin = torch.from_numpy(digits.target[:count]).long(), "scikit-learn's digits"
    return (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True), labels, origin


def train(scheme: str, seed: int, x: Tensor, labels: Tensor, options: argparse.Namespace) -> tuple[float, float]:
    """Loss before the first step, and over the last tenth of the steps."""
    model = network(options.width)
    overrides = {"*.weight": {"std": 0.01}} if scheme == "normal" else None
    fl.initialize(model, x[:2], scheme=scheme, seed=seed, overrides=overrides)
    optimizer = torch.optim.SGD(model.parameters(), lr=options.rate, momentum=0.9, weight_decay=5e-4)
    generator, losses = torch.Generator().manual_seed(seed), []
    for _ in range(options.steps):
        batch = torch.randint(len(x), (options.batch,), generator=generator)
        loss = F.cross_entropy(model(x[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses[0], statistics.fmean(losses[-max(1, options.steps // 10) :])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=0.02)
    options = parser.parse_args()
    x, labels, origin = images(2000)
    print(f"{len(x)} images of {origin}, {options.steps} steps, {options.seeds} seeds; ln 10 = 2.303")
    for scheme in SCHEMES:
        start = time.perf_counter()
        runs = [train(scheme, seed, x, labels, options) for seed in range(options.seeds)]
        first, last = zip(*runs, strict=True)
        print(
            f"{scheme:8s} first {statistics.fmean(first):.3f}  last {statistics.fmean(last):.3f} "
            f"({min(last):.3f} to {max(last):.3f})  {time.perf_counter() - start:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
