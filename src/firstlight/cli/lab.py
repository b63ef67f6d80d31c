"""``firstlight lab``."""

import subprocess
import sys
from importlib.resources import as_file, files

import click


@click.command("lab")
@click.option("--port", type=click.IntRange(1, 65535), default=2718, show_default=True)
@click.option("--no-browser", is_flag=True, help="Only serve; do not open a browser.")
def command(port: int, no_browser: bool) -> int:
    """Play with depth, width, nonlinearity and initialization, and see the signal, on a local page.

    It is served to this machine alone (127.0.0.1) and needs no network. Ctrl-C ends it.
    """
    from firstlight._extras import require

    require("marimo", extra="lab")
    with as_file(files("firstlight.experiments") / "lab_app.py") as page:
        click.echo(f"The lab is at http://127.0.0.1:{port} (Ctrl-C ends it)", err=True)
        arguments = ["run", str(page), "--host", "127.0.0.1", "--port", str(port)]
        if no_browser:
            arguments.append("--headless")
        try:
            return subprocess.call([sys.executable, "-m", "marimo", "--quiet", *arguments])
        except KeyboardInterrupt:
            return 0
