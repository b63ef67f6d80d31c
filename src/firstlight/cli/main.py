"""``firstlight COMMAND``. Commands are imported when they run, so that help costs nothing."""

import importlib
import io
import os
import sys
from contextlib import suppress
from typing import Any

import click

from firstlight import __version__
from firstlight.errors import FirstlightError

_COMMANDS = {
    "prepare": "Images and a network: statistics, recipe, weights and one page. The main job.",
    "scan": "Exact statistics of a source of images.",
    "recipe": "A preprocessing recipe from statistics or images.",
    "export": "A recipe in the form that another tool reads.",
    "audit": "Are these constants right for this data?",
    "predict": "What signal and gradient every operation of a network should have, before it runs.",
    "init": "Initialize a network from its graph and say why each weight starts as it does.",
    "check": "Three steps on a copy: does the signal flow, and if not, what is the culprit, the cause and the fix?",
    "explain": "A rule of check: what it measures, what is expected and why, what mends it.",
    "compare": "Short, fair training runs from several starts: which scheme and recipe suit this network and data?",
    "lecture": "Every claim and figure of the lecture, regenerated from real runs as one page.",
    "lab": "A local page to play with: depth, width, nonlinearity, initialization, and the signal at once.",
}


class _Lazy(click.Group):
    """A group whose commands live in modules of their own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"firstlight.cli.{name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "--version", prog_name="firstlight")
def group() -> None:
    """Everything before the first epoch of a vision network.

    Exit codes: 0 fine, 1 findings, 2 error.
    """


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; never shows a traceback for what the user can put right."""
    for stream in (sys.stdout, sys.stderr):  # a file name or a "±" that the terminal has no code for is no error
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = group.main(arguments, prog_name="firstlight", standalone_mode=False)
    except FirstlightError as error:
        _say(f"firstlight: {error}")
        code = 2
    except click.exceptions.Exit as exit_:
        code = exit_.exit_code
    except (click.Abort, KeyboardInterrupt) as error:  # click raises Abort from the interrupt, which may hold notes
        notes = getattr(error.__cause__ or error, "__notes__", [])
        _say(" ".join(["firstlight: interrupted.", *notes]))
        code = 130
    except click.ClickException as error:
        error.show()
        code = 2
    except BrokenPipeError:  # the reader of a pipe has seen enough
        _discard_output()
        code = 0
    except OSError as error:
        _discard_output()
        _say(f"firstlight: {error}\n  Way out: make room for the output, or check what the message names")
        code = 2
    sys.exit(code if isinstance(code, int) else 0)


def _say(message: str) -> None:
    click.echo(message, err=True)


def _discard_output() -> None:
    """Nothing more can be written: keep the interpreter from trying again when it ends."""
    with suppress(OSError):  # standard output need not be a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
