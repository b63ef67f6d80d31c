"""The lecture as a whole: finished chapters are kept, an interrupt loses none, a change runs them anew."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
import torch

from firstlight.errors import FirstlightError
from firstlight.experiments import reproduce as module
from firstlight.experiments.cache import key_of
from firstlight.experiments.chapter import Chapter, claim
from firstlight.experiments.curves import final
from firstlight.experiments.images import open_album
from firstlight.experiments.reproduce import lecture
from firstlight.report.document import Plot, Series
from firstlight.workflows.training import shuffled, train, tuned


@dataclasses.dataclass(frozen=True)
class Settings:
    size: int


class Counting:
    """A chapter that counts its runs, and is interrupted when asked."""

    def __init__(self, number, *, holds=True, interrupted=False):
        self.runs, self.interrupted = 0, interrupted
        self.chapter = Chapter(
            number, f"Chapter <{number}>", "An idea.", Settings(1), Settings(2), self.run,
            lambda numbers: (claim(f"Claim {number}", holds, f"value {numbers['value']}"),),
            lambda numbers, album: (Plot((0.0, 1.0), (Series("a", "blue", (1.0, numbers["value"])),), "y", "x", "c"),),
            "print(1)",
        )  # fmt: skip

    def run(self, settings, album, seed):
        if self.interrupted:
            raise KeyboardInterrupt
        self.runs += 1
        return {"value": settings.size + seed, "infinite": float("inf"), "pair": (1, 2)}


@pytest.fixture
def chapters(monkeypatch):
    made = [Counting(1), Counting(2), Counting(3)]
    monkeypatch.setattr(module, "CHAPTERS", tuple(c.chapter for c in made))
    return made


def test_page_and_numbers_are_written(chapters, tmp_path):
    result = lecture(tmp_path, quick=True)
    page = (tmp_path / "lecture.html").read_text("utf-8")
    assert "Chapter &lt;2&gt;" in page
    assert "<script" not in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    value = json.loads((tmp_path / "lecture.json").read_text("utf-8"))
    assert value["format"] == "firstlight.lecture/1"
    assert [c["outcome"] for c in value["claims"]] == ["confirmed"] * 3
    assert value["chapters"][1]["numbers"] == {"value": 1, "infinite": None, "pair": [1, 2]}
    assert value["ok"] is result.ok is True


def test_finished_chapters_are_not_run_again(chapters, tmp_path):
    first = lecture(tmp_path, quick=True)
    again = lecture(tmp_path, quick=True)
    assert [c.runs for c in chapters] == [1, 1, 1]
    assert again.to_dict() == first.to_dict()


def test_an_interrupt_loses_nothing_that_was_finished(chapters, tmp_path):
    chapters[1].interrupted = True
    with pytest.raises(KeyboardInterrupt) as caught:
        lecture(tmp_path, quick=True)
    assert "1 of 3 chapters are kept" in caught.value.__notes__[0]
    assert not (tmp_path / "lecture.html").exists()
    chapters[1].interrupted = False
    lecture(tmp_path, quick=True)
    assert [c.runs for c in chapters] == [1, 1, 1]


@pytest.mark.parametrize("change", [{"quick": False}, {"seed": 1}, {"data": "demo:digits"}])
def test_what_decides_the_numbers_decides_what_is_kept(chapters, tmp_path, change):
    lecture(tmp_path, quick=True, chapters=[1])
    lecture(tmp_path, **({"quick": True, "chapters": [1]} | change))
    assert chapters[0].runs == 2


def test_code_decides_what_is_kept(monkeypatch):
    before = key_of(Settings(1), "images", 0)
    assert key_of(Settings(1), "images", 0) == before
    monkeypatch.setattr("firstlight.experiments.cache._code", lambda: "other")
    assert key_of(Settings(1), "images", 0) != before


def test_a_damaged_file_in_the_cache_is_run_again(chapters, tmp_path):
    lecture(tmp_path, quick=True, chapters=[1])
    (kept,) = (tmp_path / ".cache").iterdir()
    kept.write_text(kept.read_text()[:20])
    lecture(tmp_path, quick=True, chapters=[1])
    assert chapters[0].runs == 2


def test_progress_names_each_chapter(chapters, tmp_path):
    said = []
    lecture(tmp_path, quick=True, chapters=[3, 1], announce=lambda *what: said.append(what))
    assert said == [(0, 2, "1. Chapter <1>"), (1, 2, "3. Chapter <3>"), (2, 2, "")]


def test_a_refuted_claim_is_no_success(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "CHAPTERS", (Counting(1, holds=False).chapter,))
    result = lecture(tmp_path, quick=True)
    assert not result.ok
    assert "not confirmed" in (tmp_path / "lecture.html").read_text("utf-8")


def test_an_unknown_chapter_is_refused(tmp_path):
    with pytest.raises(FirstlightError) as caught:
        lecture(tmp_path, chapters=[9])
    assert caught.value.slug == "no-such-chapter"


def test_images_of_any_source_with_class_folders(written):
    from PIL import Image

    rng = np.random.default_rng(0)
    folder = written({})
    for split, kind in (("train", "cat"), ("train", "dog"), ("test", "cat")):
        (folder / split / kind).mkdir(parents=True, exist_ok=True)
        for k in range(4):
            pixels = rng.integers(0, 256, (40, 50 + k, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / split / kind / f"{k}.png")
    album = open_album(str(folder), limit=100, seed=0)
    assert album.pictures.classes == ("cat", "dog")
    assert album.pictures.pixels.shape == (8, 32, 32, 3)  # the training split alone
    assert album.pictures.labels.tolist() == [0] * 4 + [1] * 4
    assert album.digits is album.pictures
    vectors = album.pictures.vectors(5, 16)
    assert vectors.shape == (5, 256)
    assert torch.allclose(vectors.square().mean(1), torch.ones(5), atol=1e-5)


def test_images_without_classes_are_refused():
    with pytest.raises(FirstlightError) as caught:
        open_album(np.zeros((4, 8, 8, 3), np.uint8), limit=10, seed=0)
    assert caught.value.slug == "no-classes"


def test_training_stops_where_the_loss_is_no_number_any_more():
    model = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    x, y = torch.ones(8, 2), torch.zeros(8, 1)
    curve = train(model, shuffled(x, y, size=4, steps=200, seed=0), rate=1e3, loss=torch.nn.functional.mse_loss)
    assert curve.loss[0] == 4.0
    assert np.isnan(curve.loss[-1])
    assert curve.final == float("inf")


def test_training_follows_gradient_descent_with_momentum():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    x, y = torch.ones(4, 1), torch.zeros(4, 1)
    curve = train(
        model, shuffled(x, y, size=4, steps=3, seed=0), rate=0.1, momentum=0.5, loss=torch.nn.functional.mse_loss
    )
    w, velocity, expected = 1.0, 0.0, []
    for _ in range(3):
        expected.append(w * w)
        velocity = 0.5 * velocity + 2 * w
        w -= 0.1 * velocity
    assert curve.loss == pytest.approx(expected, rel=1e-5)


def test_a_pass_shows_every_sample_once():
    x = torch.arange(12)
    seen = torch.cat([batch for batch, _ in shuffled(x, x, size=4, steps=3, seed=3)])
    assert sorted(seen.tolist()) == list(range(12))
    again = torch.cat([batch for batch, _ in shuffled(x, x, size=4, steps=3, seed=3)])
    assert torch.equal(seen, again)


def test_every_competitor_is_run_at_its_best_rate():
    from firstlight.workflows.training import Curve

    asked = []

    def run(rate, seed):
        asked.append((rate, seed))
        return Curve((abs(rate - 0.1) + seed,) * 5, rate)

    curves = tuned(run, rates=(0.01, 0.1, 1.0), seeds=(0, 1, 2))
    assert [curve.rate for curve in curves] == [0.1] * 3
    assert asked == [(0.01, 0), (0.1, 0), (1.0, 0), (0.1, 1), (0.1, 2)]


def test_a_final_loss_is_told_with_its_range_or_that_it_is_gone():
    assert final({"final": [0.5, 0.7]}) == "0.600 (0.500 … 0.700)"
    assert final({"final": [math.inf, math.nan]}) == "diverges"
    assert final({"final": [0.5, math.inf]}) == "1 of 2 seeds diverge"
