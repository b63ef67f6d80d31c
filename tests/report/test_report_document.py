"""Numbers for people never lie by rounding, and the page is self-contained, escaped and readable without scripts."""

import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

import firstlight as fl
from firstlight.report import scan_document, to_html
from firstlight.report.document import Bars, Code, Document, Gallery, Lines, Section, Swatches, Table, Text, number
from firstlight.report.pictures import thumbnail

HOSTILE = "<script>alert(1)</script>&\"'\x1b[31m\n.jpg"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0.0000"), (0.5, "0.5000"), (1e-4, "1.000e-04"), (-2.5e7, "-2.500e+07"), (math.nan, "–"), (math.inf, "inf")],
)
def test_a_number_shows_its_size(value, shown):
    assert number(value) == shown


def test_a_small_number_is_never_shown_as_zero():
    for exponent in range(-30, 1):
        assert float(number(10.0**exponent)) > 0


class Page(HTMLParser):
    """Tags with their attributes, and all text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def everything(name):
    return Document(
        name,
        name,
        "warn",
        (
            Section(
                name,
                (
                    Text(name),
                    Code(name, name),
                    Table((name, "n"), ((name, "1"),), frozenset({1}), name),
                    Table((name,), ((name,),), caption=name, folded=True),
                    Gallery((thumbnail(np.zeros((4, 4, 3), np.uint8), name),)),
                    Bars((0.0, 1.0), ((name, "red", (1.0,)),), name),
                    Lines((name, name), ((name, "blue", (1.0, None)),), name, name),
                    Swatches(((name, ((0.1, 0.2, 0.3),)),), name),
                ),
            ),
        ),
        (name,),
    )


def test_every_block_escapes_what_comes_from_outside():
    text = to_html(everything(HOSTILE))
    page = Page(text)
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert "<script" not in text
    assert page.text.count("<script>alert(1)</script>") >= 12  # shown, as text, by every block
    attributes = [value for _, values in page.tags for key, value in values.items() if key.startswith("on")]
    assert not attributes
    assert "\x1b" not in text


def test_a_name_cannot_turn_the_text_around_it():
    text = to_html(everything("\u202egnp.exe"))
    assert "\u202e" not in text
    assert r"\u202egnp.exe" in text


def test_the_page_asks_the_network_for_nothing():
    page = Page(to_html(everything("x")))
    for tag, attributes in page.tags:
        for key in ("src", "href"):
            assert attributes.get(key, "#").startswith(("#", "data:")), (tag, attributes)
    assert not re.search(r"url\(|@import", to_html(everything("x")))


def test_a_line_breaks_where_a_value_is_missing():
    chart = Lines(tuple("abcd"), (("s", "blue", (1.0, None, 10.0, 100.0)),), "std", "")
    text = to_html(Document("t", "v", "good", (Section("s", (chart,)),)))
    path = re.search(r'<path class="line blue" d="([^"]*)"', text).group(1)
    assert path.count("M") == 2
    assert path.count("L") == 1


def test_equal_steps_in_decades_are_equal_steps_on_the_axis():
    chart = Lines(tuple("abc"), (("s", "blue", (0.01, 1.0, 100.0)),), "std", "")
    text = to_html(Document("t", "v", "good", (Section("s", (chart,)),)))
    y = [float(v) for v in re.findall(r'<circle[^>]*cy="([\d.]+)"', text)]
    assert y[0] - y[1] == pytest.approx(y[1] - y[2])
    assert y[0] > y[2]


def test_bars_are_as_high_as_their_shares():
    chart = Bars((0.0, 0.5, 1.0), (("a", "red", (0.25, 0.75)), ("b", "blue", (0.5, 0.5))), "")
    text = to_html(Document("t", "v", "good", (Section("s", (chart,)),)))
    heights = [
        [102 - float(v) for v in re.findall(r"V([\d.]+)H", path)] for path in re.findall(r'd="(M0 102[^"]*)"', text)
    ]
    assert heights[0][1] == pytest.approx(3 * heights[0][0], rel=0.02)
    assert heights[1][0] == pytest.approx(2 * heights[0][0], rel=0.02)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_scan_page_of_any_pixels(dtype, channels):
    rng = np.random.default_rng(0)
    top = np.iinfo(dtype).max if dtype != np.float32 else 1
    images = (rng.random((3, 9, 8, channels)) * top).astype(dtype)
    stats = fl.scan(images)
    text = to_html(scan_document(stats, [("one", images[0])]))
    assert len(text) < 1_000_000
    assert f"{stats.mean[0]:.5f}" in text
    assert f"{stats.std[0]:.5f}" in text


def test_scan_page_of_one_constant_image():
    text = to_html(scan_document(fl.scan(np.full((1, 5, 5, 3), 7, np.uint8))))
    assert "One image says nothing" in text
    assert "nan" not in Page(text).text


def test_scan_page_of_nothing_but_invalid_floats():
    images = np.full((2, 3, 3, 1), np.nan)
    images[0, 0, 0] = 1.0
    text = to_html(scan_document(fl.scan(images)))
    assert "nan" not in Page(text).text
