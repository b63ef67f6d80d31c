"""Does each fault matter? Train the faulty network and its twin, and compare them on the twin's images and labels.

    python benchmarks/faults/harm.py [--steps N] [--each N] [--only WORD]

For each kind, on `each` of its architectures: the loss after `steps` steps on one batch, of the twin and of the fault,
both on correct images, in another order, under the correct loss. A kind without harm here matters for another reason,
which is its `why`.
"""

import argparse
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from faults import catalogue
from faults.setting import Setting


def trained(setting: Setting, twin: Setting, steps: int) -> float:
    """The twin's loss after training; infinite where it cannot be trained or is not finite."""
    try:
        for _ in range(steps):
            setting.optimizer.zero_grad()
            setting.loss(setting.model(setting.images), setting.labels).backward()
            setting.optimizer.step()
        with torch.no_grad():
            setting.model.train()  # batch statistics, as fifteen steps give no running ones
            order = torch.arange(len(twin.labels)).flip(0)  # other neighbours in the batch
            loss = float(twin.loss(setting.model(twin.images[order]), twin.labels[order]))
    except (RuntimeError, IndexError, ValueError):
        return math.inf
    return loss if math.isfinite(loss) else math.inf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--each", type=int, default=2)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    torch.set_num_threads(1)
    # The fast learners first: a slow one shows little in so few steps.
    order = ["mlp", "mobilenet", "lenet", "resnet", "vgg_bn", "vit", "convnext", "alexnet", "squeezenet", "plain"]
    twins: dict[tuple[str, bool], float] = {}
    for fault in catalogue.FAULTS.values():
        if options.only not in fault.name:
            continue
        able = [name for name in order if not fault.excluded(catalogue.ARCHITECTURES[name])]
        results = []
        for name in able[: options.each]:
            case = catalogue.Case(fault, name)
            if (name, fault.tags) not in twins:
                twins[name, fault.tags] = trained(case.twin(), case.twin(), options.steps)
            loss = trained(case.faulty()[0], case.twin(), options.steps)
            results.append((name, twins[name, fault.tags], loss))
        worse = sum(loss > healthy * 1.1 + 0.05 for _, healthy, loss in results)
        text = ", ".join(f"{name} {healthy:.2f} → {loss:.2f}" for name, healthy, loss in results)
        print(
            f"{'harm' if worse == len(results) else 'NONE' if not worse else 'some'}  {fault.name:30s} {text}",
            flush=True,
        )


if __name__ == "__main__":
    main()
