"""``firstlight recipe SOURCE``."""

from pathlib import Path
from typing import Any

import click

from firstlight.cli.shared import image_options, progress_bar

_PRESETS = {
    "resnet": "subtract the channel mean, divide by the pooled std",
    "vgg": "subtract the channel mean",
    "alexnet": "subtract the mean image",
    "scale": "to 0…1",
    "pca": "rotate to the principal axes",
    "zca": "whiten and rotate back",
}


@click.command("recipe", epilog="Presets: " + "; ".join(f"{name}: {what}" for name, what in _PRESETS.items()) + ".")
@click.argument("source")
@click.option("--preset", type=click.Choice(list(_PRESETS)), default="resnet", show_default=True)
@click.option("--whiten", is_flag=True, help="pca: also give every component variance 1.")
@click.option("--epsilon", type=float, help="pca, zca: regularization relative to the mean eigenvalue.")
@click.option(
    "--over",
    type=click.Choice(["channels", "patches", "pixels"]),
    help="pca, zca: what is whitened; patches and pixels need the images.  [default: channels]",
)
@click.option("--size", type=click.IntRange(min=1), help="Side of a patch.  [default: 5]")
@click.option("--rank", type=click.IntRange(min=1), help="pixels: only so many components, without any D×D matrix.")
@image_options
@click.option("--restart", is_flag=True, help="Forget unfinished work instead of going on from it.")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), default=Path("recipe.json"), show_default=True
)
@click.option("--json", "as_json", is_flag=True, help="Print the recipe as JSON instead of in words.")
def command(
    source: str,
    preset: str,
    whiten: bool,
    epsilon: float | None,
    over: str | None,
    output: Path,
    as_json: bool,
    **options: Any,
) -> int:
    """Derive a preprocessing recipe from SOURCE: a .json file that `firstlight scan` wrote, or images.

    While images are counted, finished blocks are kept beside the output, and the same command goes on from them;
    with --rank they are not, for they would be large.
    """
    from firstlight.recipe import Recipe

    rotates = preset in ("pca", "zca")
    if over is not None and not rotates:
        raise click.UsageError(f"--over is for pca and zca; {preset} works on channels")
    if options["size"] is not None and over != "patches":
        raise click.UsageError("--size is the side of a patch: it goes with --over patches")
    if options["rank"] is not None and over != "pixels":
        raise click.UsageError("--rank goes with --over pixels")
    checkpoint = None if options["rank"] else output.with_name(output.name + ".partial")
    stats = _statistics(source, over or "channels", {**options, "checkpoint": checkpoint})
    chosen: dict[str, Any] = {"epsilon": epsilon} if rotates else {}
    if preset == "pca":
        chosen["whiten"] = whiten
    recipe = getattr(Recipe, preset)(stats, **chosen)
    recipe.save(output)
    if as_json:
        click.echo(recipe.to_json(), nl=False)
    else:
        click.echo(str(recipe))
        if stats.quarantine:
            name, reason = stats.quarantine[0]
            click.echo(f"Not counted: {len(stats.quarantine):,} images, the first of them {name}: {reason}")
        click.echo(f"Wrote {output}")
    return 0


def _statistics(source: str, over: str, options: dict[str, Any]) -> Any:
    """What the recipe is made of: read from a file of statistics, scanned, or fitted."""
    from firstlight.errors import FirstlightError
    from firstlight.statistics import Statistics
    from firstlight.workflows import fit, scan

    size, rank = options.pop("size"), options.pop("rank")
    if source.endswith(".json"):
        if over != "channels":
            raise FirstlightError(
                f"a file of statistics holds the covariance of channels, not that of {over}",
                f"give the images instead: firstlight recipe IMAGES --over {over}, or leave --over out",
                slug="other-statistics",
            )
        return Statistics.load(source)
    if over == "channels":
        with progress_bar("Scanning") as progress:
            return scan(source, progress=progress, **options)
    with progress_bar("Fitting") as progress:
        return fit(source, over=over, size=size or 5, rank=rank, progress=progress, **options)
