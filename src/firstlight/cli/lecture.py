"""``firstlight lecture``."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from firstlight.cli.shared import print_json


class Numbers(click.ParamType):
    """Chapters by number: 1,3 or 2-5."""

    name = "N,N-N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """ "1,3-5" → (1, 3, 4, 5)."""
        found: list[int] = []
        try:
            for part in str(value).split(","):
                first, _, last = part.partition("-")
                found += range(int(first), int(last or first) + 1)
        except ValueError:
            return self.fail(f"{value!r} does not name chapters: give 1,3 or 2-5", param, ctx)
        return tuple(found)


@click.command("lecture")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=Path("lecture"),
              show_default=True, help="Folder for lecture.html and lecture.json.")  # fmt: skip
@click.option("--data", metavar="SOURCE", help="Images with a folder per class.  [default: scikit-learn's]")
@click.option("--quick", is_flag=True, help="Small settings: a minute or two instead of a quarter of an hour.")
@click.option("--chapters", type=Numbers(), help="Only these.  [default: all]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of every random choice.")
@click.option("--json", "as_json", is_flag=True, help="Print the table of claims as JSON.")
def command(output: Path, as_json: bool, **options: Any) -> int:
    """Regenerate every claim and figure of the lecture from real runs, as one page.

    A finished chapter is kept in OUTPUT/.cache, so an interrupted run goes on where it was. Exit code 1 when a claim is
    not confirmed.
    """
    from firstlight.experiments import lecture

    with _progress() as announce:
        result = lecture(output, announce=announce, **options)
    if as_json:
        value = result.to_dict()
        print_json({key: value[key] for key in ("format", "version", "data", "quick", "seed", "ok", "claims", "files")})
        return 0 if result.ok else 1
    _print(result)
    return 0 if result.ok else 1


def _print(result: Any) -> None:
    from rich.console import Console

    from firstlight.report.lecture_page import lecture_document
    from firstlight.report.terminal import print_document

    console = Console()
    print_document(lecture_document(result.chapters, data=result.data), console, sections=("Claims",))
    for name, path in result.files.items():
        console.print(f"Wrote {name}: {path}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"\nOpen {result.files['page']} in a browser.", highlight=False, markup=False, soft_wrap=True)


@contextmanager
def _progress() -> Iterator[Any]:
    """The chapter that runs and how many are done, on standard error; nothing where that is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Reading images", total=None)

        def announce(done: int, total: int, title: str) -> None:
            bar.update(task, completed=done, total=total, description=title)

        yield announce
