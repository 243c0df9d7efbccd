"""Every command on small settings as a user would run it, and what they have in common."""

import re
import threading

import numpy as np
import pytest
from commands import train

from npddpm import DDPM, Schedule
from npddpm.arrays.threads import Team
from npddpm.cli.main import main

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


def test_the_whole_path_on_digits(capsys):
    train("digits", "--schedule", "cosine")
    assert main(["sample", "m.npz", "-n", "7", "--steps", "5", "--eta", "0.5"]) == 0
    assert np.load("samples.npy").shape == (7, 8, 8)
    assert main(["evaluate", "m.npz"]) == 0
    out = capsys.readouterr().out
    for words in ("1438 images of 8 x 8, with one scale for all numbers, to train on, 359 held out", "loss by t", "359 samples", "359 training rows",
                  "nearest training row", "ratio"):
        assert words in out, words


def test_a_command_in_a_thread():
    """Where no signals can be caught."""
    thread = threading.Thread(target=train, args=["moons"])
    thread.start()
    thread.join()
    assert DDPM.load("m.npz").step == 50


@pytest.mark.parametrize("command", ["sample m.npz", "evaluate m.npz", "train moons"])
def test_advice_names_options_that_the_command_has(command, monkeypatch, capsys):
    DDPM(Schedule.linear(10), 4, 1).fit(np.eye(4), steps=2, rng=0).save("m.npz")

    def full(*_, **__):
        raise MemoryError("Unable to allocate 1 PiB")

    monkeypatch.setattr(DDPM, "load", full)
    monkeypatch.setattr(DDPM, "training", full)
    assert main(command.split()) == 2
    line = capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([command.split()[0], "--help"])
    assert "out of memory" in line and set(re.findall(r"--\w[\w-]*", line)) <= set(re.findall(r"--\w[\w-]*", capsys.readouterr().out))


def test_blas_has_one_thread_in_a_command_and_the_training_those_that_it_had(monkeypatch):
    """Beside another program two threads of BLAS took fifteen times as long to plot as one."""
    threadpoolctl = pytest.importorskip("threadpoolctl")
    seen = []

    def blas():
        return {library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"}

    monkeypatch.setitem(main.__globals__, "evaluate", lambda args: seen.append((blas(), Team().threads)))
    with threadpoolctl.threadpool_limits(3, user_api="blas"):
        assert main(["evaluate", "m.npz"]) == 0
        assert seen == [({1}, 3)] and blas() == {3}
