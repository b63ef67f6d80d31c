"""``firstlight compare MODEL DATA``."""

from pathlib import Path
from typing import Any

import click

from firstlight.cli.shared import image_options, print_json, progress_bar


class Names(click.ParamType):
    """Names separated by commas."""

    name = "NAME,NAME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """ "xavier,kaiming" → ("xavier", "kaiming")."""
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


class Rates(Names):
    """Numbers separated by commas."""

    name = "RATE,RATE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """ "0.01,0.1" → (0.01, 0.1)."""
        try:
            rates = tuple(float(part) for part in super().convert(value, param, ctx))
        except ValueError:
            return self.fail(f"{value!r} is not a list of learning rates: give 0.01,0.1", param, ctx)
        return rates if all(rate > 0 for rate in rates) and rates else self.fail("rates are positive", param, ctx)


@click.command("compare")
@click.argument("model")
@click.argument("source")
@click.option("--schemes", type=Names(), default="normal(0.01),xavier,kaiming,auto", show_default=True)
@click.option(
    "--recipes", type=Names(), default="resnet", show_default=True, help="none, scale, vgg, resnet, alexnet, pca, zca."
)
@click.option("--steps", type=click.IntRange(min=5), default=300, show_default=True, help="Of each run.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Runs of each contender.")
@click.option("--batch", type=click.IntRange(min=2), default=32, show_default=True, help="Images in a batch.")
@click.option("--limit", type=click.IntRange(min=2), default=4096, show_default=True, help="Images at most.")
@click.option(
    "--rates", type=Rates(), default="0.001,0.003,0.01,0.03,0.1", show_default=True, help="Learning rates to try."
)
@image_options
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("firstlight-compare"),
    show_default=True,
    help="Folder for compare.html, compare.json and finished runs.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(model: str, source: str, output: Path, as_json: bool, **options: Any) -> int:
    """Train MODEL for a few hundred steps from several starts on the images of SOURCE, and rank them.

    Folders are classes. A finished run is kept in OUTPUT, so an interrupted comparison goes on where it was.
    """
    from firstlight.workflows.comparing import compare

    with progress_bar("Training", "runs") as progress:
        result = compare(model, source, output, progress=progress, **options)
    if as_json:
        print_json(result.to_dict())
        return 0
    from rich.console import Console

    from firstlight.report.terminal import print_document

    print_document(result.document, Console(), sections=("Ranking", "How it was made"))
    click.echo(f"Wrote {output / 'compare.html'}, {output / 'compare.json'}")
    return 0
