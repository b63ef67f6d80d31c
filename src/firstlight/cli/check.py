"""``firstlight check MODEL --data SOURCE``."""

from pathlib import Path
from typing import Any

import click

from firstlight.cli.audit import Numbers
from firstlight.cli.shared import image_options, print_json, progress_bar


@click.command("check")
@click.argument("model")
@click.option("--data", "source", default="demo:photos", show_default=True, help="Images; their folders are classes.")
@click.option(
    "--recipe", default="resnet", show_default=True, help="resnet, vgg, alexnet, zca, none (raw pixels), or a file."
)
@click.option("--mean", type=Numbers(), help="Normalize with these constants instead, full scale = 1 (with --std).")
@click.option("--std", type=Numbers(), help="See --mean.")
@click.option(
    "--loss", default="cross-entropy", show_default=True, help="cross-entropy, bce-with-logits, mse, FILE.py:CALLABLE."
)
@click.option("--optimizer", help="sgd, adam or adamw; without one, what concerns it is not checked.")
@click.option("--lr", type=float, default=1e-3, show_default=True, help="Learning rate of --optimizer.")
@click.option("--batch", type=click.IntRange(min=2), default=32, show_default=True, help="Images in the batch.")
@image_options
@click.option("--fix", is_flag=True, help="Try each fix on a copy and show the check before and after.")
@click.option(
    "--fail-on",
    type=click.Choice(["fail", "warn", "note"]),
    default="fail",
    show_default=True,
    help="Exit with 1 from this severity on.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    multiple=True,
    help="Write .html, .json, .xml (JUnit) or .sarif; may be given several times.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    model: str, source: str, fix: bool, fail_on: Any, output: tuple[Path, ...], as_json: bool, **options: Any
) -> int:
    """Run MODEL for three steps on a batch of real images, on a copy, and say whether the signal flows.

    Each finding has a culprit, the evidence, a cause and a fix; `firstlight explain CODE` says more. MODEL is
    timm:NAME, torchvision:NAME, package.module:CALLABLE or FILE.py:CALLABLE.
    """
    from firstlight.workflows.check_source import check_source
    from firstlight.workflows.checking import form_of

    for path in output:
        form_of(path)  # refused before any work
    with progress_bar("Scanning") as progress:
        result = check_source(model, source, progress=progress, **options)
    if fix:
        result = result.repaired()
    for path in output:
        result.save(path, fail_on=fail_on)
    if as_json:
        print_json(result.to_dict())
    else:
        from rich.console import Console

        from firstlight.report.terminal import print_document

        shown = ("Findings", "The fixes, tried on a copy", "Three steps on this batch", "What was not looked at")
        print_document(result.document, Console(), sections=shown)
        for path in output:
            click.echo(f"Wrote {path}")
    return 1 if result.at_least(fail_on) else 0
