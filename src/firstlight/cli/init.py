"""``firstlight init MODEL``."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from torch import nn


@click.command("init")
@click.argument("model")
@click.option("--input", "shape", default="3x224x224", show_default=True, metavar="CxHxW", help="Shape of one image.")
@click.option("--scheme", default="kaiming", show_default=True, help="How the scales are chosen.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the weights (safetensors)."
)
@click.option("--audit", is_flag=True, help="Explain the weights MODEL is built with instead of drawing new ones.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON instead of a table.")
def command(model: str, shape: str, scheme: str, seed: int, output: Path | None, audit: bool, as_json: bool) -> int:
    """Initialize MODEL from its graph: one line per parameter with rule, fan, gain, std and reason."""
    import torch

    from firstlight.models import open_model
    from firstlight.workflows import initialize
    from firstlight.workflows.initializing import save_weights

    network = open_model(model)
    if audit:
        return _audit(network, as_json=as_json)
    report = initialize(network, torch.zeros(2, *parse_shape(shape)), scheme=scheme, seed=seed)
    if output is not None:
        save_weights(network, output, report)
    if as_json:
        rows = [dataclasses.asdict(p.decision) | {"measured_std": p.measured_std} for p in report.parameters]
        value = {
            "format": "firstlight.init/1",
            "scheme": scheme,
            "seed": seed,
            "parameters": rows,
            "uncovered": list(report.uncovered),
            "file": None if output is None else str(output),
        }
        click.echo(json.dumps(value, indent=1))
    else:
        click.echo(str(report))
        if output is not None:
            click.echo(f"Wrote {output}")
    return 1 if report.uncovered else 0


def _audit(network: "nn.Module", *, as_json: bool) -> int:
    from firstlight.initialization import audit_init

    found = audit_init(network)
    if as_json:
        click.echo(json.dumps({"format": "firstlight.init-audit/1", **dataclasses.asdict(found)}, indent=1))
    else:
        click.echo(str(found))
        click.echo("\n".join(found.findings) or "Nothing that should not be there.")
    return 1 if found.findings else 0


def parse_shape(text: str) -> tuple[int, ...]:
    """ "3x224x224" → (3, 224, 224)."""
    sides = text.lower().replace("×", "x").split("x")
    if not all(side.isdigit() and int(side) > 0 for side in sides):
        raise click.BadParameter(f"{text!r} is not a shape: give CxHxW, such as 3x224x224", param_hint="--input")
    return tuple(int(side) for side in sides)
