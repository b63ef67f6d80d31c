"""``firstlight scan SOURCE``."""

from pathlib import Path
from typing import Any

import click

from firstlight.cli.shared import count_options, image_options, print_json, progress_bar


@click.command("scan")
@click.argument("source")
@image_options
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("statistics.json"),
    show_default=True,
    help="The statistics; the page goes beside it with the suffix .html.",
)
@click.option("--page/--no-page", default=True, show_default=True, help="Write the HTML page.")
@count_options
@click.option("--tolerance", type=float, help="Random order; stop when the mean is known to ± this (full scale = 1).")
@click.option("--strict", is_flag=True, help="Exit code 1 when an image could not be counted.")
@click.option("--restart", is_flag=True, help="Forget an unfinished scan instead of going on from it.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON instead of a table.")
def command(source: str, output: Path, page: bool, strict: bool, as_json: bool, **options: Any) -> int:
    """Exact statistics of all images of SOURCE: a folder, zip, tar, WebDataset shards, .npy, .npz, IDX or Parquet
    file, an fsspec URL, or demo:photos.

    While it runs, finished blocks are kept beside the output: killed at any moment, the same command goes on.
    """
    from firstlight._files import write_atomically
    from firstlight.engines import Observer
    from firstlight.report import scan_document, to_html
    from firstlight.sources import Policy, Transform, guard, open_source
    from firstlight.workflows import scan
    from firstlight.workflows.samples import sample_images
    from firstlight.workflows.views import recipe_views

    if page and output.suffix == ".html":
        raise click.BadParameter("the page has this name: call the statistics otherwise, say .json", param_hint="-o")
    opened = open_source(source, key=options.pop("key"))
    checkpoint = output.with_name(output.name + ".partial")
    with progress_bar(f"Scanning {opened.kind}") as progress:
        statistics = scan(opened, checkpoint=checkpoint, progress=progress, **options)
    statistics.save(output)
    written = [output]
    chosen, _ = guard(opened, options["split"], options["all_splits"], "scan")
    transform = Transform(options["resize"], options["crop"], options["resample"])
    observer = Observer(Policy(options["alpha"], options["orientation"], options["nodata"]), transform)
    samples = sample_images(chosen, observer, 12, options["seed"]) if page else []
    document = scan_document(statistics, samples, recipe_views(statistics, samples))
    if page:
        written.append(output.with_suffix(".html"))
        write_atomically(written[-1], to_html(document))
    if as_json:
        value = {
            "format": "firstlight.scan/1",
            **statistics.summary(),
            "mean_decimals_known": statistics.digits,
            "images_for_next_decimal": statistics.images_for_next_digit,
            "provenance": statistics.provenance.to_dict(),
            "quarantine": [list(entry) for entry in statistics.quarantine],
            "files": [str(path) for path in written],
        }
        print_json(value)
    else:
        _print(document, written, str(opened))
    opened.close()
    return 1 if strict and statistics.quarantine else 0


_SHOWN = ("Numbers", "Constants to paste", "How well the mean is known", "Not counted")


def _print(document: Any, written: list[Path], chose: str) -> None:
    from rich.console import Console

    from firstlight.report.terminal import print_document

    console = Console()
    console.print(f"Read {chose}", highlight=False, markup=False)
    print_document(document, console, sections=_SHOWN, rows=20)
    for path in written:
        console.print(f"Wrote {path}", highlight=False, markup=False, soft_wrap=True)
