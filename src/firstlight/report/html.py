"""A `Document` as one self-contained page: no network, no JavaScript, everything that came from outside escaped."""

import base64
import re
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment
from markupsafe import Markup, escape

from firstlight.report import charts, flow, plots, ridges
from firstlight.report.document import Document, Picture, Plot, Ridges, visible


def to_html(document: Document) -> str:
    """The page's text."""
    return _template().render(document=document)


def to_notebook(document: Document) -> str:
    """The page inside a frame, so that its style and the notebook's cannot touch each other."""
    page = escape(to_html(document))
    title = escape(document.title)
    return f'<iframe title="{title}" srcdoc="{page}" style="width:100%;height:40rem;border:0"></iframe>'


def chart_html(chart: Plot | Ridges) -> str:
    """One chart for a page that is not ours; `scoped_style` must stand on it once."""
    return f'<div class="firstlight">{plots.plot(chart) if isinstance(chart, Plot) else ridges.ridges(chart)}</div>'


def chart_svg(chart: Plot) -> str:
    """One chart as a picture of its own, with a margin, for light and dark ground."""
    drawn = re.search(r'<svg viewBox="0 0 (\d+) (\d+)" (.*?)>(.*)</svg>', plots.plot(chart), re.DOTALL)
    assert drawn is not None
    width, height, attributes, content = int(drawn[1]) + 32, int(drawn[2]) + 28, drawn[3], drawn[4]
    ground = f'<rect x="-16" y="-14" width="{width}" height="{height}" rx="10" fill="var(--card)"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-16 -14 {width} {height}" class="plotted" {attributes}>'
        f"<style>{_style()}</style>{ground}{content}</svg>\n"
    )


def scoped_style() -> str:
    """The style of charts, for what is inside `chart_html` only."""
    return f"<style>.firstlight {{ {_style().replace(':root', '&')} }}</style>"


@cache
def _style() -> str:
    return (files("firstlight.report") / "templates" / "page.css").read_text(encoding="utf-8")


@cache
def _template() -> Any:
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_shown)
    environment.filters.update(
        bars=charts.bars, lines=charts.lines, swatches=charts.swatches, clouds=charts.clouds, plot=plots.plot,
        ridges=ridges.ridges, flow=flow.flow,
        data_uri=_data_uri,
    )  # fmt: skip
    environment.filters["kind"] = lambda block: type(block).__name__
    environment.globals["style"] = Markup(_style())
    page = files("firstlight.report") / "templates" / "page.html"
    return environment.from_string(page.read_text(encoding="utf-8"))


def _shown(value: Any) -> Any:
    return visible(value) if type(value) is str else value  # markup has been through here already


def _data_uri(picture: Picture) -> str:
    return f"data:{picture.media_type};base64,{base64.b64encode(picture.data).decode('ascii')}"
