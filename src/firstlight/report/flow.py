"""`Flow` as inline SVG: every operation a point, every tensor a line, so that branches are seen as branches."""

import math

from markupsafe import Markup, escape

from firstlight.report.charts import decade, figure
from firstlight.report.document import Flow, number, visible

_W, _H, _LEFT, _RIGHT, _TOP, _BOTTOM = 860, 300, 58, 20, 24, 34


def flow(chart: Flow) -> Markup:
    """Depth to the right, size upwards."""
    drawn = {k: (d, v, t, m) for k, (d, v, t, m) in enumerate(chart.points) if v is not None and v > 0}
    drawn = {k: point for k, point in drawn.items() if math.isfinite(point[1])}
    if not drawn:
        return figure(Markup(""), chart.caption + " Nothing positive to draw.", "")
    low = math.floor(math.log10(min(v for _, v, _, _ in drawn.values())))
    high = max(math.ceil(math.log10(max(v for _, v, _, _ in drawn.values()))), low + 1)
    deepest = max(d for d, *_ in drawn.values()) or 1

    def x(depth: int) -> float:
        return _LEFT + (_W - _LEFT - _RIGHT) * depth / deepest

    def y(value: float) -> float:
        return _TOP + (_H - _TOP - _BOTTOM) * (high - math.log10(value)) / (high - low)

    every = max(1, math.ceil((high - low) / 8))
    grid = "".join(
        f'<path class="grid" d="M{_LEFT} {y(10.0**d):.1f}H{_W - _RIGHT}"/>'
        f'<text x="{_LEFT - 6}" y="{y(10.0**d) + 4:.1f}" text-anchor="end">{decade(d)}</text>'
        for d in range(low, high + 1, every)
    )
    edges = "".join(
        f"M{x(drawn[a][0]):.1f} {y(drawn[a][1]):.1f}L{x(drawn[b][0]):.1f} {y(drawn[b][1]):.1f}"
        for a, b in chart.edges
        if a in drawn and b in drawn
    )
    points = "".join(_point(x(d), y(v), v, text, marked, chart.tone) for d, v, text, marked in drawn.values())
    words = (
        f'<text x="0" y="12">{_text(chart.axis)}</text>'
        f'<text x="{_W / 2}" y="{_H - 6}" text-anchor="middle">operations from the input, by the longest way</text>'
    )
    svg = (
        f'<svg viewBox="0 0 {_W} {_H}" role="img" aria-label="{_text(chart.axis)}">{grid}{words}'
        f'<path class="edge {_text(chart.tone)}" d="{edges}"/>{points}</svg>'
    )
    return figure(Markup(svg), chart.caption, "wide")


def _point(x: float, y: float, value: float, text: str, marked: bool, tone: str) -> str:
    shape = (
        f'<rect class="fill red" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8">'
        if marked
        else f'<circle class="fill {_text(tone)}" cx="{x:.1f}" cy="{y:.1f}" r="2.4">'
    )
    return f"{shape}<title>{_text(text)}: {number(value, 4)}</title></{'rect' if marked else 'circle'}>"


def _text(value: str) -> Markup:
    return escape(visible(value))
