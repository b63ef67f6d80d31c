"""`Plot` as inline SVG: curves with bands, predictions as lines and measurements as points."""

import math
from collections.abc import Callable, Sequence

from markupsafe import Markup, escape

from firstlight.report.charts import decade, figure
from firstlight.report.document import Plot, Series, number, visible

_W, _H = 860, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 176, 24, 38
_APART = 14  # between the names of two series

Scale = Callable[[float], float]
Point = tuple[float, float]


def plot(chart: Plot) -> Markup:
    """All series on common axes, each with its name at the right end."""
    every = [v for s in chart.series for part in (s.y, s.low, s.high) for v in part]
    values = [v for v in every if v is not None and _shown(v, chart.log)]
    if not values:
        return figure(Markup(""), chart.caption + " Nothing to draw.", "")
    x = _linear(min(chart.x), max(chart.x), _LEFT + 10, _W - _RIGHT - 10)
    y, marks = _upwards(min(values), max(values), chart.log)
    floor = _H - _BOTTOM
    grid = "".join(
        f'<line class="grid" x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{y(v):.1f}" y2="{y(v):.1f}"/>'
        f'<text x="{_LEFT - 6}" y="{y(v) + 4:.1f}" text-anchor="end">{text}</text>'
        for v, text in marks
    )
    ticks = "".join(
        f'<text x="{x(v):.1f}" y="{floor + 16}" text-anchor="middle">{_text(name)}</text>' for v, name in _ticks(chart)
    )
    drawn = "".join(_band(chart, s, x, y) for s in chart.series)
    drawn += "".join(_drawn(chart, s, x, y) for s in chart.series)
    names = "".join(
        f'<text class="label {_text(s.tone)}" x="{_W - _RIGHT + 8}" y="{at + 4:.1f}">{_text(s.label)}</text>'
        for s, at in _named(chart, y)
    )
    axes = (
        f'<text x="0" y="12">{_text(chart.axis)}</text>'
        f'<text x="{(_LEFT + _W - _RIGHT) / 2}" y="{_H - 6}" text-anchor="middle">{_text(chart.along)}</text>'
    )
    said = f"{_text(chart.axis)} by {_text(chart.along)}"
    svg = f'<svg viewBox="0 0 {_W} {_H}" role="img" aria-label="{said}">{grid}{ticks}{axes}{drawn}{names}</svg>'
    return figure(Markup(svg), chart.caption, "wide plotted")


def _drawn(chart: Plot, series: Series, x: Scale, y: Scale) -> str:
    tone = _text(series.tone)
    if series.style in ("points", "rings"):
        kind = "fill" if series.style == "points" else "ring"
        return "".join(
            f'<circle class="{kind} {tone}" cx="{x(a):.1f}" cy="{y(v):.1f}" r="4">'
            f"<title>{_text(series.label)} {number(a, 4).rstrip('0').rstrip('.')}: {number(v, 4)}</title></circle>"
            for a, v in zip(chart.x, series.y, strict=True)
            if v is not None and _shown(v, chart.log)
        )
    dash = " dashed" if series.style == "dashed" else ""
    # A run of one value has no length: "h0" with round ends makes it a dot.
    paths = (
        "M" + "L".join(f"{x(a):.1f} {y(v):.1f}" for a, v in run) + ("h0" if len(run) == 1 else "")
        for run in _runs(chart, series.y)
    )
    return f'<path class="line{dash} {tone}" d="{"".join(paths)}"/>'


def _band(chart: Plot, series: Series, x: Scale, y: Scale) -> str:
    if not series.low:
        return ""
    both = [
        (a, low, high)
        for a, low, high in zip(chart.x, series.low, series.high, strict=True)
        if low is not None and high is not None and _shown(low, chart.log) and _shown(high, chart.log)
    ]
    if len(both) < 2:
        return ""
    outline = [(a, high) for a, _, high in both] + [(a, low) for a, low, _ in reversed(both)]
    path = "M" + "L".join(f"{x(a):.1f} {y(v):.1f}" for a, v in outline) + "Z"
    return f'<path class="band {_text(series.tone)}" d="{path}"/>'


def _runs(chart: Plot, values: Sequence[float | None]) -> list[list[Point]]:
    """Stretches without a gap."""
    runs: list[list[Point]] = [[]]
    for a, v in zip(chart.x, values, strict=True):
        if v is not None and _shown(v, chart.log):
            runs[-1].append((a, v))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _named(chart: Plot, y: Scale) -> list[tuple[Series, float]]:
    """Where each name goes: at its last value, moved apart, in the order from top to bottom."""
    wanted = []
    for series in chart.series:
        last = next((v for v in reversed(series.y) if v is not None and _shown(v, chart.log)), None)
        if series.label and last is not None:
            wanted.append((y(last), series))
    wanted.sort(key=lambda pair: pair[0])
    places: list[float] = []
    for at, _ in wanted:
        places.append(max(at, places[-1] + _APART) if places else at)
    limit = float(_H - _BOTTOM)
    for k in reversed(range(len(places))):  # what went below the floor comes back up, and pushes the others
        places[k] = min(places[k], limit)
        limit = places[k] - _APART
    return [(series, at) for (_, series), at in zip(wanted, places, strict=True)]


def _linear(low: float, high: float, start: float, end: float) -> Scale:
    span = (high - low) or 1.0
    return lambda v: start + (v - low) / span * (end - start)


def _upwards(low: float, high: float, log: bool) -> tuple[Scale, list[tuple[float, str]]]:
    """The vertical scale, and the values to mark with their names."""
    if log:
        bottom, top = math.log10(low), math.log10(high)
        margin = max(0.05 * (top - bottom), (0.8 - (top - bottom)) / 2)  # two of 1, 2, 5 are always inside
        place = _linear(bottom - margin, top + margin, _H - _BOTTOM, _TOP)
        return (lambda v: place(math.log10(v))), _decades(bottom - margin, top + margin)
    step = _step(high - low or abs(high) or 1.0)
    first, last = math.floor(low / step), math.ceil(high / step)
    last = max(last, first + 1)
    marks = [(k * step, f"{round(k * step, 10):g}") for k in range(first, last + 1)]
    return _linear(first * step, last * step, _H - _BOTTOM, _TOP), marks


def _decades(bottom: float, top: float) -> list[tuple[float, str]]:
    """Powers of ten between two exponents; with their doubles and halves where there would be few."""
    every = max(1, math.ceil((top - bottom) / 7))
    tens = [10.0**d for d in range(math.ceil(bottom), math.floor(top) + 1, every)]
    if len(tens) > 2:
        return [(v, decade(round(math.log10(v)))) for v in tens]
    fine = [m * 10.0**d for d in range(math.floor(bottom), math.floor(top) + 1) for m in (1, 2, 5)]
    return [(v, f"{v:.0e}" if v < 1e-3 or v >= 1e4 else f"{v:g}") for v in fine if bottom <= math.log10(v) <= top]


def _step(span: float) -> float:
    """A round number that divides the span into four to ten."""
    base: float = 10.0 ** math.floor(math.log10(span / 4))
    return next(base * m for m in (1, 2, 5, 10) if span / (base * m) <= 8)


def _ticks(chart: Plot) -> list[tuple[float, str]]:
    if not chart.ticks and len(chart.x) > 12:
        low, high = min(chart.x), max(chart.x)
        step = _step(high - low)
        marks = [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
        return [(v, f"{round(v, 10):g}") for v in marks]
    names = chart.ticks or tuple(f"{round(v, 6):g}" for v in chart.x)
    every = max(1, math.ceil(len(names) / 12))
    return list(zip(chart.x, names, strict=True))[::every]


def _shown(value: float | None, log: bool) -> bool:
    return value is not None and math.isfinite(value) and (value > 0 or not log)


def _text(value: str) -> Markup:
    return escape(visible(value))
