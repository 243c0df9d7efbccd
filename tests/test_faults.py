"""What a crash, a full disk or a diverging run leaves behind; and what long runs cost."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from npddpm import DDPM
from npddpm.cli.main import main
from npddpm.data.files import write_whole

SMALL = ["--hidden", "16", "--depth", "1", "--T", "20", "--batch-size", "16"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def python(code, *args):
    """Start a process that runs the code."""
    return subprocess.Popen([sys.executable, "-c", code, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_kill_9_at_any_moment():
    """Twenty kills of a run that saves every other step: the checkpoint always loads, and the run that goes on
    from it ends in the very bits of one that was left alone.
    """
    code = "import sys, npddpm.cli.main as m; m.SAVE_EVERY = 2; sys.exit(m.main(sys.argv[1:]))"
    assert main(["train", "moons", *SMALL, "--steps", "2000", "--out", "whole.npz"]) == 0
    wait = np.random.default_rng(0)
    command, steps = ["train", "moons", "--steps", "2000", "--out", "killed.npz"], [0]
    for k in range(20):
        process = python(code, *command, *(["--resume"] if steps[-1] else SMALL))
        process.stdout.readline()                     # training begins
        time.sleep(wait.uniform(0, 0.02 * (k + 1)))
        process.kill()
        process.communicate()
        if Path("killed.npz").exists():
            steps.append(DDPM.load("killed.npz").step)
    assert steps == sorted(steps) and len(set(steps)) > 2
    assert main([*command, "--resume"]) == 0
    with np.load("whole.npz") as whole, np.load("killed.npz") as killed:
        for name in ("parameters", "average", "m", "v"):
            assert (whole[name] == killed[name]).all(), name
        a, b = (json.loads(str(content["config"])) for content in (whole, killed))
        assert a["rng"] == b["rng"] and a["step"] == b["step"] == 2000


FULL = """
import resource, sys
from npddpm.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))    # as if the disk were full after 2000 bytes
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on file size")
@pytest.mark.parametrize("command", ["train moons --resume --steps 80", "sample moons.npz -n 500", "plot moons.npz"])
def test_a_full_disk_is_one_line_and_the_old_file_stays(command):
    if command.startswith("plot"):
        pytest.importorskip("matplotlib")
    assert main(["train", "moons", *SMALL, "--steps", "50"]) == 0
    for name in ("samples.npy", "moons.png"):
        Path(name).write_text("old")
    before = {p: p.read_bytes() for p in Path().iterdir()}
    process = python(FULL, *command.split())
    _, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert error.splitlines()[-1].startswith("npddpm: cannot write ") and "File too large" in error
    assert "Traceback" not in error
    assert {p: p.read_bytes() for p in Path().iterdir()} == before


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_one_line(capsys):
    Path("locked").mkdir(mode=0o500)
    assert main(["train", "moons", *SMALL, "--out", "locked/m.npz"]) == 2
    assert "cannot write locked/m.npz: Permission denied" in capsys.readouterr().err


def test_an_error_while_writing_leaves_the_old_file():
    Path("a.txt").write_text("old")
    with pytest.raises(KeyError), write_whole("a.txt") as file:
        file.write(b"half")
        raise KeyError
    assert Path("a.txt").read_text() == "old" and len(list(Path().iterdir())) == 1


def test_divergence_keeps_the_last_good_checkpoint(capsys):
    assert main(["train", "moons", *SMALL, "--steps", "50"]) == 0
    model = DDPM.load("moons.npz")
    model.about["settings"]["lr"] = 1e30
    model.save("moons.npz")
    before = Path("moons.npz").read_bytes()
    with np.errstate(all="ignore"):
        assert main(["train", "moons", "--resume", "--steps", "200"]) == 2
    assert "the loss became inf at step 52" in capsys.readouterr().err
    assert Path("moons.npz").read_bytes() == before


MEMORY = """
import resource, numpy as np
from npddpm import DDPM, Schedule
x = np.random.default_rng(0).standard_normal((100, 2))
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
model = DDPM(Schedule.linear(10), 8, 1)
def work(steps, samplings):
    model.fit(x, steps=steps, batch_size=8, rng=0)
    for seed in range(samplings):
        model.sample(50, rng=seed)
work(1000, 10)
first = peak()
work(20_000, 200)
print(peak() - first)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no resource module")
def test_memory_does_not_grow():
    """20,000 steps and 200 samplings keep the peak of the first thousand and ten, to 2 MiB."""
    out, error = python(MEMORY).communicate(timeout=120)
    assert float(out) < 2, error
