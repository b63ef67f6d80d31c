"""``firstlight export RECIPE TARGET``."""

import json
from pathlib import Path

import click

# Targets whose form is a file. The others are objects of a Python library: use `recipe.export` there.
_FILES = ("hf", "timm", "mmengine", "json", "onnx")


@click.command("export")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("target", type=click.Choice(_FILES))
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Where; needed for onnx.")
@click.option("--model", type=click.Path(path_type=Path), help="onnx: a model to put the preprocessing in front of.")
def command(recipe: Path, target: str, output: Path | None, model: Path | None) -> int:
    """Write RECIPE in the form that another tool reads, or say why that form cannot hold it.

    Targets with a file of their own. For torchvision, Keras, Albumentations and OpenVINO objects use
    `Recipe.load(...).export(...)` in Python.
    """
    from firstlight._files import write_atomically
    from firstlight.recipe import Recipe

    loaded = Recipe.load(recipe)
    if target == "onnx":
        if output is None:
            raise click.UsageError("an ONNX model is a binary file: name it with -o")
        exported = loaded.export("onnx", model=model)
        write_atomically(output, exported.SerializeToString())
    else:
        text = json.dumps(loaded.export(target), indent=1) + "\n"
        if output is None:
            click.echo(text, nl=False)
            return 0
        write_atomically(output, text)
    click.echo(f"Wrote {output}")
    return 0
