"""sample: what it writes, and what is left of it when it cannot end."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import SMALL

from npddpm import DDPM
from npddpm.cli.main import main
from npddpm.data.files import Outputs

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


@pytest.fixture(autouse=True)
def m(in_an_empty_folder):
    assert main(["train", "moons", *SMALL, "--out", "m.npz"]) == 0


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
def test_signals_leave_nothing_of_a_sample(name, monkeypatch, capsys):
    chunks = DDPM.sample_chunks

    def struck(self, *args, **options):
        for chunk in chunks(self, *args, **options):
            os.kill(os.getpid(), getattr(signal, name))
            yield chunk

    monkeypatch.setattr(DDPM, "sample_chunks", struck)
    assert main(["sample", "m.npz"]) == 128 + getattr(signal, name)
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
