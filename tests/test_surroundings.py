"""A run survives what happens around it: readers that go away, closed streams, signals, coarse clocks."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from npddpm import DDPM
from npddpm.cli.main import main, progress

SMALL = ["--hidden", "8", "--depth", "1", "--T", "10", "--steps", "300", "--batch-size", "8"]
LONG = [*SMALL[:6], "--steps", "1000000", "--batch-size", "8"]
NPDDPM = f"{sys.executable} -m npddpm"
pytestmark = pytest.mark.skipif(os.name != "posix", reason="pipes and signals of POSIX")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def shell(command):
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("around", [
    "{} | true", "{} 2>&1 | head -2", "{} <&- >&- 2>&-", "{} 2>&-", "{} >/dev/full 2>&1",
])
def test_nobody_reads(around):
    """Training goes on to its end, with exit status 0, and nothing else is written into the checkpoint."""
    done = shell("set -o pipefail; " + around.format(f"{NPDDPM} train moons {' '.join(SMALL)}"))
    assert done.returncode == 0 and "Traceback" not in done.stderr and "ignored" not in done.stderr
    assert DDPM.load("moons.npz").step == 300 and [path.name for path in Path().iterdir()] == ["moons.npz"]


def test_a_report_that_is_lost_is_no_success():
    assert main(["train", "moons", *SMALL, "--out", "m.npz"]) == 0
    np.save("own.npy", np.random.default_rng(0).standard_normal((8, 2)))
    done = shell(f"{NPDDPM} evaluate m.npz own.npy >/dev/full")
    assert done.returncode == 2 and done.stderr == "npddpm: cannot print: No space left on device\n"
    done = shell(f"{NPDDPM} evaluate m.npz own.npy | true; echo ${{PIPESTATUS[0]}}")
    assert (done.stdout, done.stderr) == ("141\n", "")
    Path("own.py").write_text("def alpha_bars(betas): return betas\n")
    done = shell(f"{NPDDPM} check own.py >/dev/full")
    assert done.returncode == 2 and done.stderr == "npddpm: cannot print: No space left on device\n"
    assert shell(f"{NPDDPM} --help >/dev/full").stderr == ""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signals_end_a_training_with_its_work_saved(name):
    number = getattr(signal, name)
    process = subprocess.Popen([*NPDDPM.split(), "train", "moons", *LONG], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    time.sleep(0.1)
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"interrupted: moons.npz holds step {DDPM.load('moons.npz').step}" in out


def test_what_is_ignored_stays_ignored():
    """As under nohup."""
    handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run = DDPM.training

        def hang_up(self, *args, **options):
            for step in run(self, *args, **options):
                yield step
                os.kill(os.getpid(), signal.SIGHUP)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(DDPM, "training", hang_up)
            assert main(["train", "moons", *SMALL]) == 0
    finally:
        signal.signal(signal.SIGHUP, handler)
    assert DDPM.load("moons.npz").step == 300


@pytest.mark.parametrize("signals, step", [([signal.SIGTERM], 7), ([signal.SIGTERM, signal.SIGHUP], 7), ([signal.SIGINT] * 2, None)])
def test_a_step_is_finished_first(signals, step, monkeypatch, capsys):
    """A second Ctrl-C alone does not wait."""
    run = DDPM.training

    def struck(self, *args, **options):
        for taken in run(self, *args, **options):
            if taken == 7:
                for number in signals:
                    os.kill(os.getpid(), number)
            yield taken

    monkeypatch.setattr(DDPM, "training", struck)
    assert main(["train", "moons", *SMALL]) == 128 + signals[0]
    assert (DDPM.load("moons.npz").step if Path("moons.npz").exists() else None) == step


def test_a_disk_that_is_full_for_a_while(monkeypatch, capsys):
    """A checkpoint that cannot be written on the way ends no training; the last one does, and says so."""
    monkeypatch.setattr("npddpm.cli.main.SAVE_EVERY", 100)
    save = DDPM.save

    def full(self, path):
        if self.step in fails:
            raise OSError("cannot write moons.npz: No space left on device")
        return save(self, path)

    monkeypatch.setattr(DDPM, "save", full)
    fails = {100, 200}
    assert main(["train", "moons", *SMALL]) == 0
    assert "No space left on device; step 200 is not saved, the training goes on\n" in capsys.readouterr().out
    assert DDPM.load("moons.npz").step == 300
    fails = {300}
    assert main(["train", "moons", *SMALL]) == 2
    assert DDPM.load("moons.npz").step == 200


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signals_leave_nothing_of_a_sample(name, monkeypatch, capsys):
    assert main(["train", "moons", *SMALL, "--out", "m.npz"]) == 0
    chunks = DDPM.sample_chunks

    def struck(self, *args, **options):
        for chunk in chunks(self, *args, **options):
            os.kill(os.getpid(), getattr(signal, name))
            yield chunk

    monkeypatch.setattr(DDPM, "sample_chunks", struck)
    assert main(["sample", "m.npz"]) == 128 + getattr(signal, name)
    assert capsys.readouterr().err.endswith("npddpm: interrupted\n")
    assert [path.name for path in Path().iterdir()] == ["m.npz"]


def test_a_command_in_a_thread():
    """Where no signals can be caught."""
    codes = []
    thread = threading.Thread(target=lambda: codes.append(main(["train", "moons", *SMALL])))
    thread.start()
    thread.join()
    assert codes == [0] and DDPM.load("moons.npz").step == 300


def test_a_clock_that_stands_still(monkeypatch, capsys):
    monkeypatch.setattr("time.monotonic", lambda: 16.0)
    assert list(progress(iter(range(1, 11)), 10, "step")) == list(range(1, 11))
    assert capsys.readouterr().err.count("step") >= 10
