"""``firstlight recipe STATISTICS``."""

from pathlib import Path
from typing import Any

import click

_PRESETS = {
    "resnet": "subtract the channel mean, divide by the pooled std",
    "vgg": "subtract the channel mean",
    "alexnet": "subtract the mean image",
    "scale": "to 0…1",
    "pca": "rotate to the principal axes of colour",
    "zca": "whiten colour and rotate back",
}


@click.command("recipe", epilog="Presets: " + "; ".join(f"{name}: {what}" for name, what in _PRESETS.items()) + ".")
@click.argument("statistics", type=click.Path(path_type=Path))
@click.option("--preset", type=click.Choice(list(_PRESETS)), default="resnet", show_default=True)
@click.option("--whiten", is_flag=True, help="pca: also give every component variance 1.")
@click.option("--epsilon", type=float, help="pca, zca: regularization relative to the mean eigenvalue.")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), default=Path("recipe.json"), show_default=True
)
@click.option("--json", "as_json", is_flag=True, help="Print the recipe as JSON instead of in words.")
def command(statistics: Path, preset: str, whiten: bool, epsilon: float | None, output: Path, as_json: bool) -> int:
    """Derive a preprocessing recipe from STATISTICS, a file that `firstlight scan` wrote."""
    from firstlight.recipe import Recipe
    from firstlight.statistics import Statistics

    stats = Statistics.load(statistics)
    options: dict[str, Any] = {}
    if preset in ("pca", "zca"):
        options["epsilon"] = epsilon
    if preset == "pca":
        options["whiten"] = whiten
    recipe = getattr(Recipe, preset)(stats, **options)
    recipe.save(output)
    if as_json:
        click.echo(recipe.to_json(), nl=False)
    else:
        click.echo(f"{recipe}\nWrote {output}")
    return 0
