"""Does `auto` do what it promises, on one model of each timm family?

    python benchmarks/auto_zoo.py [--size PIXELS] [--batch N] [--out FILE] [NAME ...]

For each model, initialized by `auto` and run once, forward and backward, on white-noise images: how many parameters no
rule covers; the share of sums and of residual streams whose mean square lies in the predicted band; the share of sums
whose mean square lies within a factor of four of what the scheme wanted; whether all gradients are finite; units that
are the same for ever. With `--out` every model is one line of JSON, and a model that has a line is not run again.
"""

import argparse
import contextlib
import gc
import io
import json
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import torch

import firstlight as fl
from firstlight.errors import FirstlightError
from firstlight.graph import Graph, fans, trace
from firstlight.initialization import symmetries
from firstlight.initialization.branches import branches
from firstlight.initialization.schemes.auto import wanted
from firstlight.probe import Measurements, probe
from firstlight.theory import as_they_are, propagate
from theory_zoo import build, families, white


def evaluate(name: str, size: int, batch: int) -> dict[str, Any]:
    """One row of the table."""
    model, x = built(name, size, batch * size**2)
    try:
        graph, tracing = timed(lambda: trace(model, x))
    except FirstlightError:  # too small a picture for all of its poolings
        model, x = built(name, None, batch * size**2)
        graph, tracing = timed(lambda: trace(model, x))
    report, solving = timed(lambda: fl.initialize(model, x, scheme="auto", seed=0, graph=graph))
    measured, _ = timed(lambda: probe(model, x, loss=white))
    sums = {fan.parameter for fan in fans(graph)}
    symmetric = [s.parameter for s in symmetries(model, x) if s.permanent and s.parameter in sums]
    row = {"name": name, "how": graph.how.split(":")[0], "tracing": tracing, "solving": solving}
    row |= {"parameters": len(report.parameters), "uncovered": list(report.uncovered), "symmetric": symmetric}
    row["unreached"] = sorted(set(report.uncovered) & set(graph.unreached))
    return row | signal(graph, model, measured) | gradients(measured)


def built(name: str, size: int | None, pixels: int) -> tuple[torch.nn.Module, torch.Tensor]:
    """The model and white noise of as many `pixels` at any size, two images at least."""
    model, side = build(name, size)
    images = max(2, pixels // side**2)
    return model, torch.randn(images, 3, side, side, generator=torch.Generator().manual_seed(0))


def timed(work: Any) -> tuple[Any, float]:
    """A result and the seconds it took."""
    start = time.perf_counter()
    return work(), round(time.perf_counter() - start, 2)


def signal(graph: Graph, model: torch.nn.Module, measured: Measurements) -> dict[str, Any]:
    """Measured mean squares against the band, and against what was wanted."""
    said = propagate(graph, as_they_are(model))
    seen = {node.name: node.forward_std**2 + node.forward_mean**2 for node in measured.nodes}
    used = {fan.node: fan.parameter for fan in fans(graph) if not fan.op.startswith("embedding")}
    asked = {name: 1 / share.of for name, share in wanted(graph).items() if share.end.is_weight}
    joined = {branch.add for branch in branches(graph)}
    watched = [n for n in said.nodes if n.name in seen and (n.name in used or n.name in joined)]
    outside = {
        n.name: round(seen[n.name] / n.forward_second_moment, 3) if n.forward_second_moment else seen[n.name]
        for n in watched
        if not n.forward_second_moment / (1 + n.band) <= seen[n.name] <= n.forward_second_moment * (1 + n.band)
        and not max(n.forward_second_moment, seen[n.name]) < 1e-12
    }
    # What lies behind a scale that starts at zero is nothing, and is meant to be.
    live = [n.name for n in watched if n.name in used and n.forward_second_moment > 0]
    sizes = {name: seen[name] / asked.get(used[name], 1.0) for name in live}
    far = {name: float(f"{value:.3g}") for name, value in sizes.items() if not 0.25 <= value <= 4}
    return {
        "watched": len(watched), "outside": outside, "opaque": len(said.opaque), "sums": len(sizes), "far": far,
        "median": round(statistics.median(sizes.values()), 3) if sizes else None,
    }  # fmt: skip


def gradients(measured: Measurements) -> dict[str, Any]:
    """Gradients that are not finite, and the spread of those by weights."""
    broken = [p.name for p in measured.parameters if p.gradient_std is not None and not p.gradient_std < float("inf")]
    broken += [n.name for n in measured.nodes if n.gradient_nonfinite]
    return {"broken": broken[:8], "without": sum(p.gradient_std is None for p in measured.parameters)}


def show(row: dict[str, Any]) -> None:
    """One line for a person."""
    if "failed" in row:
        print(f"{row['name']:34s} FAILED {row['failed']}", flush=True)
        return
    inside = 1 - len(row["outside"]) / row["watched"] if row["watched"] else 1.0
    near = 1 - len(row["far"]) / row["sums"] if row["sums"] else 1.0
    print(
        f"{row['name']:34s} {row['parameters']:4d} set {len(row['uncovered']):3d} not, in band {inside:6.1%} of "
        f"{row['watched']:3d}, near the size wanted {near:6.1%}, {len(row['broken'])} broken, "
        f"{len(row['symmetric'])} symmetric, traced {row['tracing']:.1f} s, solved {row['solving']:.1f} s",
        flush=True,
    )


def summary(rows: list[dict[str, Any]]) -> None:
    """What the table comes to."""
    done = [row for row in rows if "failed" not in row]
    watched, sums = (sum(row[key] for row in done) for key in ("watched", "sums"))
    outside, far = (sum(len(row[key]) for row in done) for key in ("outside", "far"))
    good = sum(len(row["outside"]) <= 0.05 * row["watched"] for row in done)
    left = sum(len(row["uncovered"]) - len(row["unreached"]) for row in done)
    print(
        f"\n{len(done)} of {len(rows)} models; {left} parameters left besides those that take part in nothing; in band "
        f"{1 - outside / max(watched, 1):.2%} of {watched} nodes, at least 95 % in {good} models; within a factor of "
        f"four of the size wanted {1 - far / max(sums, 1):.2%} of {sums} sums; models with gradients that are not "
        f"finite {sum(bool(row['broken']) for row in done)}, with symmetric units "
        f"{sum(bool(row['symmetric']) for row in done)}; "
        f"solving takes {statistics.median(row['solving'] for row in done):.1f} s in the median, "
        f"{torch.get_num_threads()} threads"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="models instead of families")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--out", type=Path, help="append a line of JSON for each model, and skip those that have one")
    options = parser.parse_args()
    rows = (
        [json.loads(line) for line in options.out.read_text().splitlines()]
        if options.out and options.out.exists()
        else []
    )
    finished = {row["name"] for row in rows}
    for name in options.names or families():
        if name in finished:
            continue
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            try:
                row = evaluate(name, options.size, options.batch)
            except Exception as error:  # one model must not end the table
                row = {"name": name, "failed": f"{type(error).__name__}: {str(error).splitlines()[0][:90]}"}
        gc.collect()
        rows.append(row)
        show(row)
        if options.out:
            with options.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
    summary(rows)


if __name__ == "__main__":
    main()
