"""The command line: parses, calls a workflow, prints, picks an exit code."""

from firstlight.cli.main import main as main
