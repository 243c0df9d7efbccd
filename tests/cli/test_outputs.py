"""What the commands write costs nobody a file: what was there is kept, and what cannot be written is said in a line."""

import errno
import os
import re
import socket
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import SMALL, python, train

from npddpm import DDPM
from npddpm.cli.main import main
from npddpm.data import files

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")
posix = pytest.mark.skipif(os.name != "posix", reason="links, modes and devices of POSIX")


@pytest.fixture
def small_pictures(monkeypatch):
    plot, figure = pytest.importorskip("npddpm.cli.plot"), pytest.importorskip("matplotlib.figure")

    def overview(*_):
        page = figure.Figure(figsize=(1, 1))
        page.subplots().plot([0, 1])
        return page

    monkeypatch.setattr(plot, "overview", overview)
    monkeypatch.setattr(plot, "film", lambda *_: b"GIF")


# ---- what was there is kept


@pytest.mark.parametrize("command, name", [
    ("sample m.npz -n 3", "samples.npy"), ("sample m.npz -n 3 --out x.csv", "x.csv"), ("plot m.npz", "m.png"),
    ("plot m.npz --animate x.gif", "x.gif"), ("train moons --out x.npz", "x.npz"),
])
def test_every_command_keeps_what_was_there(command, name, request, capsys):
    if command.startswith("plot"):
        request.getfixturevalue("small_pictures")
    train("moons")
    stem, suffix = name.split(".")
    for i, content in enumerate((b"mine", b"mine too"), 1):
        Path(name).write_bytes(content)
        assert main([*command.split(), *(SMALL if "train" in command else [])]) == 0
        assert Path(f"{stem}.{i}.{suffix}").read_bytes() == content
        assert f"the {name} that was there is now {stem}.{i}.{suffix}\n" in capsys.readouterr().out


@pytest.mark.parametrize("command, name", [
    ("sample m.npz -n 3", "samples.npy"), ("plot m.npz", "m.png"), ("plot m.npz --out x.svg", "x.svg"), ("plot m.npz --out x.pdf", "x.pdf"),
])
def test_a_command_that_is_run_twice_leaves_one_file(command, name, monkeypatch, request, capsys):
    """What would be put aside has the same bytes."""
    if command.startswith("plot"):
        request.getfixturevalue("small_pictures")
    train("moons")
    for year in (2001, 2002):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", str(year * 31_556_952))
        assert main(command.split()) == 0
    assert {path.name for path in Path().iterdir()} == {"m.npz", name} and "aside" not in capsys.readouterr().out
    with open(name, "ab") as file:
        file.write(b"edited")
    assert main(command.split()) == 0 and len(list(Path().iterdir())) == 3


def test_two_processes_with_one_name():
    run = [sys.executable, "-m", "npddpm", "train", "moons", *SMALL, "--seed"]
    both = [subprocess.Popen([*run, seed], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for seed in "12"]
    assert all("wrote moons" in process.communicate(timeout=60)[0] for process in both)
    assert {DDPM.load(path).about["settings"]["seed"] for path in Path().glob("*.npz")} == {1, 2}


@posix
def test_links_stay_links(capsys):
    Path("far").mkdir()
    Path("far/real.npy").write_bytes(b"mine")
    Path("x.npy").symlink_to("far/real.npy")
    train("moons")
    assert main(["sample", "m.npz", "-n", "3", "--out", "x.npy"]) == 0
    assert Path("x.npy").is_symlink() and np.load("far/real.npy").shape == (3, 2)
    assert Path("far/real.1.npy").read_bytes() == b"mine" and "far/real.1.npy" in capsys.readouterr().out


@posix
def test_permissions_are_kept():
    train("moons", out="moons.npz")
    usual = stat.S_IMODE(os.stat("moons.npz").st_mode)
    Path("fresh").touch()
    assert usual == stat.S_IMODE(os.stat("fresh").st_mode)
    os.chmod("moons.npz", 0o600)
    assert main(["train", "moons", "--resume", "--steps", "60"]) == 0
    assert stat.S_IMODE(os.stat("moons.npz").st_mode) == 0o600
    train("moons", out="moons.npz")
    assert {stat.S_IMODE(os.stat(name).st_mode) for name in ("moons.npz", "moons.1.npz")} == {0o600}


# ---- what cannot be written


def test_the_default_output_of_sample_is_not_the_training_data(capsys):
    np.save("samples.npy", np.random.default_rng(0).standard_normal((20, 2)))
    before = Path("samples.npy").read_bytes()
    train("samples.npy", out="samples.npz")
    assert main(["sample", "samples.npz", "-n", "3"]) == 2
    assert "writing samples.npy would overwrite the data; name another file" in capsys.readouterr().err
    assert Path("samples.npy").read_bytes() == before


@posix
@pytest.mark.parametrize("command", ["sample m.npz -n 3 --out x.npy", "plot m.npz --out x.png", "train moons --out x.npz"])
def test_what_is_no_regular_file_is_refused(command, capsys):
    if command.startswith("plot"):
        pytest.importorskip("matplotlib")
    train("moons")
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
                DDPM.load("m.npz").save(name)
            remove()


@posix
@pytest.mark.parametrize("command", ["train moons --out m.npz", "sample ../m.npz -n 3", "plot ../m.npz"])
def test_a_folder_that_has_gone(command, tmp_path, monkeypatch, request, capsys):
    if command.startswith("plot"):
        request.getfixturevalue("small_pictures")
    train("moons")
    Path("gone").mkdir()
    monkeypatch.chdir("gone")
    Path("../gone").rmdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))      # where a training puts its checkpoint then
    with pytest.MonkeyPatch.context() as patch:     # at the first save, say
        patch.setattr("npddpm.cli.main.check_output", lambda *_, **__: None)
        assert main([*command.split(), *(SMALL if "train" in command else [])]) == 2
    assert re.search(r"\nnpddpm: cannot (write|read) .*m.(npz|png|npy): No such file or directory(; step 50 is in .*)?\n$", "\n" + capsys.readouterr().err)
    monkeypatch.chdir(tmp_path)


def test_a_write_protected_file_is_refused(capsys):
    train("moons", out="moons.npz")
    os.chmod("moons.npz", 0o400)
    assert main(["train", "moons", "--resume", "--steps", "60"]) == 2
    assert "cannot write moons.npz: it is write-protected" in capsys.readouterr().err


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_one_line(capsys):
    Path("locked").mkdir(mode=0o500)
    assert main(["train", "moons", *SMALL, "--out", "locked/m.npz"]) == 2
    assert "cannot write locked/m.npz: Permission denied" in capsys.readouterr().err


FULL = """
import resource, sys
from npddpm.cli.main import main
from npddpm.data import files
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))    # as if the disk were full after 2000 bytes
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on file size")
@pytest.mark.parametrize("command", ["train moons --resume --steps 80", "sample moons.npz -n 500", "plot moons.npz"])
def test_a_full_disk_is_one_line_and_the_old_file_stays(command):
    if command.startswith("plot"):
        pytest.importorskip("matplotlib")
    train("moons", out="moons.npz")
    for name in ("samples.npy", "moons.png"):
        Path(name).write_text("old")
    before = {p: p.read_bytes() for p in Path().iterdir()}
    process = python(FULL, *command.split())
    _, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert error.splitlines()[-1].startswith("npddpm: cannot write ") and "File too large" in error
    assert "Traceback" not in error
    assert {p: p.read_bytes() for p in Path().iterdir()} == before


# ---- where a checkpoint cannot be written there is another place

def blocked(number, *folders):
    """Nothing can be written in these folders any more."""
    def place(target, real=files.temporary_beside):
        if target.parent in folders:
            raise OSError(number, os.strerror(number))
        return real(target)
    return lambda patch: patch.setattr(files, "temporary_beside", place)


def moved(_):
    os.rename("d", "e")


@pytest.fixture
def struck(at, monkeypatch, tmp_path, capsys):
    """A function that trains for 20 steps with a save every 5, where something happens after 7, and gives output and errors."""
    monkeypatch.setattr("npddpm.cli.main.SAVE_EVERY", 5)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    Path("temporary").mkdir()
    Path("d").mkdir()

    def run(happens, code=2):
        at("training", 7, lambda: happens(monkeypatch))
        assert main(["train", "moons", *SMALL, "--steps", "20", "--out", "d/m.npz"]) == code
        out, err = capsys.readouterr()
        return out, err.splitlines()[-1]

    return run


@pytest.mark.parametrize("happens, why", [
    (moved, "No such file"), *((number, os.strerror(number)) for number in (errno.ENOSPC, errno.EROFS))])
def test_a_training_is_kept_in_this_folder(happens, why, struck, tmp_path):
    out, line = struck(blocked(happens, tmp_path / "d") if isinstance(happens, int) else happens)
    assert line.startswith("npddpm: cannot write d/m.npz: " + why) and line.endswith(f"; step 20 is in {tmp_path}/m.npz")
    assert DDPM.load("m.npz").step == 20
    assert "step 15 is not saved, the training goes on" in out and "step 20" not in out


def test_a_step_that_cannot_be_taken_loses_none_before_it(struck):
    def fails(_):
        raise ValueError("own.npy has changed")

    assert struck(fails)[1] == "npddpm: own.npy has changed; d/m.npz holds step 7" and DDPM.load("d/m.npz").step == 7


def test_a_folder_takes_the_name(struck):
    def taken(_):
        Path("d/m.npz").unlink()
        Path("d/m.npz").mkdir()

    assert struck(taken, code=0)[0].endswith("wrote d/m.1.npz\n") and DDPM.load("d/m.1.npz").step == 20


def test_what_is_in_this_folder_is_put_aside(struck):
    Path("m.npz").write_text("mine")
    out, line = struck(moved)
    assert line.endswith("/m.npz") and DDPM.load("m.npz").step == 20
    assert Path("m.1.npz").read_text() == "mine" and "m.npz that was there is now" in out


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_a_training_is_kept_in_a_temporary_folder(struck, tmp_path):
    _, line = struck(blocked(errno.ENOSPC, tmp_path, tmp_path / "d"))
    kept = Path(line.split("step 20 is in ")[1])
    assert kept.parent.parent == tmp_path / "temporary" and kept.parent.stat().st_mode & 0o777 == 0o700
    assert DDPM.load(kept).step == 20 and not Path("m.npz").exists()


@pytest.mark.skipif(os.name != "posix", reason="a folder that is in use cannot be removed")
def test_not_even_this_folder_is_there_any_more(struck, tmp_path, monkeypatch):
    def vanish(_):
        for path in (Path("d/m.npz"), Path("d")):
            path.unlink() if path.is_file() else path.rmdir()
        monkeypatch.chdir(tmp_path / "temporary")
        monkeypatch.setattr(os, "getcwd", lambda: str(tmp_path / "gone"))

    assert "/temporary/npddpm-" in struck(vanish)[1]


def test_no_place_at_all(struck, tmp_path):
    def full(_):
        raise OSError(errno.ENOSPC, "full")

    _, line = struck(lambda patch: patch.setattr(files, "temporary_beside", full))
    assert line.startswith("npddpm: cannot write d/m.npz: full; nor can this folder or the temporary one take step 20")
    assert DDPM.load("d/m.npz").step == 5
