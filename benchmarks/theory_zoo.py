"""How much of what networks do at initialization the theory foresees, one model per timm family.

    python benchmarks/theory_zoo.py [--families N] [--torchvision] [--images photos|noise] [--size PIXELS] [--batch N]
                                    [--seeds N] [--out FILE] [NAME ...]

For each model: can it be traced, how many operations have no rule, how long the prediction takes, and the share of
operations whose measured second moment, the mean over seeds of weights, lies inside the predicted band; forward, and
backward from a white gradient at the outputs. Photographs are one batch, whose own moments the theory is told; noise
is drawn anew with each seed. How wide the bands are, and how far off predictions whatever their bands, stands beside
it. Every miss is listed with its reason: ``--out`` appends a JSON line per model, and a run with the same file goes on
after the models in it.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import statistics
import time
import warnings
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import timm
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torchvision.transforms.v2 import functional as transforms

from data import photographs
from firstlight.graph import Graph, trace
from firstlight.probe import probe
from firstlight.theory import InputMoments, NodePrediction, Prediction, as_they_are, propagate
from firstlight.theory.leaves import Drawn


@dataclass
class Result:
    """One row of the table, one line of the file."""

    name: str
    images: str = ""
    how: str = ""
    operations: int = 0
    opaque: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    forward: tuple[int, int] = (0, 0)
    backward: tuple[int, int] = (0, 0)
    misses: list[dict[str, object]] = field(default_factory=list)
    widths: dict[str, float] = field(default_factory=dict)
    close: dict[str, list[int]] = field(default_factory=dict)
    failed: str = ""


# However wide the bands are: the share of operations whose prediction is off by no more than these factors.
FACTORS = (1.2, 1.5, 2.0, 4.0)

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


def classifiers() -> list[str]:
    """torchvision's image classifiers."""
    return [f"torchvision:{name}" for name in torchvision.models.list_models(module=torchvision.models)]


def _size(name: str) -> tuple[int, int]:
    rank = next((k for k, word in enumerate(SMALL) if word in name), len(SMALL))
    return rank, len(name)


def build(name: str, size: int | None) -> tuple[nn.Module, int]:
    """The model and the image size it takes: `size` where it is free and given, its own otherwise."""
    if name.startswith("torchvision:"):
        own = 299 if "inception" in name else 224
        return torchvision.models.get_model(name.partition(":")[2], weights=None), own
    fixed = timm.get_pretrained_cfg(name)
    own = int(fixed.input_size[-1]) if fixed else 224
    if size and fixed and not fixed.fixed_input_size:
        own = max(size, int((fixed.min_input_size or (3, 0, 0))[-1]))
    return timm.create_model(name, pretrained=False), own


def white(output: object) -> Tensor:
    """A loss whose gradient is white noise at every output, independent of it."""
    return sum((t * torch.randn_like(t)).sum() for t in tree_leaves(output) if t.is_floating_point())


@cache
def photos(batch: int, side: int) -> Tensor:
    """Photographs from all over the collection, centre squares, normalized by ImageNet's statistics."""
    files = sorted(path for path in photographs()[1].rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    out = []
    for path in files[:: max(1, len(files) // batch)][:batch]:
        with Image.open(path) as picture:
            image = transforms.pil_to_tensor(picture.convert("RGB"))
        out.append(transforms.center_crop(transforms.resize(image, [side], antialias=True), [side, side]) / 255)
    return transforms.normalize(torch.stack(out), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def images(kind: str, batch: int, side: int) -> Tensor:
    """A batch of the kind asked for."""
    return photos(batch, side) if kind == "photos" else torch.randn(batch, 3, side, side)


def evaluate(name: str, options: argparse.Namespace) -> Result:
    """Predict, measure and compare one model."""
    result = Result(name, options.images)
    torch.manual_seed(0)
    model, side = build(name, options.size)
    example = images(options.images, options.batch, side)
    graph = trace(model, example)
    drawn, forward, backward = measure(name, options)
    start = time.perf_counter()
    told = {"inputs": InputMoments.of(example)} if options.images == "photos" else {}
    prediction = propagate(graph, drawn, **told)
    result.seconds = time.perf_counter() - start
    result.how, result.operations = graph.how, len(prediction.nodes)
    result.opaque = {node.name: node.reason for node in prediction.opaque}
    compare(result, prediction, graph, forward, backward)
    return result


def measure(name: str, options: argparse.Namespace) -> tuple[Drawn, dict[str, float], dict[str, float]]:
    """Mean second moments over seeds, forward and backward, by node; and those of the parameters over all seeds, as of
    three weights one draw says next to nothing."""
    drawn, forward, backward = defaultdict(list), defaultdict(list), defaultdict(list)
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        model, side = build(name, options.size)
        for parameter, moments in as_they_are(model).items():
            drawn[parameter].append(moments)
        for node in probe(model, images(options.images, options.batch, side), loss=white).nodes:
            forward[node.name].append(node.forward_std**2 + node.forward_mean**2)
            if node.gradient_std is not None:
                backward[node.name].append(node.gradient_std**2)
    pooled = {
        parameter: tuple(sum(column) / len(column) for column in zip(*draws, strict=True))
        for parameter, draws in drawn.items()
    }
    means = [{name: statistics.fmean(v) for name, v in side.items()} for side in (forward, backward)]
    return pooled, means[0], means[1]


def compare(
    result: Result, said: Prediction, graph: Graph, forward: dict[str, float], backward: dict[str, float]
) -> None:
    """Count what lies inside the bands. The gradient's unit is the white noise at the outputs, known by its drawing:
    a gradient that reaches an output only through others (an auxiliary head inside the network) shares it."""
    unit = _unit(said, graph, backward)
    for side, seen_by_name, scale in (("forward", forward, 1.0), ("backward", backward, unit)):
        hits, bands, off = [], [], []
        for node in said.nodes:
            value = getattr(node, f"{side}_second_moment")
            if node.name not in seen_by_name or value is None:
                continue
            seen, band = seen_by_name[node.name] / scale, node.band if side == "forward" else node.backward_band
            inside = (seen < 1e-20 and value < 1e-12) or value / (1 + band) <= seen <= value * (1 + band)
            hits.append(inside)
            if value > 0 and seen > 0:
                bands.append(1 + band)
                off.append(max(seen / value, value / seen))
            if not inside:
                result.misses.append(_miss(node, side, seen, value, band))
        setattr(result, side, (sum(hits), len(hits)))
        result.widths[side] = round(statistics.median(bands), 4) if bands else 1.0
        result.close[side] = [sum(factor <= most for factor in off) for most in FACTORS] + [len(off)]


def _unit(said: Prediction, graph: Graph, backward: dict[str, float]) -> float:
    """Measured over predicted at the output itself where its gradient was seen, else at the last node that was."""
    seen = [n for n in said.nodes if n.name in backward and n.backward_second_moment]
    chosen = next((n for n in seen if n.name in graph.outputs), seen[-1] if seen else None)
    return backward[chosen.name] / chosen.backward_second_moment if chosen else 1.0


def _miss(node: NodePrediction, side: str, seen: float, value: float, band: float) -> dict[str, object]:
    why = node.reason if node.opaque else f"{'over' if seen < value else 'under'}predicted"
    return {
        "node": node.name, "op": node.op, "side": side, "why": why,
        "measured over predicted": round(seen / value, 4) if value else None, "band": round(band, 4),
    }  # fmt: skip


def share(pairs: list[tuple[int, int]]) -> str:
    """Hits in percent."""
    hits, total = (sum(p[k] for p in pairs) for k in (0, 1))
    return f"{hits / total:.1%}" if total else "-"


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="models instead of families")
    parser.add_argument("--families", type=int, help="that many families, evenly spread over the alphabet")
    parser.add_argument("--torchvision", action="store_true", help="torchvision's classifiers too")
    parser.add_argument("--images", choices=("photos", "noise"), default="photos")
    parser.add_argument("--size", type=int, help="side in pixels, where a model takes any; its own by default")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="append one JSON line per model, and go on after those in it")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    names = options.names or families()
    if options.families and not options.names:
        names = [names[k * len(names) // options.families] for k in range(min(options.families, len(names)))]
    names += classifiers() if options.torchvision else []
    results = [r for r in _written(options.out) if r.name in names and r.images == options.images]
    for name in names:
        if any(r.name == name for r in results):
            continue
        results.append(_attempt(name, options))
        row(results[-1])
        if options.out:
            with options.out.open("a") as file:
                file.write(json.dumps(dataclasses.asdict(results[-1])) + "\n")
    summary(results)


def _attempt(name: str, options: argparse.Namespace) -> Result:
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            return evaluate(name, options)
        except Exception as error:  # one model must not end the table
            lines = str(error).splitlines() or [""]
            return Result(name, options.images, failed=f"{type(error).__name__}: {lines[0][:90]}")


def _written(path: Path | None) -> list[Result]:
    if path is None or not path.exists():
        return []
    return [Result(**json.loads(line)) for line in path.read_text().splitlines()]


def kinds(result: Result) -> Counter[str]:
    """Misses by side, operation and reason."""
    return Counter(f"{m['side']} {m['op']}, {m['why']}" for m in result.misses)


def row(r: Result) -> None:
    """Print one model."""
    if r.failed:
        print(f"{r.name:34s} FAILED {r.failed}", flush=True)
        return
    how = "exported" if r.how.startswith("torch.export") else "recorded"
    misses = "; ".join(f"{what} ×{n}" for what, n in kinds(r).most_common(3))
    print(
        f"{r.name:34s} {how} {r.operations:5d} ops {len(r.opaque):3d} opaque {r.seconds:6.2f} s  "
        f"forward {share([r.forward]):>6s} backward {share([r.backward]):>6s}  {misses}",
        flush=True,
    )


def summary(results: list[Result]) -> None:
    """Print the totals."""
    done = [r for r in results if not r.failed]
    if not done:
        return
    operations = sum(r.operations for r in done)
    opaque = sum(len(r.opaque) for r in done) / operations
    forward, backward = (share([getattr(r, side) for r in done]) for side in ("forward", "backward"))
    median = statistics.median(r.seconds for r in done)
    print(
        f"\n{len(done)} of {len(results)} models; {opaque:.2%} of {operations} operations opaque; inside the band: "
        f"forward {forward}, backward {backward}; prediction median {median:.2f} s, {torch.get_num_threads()} threads"
    )
    for side in ("forward", "backward"):
        known = [r for r in done if r.close.get(side, [0])[-1]]
        if not known:
            continue
        total = sum(r.close[side][-1] for r in known)
        within = ", ".join(
            f"{most:g}: {sum(r.close[side][k] for r in known) / total:.1%}" for k, most in enumerate(FACTORS)
        )
        width = statistics.median(r.widths[side] for r in known)
        print(
            f"  {side}: the median model's median band is a factor of {width:.2f}; off by at most a factor of {within}"
        )
    for what, n in sum((kinds(r) for r in done), Counter()).most_common(25):
        print(f"  {n:5d}  {what}")


if __name__ == "__main__":
    main()
