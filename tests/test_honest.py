"""Numbers that can be trusted: what one claims to compare it compares, or the line says what it could not know."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from npddpm import DDPM, Schedule, diffusion
from npddpm.cli.main import main
from npddpm.optim import learning_rate

SMALL = ["--hidden", "8", "--depth", "1", "--T", "10", "--steps", "50", "--batch-size", "8"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def rows(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 2))


def train(*options, data="own.npy"):
    assert main(["train", data, *SMALL, "--out", "m.npz", *options]) == 0


def evaluate(capsys, *command):
    capsys.readouterr()
    assert main(["evaluate", "m.npz", *command]) == 0
    return capsys.readouterr().out


# ---- what samples are compared with

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


# ---- what is no result

def test_samples_that_are_not_numbers_are_not_written(capsys):
    np.save("own.npy", rows(40))
    train()
    model = DDPM.load("m.npz")
    model.average[:] = 1e30
    model.save("m.npz")
    with np.errstate(all="ignore"):
        assert main(["sample", "m.npz", "-n", "5"]) == 2
        assert "NaN or infinity in 10 of 10 results" in capsys.readouterr().err
        assert not Path("samples.npy").exists()
        for of in (model.sample, lambda n: model.bound(rows(n))):
            with pytest.raises(FloatingPointError, match="denoiser must give finite numbers"):
                of(5)


@pytest.mark.parametrize("weighting", ["simple", "elbo"])
def test_a_loss_far_above_a_guess_of_0_is_a_divergence(weighting):
    model = DDPM(Schedule.linear(10), 16, 2)
    with pytest.raises(FloatingPointError, match=r"the loss became .* where a guess of 0 has .* \(lower lr\)"):
        model.fit(rows(200), steps=400, batch_size=16, lr=100.0, rng=0, weighting=weighting)
    assert model.fit(rows(200), steps=400, batch_size=16, lr=1e-2, rng=0, weighting=weighting).step == 400


def test_an_extreme_batch_now_and_then_is_no_divergence(monkeypatch):
    plain, calls = diffusion.loss_and_gradient, itertools.count()

    def loss_and_gradient(*args, **options):
        loss, gradient = plain(*args, **options)
        return loss + 5000 * (next(calls) % 300 in (7, 107)), gradient

    monkeypatch.setattr(diffusion, "loss_and_gradient", loss_and_gradient)
    losses = DDPM(Schedule.linear(10), 8, 1).fit(rows(200), steps=900, batch_size=8, rng=0).losses
    assert sum(loss > 50 for loss in losses) == 6


def test_a_loss_above_that_of_a_guess_of_0_is_said(monkeypatch, capsys):
    np.save("own.npy", rows(40))
    monkeypatch.setattr("npddpm.model.ddpm.DIVERGED", np.inf)
    train("--lr", "100", "--steps", "200")
    assert re.search(r"its loss, \d.*, is worse than 1, that of a guess of 0: lower --lr\n", capsys.readouterr().out)
    train("--steps", "200")
    assert "worse" not in capsys.readouterr().out


# ---- a run that goes on

@pytest.mark.parametrize("option, was, new", [
    ("--lr", "0.0005", "0.01"), ("--hidden", "8", "9"), ("--depth", "1", "2"), ("--T", "10", "20"), ("--seed", "0", "1"),
    ("--schedule", "linear", "cosine"), ("--holdout", "0.2", "0.3"), ("--batch-size", "8", "16"),
])
def test_resume_refuses_other_settings(option, was, new, capsys):
    np.save("own.npy", rows(40))
    train()
    before = Path("m.npz").read_bytes()
    resume = ["train", "own.npy", "--out", "m.npz", "--resume", "--steps", "60", option]
    assert main([*resume, new]) == 2
    assert f"--resume goes on with the settings of m.npz: {option} is {was}, and cannot become {new}" in capsys.readouterr().err
    assert Path("m.npz").read_bytes() == before
    assert main([*resume, was]) == 0 and DDPM.load("m.npz").step == 60


def test_resuming_a_finished_run_writes_nothing(capsys):
    np.save("own.npy", rows(40))
    train()
    before = Path("m.npz").stat()       # but for the time of the last access
    for steps in ([], ["--steps", "50"], ["--steps", "40"]):
        capsys.readouterr()
        assert main(["train", "own.npy", "--out", "m.npz", "--resume", *steps]) == 0
        out = capsys.readouterr().out
        assert "m.npz has had 50 steps: nothing to do" in out and "wrote" not in out
    after = Path("m.npz").stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)


@pytest.mark.parametrize("steps", ["0", "-5"])
def test_resume_refuses_no_steps(steps, capsys):
    np.save("own.npy", rows(40))
    train()
    assert main(["train", "own.npy", "--out", "m.npz", "--resume", "--steps", steps]) == 2
    assert f"steps must be an int of at least 1, got {steps}" in capsys.readouterr().err


def test_a_learning_rate_that_jumps_is_said(capsys):
    np.save("own.npy", rows(40))
    train()
    assert main(["train", "own.npy", "--out", "m.npz", "--resume", "--steps", "100"]) == 0
    out = capsys.readouterr().out
    assert "--steps 100 instead of 50: the learning rate goes from 0 to 0.000128 at step 50, and falls to 0 at step 100" in out
    assert f"{learning_rate(50, 100, 5e-4):.3g}" == "0.000128"
