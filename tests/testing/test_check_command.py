"""The command `npddpm check`: what it prints, what it returns, and what it leaves behind; the page that shows it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from subjects import defined_by, failures

from npddpm import testing
from npddpm.cli.main import main
from npddpm.testing import values

ROOT = Path(__file__).parents[2]


def run(tmp_path, capsys, text, *options):
    file = tmp_path / "mine.py"
    file.write_text(text, encoding="utf-8")
    code = main(["check", str(file), *options])
    return code, *capsys.readouterr()


RIGHT_FILE = "import numpy as np\nprint('hello')\ndef alpha_bars(betas):\n    return np.cumprod(1 - betas)\n"


def test_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(tmp_path, capsys, RIGHT_FILE)
    assert code == 0 and "hello" in err and "hello" not in out
    assert re.search(r"^step 1 +alpha_bars +pass +products: 1[56] digits", out, re.MULTILINE)
    assert re.search(r"^step 5 +q_posterior +skipped +all \(not defined\)", out, re.MULTILINE)
    code, out, _ = run(tmp_path, capsys, RIGHT_FILE.replace("1 - betas", "betas"), "--json")
    found = {r["check"]: r for r in json.loads(out) if r["function"] == "alpha_bars"}
    assert code == 1 and found["products"]["verdict"] == "fail" and found["calls"]["verdict"] == "pass"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"], "nothing else is left behind"
    assert set(found["products"]) >= {"function", "check", "verdict", "digits", "example", "got", "exact", "looks_like"}


@pytest.mark.parametrize(("text", "words"), [
    ("def broken(:", "SyntaxError"), ("1 / 0", "ZeroDivisionError"), ("raise SystemExit", "SystemExit"),
    ("x = 1", "nothing to check"), ("q_sample = 1\nfrom numpy import gradient\n", "nothing to check"),
    ("TOLERANCE = 'small'\n" + RIGHT_FILE, "TOLERANCE must lie strictly between 0 and 1"), *((f"TOLERANCE = {bad}\n" + RIGHT_FILE, "TOLERANCE must lie") for bad in ("0", "1", "-1e-4", "True", "float('nan')", "10**400")),
    *((f"DIM = {bad}\n" + RIGHT_FILE, "DIM must be an int of at least 1") for bad in ("0", "2.0", "True", "'2'"))])
def test_a_file_that_cannot_be_used(tmp_path, capsys, text, words):
    code, out, err = run(tmp_path, capsys, text)
    assert code == 2 and out == "" and words in err and err.splitlines()[-1].startswith("npddpm: ")


@pytest.mark.parametrize("fault", ["pytest.skip('later')", "raise asyncio.CancelledError", "raise BaseException('no')"])
def test_no_traceback_of_what_is_no_exception(tmp_path, capsys, fault):
    """While the file is run, in a function, and in a generator that a function returns."""
    header = f"import asyncio\nimport pytest\ndef fail(): {fault}\n"
    code, out, err = run(tmp_path, capsys, header + "fail()")
    assert code == 2 and out == "" and err.startswith("npddpm: cannot check") and "Traceback" not in err
    code, out, err = run(tmp_path, capsys, header + "def alpha_bars(betas): fail()\ndef sample(*args):\n    yield fail()")
    assert code == 1 and err == "" and len(re.findall("^.* FAIL .*", out, re.MULTILINE)) == 6


@pytest.mark.parametrize("settings", ["TOLERANCE = np.float32(1e-4)", "DIM = np.int64(3)"])
def test_settings_of_numpy(tmp_path, capsys, settings):
    assert run(tmp_path, capsys, "import numpy as np\n" + settings + "\n" + RIGHT_FILE)[0] == 0


@pytest.mark.parametrize(("old", "new"), [("0.999", "0.99"), ("math.pi / 2", "math.pi"), ("0.008", "0.08")])
def test_a_wrong_cosine_schedule_is_told_in_seconds(old, new):
    """A slip that divides by t = 0 has no cosine, and its series no end."""
    text = "import math\nimport numpy as np\ndef cosine_betas(T):\n    f = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * math.pi / 2)**2\n" \
           "    return np.minimum(1 - f[1:] / f[:-1], 0.999)\n"
    assert text.count(old) == 1
    assert failures(defined_by(text.replace(old, new)), "cosine_betas")


@pytest.mark.parametrize("deed", [
    "sys.path[0] = 'elsewhere'", "sys.path.clear()", "sys.path = None", "del sys.path", "sys.argv.clear()", "del sys.argv", "sys.modules.clear()", "sys.modules = {}",
    "del sys.modules['numpy']", "sys.excepthook = None", "sys.stdout = io.StringIO()", "sys.stdout = None", "sys.stdout.close()",
    "sys.stdout.buffer.close()", "sys.stdout = io.TextIOWrapper(sys.stdout.buffer)", "sys.stdout = io.TextIOWrapper(sys.stdout.detach())",
    "sys.__stdout__.close()", "sys.stderr.close()", "del sys.stdout"])
def test_what_a_file_does_to_sys_costs_no_summary(tmp_path, capsys, deed):
    """While it is run, which harms none of its functions, and in a function, which may fail the next time."""
    before = dict(vars(sys)), list(sys.path), dict(sys.modules)
    header = "import io\nimport sys\n"
    code, out, err = run(tmp_path, capsys, header + RIGHT_FILE + deed)
    assert code == 0 and out.splitlines()[-1].startswith("2 checks passed, 0 failed") and "hello" in err
    out = run(tmp_path, capsys, header + RIGHT_FILE.replace("    return", f"    {deed}\n    return"))[1]
    assert re.match(r"\d checks passed, \d failed", out.splitlines()[-1])
    assert all(getattr(sys, name) is value for name, value in before[0].items()) and sys.path == before[1] and sys.modules.items() >= before[2].items()


def checked(tmp_path, text, *options, **streams):
    """In a process of its own."""
    file = tmp_path / "mine.py"
    file.write_text(text)
    return subprocess.run([sys.executable, "-m", "npddpm", "check", *options, str(file)], check=False, stdout=subprocess.PIPE, text=True, cwd=ROOT,
                          **{"stderr": subprocess.PIPE} | streams)


def test_a_file_writes_nothing_into_the_report(tmp_path):
    """As programs do that print in one of many processes alone."""
    ran = checked(tmp_path, f"import atexit, builtins, os\n{RIGHT_FILE}\natexit.register(print, 'bye')\nos.system('echo good')\n"
                            "builtins.print = lambda *a, **k: None\nbuiltins.len = None\n", "--json")
    assert ran.returncode == 0 and sum(result["verdict"] == "pass" for result in json.loads(ran.stdout)) == 2
    assert "good" in ran.stderr and "bye" in ran.stderr


def test_streams_of_a_process_stay_open(tmp_path):
    text = RIGHT_FILE.replace("    return", "    print('there')\n    return")
    ran = checked(tmp_path, f"import sys\n{text}\nsys.stderr.close(); sys.stdout.close(); sys.__stdout__.close(); sys.stdout = sys.stderr = None\n")
    assert ran.returncode == 0 and ran.stdout.splitlines()[-1].startswith("2 checks passed") and ran.stderr.endswith("there\n")


def test_what_cannot_be_printed_fails_nobody(tmp_path):
    read, write = os.pipe()
    os.close(read)      # nobody reads
    ran = checked(tmp_path, RIGHT_FILE.replace("    return", "    print('x' * 10_000, flush=True)\n    return"), stderr=write)
    os.close(write)
    assert ran.returncode == 0 and ran.stdout.splitlines()[-1].startswith("2 checks passed")


def test_a_file_is_its_own_command_line(tmp_path, capsys):
    before = sys.argv, list(sys.argv)
    code, *_ = run(tmp_path, capsys, f"import sys\nassert sys.argv == [{str(tmp_path / 'mine.py')!r}]\n"
                       "sys.argv.append(1)\n" + RIGHT_FILE.replace("    return", "    assert sys.argv[1] == 1\n    return"))
    assert code == 0 and (sys.argv, list(sys.argv)) == before and sys.argv is before[0]


def test_a_file_that_is_not_there(tmp_path, capsys):
    assert main(["check", "no/such.py"]) == 2 and "no such file" in capsys.readouterr().err
    assert main(["check", str(tmp_path)]) == 2 and "it is no file" in capsys.readouterr().err


def test_hypothesis_is_needed_for_the_checks_alone():
    code = ("import sys; sys.modules['hypothesis'] = None; import npddpm\n"
            "try: npddpm.testing\nexcept ImportError as e: print(e)")
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert ran.stdout == "npddpm.testing needs hypothesis: pip install 'npddpm[test]'\n"


def test_functions_of_a_file_may_import_its_neighbours_and_pickle_what_it_defines(tmp_path, capsys):
    (tmp_path / "neighbour.py").write_text("import numpy as np\ndef products(b): return np.cumprod(1 - np.asarray(b))\n")
    (tmp_path / "own.py").write_text("import pickle\nclass Table: pass\ndef alpha_bars(betas):\n    from neighbour import products\n"
                                     "    pickle.loads(pickle.dumps(Table()))\n    return products(betas)\n")
    before = set(sys.modules), list(sys.path)
    assert main(["check", str(tmp_path / "own.py")]) == 0, capsys.readouterr()
    assert sys.path == before[1] and "own" not in sys.modules
    del sys.modules["neighbour"]


# ---- the page

PAGE = (ROOT / "npddpm/testing/README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "slip", "right"), [
    ("mine.py", "beta * (1 - abar)", "beta * (1 - before)"), ("net.py", "dr.mean(axis=0)", "dr.sum(axis=0)")])
def test_the_page_shows_what_comes_out(name, slip, right, tmp_path, capsys, monkeypatch):
    """The file with its slip gives the answer that is printed below it; without the slip nothing fails."""
    code, answer = re.search(rf"^```py\n# {name}\n(.*?)^```.*?^```text\n\$ npddpm check {name} \| grep -A1 FAIL\n(.*?)^```",
                             PAGE, re.MULTILINE | re.DOTALL).groups()
    status, out, _ = run(tmp_path, capsys, code)
    groups = re.findall(r"(?m)(?:^.*FAIL.*\n.*\n)+", out)
    assert status == 1 and "--\n".join(groups) == answer       # as grep -A1 prints them
    assert code.count(slip) == 1
    (tmp_path / name).write_text(code.replace(slip, right), encoding="utf-8")
    wrong = {line.split()[2 if line.startswith("step") else 1] for line in answer.splitlines() if "FAIL" in line}
    monkeypatch.setattr(values, "search", lambda *_: None)       # for a smallest failure, of which there is none
    with testing.loaded(tmp_path / name) as module:
        assert failures(module, *wrong) == []
