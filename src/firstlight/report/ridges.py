"""`Ridges` as inline SVG: one row for each layer, two distributions on one logarithmic axis."""

from collections.abc import Sequence

from markupsafe import Markup, escape

from firstlight.report.charts import decade, figure
from firstlight.report.document import Ridges, visible

_W, _ROW, _LEFT, _RIGHT, _HEAD = 860, 26, 250, 120, 40


def ridges(chart: Ridges) -> Markup:
    """Rows from top to bottom in the order given; each distribution as high as its row, whatever its size."""
    width = _W - _LEFT - _RIGHT
    height = _HEAD + _ROW * len(chart.rows) + 8
    step = width / (chart.high - chart.low)
    every = max(1, (chart.high - chart.low) // 9)
    grid = "".join(
        f'<path class="grid" d="M{_LEFT + step * k:.1f} {_HEAD - 6}V{height - 8}"/>'
        f'<text x="{_LEFT + step * k:.1f}" y="{_HEAD - 12}" text-anchor="middle">{decade(chart.low + k)}</text>'
        for k in range(0, chart.high - chart.low + 1, every)
    )
    keys = "".join(
        f'<rect class="fill {_text(tone)}" x="{_LEFT + 150 * k}" y="2" width="10" height="10"/>'
        f'<text class="label" x="{_LEFT + 150 * k + 15}" y="11">{_text(name)}</text>'
        for k, (name, tone) in enumerate(chart.names)
    )
    rows = "".join(_row(chart, k, *row, width) for k, row in enumerate(chart.rows))
    svg = f'<svg viewBox="0 0 {_W} {height}" role="img" aria-label="{_text(chart.caption)}">{keys}{grid}{rows}</svg>'
    return figure(Markup(svg), chart.caption, "wide")


def _row(
    chart: Ridges, k: int, label: str, value: str, first: Sequence[float], second: Sequence[float], width: float
) -> str:
    floor = _HEAD + _ROW * (k + 1)
    shapes = "".join(
        f'<path class="ridge {_text(tone)}" d="{_outline(heights, floor, width)}"/>'
        for (_, tone), heights in zip(chart.names, (first, second), strict=True)
        if sum(heights) > 0
    )
    return (
        f'<text class="label" x="{_LEFT - 8}" y="{floor - 5}" text-anchor="end">{_text(_short(label))}'
        f"<title>{_text(label)}</title></text>{shapes}"
        f'<line class="axis" x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{floor}" y2="{floor}"/>'
        f'<text x="{_W - _RIGHT + 8}" y="{floor - 5}">{_text(value)}</text>'
    )


def _outline(heights: Sequence[float], floor: int, width: float) -> str:
    """Steps from the first bin that holds something to the last."""
    step, top = width / len(heights), max(heights)
    filled = [k for k, height in enumerate(heights) if height > 0]
    path = f"M{_LEFT + step * filled[0]:.0f} {floor}"
    for k in range(filled[0], filled[-1] + 1):
        path += f"V{floor - (_ROW - 5) * heights[k] / top:.0f}H{_LEFT + step * (k + 1):.0f}"
    return f"{path}V{floor}Z"


def _short(label: str, longest: int = 38) -> str:
    """The end of a long path: its beginning is what rows have in common."""
    return label if len(label) <= longest else f"…{label[1 - longest :]}"


def _text(value: str) -> Markup:
    return escape(visible(value))
