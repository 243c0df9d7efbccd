"""The READMEs do what they say: their code is run, their links lead somewhere, their tables name things that exist."""

import doctest
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from mutations import MUTATIONS

import npddpm
from npddpm import gaussian
from npddpm.cli.main import parser

ROOT = Path(__file__).parents[1]
PAGES = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
         for pattern in ("README.md", "*/README.md", "npddpm/*/README.md") for path in sorted(ROOT.glob(pattern))}
README = PAGES["README.md"]


def snippets(kind, *pages):
    return [code for page in pages or PAGES.values() for code in re.findall(rf"^```{kind}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)]


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 200


@pytest.mark.parametrize("page", [name for name, text in PAGES.items() if "```pycon" in text])
def test_what_a_page_shows_is_what_comes_out(page):
    test = doctest.DocTestParser().get_doctest("\n".join(snippets("pycon", PAGES[page])), {}, page, None, 0)
    assert len(test.examples) > 8
    assert doctest.DocTestRunner().run(test).failed == 0


def test_the_dozen_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, = snippets("python")
    scope = {}
    exec(code.replace("10_000", "10").replace("T=1000", "T=20").replace("steps=50", "steps=5"), scope)  # noqa: S102
    assert scope["y"].shape == scope["z"].shape == (1000, 2) and np.isfinite(scope["z"]).all()


def test_commands_can_be_given():
    commands = [command for code in snippets("sh") for command in re.findall(r"\bnpddpm ([a-z]+ [^#&|\n]+)", code)]
    assert len(commands) > 5
    for command in commands:
        parser().parse_args(shlex.split(command))


def test_the_options_of_the_command_line_are_complete():
    section = re.search(r"# The command line\n+```\n(.*?)```", PAGES["npddpm/cli/README.md"], re.DOTALL)[1]
    listed = {line.split()[1]: set(re.findall(r"(?<= )--?[\w-]+", line)) for line in section.splitlines()}
    commands = next(action.choices for action in parser()._actions if action.dest == "command")
    assert listed.keys() == commands.keys()
    for name, command in commands.items():
        options = {flag for action in command._actions for flag in action.option_strings} - {"-h", "--help"}
        assert listed[name] == options, name


def test_names_in_the_tables_exist():
    """Tests named on a page are there, and so are the functions of the table of the derivation."""
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    for name in {name for page in PAGES.values() for name in re.findall(r"`(test_\w+?)_?\*?`", page)}:
        assert f"def {name}" in tests, name
    table = re.search(r"## The derivation\n(.*?)###", README, re.DOTALL)[1]
    for name in set(re.findall(r"`([\w.]+)`", table)):
        home, _, attribute = name.rpartition(".")
        places = {"gaussian": [gaussian], "Schedule": [npddpm.Schedule([0.5])]}.get(home, [npddpm, npddpm.Schedule])
        assert any(hasattr(place, attribute) for place in places), name


def anchors(page):
    """What GitHub makes of headings."""
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"^#+ (.*)", page, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", PAGES[page]):
        name, _, anchor = target.partition("#")
        path = ((ROOT / page).parent / name if name else ROOT / page).resolve()
        assert path.exists(), target
        assert not anchor or anchor in anchors(path.read_text(encoding="utf-8")), target


def test_the_reading_order_is_complete_and_tells_lengths():
    rows = dict(re.findall(r"^\| \[(\w+\.py)\]\(npddpm/\w+\.py\) \| (\d+) \|", README, re.MULTILINE))
    files = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / "npddpm").glob("[!_]*.py")}
    assert rows.keys() == files.keys()
    for name, lines in files.items():
        assert abs(int(rows[name]) - lines) <= max(5, 0.1 * lines), (name, lines)


@pytest.mark.parametrize("room", sorted(path.parent.name for path in (ROOT / "npddpm").glob("*/README.md")))
def test_a_folders_page_names_its_files(room):
    for path in (ROOT / "npddpm" / room).glob("[!_]*.py"):
        assert f"({path.name})" in PAGES[f"npddpm/{room}/README.md"], path.name


def test_the_table_of_speed_is_the_one_measured():
    columns = []
    for name in ("intel-r-xeon-r-processor-2-cores", "intel-r-xeon-r-processor-16-cores", "nvidia-h200"):
        found = json.loads((ROOT / f"benchmarks/results/{name}.json").read_text(encoding="utf-8"))
        columns.append({tuple(row["shape"]): row["times"] for row in found["rows"] if row["what"] == "training step"})
    for shape in columns[0]:
        cells = [", ".join(map(str, shape))]
        for times in (column[shape] for column in columns):
            cells.append(f"{1e3 * times['npddpm']['median']:.3g}".replace("1.47e+03", "1470"))
            cells += [f"{times[peer]['ratio']:.2f}" if peer in times else "" for peer in ("PyTorch, fused Adam", "JAX")]
        assert f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |") in PAGES["benchmarks/README.md"], shape


def test_the_slips_can_still_be_made():
    """Each pattern of mutations.py occurs once in the code as it is, and what it becomes can be compiled."""
    for file, old, new, *_ in MUTATIONS:
        code = (ROOT / "npddpm" / file).read_text(encoding="utf-8")
        assert code.count(old) == 1, (file, old)
        compile(code.replace(old, new), file, "exec")
