"""An output costs nobody a file: what was there is kept, and two at once lose nothing."""

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from npddpm import DDPM, Schedule
from npddpm.cli.main import main
from npddpm.data.files import Outputs, write_whole

SMALL = ["--hidden", "8", "--depth", "1", "--T", "10", "--steps", "20", "--batch-size", "8"]
X = np.random.default_rng(0).standard_normal((20, 2))
posix = pytest.mark.skipif(os.name != "posix", reason="links, modes and devices of POSIX")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def model(seed=0):
    return DDPM(Schedule.linear(5), 4, 1).fit(X, steps=2, batch_size=4, rng=seed)


@pytest.fixture
def small_pictures(monkeypatch):
    plot, figure = pytest.importorskip("npddpm.cli.plot"), pytest.importorskip("matplotlib.figure")
    monkeypatch.setattr(plot, "overview", lambda *_: figure.Figure(figsize=(1, 1)))
    monkeypatch.setattr(plot, "film", lambda *_: b"GIF")


def contents():
    return {path.read_bytes() for path in Path().rglob("*") if path.is_file()}


# ---- what was there is kept

def test_the_default_output_of_sample_is_not_the_training_data(capsys):
    np.save("samples.npy", X)
    before = Path("samples.npy").read_bytes()
    assert main(["train", "samples.npy", *SMALL]) == 0
    assert main(["sample", "samples.npz", "-n", "3"]) == 2
    assert "writing samples.npy would overwrite the data; name another file" in capsys.readouterr().err
    assert Path("samples.npy").read_bytes() == before


@pytest.mark.parametrize("command, name", [
    ("sample m.npz -n 3", "samples.npy"), ("sample m.npz -n 3 --out x.npy", "x.npy"), ("plot m.npz", "m.png"),
    ("plot m.npz --out x.svg", "x.svg"), ("plot m.npz --animate x.gif", "x.gif"), ("train moons --out x.npz", "x.npz"),
])
def test_every_command_keeps_what_was_there(command, name, request, capsys):
    if command.startswith("plot"):
        request.getfixturevalue("small_pictures")
    assert main(["train", "moons", *SMALL, "--out", "m.npz"]) == 0
    stem, suffix = name.split(".")
    for i, content in enumerate((b"mine", b"mine too"), 1):
        Path(name).write_bytes(content)
        assert main([*command.split(), *(SMALL if "train" in command else [])]) == 0
        assert Path(f"{stem}.{i}.{suffix}").read_bytes() == content
        assert f"the {name} that was there is now {stem}.{i}.{suffix}\n" in capsys.readouterr().out


def test_the_library_keeps_what_was_there():
    Path("m.npz").write_bytes(b"mine")
    first, second = model(), model(1)
    assert first.save("m.npz").name == "m.1.npz" and Path("m.1.npz").read_bytes() == b"mine"
    whole = Path("m.npz").read_bytes()
    assert first.save("m.npz") is None and first.save("m.npz") is None      # its own
    assert second.save("m.npz").name == "m.2.npz" and Path("m.2.npz").read_bytes() == whole
    loaded = DDPM.load("m.npz")
    assert loaded.save("m.npz") is None
    loaded.fit(X, steps=2, rng=0)                                           # a new training, that wrote no file yet
    assert loaded.save("m.npz").name == "m.3.npz"
    assert first.save("last.npz") is None is first.save("best.npz") and first.save("last.npz") is None


@pytest.mark.parametrize("command, name", [
    ("sample m.npz -n 3", "samples.npy"), ("plot m.npz", "m.png"), ("plot m.npz --out x.svg", "x.svg"), ("plot m.npz --out x.pdf", "x.pdf"),
])
def test_a_command_that_is_run_twice_leaves_one_file(command, name, monkeypatch, capsys):
    """What would be put aside has the same bytes."""
    if command.startswith("plot"):
        plot, figure = pytest.importorskip("npddpm.cli.plot"), pytest.importorskip("matplotlib.figure")

        def overview(*_):
            page = figure.Figure(figsize=(1, 1))
            page.subplots().plot([0, 1])
            return page

        monkeypatch.setattr(plot, "overview", overview)
    assert main(["train", "moons", *SMALL, "--out", "m.npz"]) == 0
    for year in (2001, 2002):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", str(year * 31_556_952))
        assert main(command.split()) == 0
    assert {path.name for path in Path().iterdir()} == {"m.npz", name} and "aside" not in capsys.readouterr().out
    with open(name, "ab") as file:
        file.write(b"edited")
    assert main(command.split()) == 0 and len(list(Path().iterdir())) == 3


def test_somebody_else_wrote_to_it_in_place():
    it = model()
    it.save("m.npz")
    Path("m.npz").write_bytes(b"edited")
    assert Path(it.save("m.npz")).read_bytes() == b"edited"


@posix
@pytest.mark.parametrize("command", ["sample m.npz -n 3 --out x.npy", "plot m.npz --out x.png", "train moons --out x.npz"])
def test_what_is_no_regular_file_is_refused(command, capsys):
    if command.startswith("plot"):
        pytest.importorskip("matplotlib")
    assert main(["train", "moons", *SMALL, "--out", "m.npz"]) == 0
    name = command.split()[-1]
    path = Path(name)
    with socket.socket(socket.AF_UNIX) as server:
        for make, remove in ((lambda: os.mkfifo(name), path.unlink), (lambda: server.bind(name), path.unlink),
                             (lambda: path.symlink_to("/dev/null"), path.unlink), (path.mkdir, path.rmdir),
                             (lambda: path.symlink_to(name), path.unlink)):
            make()
            mode = stat.S_IFMT(os.lstat(name).st_mode)
            assert main(command.split()) == 2
            assert re.search(f"cannot write {name}: it is (a folder|no regular file)\n", capsys.readouterr().err)
            assert stat.S_IFMT(os.lstat(name).st_mode) == mode and not list(Path().glob("*.1.*"))
            with pytest.raises(OSError, match=r"it is (a folder|no regular file)"):
                model().save(name)
            remove()


def test_what_the_disk_has_no_room_for_is_not_begun(monkeypatch, capsys):
    assert main(["train", "moons", *SMALL, "--out", "m.npz"]) == 0
    for free, code in ((79_999, 2), (80_001, 0), (0, 0)):           # 0 means that nobody knows
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: shutil._ntuple_diskusage(10**6, 0, free))
        assert main(["sample", "m.npz", "-n", "5000"]) == code
    assert "cannot write samples.npy: it will have 80,000 bytes, and there is room for 79,999\n" in capsys.readouterr().err


@posix
@pytest.mark.parametrize("command", ["train moons --out m.npz", "sample ../m.npz -n 3", "plot ../m.npz"])
def test_a_folder_that_has_gone(command, tmp_path, monkeypatch, request, capsys):
    if command.startswith("plot"):
        request.getfixturevalue("small_pictures")
    assert main(["train", "moons", *SMALL, "--out", "m.npz"]) == 0
    Path("gone").mkdir()
    monkeypatch.chdir("gone")
    Path("../gone").rmdir()
    with pytest.MonkeyPatch.context() as patch:     # at the first save, say
        patch.setattr("npddpm.cli.main.check_output", lambda *_, **__: None)
        assert main([*command.split(), *(SMALL if "train" in command else [])]) == 2
    assert re.search(r"\nnpddpm: cannot (write|read) .*m.(npz|png|npy): No such file or directory\n$", "\n" + capsys.readouterr().err)
    monkeypatch.chdir(tmp_path)


@posix
def test_links_stay_links(capsys):
    Path("far").mkdir()
    Path("far/real.npy").write_bytes(b"mine")
    Path("x.npy").symlink_to("far/real.npy")
    assert main(["train", "moons", *SMALL, "--out", "m.npz"]) == 0
    assert main(["sample", "m.npz", "-n", "3", "--out", "x.npy"]) == 0
    assert Path("x.npy").is_symlink() and np.load("far/real.npy").shape == (3, 2)
    assert Path("far/real.1.npy").read_bytes() == b"mine" and "far/real.1.npy" in capsys.readouterr().out


@posix
def test_permissions_are_kept():
    assert main(["train", "moons", *SMALL]) == 0
    usual = stat.S_IMODE(os.stat("moons.npz").st_mode)
    Path("fresh").touch()
    assert usual == stat.S_IMODE(os.stat("fresh").st_mode)
    os.chmod("moons.npz", 0o600)
    assert main(["train", "moons", "--resume", "--steps", "30"]) == 0
    assert stat.S_IMODE(os.stat("moons.npz").st_mode) == 0o600
    assert main(["train", "moons", *SMALL]) == 0
    assert {stat.S_IMODE(os.stat(name).st_mode) for name in ("moons.npz", "moons.1.npz")} == {0o600}


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="root alone can give files away")
def test_root_gives_a_file_back_to_whom_it_belongs(monkeypatch):
    model().save("m.npz")
    os.chown("m.npz", 4321, 1234)
    os.chmod("m.npz", 0o660)
    it = DDPM.load("m.npz")

    def owner():
        status = os.stat("m.npz")
        return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)

    it.save("m.npz")
    assert owner() == (4321, 1234, 0o660)
    os.chown("m.npz", os.geteuid(), 1234)
    monkeypatch.setattr(os, "chown", lambda *_: (_ for _ in ()).throw(PermissionError))
    it.save("m.npz")
    assert owner() == (os.geteuid(), os.getegid(), 0o600)           # another group must not read it


def test_a_write_protected_file_is_refused(capsys):
    assert main(["train", "moons", *SMALL]) == 0
    os.chmod("moons.npz", 0o400)
    assert main(["train", "moons", "--resume", "--steps", "30"]) == 2
    assert "cannot write moons.npz: it is write-protected" in capsys.readouterr().err


# ---- two at once

def test_many_threads_write_one_name():
    """Nothing fails, nobody ever reads half a file, and every content is still there."""
    models, stop, seen = [model(seed) for seed in range(4)], threading.Event(), []
    models[0].save("m.npz")

    def save(it):
        for _ in range(10):
            it.save("m.npz")

    def read():
        while not stop.is_set():
            seen.append(DDPM.load("m.npz").average.tobytes())

    errors = []
    threading.excepthook, hook = lambda args: errors.append(args.exc_value), threading.excepthook
    try:
        threads = [threading.Thread(target=save, args=(it,)) for it in models]
        reader = threading.Thread(target=read)
        for thread in (reader, *threads):
            thread.start()
        for thread in threads:
            thread.join()
        stop.set()
        reader.join()
    finally:
        threading.excepthook = hook
    assert errors == []
    averages = {it.average.tobytes() for it in models}
    assert seen and set(seen) <= averages
    assert {DDPM.load(path).average.tobytes() for path in Path().glob("*.npz")} == averages
    assert not list(Path().glob(".*"))


@posix
def test_a_planted_link_is_not_followed(monkeypatch):
    Path("precious").write_bytes(b"precious")
    for name in (f".m.npz.{os.getpid()}.tmp", ".m.npz.0123456789abcdef.tmp"):
        Path(name).symlink_to("precious")
    model().save("m.npz")
    monkeypatch.setattr("secrets.token_hex", lambda n: "fedcba9876543210")
    Path(".m.npz.fedcba9876543210.tmp").symlink_to("precious")
    monkeypatch.setattr("os.listdir", lambda folder: [])
    with pytest.raises(OSError, match="File exists"):
        model().save("m.npz")
    assert Path("precious").read_bytes() == b"precious"


def test_temporary_names_cannot_be_foreseen():
    names = set()
    for _ in range(5):
        with write_whole("m.npz") as file:
            names.add(file.name)
    assert len(names) == 5


def test_two_trainings_with_one_name(monkeypatch, capsys):
    """The second takes the name, the first notices, goes on under another one, and says so."""
    monkeypatch.setattr("npddpm.cli.main.SAVE_EVERY", 5)
    whole, rival = DDPM.training, model(7)

    def with_a_rival(self, *args, **options):
        for step in whole(self, *args, **options):
            yield step
            if step == 12:
                rival.save("moons.npz")

    monkeypatch.setattr(DDPM, "training", with_a_rival)
    assert main(["train", "moons", *SMALL]) == 0
    out = capsys.readouterr().out
    assert "moons.npz is no longer this run's, since another has written it: going on in moons.2.npz" in out
    assert out.endswith("wrote moons.2.npz\n")
    assert DDPM.load("moons.2.npz").step == 20 and DDPM.load("moons.1.npz").step == 10
    assert (DDPM.load("moons.npz").average == rival.average).all()


def test_two_processes_with_one_name():
    run = [sys.executable, "-m", "npddpm", "train", "moons", *SMALL, "--seed"]
    both = [subprocess.Popen([*run, seed], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for seed in "12"]
    assert all("wrote moons" in process.communicate(timeout=60)[0] for process in both)
    assert {DDPM.load(path).about["settings"]["seed"] for path in Path().glob("*.npz")} == {1, 2}


def test_where_there_are_no_locks_only_what_is_a_day_old_is_removed(monkeypatch):
    """As on Windows."""
    monkeypatch.setattr("npddpm.data.files.fcntl", None)
    old, new = (Path(f".m.npz.{digit * 16}.tmp") for digit in "01")
    for path, age in ((old, 100_000), (new, 10)):
        path.touch()
        os.utime(path, (time.time() - age,) * 2)
    model().save("m.npz")
    assert {path.name for path in Path().iterdir()} == {"m.npz", new.name}


def test_what_a_killed_sample_leaves_is_removed_by_the_next():
    assert main(["train", "moons", *SMALL, "--out", "m.npz"]) == 0
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
    assert not list(Path().glob(".*")) and len(contents()) == 3
