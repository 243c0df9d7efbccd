"""Every command, run for real on small settings, as a user would."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from npddpm import DDPM
from npddpm.__main__ import main

SMALL = ["--hidden", "16", "--depth", "1", "--T", "20", "--steps", "50", "--batch-size", "16"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_whole_path_on_digits(capsys):
    assert main(["train", "digits", *SMALL, "--schedule", "cosine"]) == 0
    assert main(["sample", "digits.npz", "-n", "7", "--steps", "5", "--eta", "0.5"]) == 0
    assert np.load("samples.npy").shape == (7, 64)
    assert main(["evaluate", "digits.npz"]) == 0
    printed = capsys.readouterr().out
    for words in ("1438 rows of 64 to train on, 359 held out", "loss by t", "359 samples", "359 training rows",
                  "nearest training row", "ratio"):
        assert words in printed, words


def test_the_oracle_stands_beside_the_loss(capsys):
    assert main(["train", "gaussians", *SMALL, "--out", "g.npz"]) == 0
    assert main(["evaluate", "g.npz"]) == 0
    table = capsys.readouterr().out.split("ratio\n")[1].splitlines()
    t, loss, least, ratio = map(float, table[0].split())
    assert t == 1 and loss >= 0.9 * least > 0 and ratio == pytest.approx(loss / least, rel=0.01)


@pytest.mark.parametrize("source", ["digits", "moons", "own.csv"])
def test_plot(source):
    pytest.importorskip("matplotlib")
    np.savetxt("own.csv", np.random.default_rng(0).standard_normal((50, 1)), delimiter=",")
    assert main(["train", source, *SMALL, "--out", "m.npz"]) == 0
    assert main(["plot", "m.npz"]) == 0
    with open("m.png", "rb") as file:
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"


def test_resume_is_the_same_run(tmp_path):
    assert main(["train", "moons", *SMALL, "--out", "whole.npz"]) == 0
    run = [sys.executable, "-m", "npddpm", "train", "moons", "--out", "part.npz"]
    slow = ["--hidden", "16", "--depth", "1", "--T", "20", "--steps", "100000", "--batch-size", "16"]
    process = subprocess.Popen(run + slow, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "interrupted: part.npz holds step" in out, err
    step = DDPM.load("part.npz").step
    assert 0 < step < 100_000
    assert main(["train", "moons", "--resume", "--out", "part.npz", "--steps", str(step + 20)]) == 0
    assert DDPM.load("part.npz").step == step + 20


def test_resume_needs_the_same_data(capsys):
    assert main(["train", "moons", *SMALL, "--out", "m.npz"]) == 0
    assert main(["train", "circles", "--resume", "--out", "m.npz"]) == 2
    assert "circles is not the data that m.npz was trained on" in capsys.readouterr().err


BAD = {
    "train nosuch.csv": "cannot read nosuch.csv: No such file",
    "train mons": "did you mean 'moons'",
    "train nan.csv": "got nan in row 1",
    "train text.csv": "which is no number",
    "train one.csv": "n >= 2 rows",
    "train cube.npy": r"got (3, 2, 2)",
    "train flat.csv": "all its rows are equal",
    "train moons --device gpu": "needs CuPy",
    "train moons --T 0": "T must be an int of at least 1, got 0",
    "train moons --steps 0": "steps must be",
    "train moons --steps few": "invalid int value: 'few'",
    "train moons --batch-size -1": "batch_size must be",
    "train moons --hidden -3": "hidden must be",
    "train moons --depth 0": "depth must be",
    "train moons --lr nan": "lr must be a positive number",
    "train moons --schedule sqrt": "invalid choice: 'sqrt'",
    "train moons --holdout 1": "--holdout must lie in [0, 1)",
    "train moons --out none/m.npz": "cannot write none/m.npz: No such file or directory",
    "train moons --out .": "it is a folder",
    "train moons --resume --out gone.npz": "cannot read gone.npz",
    "train data.npz": "would overwrite the data",
    "sample half.npz": "cannot read half.npz",
    "sample gone.npz": "cannot read gone.npz: No such file",
    "sample data.npz": "no npddpm checkpoint",
    "sample good.npz -n 0": "n must be",
    "sample good.npz --steps 21": "steps must lie in 1..20",
    "sample good.npz --eta 2": "eta must lie in [0, 1]",
    "sample good.npz --out none/x.npy": "cannot write none/x.npy",
    "evaluate good.npz digits": "has 64 columns, the model 2",
    "evaluate half.npz": "cannot read half.npz",
    "plot good.npz --out none/x.png": "cannot write none/x.png",
    "fly": "invalid choice: 'fly'",
    "": "required: command",
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "good.npz"
    assert main(["train", "moons", *SMALL, "--out", str(path)]) == 0
    return path.read_bytes()


@pytest.mark.parametrize("command", BAD)
def test_bad_input_is_one_line_and_touches_nothing(command, in_an_empty_folder, checkpoint, capsys, monkeypatch):
    if command.startswith("plot"):
        pytest.importorskip("matplotlib")
    monkeypatch.setitem(sys.modules, "cupy", None)
    for name, content in (("nan.csv", b"1,2\n3,nan\n"), ("text.csv", b"once\nupon a time\n"), ("one.csv", b"1,2\n"),
                          ("flat.csv", b"1,2\n1,2\n"), ("good.npz", checkpoint),
                          ("half.npz", checkpoint[:len(checkpoint) // 2])):
        (in_an_empty_folder / name).write_bytes(content)
    np.save("cube.npy", np.zeros((3, 2, 2)))
    np.savez("data.npz", x=np.eye(4))
    before = {p: p.read_bytes() for p in in_an_empty_folder.iterdir()}
    capsys.readouterr()
    assert main(command.split()) == 2
    error = capsys.readouterr().err
    assert BAD[command] in error and error.startswith("npddpm: ") and error.count("\n") == 1
    assert {p: p.read_bytes() for p in in_an_empty_folder.iterdir()} == before


def test_a_process_prints_no_traceback():
    done = subprocess.run([sys.executable, "-m", "npddpm", "train", "nosuch.csv"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "npddpm: cannot read nosuch.csv: No such file or directory\n"


def test_lines_instead_of_a_bar_where_there_is_no_terminal():
    done = subprocess.run([sys.executable, "-m", "npddpm", "train", "moons", *SMALL[:-4], "--steps", "200"],
                          capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "80"})
    lines = done.stderr.splitlines()
    assert len(lines) == 10 and lines[-1].startswith("step 200/200: loss 0.") and "steps/s, 0 s left" in lines[-1]
