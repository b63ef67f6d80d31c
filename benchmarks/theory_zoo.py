"""How much of what networks do at initialization the theory foresees, one model per timm family.

    python benchmarks/theory_zoo.py [--families N] [--size PIXELS] [--batch N] [--seeds N] [NAME ...]

For each model: can it be traced, how many operations have no rule, how long the prediction takes, and the share of
operations whose measured second moment, the mean over seeds of weights and white-noise images, lies inside the
predicted band; forward, and backward from a white gradient at the outputs. Misses are counted by kind.
"""

import argparse
import contextlib
import io
import statistics
import time
import warnings
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import timm
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from firstlight.graph import Graph, trace
from firstlight.probe import probe
from firstlight.theory import Prediction, as_they_are, propagate


@dataclass
class Result:
    """One row of the table."""

    name: str
    how: str = ""
    operations: int = 0
    opaque: int = 0
    seconds: float = 0.0
    forward: tuple[int, int] = (0, 0)
    backward: tuple[int, int] = (0, 0)
    misses: Counter[str] = field(default_factory=Counter)
    failed: str = ""


# Words for "small" in timm's names, the smallest first; a family is represented by the first of its models with one.
SMALL = (
    "zepto", "atto", "femto", "pico", "nano", "xxs", "xx_small", "tiny", "_xs", "x_small", "mini", "_t", "small", "_s",
    "050", "35", "b0", "_m0", "_0", "18", "14", "10", "26", "base",
)  # fmt: skip


def families() -> list[str]:
    """One small classifier of each of timm's model files."""
    members: dict[str, list[str]] = defaultdict(list)
    for name in timm.list_models():
        members[timm.models._registry._model_to_module.get(name, "")].append(name)
    return sorted(min(names, key=_size) for names in members.values())


def _size(name: str) -> tuple[int, int]:
    rank = next((k for k, word in enumerate(SMALL) if word in name), len(SMALL))
    return rank, len(name)


def build(name: str, size: int) -> tuple[nn.Module, int]:
    """The model and the image size it takes: `size` where it is free, its own where it is fixed."""
    fixed = timm.get_pretrained_cfg(name)
    own = int(fixed.input_size[-1]) if fixed else 224
    if fixed and not fixed.fixed_input_size:
        return timm.create_model(name, pretrained=False), max(size, int((fixed.min_input_size or (3, 0, 0))[-1]))
    return timm.create_model(name, pretrained=False), own


def white(output: object) -> Tensor:
    """A loss whose gradient is white noise at every output."""
    return sum((t * torch.randn_like(t)).sum() for t in tree_leaves(output) if t.is_floating_point())


def evaluate(name: str, size: int, batch: int, seeds: int) -> Result:
    result = Result(name)
    model, side = build(name, size)
    example = torch.randn(batch, 3, side, side)
    graph = trace(model, example)
    start = time.perf_counter()
    prediction = propagate(graph, as_they_are(model))
    result.seconds = time.perf_counter() - start
    result.how, result.operations, result.opaque = graph.how, len(prediction.nodes), len(prediction.opaque)
    forward, backward = measure(name, size, batch, seeds)
    compare(result, prediction, graph, forward, backward)
    return result


def measure(name: str, size: int, batch: int, seeds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Mean second moments over seeds, forward and backward, by node."""
    forward, backward = defaultdict(list), defaultdict(list)
    for seed in range(seeds):
        torch.manual_seed(seed)
        model, side = build(name, size)
        for node in probe(model, torch.randn(batch, 3, side, side), loss=white).nodes:
            forward[node.name].append(node.forward_std**2 + node.forward_mean**2)
            if node.gradient_std is not None:
                backward[node.name].append(node.gradient_std**2)
    means = [{name: statistics.fmean(v) for name, v in side.items()} for side in (forward, backward)]
    return means[0], means[1]


def compare(
    result: Result, said: Prediction, graph: Graph, forward: dict[str, float], backward: dict[str, float]
) -> None:
    hits: dict[str, list[bool]] = {"forward": [], "backward": []}
    outputs = [n for n in said.nodes if n.name in backward and n.backward_second_moment]
    unit = backward[outputs[-1].name] / outputs[-1].backward_second_moment if outputs else 1.0
    for node in said.nodes:
        for side, seen, value, band in (
            ("forward", forward.get(node.name), node.forward_second_moment, node.band),
            ("backward", backward.get(node.name), node.backward_second_moment, node.backward_band),
        ):
            if seen is None or value is None:
                continue
            seen = seen if side == "forward" else seen / unit
            inside = (seen < 1e-20 and value < 1e-12) or value / (1 + band) <= seen <= value * (1 + band)
            hits[side].append(inside)
            if not inside:
                why = "opaque" if node.opaque else f"{'over' if seen < value else 'under'}predicted"
                result.misses[f"{side} {node.op}, {why}"] += 1
    result.forward = sum(hits["forward"]), len(hits["forward"])
    result.backward = sum(hits["backward"]), len(hits["backward"])


def share(pairs: list[tuple[int, int]]) -> str:
    hits, total = (sum(p[k] for p in pairs) for k in (0, 1))
    return f"{hits / total:.1%}" if total else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="models instead of families")
    parser.add_argument("--families", type=int, help="that many families, evenly spread over the alphabet")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    names = options.names or families()
    if options.families and not options.names:
        names = [names[k * len(names) // options.families] for k in range(min(options.families, len(names)))]
    results = []
    for name in names:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            try:
                result = evaluate(name, options.size, options.batch, options.seeds)
            except Exception as error:  # one model must not end the table
                result = Result(name, failed=f"{type(error).__name__}: {str(error).splitlines()[0][:90]}")
        results.append(result)
        row(result)
    summary(results)


def row(r: Result) -> None:
    if r.failed:
        print(f"{r.name:34s} FAILED {r.failed}", flush=True)
        return
    how = "exported" if r.how.startswith("torch.export") else "recorded"
    misses = "; ".join(f"{what} ×{n}" for what, n in r.misses.most_common(3))
    print(
        f"{r.name:34s} {how} {r.operations:5d} ops {r.opaque:3d} opaque {r.seconds:6.2f} s  "
        f"forward {share([r.forward]):>6s} backward {share([r.backward]):>6s}  {misses}",
        flush=True,
    )


def summary(results: list[Result]) -> None:
    done = [r for r in results if not r.failed]
    if not done:
        return
    operations = sum(r.operations for r in done)
    opaque = sum(r.opaque for r in done) / operations
    forward, backward = (share([getattr(r, side) for r in done]) for side in ("forward", "backward"))
    median = statistics.median(r.seconds for r in done)
    print(
        f"\n{len(done)} of {len(results)} models; {opaque:.2%} of {operations} operations opaque; inside the band: "
        f"forward {forward}, backward {backward}; prediction median {median:.2f} s, {torch.get_num_threads()} threads"
    )
    total: Counter[str] = sum((r.misses for r in done), Counter())
    for what, n in total.most_common(25):
        print(f"  {n:5d}  {what}")


if __name__ == "__main__":
    main()
