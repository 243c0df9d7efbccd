"""sample: what it writes, and what is left of it when it cannot end."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bounded import memory
from commands import printed, train

from npddpm import DDPM, Schedule, data
from npddpm.cli.columns import note
from npddpm.cli.main import main
from npddpm.data.files import Outputs
from npddpm.data.table import Mapped
from npddpm.model.ddpm import CHUNK

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


@pytest.fixture(autouse=True)
def m(in_an_empty_folder):
    train("moons")


def test_samples_that_are_not_numbers_are_not_written(capsys):
    model = DDPM.load("m.npz")
    model.average[:] = 1e30
    model.save("m.npz")
    with np.errstate(all="ignore"):
        assert main(["sample", "m.npz", "-n", "5"]) == 2
        assert "NaN or infinity in 10 of 10 results" in capsys.readouterr().err
        assert not Path("samples.npy").exists()
        for of in (model.sample, lambda n: model.bound(np.ones((n, 2)))):
            with pytest.raises(FloatingPointError, match="denoiser must give finite numbers"):
                of(5)


def test_what_the_disk_has_no_room_for_is_not_begun(monkeypatch, capsys):
    for free, code in ((79_999, 2), (80_001, 0), (0, 0)):           # 0 means that nobody knows
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: shutil._ntuple_diskusage(10**6, 0, free))
        assert main(["sample", "m.npz", "-n", "5000"]) == code
    assert "cannot write samples.npy: it will have 80,000 bytes, and there is room for 79,999\n" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("out", ["x.npy", "x.csv"])
def test_signals_leave_nothing_of_a_sample(name, out, at, monkeypatch, capsys):
    monkeypatch.setitem(CHUNK, "cpu", 10)
    number = getattr(signal, name)
    at("sample_chunks", 2, lambda: os.kill(os.getpid(), number))
    assert main(["sample", "m.npz", "--out", out]) == 128 + number
    assert capsys.readouterr().err.endswith("npddpm: interrupted\n")
    assert [path.name for path in Path().iterdir()] == ["m.npz"]


def test_what_a_killed_sample_leaves_is_removed_by_the_next():
    code = ("import os, signal, npddpm.model.ddpm as t\nt.CHUNK['cpu'] = 10\nfrom npddpm.cli.main import main\nimport npddpm.cli.main as m\n"
            "m.progress = lambda counts, *_: (os.kill(os.getpid(), signal.SIGKILL) for _ in counts)\n"
            "main(['sample', 'm.npz', '-n', '30'])")
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == -signal.SIGKILL
    left = list(Path().glob(".samples.npy.*"))
    assert len(left) == 1
    with Outputs().write("samples.npy") as file:
        file.write(b"another run, in the middle of it")
        assert main(["sample", "m.npz", "-n", "3"]) == 0
        assert not left[0].exists() and Path(file.name).exists()
    assert {path.name for path in Path().iterdir()} == {"m.npz", "samples.npy", "samples.1.npy"}


# ---- as users of tables expect them

def table(n=300):
    """Whole numbers from 0 on but for a row that is held out, a bounded column, one of -1 alone, and whole numbers but for a training row."""
    rng = np.random.default_rng(0)
    x = np.stack([rng.poisson(1.0, n), rng.beta(0.5, 0.5, n), np.full(n, -1), rng.integers(-9, 9, n)], 1)
    trained, held = data.split(np.arange(n))
    x[trained[0], 3] += 0.5
    x[held[0], 0] = 30.5
    return x


@pytest.fixture
def t(capsys):
    """A model of a table with a header, and the training rows."""
    x = table()
    np.savetxt("t.csv", x, delimiter=",", header='count,"share, in all",what,"a ""number"""', comments="", fmt="%.17g")
    train("t.csv", out="t.npz")
    capsys.readouterr()
    return data.split(x)[0]


def drawn(*options, out="samples.npy"):
    assert main(["sample", "t.npz", "-n", "60", "--out", out, *options]) == 0
    return np.load(out) if out.endswith(".npy") else np.loadtxt(out, delimiter=",", skiprows=1)


def test_train_notes_columns_of_the_training_rows(t):
    noted = DDPM.load("t.npz").about["columns"]
    assert noted == {"low": t.min(0).tolist(), "high": t.max(0).tolist(), "whole": [True, False, True, False],
                     "names": ["count", "share, in all", "what", 'a "number"']}
    assert main(["train", "t.csv", "--resume", "--steps", "60"]) == 0
    assert DDPM.load("t.npz").about["columns"] == noted and "names" not in DDPM.load("m.npz").about["columns"]


def test_columns_of_a_mapped_file_are_noted(monkeypatch):
    monkeypatch.setattr("npddpm.data.table.IN_MEMORY", 100)
    monkeypatch.setattr("npddpm.data.table.BLOCK", 28)
    np.save("t.npy", table())
    rows = data.split(data.load("t.npy"))[0]
    noted, x = note(rows, "t.npy"), np.asarray(rows)
    assert isinstance(rows, Mapped) and noted == {"low": x.min(0).tolist(), "high": x.max(0).tolist(), "whole": [True, False, True, False]}


@pytest.mark.parametrize("how", [[], ["--steps", "5"], ["--steps", "5", "--eta", "0.5"]])
def test_clip_and_round(t, how):
    plain, clipped, rounded, both = (drawn(*how, *options) for options in ([], ["--clip"], ["--round"], ["--clip", "--round"]))
    assert (plain == DDPM.load("t.npz").sample(60, 0, steps=5 if how else None, eta=0.5 if "--eta" in how else None)).all()
    low, high = t.min(0), t.max(0)
    assert ((plain < low) | (plain > high))[:, :2].any(0).all()
    assert ((clipped >= low) & (clipped <= high)).all()
    assert (clipped != plain.clip(low, high)).any()       # on the way, too
    for x, before in ((rounded, plain), (both, clipped)):
        assert (x[:, [0, 2]] == np.rint(before[:, [0, 2]])).all() and (x[:, [1, 3]] == before[:, [1, 3]]).all()
        assert not (np.signbit(x) & (x == 0)).any()


def test_text_has_the_same_numbers_and_can_be_trained_on(t, monkeypatch):
    monkeypatch.setitem(CHUNK, "cpu", 25)
    for options in ([], ["--clip", "--round"]):
        assert (drawn(*options, out="x.csv") == drawn(*options)).all()
    header, *lines = Path("x.csv").read_bytes().decode().removesuffix("\n").split("\n")
    assert header == '"count","share, in all","what","a ""number"""' and len(lines) == 60
    assert all(re.fullmatch(r"\d+,[\d.e-]+,-1,-?\d+\.[\de-]+", line) for line in lines)
    told = []
    data.load("x.csv", tell=told.append)
    assert told[0].endswith('header count, share, in all, what, a "number"')


def test_text_of_rows_without_names(capsys):
    for command in ("sample m.npz -n 5 --out x.csv", "sample m.npz -n 5 --out X.CSV", "sample m.npz -n 5"):
        assert main(command.split()) == 0
    assert (np.loadtxt("x.csv", delimiter=",") == np.load("samples.npy")).all() and Path("x.csv").read_bytes() == Path("X.CSV").read_bytes()
    assert capsys.readouterr().err.count("sample 5/5") == 3


def test_a_header_is_no_comment(t):
    model = DDPM.load("t.npz")
    model.about["columns"]["names"][0] = "#count"
    model.save("t.npz")
    drawn(out="x.csv")
    told = []
    data.load("x.csv", tell=told.append)
    assert "header #count, share" in told[0]


def test_images_are_clipped_rounded_and_written_as_rows():
    train("digits", out="digits.npz")
    x = data.split(data.load("digits"))[0]
    for out in ("x.npy", "x.csv"):
        assert main(["sample", "digits.npz", "-n", "20", "--clip", "--round", "--out", out]) == 0
    images = np.load("x.npy")
    assert images.shape == (20, 8, 8) and (images == np.rint(images)).all() and (images >= x.min(0)).all() and (images <= x.max(0)).all()
    assert "." not in Path("x.csv").read_text() and (np.loadtxt("x.csv", delimiter=",") == images.reshape(20, 64)).all()


def test_text_takes_little_memory(monkeypatch):
    monkeypatch.setitem(CHUNK, "cpu", 250)
    with memory(600_000):
        assert main(["sample", "m.npz", "-n", "20000", "--steps", "1", "--out", "x.csv"]) == 0
    assert Path("x.csv").stat().st_size > 700_000


@pytest.mark.parametrize("change", [
    None, [1], {"low": None}, {"low": [0.0]}, {"low": [[0.0]] * 4}, {"low": ["0"] * 4}, {"low": [0, 0, 0, 10**400]}, {"low": [0.0, 0.0, 0.0, 99.0]},
    {"high": {}}, {"whole": [1, 0, 1, 0]}, {"whole": [True]}, {"whole": [[True], []]}, {"whole": True}, {"names": "name"}, {"names": ["a"]},
    {"names": [1, 2, 3, 4]}, {"names": {"a": 1, "b": 2, "c": 3, "d": 4}}])
def test_notes_that_train_does_not_write_count_as_none(t, change, capsys):
    model = DDPM.load("t.npz")
    model.about["columns"] = {**model.about["columns"], **change} if isinstance(change, dict) else change
    model.save("t.npz")
    for options in (["--clip"], ["--round"], ["--clip", "--round", "--out", "x.csv"]):
        assert main(["sample", "t.npz", "-n", "5", *options]) == 2
        line = capsys.readouterr().err
        assert line.startswith(f"npddpm: {' and '.join(options[:2] if len(options) > 1 else options)}: t.npz does not say what its training columns held")
        assert "train the model with it, or clip and round in Python" in line and line.count("\n") == 1
    assert not Path("x.csv").exists() and not Path("samples.npy").exists()
    assert main(["sample", "t.npz", "-n", "5", "--out", "x.csv"]) == 0 and np.loadtxt("x.csv", delimiter=",").shape == (5, 4)


def test_names_that_are_no_text_and_bounds_of_nothing(t, capsys):
    for change in ({"names": ["\ud800", "b", "c", "d"]}, {"low": [1e300] * 4, "high": [1e301] * 4}):
        model = DDPM.load("t.npz")
        model.about["columns"] |= change
        model.save("u.npz")
        assert main(["sample", "u.npz", "-n", "5", "--clip", "--out", "x.csv"]) == 2
        assert capsys.readouterr().err.count("npddpm: ") == 1 and not Path("x.csv").exists()


def test_models_of_the_library_and_of_many_columns_have_no_notes(monkeypatch, capsys):
    DDPM(Schedule.linear(10), 8, 1).fit(table(50), steps=5, rng=0).save("own.npz")
    monkeypatch.setattr("npddpm.cli.columns.MOST", 1)
    train("moons", out="many.npz")
    for name in ("own.npz", "many.npz"):
        assert main(["sample", name, "--clip"]) == 2 and f"--clip: {name} does not say" in capsys.readouterr().err


def test_samples_that_rounding_takes_off_the_plane_are_counted(capsys):
    np.save("own.npy", np.random.default_rng(0).multinomial(100, [0.2, 0.3, 0.5], 200))
    train()
    for options in ("", "--round", "--clip --round"):
        out = printed(capsys, f"sample m.npz -n 300 --out s.npy {options}")
        off = (np.abs(np.load("s.npy").sum(1) - 100) > 1e-3).sum()
        assert (f"{off} of them break a relation that all training rows keep, such as a fixed sum" in out) == bool(options) == (off > 0)


def test_rounded_samples_below_numbered_columns_are_read_back_as_they_are():
    Path("t.csv").write_text("0,1\n" + "".join(f"{i % 5}.0,{i % 3}.0\n" for i in range(60)))
    train("t.csv")
    assert main(["sample", "m.npz", "-n", "9", "--round", "--out", "x.csv"]) == 0
    assert data.load("x.csv").shape == (9, 2)
