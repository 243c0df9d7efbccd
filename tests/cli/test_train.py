"""train: what it takes, saves and says, also when a signal, a crash or a full disk comes in between; and how it goes on."""

import json
import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from commands import SMALL, python, train

from npddpm import DDPM, Schedule
from npddpm.cli.main import main

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")
posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


def table(n=40):
    """A file own.npy of random rows."""
    np.save("own.npy", np.random.default_rng(0).standard_normal((n, 2)))


# ---- a run


def test_small_tables_are_not_learnt_by_heart(monkeypatch):
    taken = []
    monkeypatch.setattr(DDPM, "training", lambda self, x, steps, *_, **__: taken.append(steps) or iter(()))
    monkeypatch.setattr(DDPM, "save", lambda self, out: None)
    np.save("own.npy", np.random.default_rng(0).standard_normal((1250, 128)))
    assert main(["train", "own.npy"]) == 0 and taken == [4000]


def test_it_says_what_it_took(capsys):
    Path("f.csv").write_text("a;b\n1.5;2\n3;4.25\n5;6\n")
    train("f.csv", "--holdout", "0")
    assert capsys.readouterr().out.startswith("f.csv: 3 rows of 2, separated by semicolons, header a, b\n")


def test_a_loss_above_that_of_a_guess_of_0_is_said(monkeypatch, capsys):
    table()
    monkeypatch.setattr("npddpm.model.ddpm.DIVERGED", np.inf)
    train("own.npy", "--lr", "100", "--steps", "200")
    assert re.search(r"its loss, \d.*, is worse than 1, that of a guess of 0: lower --lr\n", capsys.readouterr().out)
    train("own.npy", "--steps", "200")
    assert "worse" not in capsys.readouterr().out


def test_divergence_keeps_the_last_good_checkpoint(capsys):
    train("moons", out="moons.npz")
    model = DDPM.load("moons.npz")
    model.about["settings"]["lr"] = 1e30
    model.save("moons.npz")
    before = Path("moons.npz").read_bytes()
    with np.errstate(all="ignore"):
        assert main(["train", "moons", "--resume", "--steps", "200"]) == 2
    assert "the loss became inf at step 52" in capsys.readouterr().err
    assert Path("moons.npz").read_bytes() == before


def test_two_trainings_with_one_name(at, monkeypatch, capsys):
    """The second takes the name, the first notices, goes on under another one, and says so."""
    monkeypatch.setattr("npddpm.cli.main.SAVE_EVERY", 5)
    rival = DDPM(Schedule.linear(5), 4, 1).fit(np.eye(4), steps=2, rng=7)
    at("training", 12, lambda: rival.save("moons.npz"))
    train("moons", "--steps", "20", out="moons.npz")
    out = capsys.readouterr().out
    assert "moons.npz is no longer this run's, since another has written it: going on in moons.2.npz" in out
    assert out.endswith("wrote moons.2.npz\n")
    assert DDPM.load("moons.2.npz").step == 20 and DDPM.load("moons.1.npz").step == 10
    assert (DDPM.load("moons.npz").average == rival.average).all()


# ---- it goes on


@pytest.mark.parametrize("option, was, new", [
    ("--lr", "0.0005", "0.01"), ("--hidden", "8", "9"), ("--depth", "1", "2"), ("--T", "10", "20"), ("--seed", "0", "1"),
    ("--schedule", "linear", "cosine"), ("--holdout", "0.2", "0.3"), ("--batch-size", "8", "16"),
])
def test_resume_refuses_other_settings(option, was, new, capsys):
    table()
    train()
    before = Path("m.npz").read_bytes()
    resume = ["train", "own.npy", "--out", "m.npz", "--resume", "--steps", "60", option]
    assert main([*resume, new]) == 2
    assert f"--resume goes on with the settings of m.npz: {option} is {was}, and cannot become {new}" in capsys.readouterr().err
    assert Path("m.npz").read_bytes() == before
    assert main([*resume, was]) == 0 and DDPM.load("m.npz").step == 60


def test_resuming_a_finished_run_writes_nothing(capsys):
    table()
    train()
    before = Path("m.npz").stat()       # but for the time of the last access
    for steps in ([], ["--steps", "50"], ["--steps", "40"]):
        capsys.readouterr()
        assert main(["train", "own.npy", "--out", "m.npz", "--resume", *steps]) == 0
        out = capsys.readouterr().out
        assert "m.npz has had 50 steps: nothing to do" in out and "wrote" not in out
    after = Path("m.npz").stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)


def test_a_learning_rate_that_jumps_is_said(capsys):
    table()
    train()
    assert main(["train", "own.npy", "--out", "m.npz", "--resume", "--steps", "100"]) == 0
    out = capsys.readouterr().out
    assert "--steps 100 instead of 50: from step 50 on the learning rate is another one, and falls to 0 at step 100" in out


# ---- signals, crashes and full disks


@posix
@pytest.mark.parametrize("signals, step", [([signal.SIGINT], 7), ([signal.SIGTERM], 7), ([signal.SIGTERM, signal.SIGHUP], 7), ([signal.SIGINT] * 2, None)])
def test_a_step_is_finished_first(signals, step, at, capsys):
    """A second Ctrl-C alone does not wait."""
    at("training", 7, lambda: [os.kill(os.getpid(), number) for number in signals])
    assert main(["train", "moons", *SMALL]) == 128 + signals[0]
    assert (DDPM.load("moons.npz").step if Path("moons.npz").exists() else None) == step
    assert ("interrupted: moons.npz holds step 7; --resume goes on from there" in capsys.readouterr().out) == (step == 7)


@posix
def test_what_is_ignored_stays_ignored(at):
    """As under nohup."""
    at("training", 7, lambda: os.kill(os.getpid(), signal.SIGHUP))
    handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        train("moons", out="moons.npz")
    finally:
        signal.signal(signal.SIGHUP, handler)
    assert DDPM.load("moons.npz").step == 50


def test_a_disk_that_is_full_for_a_while(monkeypatch, capsys):
    """A checkpoint that cannot be written on the way ends no training."""
    monkeypatch.setattr("npddpm.cli.main.SAVE_EVERY", 10)
    save = DDPM.save

    def full(self, path):
        if self.step in (10, 40):
            raise OSError("cannot write moons.npz: No space left on device")
        return save(self, path)

    monkeypatch.setattr(DDPM, "save", full)
    train("moons", out="moons.npz")
    assert "No space left on device; step 40 is not saved, the training goes on\n" in capsys.readouterr().out
    assert DDPM.load("moons.npz").step == 50


def test_kill_9_at_any_moment():
    """Six kills of a run that saves every other step: the checkpoint always loads, and the run that goes on
    from it ends in the very bits of one that was left alone.
    """
    code = "import sys, npddpm.cli.main as m; m.SAVE_EVERY = 2; sys.exit(m.main(sys.argv[1:]))"
    train("moons", "--steps", "2000", out="whole.npz")
    wait = np.random.default_rng(0)
    command, steps = ["train", "moons", "--out", "killed.npz"], [0]
    for k in range(6):
        process = python(code, *command, *(["--resume"] if steps[-1] else SMALL), "--steps", "2000")
        process.stdout.readline()                     # training begins
        time.sleep(wait.uniform(0, 0.07 * (k + 1)))
        process.kill()
        process.communicate()
        if Path("killed.npz").exists():
            steps.append(DDPM.load("killed.npz").step)
    assert steps == sorted(steps) and len(set(steps)) > 2
    assert main([*command, "--resume", "--steps", "2000"]) == 0
    with np.load("whole.npz") as whole, np.load("killed.npz") as killed:
        for name in ("parameters", "average", "m", "v"):
            assert (whole[name] == killed[name]).all(), name
        a, b = (json.loads(str(content["config"])) for content in (whole, killed))
        assert a["rng"] == b["rng"] and a["step"] == b["step"] == 2000


@pytest.mark.parametrize("image, shape", [("3x2", (3, 2)), ("1x2x3", (1, 2, 3)), ("none", ())])
def test_images_are_asked_for_and_refused(image, shape, capsys):
    x = np.random.default_rng(0).random((30, 6))
    np.save("own.npy", x if shape else x.reshape(30, 2, 3))
    train("own.npy", "--image", image)
    assert DDPM.load("m.npz").image == shape
    assert (f"images of {image.replace('x', ' x ')}, with one scale for all numbers," in capsys.readouterr().out) == bool(shape)
    assert main(["sample", "m.npz", "-n", "3", "--steps", "2"]) == 0 and np.load("samples.npy").shape == (3, *(shape or (6,)))
    train("own.npy", "--resume", "--steps", "60")
    assert DDPM.load("m.npz").image == shape
    assert main(["train", "own.npy", "--image", "5x5", "--out", "n.npz"]) == 2
    assert "--image must be HxW or HxWxC, whose product is 6" in capsys.readouterr().err


def test_a_mistyped_number_is_named_and_costs_one_row(capsys):
    x = np.random.default_rng(0).standard_normal((300, 2))
    x[17, 0] = 99999999
    np.save("own.npy", x)
    train()
    assert "own.npy: row 17, column 0 (from 0) holds 99999999" in capsys.readouterr().out
    assert np.abs(DDPM.load("m.npz").sample(100, rng=0, steps=5)).max() < 10
    assert main(["evaluate", "m.npz"]) == 0
    printed = capsys.readouterr().out
    assert "own.npy: row 17, column 0 (from 0) holds 99999999" in printed and "on held-out rows" in printed


def test_a_warning_is_a_line(capsys):
    assert main(["train", "moons", "--T", "1", "--steps", "1", "--hidden", "4", "--out", "m.npz"]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"^x_T is no noise: its variance is \S+ along an axis", out, re.MULTILINE) and "Warning" not in out + err
