"""``firstlight prepare [SOURCE] [MODEL]``."""

from pathlib import Path
from typing import Any

import click

from firstlight.cli.shared import count_options, image_options, print_json, progress_bar


@click.command("prepare")
@click.argument("source", default="demo:photos")
@click.argument("model", required=False)
@image_options
@count_options
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("firstlight-out"),
    show_default=True,
    help="Folder for statistics.json, recipe.json, weights.safetensors, report.html.",
)
@click.option("--batch", type=click.IntRange(min=2), default=64, show_default=True, help="Images in the probed batch.")
@click.option("--restart", is_flag=True, help="Forget an unfinished scan instead of going on from it.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON instead of tables.")
def command(source: str, model: str | None, output: Path, as_json: bool, **options: Any) -> int:
    """Scan SOURCE, derive a recipe, initialize MODEL, and check it on a real batch.

    Without arguments: scikit-learn's photographs in patches (demo:photos) and a small CNN. MODEL is timm:NAME,
    torchvision:NAME, package.module:CALLABLE or FILE.py:CALLABLE.
    """
    from firstlight.workflows import prepare

    with progress_bar("Scanning") as progress:
        result = prepare(source, model, output, progress=progress, **options)
    if as_json:
        print_json(result.to_dict())
        return 0 if result.ok else 1
    from rich.console import Console

    from firstlight.report.terminal import print_document

    console = Console()
    shown = ("Findings", "Does the signal flow?", "Preprocessing recipe", "Constants to paste", "Notes")
    print_document(result.document(), console, sections=shown)
    for name, path in result.files.items():
        console.print(f"Wrote {name}: {path}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"\nOpen {result.files['report']} in a browser.", highlight=False, markup=False, soft_wrap=True)
    return 0 if result.ok else 1
