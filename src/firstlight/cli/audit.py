"""``firstlight audit SOURCE --mean … --std …``."""

import dataclasses
from pathlib import Path
from typing import Any

import click

from firstlight.cli.shared import image_options, print_json, progress_bar


class Numbers(click.ParamType):
    """Numbers separated by commas or spaces."""

    name = "R,G,B"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        """ "0.485,0.456,0.406" → [0.485, 0.456, 0.406]."""
        try:
            return [float(part) for part in str(value).replace(",", " ").split()]
        except ValueError:
            return self.fail(f"{value!r} is not a list of numbers: give 0.485,0.456,0.406", param, ctx)


@click.command("audit")
@click.argument("source")
@image_options
@click.option("--mean", type=Numbers(), help="Channel means, full scale = 1.")
@click.option("--std", type=Numbers(), help="Channel standard deviations, full scale = 1.")
@click.option("--eigval", type=Numbers(), help="Eigenvalues of the covariance of channels (with --eigvec).")
@click.option("--eigvec", type=Numbers(), help="Eigenvectors, row by row: a row per channel.")
@click.option(
    "--config",
    "--hf",
    "--timm",
    "config",
    type=click.Path(path_type=Path),
    help="A preprocessor_config.json, a timm config, or a recipe.",
)
@click.option("--model", help="The published preprocessing of torchvision:NAME or timm:NAME.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write an HTML page.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdicts as JSON.")
def command(
    source: str,
    mean: Any,
    std: Any,
    eigval: Any,
    eigvec: Any,
    config: Path | None,
    model: str | None,
    output: Path | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Are these constants right for this data? SOURCE is images, or a file that `firstlight scan` wrote.

    Exit code 0: right; 1: wrong, with the mistake that explains them; 2: error.
    """
    from firstlight._files import write_atomically
    from firstlight.recipe import audit
    from firstlight.report import audit_document, to_html
    from firstlight.workflows.auditing import constants_of, statistics_of

    if config is not None or model is not None:
        mean, std = constants_of(config, model)
    if mean is None and std is None and eigval is None:
        raise click.UsageError("nothing to compare: give --mean, --std, --eigval with --eigvec, --config or --model")
    with progress_bar("Scanning") as progress:
        stats = statistics_of(source, progress=progress, **options)
    found = audit(stats, mean=mean, std=std, eigval=eigval, eigvec=_square(eigvec, stats.channels))
    if output is not None:
        write_atomically(output, to_html(audit_document(stats, found)))
    if as_json:
        verdicts = [dataclasses.asdict(verdict) for verdict in found.verdicts]
        value = {"format": "firstlight.audit/1", "ok": found.ok, "verdicts": verdicts, "unknown": list(found.unknown)}
        print_json(value)
    else:
        click.echo(f"{found}" + ("" if output is None else f"\nWrote {output}"))
    return 0 if found.ok else 1


def _square(numbers: list[float] | None, rows: int) -> list[list[float]] | None:
    if numbers is None:
        return None
    if len(numbers) != rows * rows:
        raise click.BadParameter(f"give {rows}×{rows} numbers, row by row", param_hint="--eigvec")
    return [numbers[k * rows : (k + 1) * rows] for k in range(rows)]
