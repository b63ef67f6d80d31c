"""A plot says what its numbers say: positions follow values, gaps stay gaps, names do not cover each other."""

import re
from itertools import pairwise

import pytest

from firstlight.report import to_html
from firstlight.report.document import Bars, Document, Plot, Section, Series, Verdict

HOSTILE = "<script>alert(1)</script>&\"'\x1b[31m"


def drawn(*series, log=False, x=(0.0, 1.0, 2.0), ticks=()):
    plot = Plot(x, series, "y", "x", "caption", log, ticks)
    return to_html(Document("t", "v", "good", (Section("s", (plot,)),))).partition("<main>")[2]


def circles(text):
    return [(float(x), float(y)) for x, y in re.findall(r'<circle[^>]*cx="([\d.]+)" cy="([\d.]+)"', text)]


def paths(text, kind):
    return re.findall(rf'<path class="{kind}[^"]*" d="([^"]*)"', text)


def points(path):
    return [tuple(map(float, pair.split())) for pair in re.split("[ML]", path.rstrip("Z"))[1:]]


@pytest.mark.parametrize("log", [False, True])
def test_a_measurement_on_its_prediction_lies_on_the_line(log):
    values = (0.001, 0.5, 20.0)
    text = drawn(
        Series("a", "blue", values), Series("", "blue", values, "points"), Series("", "blue", values, "rings"), log=log
    )
    (line,) = paths(text, "line")
    assert circles(text) == points(line) * 2


def test_equal_factors_are_equal_steps_on_a_logarithmic_axis_and_equal_differences_on_the_other():
    for values, log in (((0.01, 1.0, 100.0), True), ((1.0, 2.0, 3.0), False)):
        y = [y for _, y in circles(drawn(Series("", "blue", values, "points"), log=log))]
        assert y[0] - y[1] == pytest.approx(y[1] - y[2], abs=0.11)
        assert y[0] > y[2]


def test_a_line_breaks_at_a_gap_and_what_has_no_logarithm_is_left_out():
    text = drawn(Series("a", "blue", (1.0, None, 2.0)), Series("b", "red", (0.0, 1.0, 10.0)), log=True)
    first, second = paths(text, "line")
    assert first.count("M") == 2
    assert first.count("h0") == 2, "a value between two gaps is a dot"
    assert len(points(second)) == 2
    assert "h0" not in second


def test_a_band_surrounds_its_line():
    text = drawn(Series("a", "blue", (1.0, 2.0, 3.0), "line", (0.5, 1.5, 2.5), (1.5, 2.5, 3.5)))
    outline, line = points(paths(text, "band")[0]), points(paths(text, "line")[0])
    above, below = outline[:3], outline[:2:-1]
    for (x, y), (x_high, y_high), (x_low, y_low) in zip(line, above, below, strict=True):
        assert x == x_high == x_low
        assert y_high < y < y_low


def test_names_keep_their_distance_and_stay_inside():
    series = [Series(f"name {k}", "blue", (1.0, 2.0, 5.0 + 0.001 * k)) for k in range(8)]
    text = drawn(*series, Series("", "red", (0.0, 0.0, 0.0)))
    heights = sorted(float(y) for y in re.findall(r'class="label blue" x="[\d.]+" y="([\d.]+)"', text))
    assert len(heights) == 8
    assert min(b - a for a, b in pairwise(heights)) >= 13.9
    assert heights[0] > 0
    assert heights[-1] < 320


@pytest.mark.parametrize(
    ("values", "log"),
    [((1.0,) * 3, False), ((0.5,) * 3, True), ((3e-7, 2e-3, 40.0), True), ((-2.0, 0.0, 7.0), False)],
)
def test_marks_of_the_axis_stand_where_they_say(values, log):
    text = drawn(Series("", "blue", values, "points"), log=log)
    marks = [(float(v), float(y)) for y, v in re.findall(r'y="([\d.]+)" text-anchor="end">([^<]+)<', text)]
    assert len(marks) >= 2
    assert all(0 < y < 320 for _, y in marks)
    assert [y for _, y in sorted(marks)] == sorted((y for _, y in marks), reverse=True)


def test_nothing_to_draw_is_said():
    assert "Nothing to draw" in drawn(Series("a", "blue", (None, float("nan"), float("inf"))))


def test_small_panels_each_reach_their_own_height():
    bars = Bars((0.0, 0.5, 1.0), (("a", "blue", (0.01, 0.02)), ("b", "orange", (0.5, 0.9))), "c", small=True)
    text = to_html(Document("t", "v", "good", (Section("s", (bars,)),)))
    tops = [min(map(float, re.findall(r"V([\d.]+)H", path))) for path in re.findall(r'd="(M0 102[^"]*)"', text)]
    assert tops[0] == tops[1]


def test_names_and_claims_from_outside_are_escaped():
    plot = Plot(
        (0.0, 1.0), (Series(HOSTILE, HOSTILE, (1.0, 2.0), "points"),), HOSTILE, HOSTILE, HOSTILE, ticks=(HOSTILE,) * 2
    )
    verdict = Verdict(HOSTILE, HOSTILE, "good", HOSTILE)
    text = to_html(Document("t", "v", "good", (Section("s", (plot, verdict)),)))
    assert "<script" not in text
    assert "\x1b" not in text
    assert text.count("&lt;script&gt;") >= 8
