"""``firstlight predict MODEL``."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from firstlight.cli.init import parse_shape


@click.command("predict")
@click.argument("model")
@click.option("--input", "shape", default="3x224x224", show_default=True, metavar="CxHxW", help="Shape of one image.")
@click.option("--batch", type=click.IntRange(min=2), default=32, show_default=True, help="Images in a batch.")
@click.option("--mode", type=click.Choice(["train", "eval"]), default="train", show_default=True)
@click.option("--mean", type=float, default=0.0, show_default=True, help="Mean of the input.")
@click.option("--second-moment", type=float, default=1.0, show_default=True, help="Mean square of the input.")
@click.option(
    "--statistics",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Of the images, as `firstlight scan` wrote them; instead of the two numbers.",
)
@click.option(
    "--recipe",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What is done to those images first, as `firstlight recipe` wrote it.",
)
@click.option("--derive", metavar="LAYER", help="Derive var(y) = d·var(x)·var(w) with this layer's numbers.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the page (HTML).")
@click.option("--json", "as_json", is_flag=True, help="Print the prediction as JSON instead of tables.")
def command(
    model: str,
    shape: str,
    batch: int,
    mode: Any,
    mean: float,
    second_moment: float,
    statistics: Path | None,
    recipe: Path | None,
    derive: str | None,
    output: Path | None,
    as_json: bool,
) -> int:
    """Predict mean, size and gradient of every operation of MODEL, without running it."""
    import torch

    from firstlight._files import write_atomically
    from firstlight.graph import trace
    from firstlight.models import open_model
    from firstlight.recipe import Recipe
    from firstlight.report.html import to_html
    from firstlight.report.predict_page import predict_document
    from firstlight.statistics import Statistics
    from firstlight.workflows.predicting import derive_layer, predict

    network, example = open_model(model), torch.zeros(batch, *parse_shape(shape))
    graph = trace(network, example)
    stats = None if statistics is None else Statistics.load(statistics)
    steps = None if recipe is None else Recipe.load(recipe)
    prediction = predict(
        network,
        example,
        input_mean=mean,
        input_second_moment=second_moment,
        statistics=stats,
        recipe=steps,
        mode=mode,
        graph=graph,
    )
    derivation = derive and derive_layer(
        network, example, derive, input_mean=mean, input_second_moment=second_moment, graph=graph
    )
    document = predict_document(model, prediction, derivation or None, graph=graph)
    if output is not None:
        write_atomically(output, to_html(document).encode("utf-8"))
    if as_json:
        value = {
            "format": "firstlight.predict/1",
            "growth": prediction.growth,
            "chi": prediction.chi,
            "turning_points": [list(point) for point in prediction.turning_points],
            "notes": list(prediction.notes),
            "nodes": [dataclasses.asdict(node) for node in prediction.nodes],
            "derivation": None if not derivation else dataclasses.asdict(derivation),
            "file": None if output is None else str(output),
        }
        click.echo(json.dumps(value, indent=1))
        return 0
    if derivation and output is None:
        click.echo(str(derivation))
        return 0
    from rich.console import Console

    from firstlight.report.terminal import print_document

    print_document(document, Console())
    if output is not None:
        click.echo(f"Wrote {output}")
    return 0
