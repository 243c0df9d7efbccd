"""Every command, run for real on small settings, as a user would."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from npddpm import DDPM
from npddpm.cli.main import main

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


@pytest.mark.parametrize("rows, share", [(4, "0"), (5, "0.1"), (9, "0.15"), (30, "0.9")])
def test_few_rows(rows, share, capsys):
    """Where no two rows are held out, halves of the data stand for both sides, and that is said."""
    np.save("few.npy", np.random.default_rng(0).standard_normal((rows, 2)))
    assert main(["train", "few.npy", "--holdout", share, *SMALL, "--out", "m.npz"]) == 0
    assert main(["evaluate", "m.npz"]) == 0
    assert ("no two rows of few.npy were held out" in capsys.readouterr().out) == (rows < 30)
    assert main(["plot", "m.npz"]) == 0


@pytest.mark.parametrize("rows, columns, steps", [(20, 2, 1000), (625, 128, 2000), (5000, 2, 10_000), (5000, 129, 4000)])
def test_small_tables_are_not_learnt_by_heart(rows, columns, steps, monkeypatch):
    taken = []
    monkeypatch.setattr(DDPM, "training", lambda self, x, steps, *_, **__: taken.append(steps) or iter(()))
    monkeypatch.setattr(DDPM, "save", lambda self, out: None)
    np.save("table.npy", np.random.default_rng(0).standard_normal((rows, columns)))
    assert main(["train", "table.npy"]) == 0 and taken == [steps]


def test_three_rows_are_too_few_to_compare_with(capsys):
    np.save("four.npy", np.random.default_rng(0).standard_normal((4, 2)))
    assert main(["train", "four.npy", *SMALL, "--out", "m.npz"]) == 0 and main(["evaluate", "m.npz"]) == 2
    assert "m.npz was trained on 3 rows, and 4 are needed" in capsys.readouterr().err


def test_equal_rows(capsys):
    """A held-out row that is also a training row lies at distance 0, by which nothing is divided."""
    np.save("bits.npy", np.random.default_rng(0).integers(0, 2, (200, 2)))
    assert main(["train", "bits.npy", *SMALL, "--out", "m.npz"]) == 0
    assert main(["evaluate", "m.npz"]) == 0
    assert capsys.readouterr().out.count("ratio                          - (the real rows lie at distance 0)\n") == 1


@pytest.mark.parametrize("source", ["digits", "moons", "own.csv"])
def test_plot(source):
    pytest.importorskip("matplotlib")
    np.savetxt("own.csv", np.random.default_rng(0).standard_normal((50, 1)), delimiter=",")
    assert main(["train", source, *SMALL, "--out", "m.npz"]) == 0
    assert main(["plot", "m.npz"]) == 0
    with open("m.png", "rb") as file:
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"


def test_an_interrupted_run_ends_in_the_bits_of_a_whole_one(monkeypatch, capsys):
    """Ctrl-C during step 37, then --resume: parameters, average and losses are those of a run left alone."""
    assert main(["train", "moons", *SMALL, "--steps", "130", "--out", "whole.npz"]) == 0
    training = DDPM.training

    def interrupted(self, *args, **options):
        for step in training(self, *args, **options):
            if step == 37:
                signal.raise_signal(signal.SIGINT)
            yield step

    monkeypatch.setattr(DDPM, "training", interrupted)
    assert main(["train", "moons", *SMALL, "--steps", "130", "--out", "part.npz"]) == 130
    assert "interrupted: part.npz holds step 37" in capsys.readouterr().out and DDPM.load("part.npz").step == 37
    assert main(["train", "moons", "--resume", "--out", "part.npz"]) == 0
    whole, part = DDPM.load("whole.npz"), DDPM.load("part.npz")
    assert part.step == whole.step == 130 and part.losses == whole.losses
    assert (part.net.parameters == whole.net.parameters).all() and (part.average == whole.average).all()
    assert main(["train", "moons", "--resume", "--out", "part.npz", "--steps", "150"]) == 0
    longer = DDPM.load("part.npz")
    assert longer.step == 150 and (longer.net.parameters != whole.net.parameters).any()


def test_a_new_run_keeps_the_checkpoint_of_the_last(capsys):
    contents = []
    for seed in "123":
        assert main(["train", "moons", *SMALL, "--seed", seed]) == 0
        with open("moons.npz", "rb") as file:
            contents.append(file.read())
    assert "the moons.npz that was there is now moons.2.npz" in capsys.readouterr().out
    for name, content in zip(("moons.1.npz", "moons.2.npz", "moons.npz"), contents):
        with open(name, "rb") as file:
            assert file.read() == content


def test_lines_instead_of_a_bar_where_there_is_no_terminal():
    done = subprocess.run([sys.executable, "-m", "npddpm", "train", "moons", *SMALL[:-4], "--steps", "200"],
                          capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "80"})
    lines = done.stderr.splitlines()
    assert len(lines) == 10 and lines[-1].startswith("step 200/200: loss 0.") and "steps/s, 0 s left" in lines[-1]
