"""He et al. (2015), figure 3, in miniature: thirty layers learn from Kaiming's start and stall from Xavier's.

    python benchmarks/he30.py [SOURCE] [--steps N] [--seeds N] [--limit N] [--rates RATE ...] [-o FOLDER]

A plain network of 27 convolutions with ReLU and 3 linear layers, no normalization and no shortcut, is trained by
`firstlight.compare` on 16×16 images: the digits that come with scikit-learn, or any source whose folders are its
classes, such as CIFAR-10. Finished runs are kept in the folder, and the same call goes on after them.
"""

import argparse

from torch import nn

import firstlight as fl

SCHEMES = ("normal(0.01)", "xavier", "kaiming", "auto")  # 0.01: the paper's section 2.2


def network(channels: int = 3, width: int = 16, classes: int = 10) -> nn.Sequential:
    """27 convolutions in three stages, each half the side and twice the width of the last, and 3 linear layers."""
    layers: list[nn.Module] = []
    for stage in range(3):
        for k in range(9):
            stride = 2 if stage and not k else 1
            layers += [nn.Conv2d(channels, width << stage, 3, stride, 1), nn.ReLU()]
            channels = width << stage
    head = [nn.Linear(channels * 4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, classes)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), *head)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", default="demo:digits")
    parser.add_argument("--split")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=1500)
    parser.add_argument("--rates", type=float, nargs="+", default=(0.001, 0.003))
    parser.add_argument("-o", "--out", default="he30")
    options = parser.parse_args()
    channels = fl.scan(options.source, sample=8, split=options.split).channels
    found = fl.compare(
        network(channels), options.source, options.out, schemes=SCHEMES, steps=options.steps, seeds=options.seeds,
        limit=options.limit, rates=options.rates, resize=16, split=options.split,
        progress=lambda done, total: print(f"\r{done} of {total} runs", end="", flush=True),
    )  # fmt: skip
    print(f"\r{found}")


if __name__ == "__main__":
    main()
