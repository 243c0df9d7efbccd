"""The terminal: readers that go away, closed streams, signals, no terminal at all, and coarse clocks."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from commands import SMALL, shell, train

from npddpm import DDPM
from npddpm.cli.terminal import progress

pytestmark = [pytest.mark.usefixtures("in_an_empty_folder"), pytest.mark.skipif(os.name != "posix", reason="pipes and signals of POSIX")]
NPDDPM = f"{sys.executable} -m npddpm"


@pytest.mark.parametrize("around", [
    "{} | true", "{} 2>&1 | head -2", "{} <&- >&- 2>&-", "{} 2>&-", "{} >/dev/full 2>&1",
])
def test_nobody_reads(around):
    """Training goes on to its end, with exit status 0, and nothing else is written into the checkpoint."""
    done = shell("set -o pipefail; " + around.format(f"{NPDDPM} train moons {' '.join(SMALL)}"))
    assert done.returncode == 0 and "Traceback" not in done.stderr and "ignored" not in done.stderr
    assert DDPM.load("moons.npz").step == 50 and [path.name for path in Path().iterdir()] == ["moons.npz"]


def test_a_report_that_is_lost_is_no_success():
    train("moons")
    np.save("own.npy", np.random.default_rng(0).standard_normal((8, 2)))
    done = shell(f"{NPDDPM} evaluate m.npz own.npy >/dev/full")
    assert done.returncode == 2 and done.stderr == "npddpm: cannot print: No space left on device\n"
    done = shell(f"{NPDDPM} evaluate m.npz own.npy | true; echo ${{PIPESTATUS[0]}}")
    assert (done.stdout, done.stderr) == ("141\n", "")
    Path("own.py").write_text("def alpha_bars(betas): return betas\n")
    done = shell(f"{NPDDPM} check own.py >/dev/full")
    assert done.returncode == 2 and done.stderr == "npddpm: cannot print: No space left on device\n"
    assert shell(f"{NPDDPM} --help >/dev/full").stderr == ""


def test_a_signal_ends_a_training_with_its_work_saved():
    process = subprocess.Popen([*NPDDPM.split(), "train", "moons", *SMALL, "--steps", "1000000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert f"interrupted: moons.npz holds step {DDPM.load('moons.npz').step}" in out


def test_lines_instead_of_a_bar_where_there_is_no_terminal():
    done = subprocess.run([sys.executable, "-m", "npddpm", "train", "moons", *SMALL, "--steps", "200"],
                          capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "80"})
    lines = done.stderr.splitlines()
    assert len(lines) == 10 and lines[-1].startswith("step 200/200: loss 0.") and "steps/s, 0 s left" in lines[-1]


def test_a_clock_that_stands_still(monkeypatch, capsys):
    monkeypatch.setattr("time.monotonic", lambda: 16.0)
    assert list(progress(iter(range(1, 11)), 10, "step")) == list(range(1, 11))
    assert capsys.readouterr().err.count("step") >= 10
