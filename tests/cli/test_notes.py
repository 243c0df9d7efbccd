"""What one claims to compare it compares, or the line says what it could not know: the notes in a checkpoint, and the data now."""

import re

import numpy as np
import pytest
from commands import SMALL

from npddpm import DDPM, Schedule
from npddpm.cli.main import main

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


def rows(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 2))


def train(*options, data="own.npy"):
    assert main(["train", data, *SMALL, "--out", "m.npz", *options]) == 0


def evaluate(capsys, *command):
    capsys.readouterr()
    assert main(["evaluate", "m.npz", *command]) == 0
    return capsys.readouterr().out


def copies(self, n, rng=None, **options):
    """A model that knows its training rows by heart."""
    return np.load("own.npy")[np.random.default_rng(0).integers(0, 32, n)]


def test_a_copying_model_is_found_out_with_other_data_too(monkeypatch, capsys):
    np.save("own.npy", rows(32))
    np.save("other.npy", rows(500, seed=1))
    train("--holdout", "0")
    monkeypatch.setattr(DDPM, "sample", copies)
    out = evaluate(capsys, "other.npy")
    assert "other.npy is not what m.npz was trained on, own.npy; 0 of its 500 rows are training rows" in out
    assert "rows of DATA" in out and "held-out" not in out
    assert float(re.search(r"nearest training row .*\n  samples +(\S+)\n", out)[1]) == 0        # the nearest training row is the sample itself


def test_rows_of_other_data_that_are_training_rows_are_counted(capsys):
    own = rows(32)
    own[:5, 0] = 0.0
    np.save("own.npy", own)
    own[:5, 0] = -0.0       # the same number in other bits
    np.save("other.npy", np.concatenate([own[:10], rows(50, seed=1)]))
    train("--holdout", "0")
    assert "10 of its 60 rows are training rows" in evaluate(capsys, "other.npy")


@pytest.mark.parametrize("command", [[], ["own.npy"]])
def test_data_that_changed_are_not_taken_for_the_training_data(command, capsys):
    np.save("own.npy", rows(40))
    train()
    np.save("own.npy", rows(40, seed=1))
    out = evaluate(capsys, *command)
    assert "own.npy is not, or no longer, what m.npz was trained on, and its training rows are not known" in out
    assert "nearest training row: not known" in out and "held-out" not in out and not re.search(r"\d+ training rows", out)


def test_plot_says_so_too(monkeypatch, capsys):
    plot, figure = pytest.importorskip("npddpm.cli.plot"), pytest.importorskip("matplotlib.figure")
    monkeypatch.setattr(plot, "overview", lambda *_: figure.Figure(figsize=(1, 1)))
    np.save("own.npy", rows(40))
    train()
    np.save("own.npy", rows(40, seed=1))
    assert main(["plot", "m.npz"]) == 0
    assert "own.npy is not, or no longer, what m.npz was trained on" in capsys.readouterr().out


def test_without_held_out_rows_training_rows_are_called_so(capsys):
    np.save("own.npy", rows(40))
    train("--holdout", "0")
    out = evaluate(capsys)
    assert "no two rows of own.npy were held out" in out and "on training rows" in out and "20 other training rows" in out
    assert "held-out rows         none" in out


def test_a_model_of_the_library_does_not_know_its_data(capsys):
    np.save("own.npy", rows(40))
    DDPM(Schedule.linear(10), 8, 1).fit(rows(40), steps=5, rng=0).save("m.npz")
    assert "its training rows are not known" in evaluate(capsys, "own.npy")


@pytest.mark.parametrize("notes", [
    {"data": [1], "sha256": 2, "settings": None}, {"data": "own.npy", "sha256": None, "settings": {"holdout": 0.5}},
    {"data": "own.npy", "settings": {"steps": "many", "batch_size": 8, "lr": 0.1, "holdout": 7}}, {"settings": [1]},
])
def test_nothing_that_a_checkpoint_notes_is_trusted(notes, capsys):
    np.save("own.npy", rows(40))
    model = DDPM(Schedule.linear(10), 8, 1).fit(rows(40), steps=5, rng=0)
    model.about = notes
    model.save("m.npz")
    for command in ("evaluate m.npz own.npy", "train own.npy --out m.npz --resume", "evaluate m.npz", "sample m.npz -n 2"):
        assert main(command.split()) in (0, 2)
        assert re.fullmatch("(step .*\n|sample .*\n)*(npddpm: .*\n)?", capsys.readouterr().err)
