"""The README does what it says: its worked page is run, its tables name things that exist."""

import doctest
import re
from pathlib import Path

import numpy as np
from mutations import MUTATIONS

import npddpm
from npddpm import gaussian
from npddpm.cli.main import parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_worked_page():
    snippets = "\n".join(re.findall(r"^```pycon\n(.*?)^```", README, re.MULTILINE | re.DOTALL))
    test = doctest.DocTestParser().get_doctest(snippets, {}, "README.md", None, 0)
    assert len(test.examples) > 30
    assert doctest.DocTestRunner().run(test).failed == 0


def test_the_ten_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    shortened = code.replace("10_000", "10").replace("T=1000", "T=20").replace("steps=50", "steps=5")
    scope = {}
    exec(shortened, scope)  # noqa: S102
    assert scope["y"].shape == scope["z"].shape == (1000, 2) and np.isfinite(scope["z"]).all()


def test_names_in_the_tables_exist():
    """Tests named in the README are there, and so are the functions of the table of the derivation."""
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    for name in set(re.findall(r"`(test_\w+?)_?\*?`", README)):
        assert f"def {name}" in tests, name
    table = re.search(r"## The derivation\n(.*?)###", README, re.DOTALL)[1]
    for name in set(re.findall(r"`([\w.]+)`", table)) - {"test_derivation.py"}:
        home, _, attribute = name.rpartition(".")
        places = {"gaussian": [gaussian], "Schedule": [npddpm.Schedule([0.5])]}.get(home, [npddpm, npddpm.Schedule])
        assert any(hasattr(place, attribute) for place in places), name


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:|#)([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_options_of_the_command_line_are_complete():
    section = re.search(r"## The command line\n+```\n(.*?)```", README, re.DOTALL)[1]
    listed = {line.split()[1]: set(re.findall(r"(?<= )--?[\w-]+", line)) for line in section.splitlines()}
    commands = next(action.choices for action in parser()._actions if action.dest == "command")
    for name, command in commands.items():
        options = {flag for action in command._actions for flag in action.option_strings} - {"-h", "--help"}
        assert listed[name] == options, name


def test_the_slips_can_still_be_made():
    """Each pattern of mutations.py occurs once in the code as it is, and what it becomes can be compiled."""
    for file, old, new, *_ in MUTATIONS:
        code = (ROOT / "npddpm" / file).read_text(encoding="utf-8")
        assert code.count(old) == 1, (file, old)
        compile(code.replace(old, new), file, "exec")
