"""Every example in the documentation runs, and the documentation and the command line agree."""

import doctest
import importlib
import importlib.util
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import firstlight
from firstlight.cli.main import group
from firstlight.diagnosis import all_rules

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_examples_of_a_page_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    for k, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)):
        exec(compile(code, f"{page.name} example {k + 1}", "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_and_options_in_the_documentation_exist(page):
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", page.read_text("utf-8"), re.DOTALL))
    for line in re.findall(r"^firstlight .*$", shell, re.MULTILINE):
        _, name, *words = line.split()
        command = group.get_command(None, name)
        assert command is not None, line
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in words if word.startswith("-")} <= known, line


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"DISABLE_MKDOCS_2_WARNING": "true", "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rules = (tmp_path / "site" / "rules" / "index.html").read_text("utf-8")
    assert all(rule.code in rules for rule in all_rules())
    errors = (tmp_path / "site" / "errors" / "index.html").read_text("utf-8")
    assert "model-does-not-run" in errors


def test_docstring_examples_run():
    failed = attempted = 0
    for module in pkgutil.walk_packages(firstlight.__path__, "firstlight."):
        if module.name != "firstlight.__main__":
            result = doctest.testmod(importlib.import_module(module.name), optionflags=doctest.NORMALIZE_WHITESPACE)
            failed, attempted = failed + result.failed, attempted + result.attempted
    assert attempted
    assert not failed


def test_every_public_name_resolves_and_is_documented():
    for name in firstlight.__all__:
        assert getattr(firstlight, name).__doc__, name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["starts", "check"])
def test_the_pictures_of_the_readme_are_what_the_tool_draws(name):
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "docs" / "pictures.py")
    pictures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pictures)
    kept = (ROOT / "docs" / "pictures" / f"{name}.svg").read_text("utf-8")
    drawn, kept = (re.sub(r"<title>.*?</title>", "", picture) for picture in (getattr(pictures, name)(), kept))
    number = re.compile(r"-?\d+\.\d+")
    assert number.sub("#", drawn) == number.sub("#", kept), "make pictures"
    apart = [abs(float(a) - float(b)) for a, b in zip(number.findall(drawn), number.findall(kept), strict=True)]
    assert max(apart) < 3, "make pictures"  # of a picture's 892 units: sums are rounded differently elsewhere
