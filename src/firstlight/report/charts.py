"""`Bars`, `Lines` and `Swatches` as inline SVG. Colours are CSS classes, so that a page can go dark."""

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

from firstlight.report.document import Bars, Clouds, Lines, Swatches, number, visible

_PANEL_W, _PANEL_H, _SMALL_W = 260, 120, 132
_LINES_W, _LINES_H = 860, 300


def bars(chart: Bars) -> Markup:
    """One panel per series, side by side, on one vertical scale unless they are small."""
    if chart.small:
        own = [_panel(chart.edges, *series, max(series[2], default=1) or 1, _SMALL_W) for series in chart.series]
        return figure(Markup("").join(own), chart.caption, "panels small")
    top = max((max(heights, default=0) for _, _, heights in chart.series), default=0) or 1
    # One spike (all-black borders, saturated skies) must not flatten the rest: it is cut and said so.
    typical = sorted(h for _, _, heights in chart.series for h in heights)
    cut = max(typical[int(0.98 * (len(typical) - 1))] * 1.6, 1e-12) if typical else top
    scale = min(top, cut)
    panels = [_panel(chart.edges, *series, scale) for series in chart.series]
    note = " Bars that reach the top edge are cut." if top > scale * 1.001 else ""
    return figure(Markup("").join(panels), chart.caption + note, "panels")


def _panel(
    edges: Sequence[float], label: str, tone: str, heights: Sequence[float], scale: float, w: int = _PANEL_W
) -> Markup:
    h, base = _PANEL_H, _PANEL_H - 18
    step = w / max(len(heights), 1)
    path = f"M0 {base}"
    for k, height in enumerate(heights):
        y = base - min(height / scale, 1) * (base - 16)
        path += f"V{y:.1f}H{(k + 1) * step:.1f}"
    path += f"V{base}Z"
    ends = (
        f'<text x="0" y="{h - 4}">{number(edges[0], 2)}</text>'
        f'<text x="{w}" y="{h - 4}" text-anchor="end">{number(edges[-1], 2)}</text>'
    )
    return Markup(
        f'<svg viewBox="0 0 {w} {h}" width="{w}" role="img" aria-label="{_text(label)}">'
        f'<text x="0" y="11" class="label">{_text(label)}</text>'
        f'<path class="fill {_text(tone)}" d="{path}"/>'
        f'<line class="axis" x1="0" x2="{w}" y1="{base}" y2="{base}"/>{ends}</svg>'
    )


def lines(chart: Lines) -> Markup:
    """Series over positions on a logarithmic axis, with decade grid, direct labels and a title per point."""
    values = [v for _, _, series in chart.series for v in series if v is not None and v > 0 and math.isfinite(v)]
    if not values:
        return figure(Markup(""), chart.caption + " Nothing positive to draw.", "")
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)
    left, right, top, bottom = 56, 110, 14, 26
    w, h = _LINES_W, _LINES_H

    def x(k: int) -> float:
        return left + (w - left - right) * (k + 0.5) / max(len(chart.labels), 1)

    def y(value: float) -> float:
        return top + (h - top - bottom) * (1 - (math.log10(value) - low) / (high - low))

    every = max(1, math.ceil((high - low) / 8))
    grid = "".join(
        f'<line class="grid" x1="{left}" x2="{w - right}" y1="{y(10.0**d):.1f}" y2="{y(10.0**d):.1f}"/>'
        f'<text x="{left - 6}" y="{y(10.0**d) + 4:.1f}" text-anchor="end">{decade(d)}</text>'
        for d in range(low, high + 1, every)
    )
    ends: list[float] = []
    drawn = "".join(_series(chart.labels, series, x, y, w - right, ends) for series in chart.series)
    axis = f'<text x="{left}" y="{h - 6}">{_text(chart.axis)}, along {_text(chart.along)}</text>'
    svg = f'<svg viewBox="0 0 {w} {h}" role="img" aria-label="{_text(chart.axis)}">{grid}{drawn}{axis}</svg>'
    return figure(Markup(svg), chart.caption, "wide")


def _series(labels, series, x, y, edge, ends):  # type: ignore[no-untyped-def]
    """One polyline with gaps, its points, and its name at the right end, moved clear of earlier names."""
    label, tone, values = series
    path, pen_up, points, last = "", True, "", None
    for k, value in enumerate(values):
        if value is None or not value > 0 or not math.isfinite(value):
            pen_up = True
            continue
        path += f"{'M' if pen_up else 'L'}{x(k):.1f} {y(value):.1f}"
        pen_up, last = False, y(value)
        title = f"<title>{_text(labels[k])}: {number(value, 4)}</title>"
        points += f'<circle class="fill {_text(tone)}" cx="{x(k):.1f}" cy="{y(value):.1f}" r="3">{title}</circle>'
    if last is None:
        return ""
    while any(abs(last - other) < 14 for other in ends):
        last += 14
    ends.append(last)
    name = f'<text class="label" x="{edge + 6}" y="{last + 4:.1f}">{_text(label)}</text>'
    return f'<path class="line {_text(tone)}" d="{path}"/>{points}{name}'


def swatches(chart: Swatches) -> Markup:
    """Each row a strip of colours."""
    width, height, gap, text = 480, 34, 8, 18
    parts = []
    for r, (label, colours) in enumerate(chart.rows):
        y = r * (height + gap + text)
        parts.append(f'<text x="0" y="{y + 12}" class="label">{_text(label)}</text>')
        step = width / max(len(colours), 1)
        parts += [
            f'<rect x="{k * step:.1f}" y="{y + text}" width="{step + 0.5:.1f}" height="{height}"'
            f' fill="{_hex(colour)}"/>'
            for k, colour in enumerate(colours)
        ]
    total = len(chart.rows) * (height + gap + text)
    svg = (
        f'<svg viewBox="0 0 {width} {total}" width="{width}" role="img" aria-label="colour axes">{"".join(parts)}</svg>'
    )
    return figure(Markup(svg), chart.caption, "")


def clouds(chart: Clouds) -> Markup:
    """Square panels; each shows zero, and its largest coordinate reaches the edge."""
    return figure(Markup("").join(_cloud(*panel, chart.colours) for panel in chart.panels), chart.caption, "panels")


def _cloud(label: str, points: Sequence[Sequence[float]], colours: Sequence[Sequence[float]]) -> Markup:
    side, top = 150, 18
    reach = max((max(abs(x), abs(y)) for x, y in points), default=1.0) or 1.0
    centre = side / 2
    dots = "".join(
        f'<circle cx="{centre + x / reach * (centre - 4):.1f}" cy="{top + centre - y / reach * (centre - 4):.1f}"'
        f' r="2" fill="{_hex(colour)}"/>'
        for (x, y), colour in zip(points, colours, strict=True)
    )
    return Markup(
        f'<svg viewBox="0 0 {side} {side + top}" width="{side}" role="img" aria-label="{_text(label)}">'
        f'<text x="0" y="11" class="label">{_text(label)} (±{number(reach, 2)})</text>'
        f'<line class="axis" x1="0" x2="{side}" y1="{top + centre}" y2="{top + centre}"/>'
        f'<line class="axis" x1="{centre}" x2="{centre}" y1="{top}" y2="{top + side}"/>{dots}</svg>'
    )


def figure(content: Markup, caption: str, kind: str) -> Markup:
    """A drawing and what it shows; `kind` is its CSS class."""
    return Markup('<figure class="{}"><div>{}</div><figcaption>{}</figcaption></figure>').format(
        kind, content, _text(caption)
    )


def _text(value: str) -> Markup:
    return escape(visible(value))


def decade(exponent: int) -> str:
    """A power of ten for an axis."""
    return str(10**exponent) if 0 <= exponent <= 3 else f"{10.0**exponent:g}" if -2 <= exponent < 0 else f"1e{exponent}"


def _hex(colour: Sequence[float]) -> str:
    return "#" + "".join(f"{round(255 * min(max(float(c), 0.0), 1.0)):02x}" for c in colour)
