"""Commands that are refused: one line, exit status 2, no traceback, no file touched."""

import os
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pytest
from commands import train

from npddpm.cli.main import main

COMMANDS = {
    "train nosuch.csv": "cannot read nosuch.csv: No such file",
    "train mons": "did you mean 'moons'",
    "train nan.csv": "line 2 holds 'nan', which is not finite",
    "train text.csv": "which is no number",
    "train one.csv": "n >= 2 rows",
    "train cube.npy": r"got (3, 2, 2, 2, 2)",
    "train notes.npz": "its notes.txt is no array",
    "train two.npz": "it must hold one array, or one called x",
    "train cut.npy": "cannot read cut.npy",
    "train row.npy": "got (9,); np.reshape(x, (-1, 1)) makes one column of it",
    "train objects.npy": "cannot read objects.npy: it holds objects (pickles): save numbers, such as x.astype(float)",
    "train fields.npy": "structured_to_unstructured(x) has them",
    "train moons --hidden 10000000000": "hidden must be at most 65536, got 10000000000",
    "train flat.csv": "all its rows are equal",
    "train moons --device gpu": "needs CuPy",
    "train moons --device tpu": "invalid choice: 'tpu'",
    "train moons --resume --out good.npz --steps 0": "steps must be an int of at least 1, got 0",
    "train moons --resume --out good.npz --steps -5": "steps must be an int of at least 1, got -5",
    **{f"train moons --schedule {schedule} {large}": message for schedule in ("linear", "cosine") for large, message in (
        ("--T 10000000", "T must be at most 100000, got 10000000"), (f"--T {2**63 - 1}", "T must be at most 100000"),
        ("--depth 10000000", "depth must be at most 1000, got 10000000"))},
    "train moons --T 0": "T must be an int of at least 1, got 0",
    "train moons --steps 0": "steps must be",
    "train moons --steps few": "invalid int value: 'few'",
    "train moons --batch-size -1": "batch_size must be",
    "train moons --hidden -3": "hidden must be",
    "train moons --depth 0": "depth must be",
    "train moons --depth 10000000000000000000": "depth must be at most 1000, got 10000000000000000000",
    "train moons --lr nan": "lr must be a positive number",
    "train moons --seed -1": "--seed must be an int of at least 0, got -1",
    "train moons --schedule sqrt": "invalid choice: 'sqrt'",
    "train moons --schedule consine": "did you mean 'cosine'?",
    "train moons --holdout 1": "--holdout must lie in [0, 1)",
    "train three.csv --holdout 0.9": "--holdout 0.9 leaves 0 of 3 rows to train on, and 2 are needed",
    "train moons --out none/m.npz": "cannot write none/m.npz: No such file or directory",
    "train moons --out .": "it is a folder",
    "train moons --resume --out gone.npz": "cannot read gone.npz",
    "train moons --resume --out half.npz": "cannot read half.npz",
    "train circles --resume --out good.npz": "circles is not the data that good.npz was trained on",
    "train data.npz": "would overwrite the data",
    "sample half.npz": "cannot read half.npz: it is damaged, or not whole",
    "sample gone.npz": "cannot read gone.npz: No such file",
    "sample data.npz": "no npddpm checkpoint",
    "sample good.npz -n 0": "n must be",
    "sample good.npz --steps 11": "steps must be at most 10, got 11",
    "sample good.npz --eta 2": "eta must lie in [0, 1]",
    "sample good.npz --steps 5 --variance posterior": "--variance has no effect with --steps, or --eta below 1: leave it out",
    "sample good.npz --eta 0.5 --variance beta": "--variance has no effect with --steps, or --eta below 1: leave it out",
    "sample good.npz --out none/x.npy": "cannot write none/x.npy",
    "sample good.npz --out x.tsv": "cannot write x.tsv: name a .npy or .csv file",
    "sample text.csv": "cannot read text.csv: it is no NumPy file (.npy or .npz)",
    "sample cube.npy": "cannot read cube.npy: it is no npddpm checkpoint",
    "sample good.npz --out good.npz": "would overwrite the model",
    "sample good.npz --device gpu": "needs CuPy",
    "evaluate good.npz digits": "DATA digits holds images of 8 x 8, the training rows were a table",
    "evaluate good.npz three.csv": "DATA three.csv has 3 rows, and 4 are needed to compare a model with",
    "evaluate half.npz": "cannot read half.npz",
    "evaluate good.npz mons": "did you mean 'moons'",
    "plot good.npz --out none/x.png": "cannot write none/x.png",
    "plot good.npz --out x.bmpp": "cannot write x.bmpp: name a .png or .svg or .pdf file",
    "plot good.npz --out good.npz": "would overwrite the model",
    "plot good.npz --animate x.mp4": "cannot write x.mp4: name a .gif file",
    "plot good.npz --animate none/x.gif": "cannot write none/x.gif",
    "trian moons": "did you mean 'train'?",
    "fly": "invalid choice: 'fly'",
    "train": "the following arguments are required: DATA",
    "train moons --stops 3": "unrecognized arguments: --stops 3",
    "": "required: command",
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "good.npz"
    train("moons", out=str(path))
    return path.read_bytes()


@pytest.fixture
def folder(tmp_path, monkeypatch, checkpoint):
    """A folder of files, good and bad, that must be found as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "cupy", None)
    for name, content in (("nan.csv", b"1,2\n3,nan\n"), ("text.csv", b"once\nupon a time\n"), ("one.csv", b"1,2\n"),
                          ("flat.csv", b"1,2\n1,2\n"), ("three.csv", b"1,2\n3,5\n8,9\n"), ("good.npz", checkpoint), ("moons.npz", b"mine"),
                          ("half.npz", checkpoint[:len(checkpoint) // 2])):
        (tmp_path / name).write_bytes(content)
    np.save("cube.npy", np.zeros((3, 2, 2, 2, 2)))
    np.savez("data.npz", x=np.eye(4))
    np.savez("two.npz", a=np.eye(4), b=np.eye(4))
    with zipfile.ZipFile("notes.npz", "w") as file:
        file.writestr("notes.txt", "no array")
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "folder.npy").mkdir()
    np.save("row.npy", np.arange(9.0))
    np.save("objects.npy", np.array([[1, "x"], [2, 3]], dtype=object))
    np.save("fields.npy", np.zeros(3, dtype=[("a", float), ("b", float)]))

    def content():
        return {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}

    before = content()
    yield tmp_path
    assert content() == before


@pytest.mark.parametrize("command", COMMANDS)
def test_command_line(command, folder, capsys):
    """One line, exit status 2, no traceback, no file touched."""
    if command.startswith("plot"):
        pytest.importorskip("matplotlib")
    assert main(command.split()) == 2
    error = capsys.readouterr().err
    assert COMMANDS[command] in error and error.startswith("npddpm: ") and error.count("\n") == 1


def test_a_process_prints_no_traceback():
    done = subprocess.run([sys.executable, "-m", "npddpm", "train", "nosuch.csv"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "npddpm: cannot read nosuch.csv: No such file or directory\n"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes with names")
def test_a_pipe_is_refused(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.csv")
    writer = threading.Thread(target=lambda: open(tmp_path / "pipe.csv", "w").close(), daemon=True)      # till somebody reads
    writer.start()
    assert main(["train", str(tmp_path / "pipe.csv")]) == 2
    assert "it is a pipe, which cannot be read twice: write it to a file first" in capsys.readouterr().err
    writer.join()
