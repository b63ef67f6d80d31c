"""Every example in the documentation runs, and the documentation and the command line agree."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import firstlight
from firstlight.cli.main import group

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
