"""What several commands share: options, progress, size arguments."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from firstlight._files import to_json
from firstlight._typing import Progress as ProgressCallback
from firstlight.sources import RESAMPLING


class Size(click.ParamType):
    """A side in pixels, or HEIGHTxWIDTH."""

    name = "SIDE|HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """ "256" → 256, "256x320" → (256, 320)."""
        try:
            sides = [int(side) for side in str(value).lower().replace("×", "x").split("x")]
        except ValueError:
            sides = []
        if len(sides) == 1:
            return sides[0]
        if len(sides) == 2:
            return (sides[0], sides[1])
        return self.fail(f"{value!r} is not a size: give 256 or 256x320", param, ctx)


def image_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that decide which pixels are counted."""
    options = [
        click.option("--resize", type=Size(), help="Shorter side, or HEIGHTxWIDTH, as torchvision's v2 Resize."),
        click.option("--crop", type=Size(), help="Central square, or HEIGHTxWIDTH, as CenterCrop."),
        click.option("--resample", type=click.Choice(RESAMPLING), default="bilinear", show_default=True),
        click.option("--split", help="Use only this split: train, val or test."),
        click.option("--all-splits", is_flag=True, help="Use all splits of a source that shows several."),
        click.option("--seed", type=int, default=0, show_default=True, help="Of every random choice."),
        click.option(
            "--workers", type=click.IntRange(min=1), help="Threads; never changes the result. [default: all cores]"
        ),
        click.option("--engine", default="local", show_default=True, help="local (threads) or ray (a cluster)."),
        click.option("--alpha", default="mask", show_default=True, help='"mask", "drop" or "composite #rrggbb".'),
        click.option(
            "--exif", "orientation", is_flag=True, help="Apply EXIF orientation.  [default: pixels as stored]"
        ),
        click.option("--nodata", type=float, help='Value that means "no measurement".'),
        click.option("--key", help="Which array of a .npz, which column of a Parquet file."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def count_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that leave images or pixels out of the count."""
    command = click.option("--masks", help="A source with one mask per image, by name; zero leaves a pixel out.")(
        command
    )
    return click.option("--sample", type=int, help="Count only this many images, chosen at random.")(command)


def print_json(value: Any) -> None:
    """A result on standard output as JSON; what is not finite becomes null, for JSON has no word for it."""
    click.echo(to_json(value))


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(
            "" if speed is None else f"{speed:,.{0 if speed >= 10 else 2}f} {self.unit}/s", style="progress.data.speed"
        )


@contextmanager
def progress_bar(what: str, unit: str = "images") -> Iterator[ProgressCallback]:
    """A bar on standard error with rate and time left; nothing where standard error is not a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(unit), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)

        def advance(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total)

        yield advance
