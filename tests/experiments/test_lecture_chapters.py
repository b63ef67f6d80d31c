"""Each chapter runs at tiny settings, its code runs as printed, and its verdicts follow the numbers, either way."""

import copy
import dataclasses
import json

import pytest
import torch

from firstlight.experiments import CHAPTERS, chapter1_preprocessing, chapter3_small, chapter4_large, chapter6_rectifier
from firstlight.experiments.images import open_album
from firstlight.experiments.networks import mlp
from firstlight.experiments.signal import agrees, deviation, signal
from firstlight.report import to_html
from firstlight.report.lecture_page import ChapterPage, lecture_document

TINY = {
    1: {"steps": 3, "rates": (0.01,), "seeds": 1},
    2: {"width": 8, "depths": (1, 2), "steps": 4, "every": 2, "rates": (0.1,), "seeds": 1},
    3: {"width": 64, "depth": 3, "trained_width": 16, "steps": 4, "rates": (0.1,), "seeds": 2},
    4: {"width": 64, "depth": 3, "std": 0.4, "swept_width": 64, "gains": (0.5, 2.0), "trained_width": 16, "steps": 4,
        "rates": (0.1,), "seeds": 1},
    5: {"width": 64, "depth": 3, "trained_width": 16, "steps": 4, "rates": (0.1,), "seeds": 1},
    6: {"width": 64, "depth": 3, "draws": 2, "depths": (5, 6), "channels": 4, "steps": 3, "rates": (0.01,), "seeds": 1},
    7: {"steps": 2, "rates": (0.01,), "seeds": 1, "depth": 4, "blocks": 3, "width": 64, "stream_width": 64},
    8: {"width": 64, "depth": 4, "gains": (0.5, 1.0), "chaos_depth": 4, "plain_depth": 6, "blocks": 2,
        "transformer_depth": 2, "steps": 2, "rates": (0.01,), "seeds": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def album():
    return open_album(limit=60, seed=0)


@pytest.fixture(scope="module")
def numbers(album):
    """Of every chapter, at tiny settings, as the cache hands them on."""
    found = {}
    for chapter in CHAPTERS:
        settings = dataclasses.replace(chapter.quick, **TINY[chapter.number])
        found[chapter.number] = json.loads(json.dumps(chapter.run(settings, album, 0)))
    return found


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.number)
def test_a_chapter_gives_claims_figures_and_a_page(chapter, numbers, album):
    claims = tuple(chapter.judge(numbers[chapter.number]))
    assert len(claims) >= 3
    assert all(claim.evidence and claim.outcome in ("confirmed", "conditional", "refuted") for claim in claims)
    assert all(bool(claim.condition) == (claim.outcome == "conditional") for claim in claims)
    blocks = tuple(chapter.show(numbers[chapter.number], album))
    page = ChapterPage(chapter.number, chapter.title, chapter.idea, claims, blocks, chapter.code, "tiny", 1.0)
    text = to_html(lecture_document([page], data="x"))
    assert "<svg" in text
    assert "nan" not in text.replace("nan-", "")
    assert len(text) < 400_000


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.number)
def test_the_printed_code_runs_and_is_short(chapter, capsys):
    code = chapter.code.strip("\n")
    assert len(code.splitlines()) <= 15
    exec(compile(code, f"chapter {chapter.number}", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_the_same_seed_gives_the_same_numbers(album, numbers):
    chapter = CHAPTERS[1]
    again = chapter.run(dataclasses.replace(chapter.quick, **TINY[2]), album, 0)
    assert json.loads(json.dumps(again)) == numbers[2]


def outcomes(chapter, numbers):
    return [claim.outcome for claim in chapter.judge(numbers)]


def changed(numbers, path, value):
    """The numbers with one of them replaced."""
    other = copy.deepcopy(numbers)
    place = other
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return other


def curve(final, mean=1.0, losses=(2.0, 2.0)):
    return {"rate": 0.1, "steps": [0.0, 1.0], "losses": [list(losses)], "final": [final], "mean": [mean]}


@pytest.fixture
def small():
    """Numbers of chapter 3 under which every claim holds."""
    layers = {"predicted": [0.06, 4e-3, 2e-4], "band": [0.1] * 3, "predicted gradient": [1e-6, 1e-3, 1.0],
              "gradient band": [0.17] * 3, "by weight": [1e-6] * 3}  # fmt: skip
    measured = {name: list(layers["predicted"]) for name in ("noise", "images")}
    gradients = {name: list(layers["predicted gradient"]) for name in ("noise", "images")}
    both = {"measured": measured, "measured gradient": gradients}
    return {
        "width": 4096, "std": 0.001, "chance": 2.3, "signal": layers | both,
        "training": {"deep": curve(2.3), "shallow": curve(0.1), "xavier": curve(0.1)},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "value", "claim"),
    [
        (("signal", "measured", "noise", 1), 5e-3, 0),  # a layer outside the band
        (("signal", "measured", "images", 2), 0.01, 0),  # a signal that does not shrink
        (("signal", "measured gradient", "images", 0), 2e-6, 1),
        (("signal", "by weight", 0), 0.1, 1),
        (("training", "deep"), curve(1.0), 2),  # the deep network learns after all
        (("training", "shallow"), curve(2.2), 3),
    ],
)
def test_small_numbers_are_refuted_by_what_contradicts_them(small, path, value, claim):
    chapter = chapter3_small.CHAPTER
    assert outcomes(chapter, small) == ["confirmed"] * 4
    found = outcomes(chapter, changed(small, path, value))
    assert found == ["refuted" if k == claim else "confirmed" for k in range(4)]


def test_a_gradient_that_vanishes_confirms_the_slide_and_one_that_grows_only_in_part(numbers):
    chapter = chapter4_large.CHAPTER
    base = numbers[4]
    s = base["signal"]
    s["saturated"][-1] = s["predicted saturated"][-1] = 0.4
    for name in ("noise", "images"):
        s["measured gradient"][name] = list(s["predicted gradient"])
    assert s["predicted gradient"][0] > 1
    assert chapter.judge(base)[1].outcome == "conditional"
    assert chapter.judge(changed(base, ("signal", "measured gradient", "images", 0), 0.01))[1].outcome == "confirmed"
    assert chapter.judge(changed(base, ("signal", "measured gradient", "noise", 0), 100.0))[1].outcome == "refuted"


def test_whitening_that_helps_is_worth_its_price_only_in_part(numbers):
    chapter = chapter1_preprocessing.CHAPTER
    base = numbers[1]
    runs = base["training"]
    for name in runs:
        runs[name] = curve(0.1, mean=0.5)
    runs[chapter1_preprocessing.BYTES]["mean"] = runs[chapter1_preprocessing.RAW]["mean"] = [0.9]
    runs[chapter1_preprocessing.RESNET]["mean"] = [0.3]
    assert outcomes(chapter, base) == ["confirmed"] * 4
    runs[chapter1_preprocessing.ZCA]["mean"] = [0.1]
    assert outcomes(chapter, base)[3] == "conditional"
    runs[chapter1_preprocessing.VGG]["mean"] = [1.5]
    assert outcomes(chapter, base)[1] == "refuted"


def test_a_network_that_never_begins_leaves_the_order_open(numbers):
    chapter = chapter6_rectifier.CHAPTER
    base = numbers[6]
    shallow, deep = map(str, base["depths"])
    chance = base["chance"]
    early, late, never = ((0.1 * chance, 0.1), (chance, 0.1), (chance, chance))
    for first, second, expected in (
        (early, late, "confirmed"),
        (early, never, "conditional"),
        (late, early, "refuted"),
    ):
        base["training"][shallow] = {"Kaiming": curve(0.1, losses=first), "Xavier": curve(0.1, losses=second)}
        assert chapter.judge(base)[3].outcome == expected
    base["training"][deep] = {"Kaiming": curve(0.1, losses=early), "Xavier": curve(0.1, losses=late)}
    assert chapter.judge(base)[4].outcome == "refuted"


# Standard deviation behind each of six layers of 4,096 units, 16 inputs: EECS 498 and CS231n, by quadrature.
EECS498 = {
    ("tanh", "normal", 0.001): (6.37e-2, 4.08e-3, 2.61e-4, 1.67e-5, 1.07e-6, 6.84e-8),
    ("tanh", "normal", 0.01): (0.492, 0.289, 0.179, 0.113, 0.072, 0.046),
    ("tanh", "normal", 0.05): (0.872, 0.853, 0.850, 0.849, 0.849, 0.849),
    ("tanh", "lecture-xavier", None): (0.628, 0.486, 0.408, 0.358, 0.322, 0.294),
    ("relu", "lecture-xavier", None): (0.584, 0.413, 0.292, 0.206, 0.146, 0.103),
    ("relu", "kaiming", None): (0.8256,) * 6,
}


@pytest.mark.slow
@pytest.mark.parametrize("case", EECS498, ids=lambda case: "-".join(map(str, case)))
def test_the_numbers_of_the_lecture_within_two_percent(case):
    activation, scheme, std = case
    kind = torch.nn.Tanh if activation == "tanh" else torch.nn.ReLU
    noise = torch.randn(16, 4096, generator=torch.Generator().manual_seed(0))
    draws = 4 if activation == "relu" else 1
    s = signal(lambda: mlp([4096] * 7, kind, head=False), {"noise": noise}, scheme, 0, std, draws=draws)
    assert s["predicted"] == pytest.approx(EECS498[case], rel=0.01)  # the table is rounded
    assert s["measured"]["noise"] == pytest.approx(EECS498[case], rel=0.02)
    assert deviation(s) < 0.02
    assert agrees(s)
