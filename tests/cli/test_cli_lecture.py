"""`firstlight lecture` as a stranger meets it."""

import json
import subprocess
import sys

from click.testing import CliRunner

from firstlight.cli.lecture import command
from firstlight.report.lecture_page import ChapterPage, Claim

FIRSTLIGHT = [sys.executable, "-m", "firstlight"]


def run(*arguments):
    return subprocess.run([*FIRSTLIGHT, *map(str, arguments)], capture_output=True, text=True, check=False)


def stub(outcome, monkeypatch, tmp_path):
    """The command with a lecture of one claim in place of the real one; returns what it was asked."""
    import firstlight.experiments as experiments
    from firstlight.experiments.reproduce import Lecture

    asked = {}

    def made(out, **options):
        asked.update(options, out=out)
        options["announce"](0, 1, "1. One")
        condition = "in part" if outcome == "conditional" else ""
        page = ChapterPage(
            1, "One", "Idea.", (Claim("A claim", outcome, "by 3 to 1", condition),), (), "code", "s", 1.0
        )
        return Lecture((page,), {1: {}}, "images", True, 0, {"page": tmp_path / "lecture.html"})

    monkeypatch.setattr(experiments, "lecture", made)
    return asked


def test_chapters_and_options_reach_the_lecture(monkeypatch, tmp_path):
    asked = stub("confirmed", monkeypatch, tmp_path)
    arguments = ["--quick", "--chapters", "1,3-5", "--seed", "7", "--data", "x.zip", "-o", str(tmp_path / "d")]
    done = CliRunner().invoke(command, arguments, standalone_mode=False)
    assert done.return_value == 0
    assert "A claim" in done.output
    assert {k: asked[k] for k in ("quick", "chapters", "seed", "data", "out")} == {
        "quick": True, "chapters": (1, 3, 4, 5), "seed": 7, "data": "x.zip", "out": tmp_path / "d",
    }  # fmt: skip


def test_a_claim_that_is_not_confirmed_is_exit_code_one(monkeypatch, tmp_path):
    for outcome, code in (("refuted", 1), ("conditional", 0)):
        stub(outcome, monkeypatch, tmp_path)
        done = CliRunner().invoke(command, ["--json"], standalone_mode=False)
        assert done.return_value == code
        value = json.loads(done.stdout)
        assert value["format"] == "firstlight.lecture/1"
        assert value["claims"][0]["outcome"] == outcome
        assert value["claims"][0]["evidence"] == "by 3 to 1"


def test_one_chapter_from_end_to_end(tmp_path):
    done = run("lecture", "--quick", "--chapters", "2", "-o", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    assert {claim["chapter"] for claim in json.loads(done.stdout)["claims"]} == {2}
    assert (tmp_path / "lecture.html").stat().st_size < 1_000_000
    assert len(list((tmp_path / ".cache").iterdir())) == 1


def test_what_cannot_be_done_is_said_in_one_message(tmp_path):
    for arguments, words in ((["--chapters", "9"], "no chapter 9"), (["--data", "nowhere"], "nowhere"),
                             (["--chapters", "one"], "does not name chapters")):  # fmt: skip
        done = run("lecture", *arguments, "-o", tmp_path)
        assert done.returncode == 2
        assert words in done.stderr
        assert "Traceback" not in done.stderr
