"""Files: written whole or not at all, at nobody's cost, also by two at once; and read in no more memory than they are long."""

import os
import stat
import struct
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from bounded import memory

from npddpm import DDPM, Schedule
from npddpm.data.files import load_arrays, open_to_read, write_whole

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")
posix = pytest.mark.skipif(os.name != "posix", reason="links, modes and devices of POSIX")
X = np.random.default_rng(0).standard_normal((20, 2))


def model(seed=0):
    return DDPM(Schedule.linear(5), 4, 1).fit(X, steps=2, batch_size=4, rng=seed)


# ---- what was there is kept


def test_an_error_while_writing_leaves_the_old_file():
    Path("a.txt").write_text("old")
    with pytest.raises(KeyError), write_whole("a.txt") as file:
        file.write(b"half")
        raise KeyError
    assert Path("a.txt").read_text() == "old" and len(list(Path().iterdir())) == 1


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


def test_a_write_protected_file_is_kept():
    model().save("m.npz")
    os.chmod("m.npz", 0o400)
    with pytest.raises(OSError, match="cannot write m.npz: it is write-protected; name another file, or make it writable"):
        DDPM.load("m.npz").save("m.npz")


def test_somebody_else_wrote_to_it_in_place():
    it = model()
    it.save("m.npz")
    Path("m.npz").write_bytes(b"edited")
    assert Path(it.save("m.npz")).read_bytes() == b"edited"


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


# ---- two at once, and runs that were killed


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


def test_where_there_are_no_locks_only_what_is_a_day_old_is_removed(monkeypatch):
    """As on Windows."""
    monkeypatch.setattr("npddpm.data.files.fcntl", None)
    old, new = (Path(f".m.npz.{digit * 16}.tmp") for digit in "01")
    for path, age in ((old, 100_000), (new, 10)):
        path.touch()
        os.utime(path, (time.time() - age,) * 2)
    model().save("m.npz")
    assert {path.name for path in Path().iterdir()} == {"m.npz", new.name}


# ---- files that mean harm

ARRAYS = {"parameters": np.ones(100), "mean": np.zeros(4), "betas": np.full(10, 0.1)}


def refused_in_little_memory(message):
    with memory(2**22), pytest.raises(ValueError, match="cannot read bad.npz: .*" + message), open_to_read("bad.npz") as file:
        load_arrays(file)


def test_compressed_arrays():
    np.savez_compressed("bad.npz", **ARRAYS, losses=np.zeros(10**6))
    refused_in_little_memory("it is compressed, which a checkpoint is not")


@pytest.mark.parametrize("name, old, new", [("mean", b"(4,), }" + 4 * b" ", b"(9**9,), }"), ("betas", b"(10,), }" + 9 * b" ", b"(10000000000,), }")])
def test_headers_that_promise_more_than_there_is(name, old, new):
    np.savez("good.npz", **ARRAYS)
    with zipfile.ZipFile("good.npz") as good, zipfile.ZipFile("bad.npz", "w") as bad:
        for member in good.namelist():
            content = good.read(member)
            bad.writestr(member, content.replace(old, new) if member == f"{name}.npy" else content)
    assert Path("bad.npz").read_bytes() != Path("good.npz").read_bytes()
    refused_in_little_memory("")


def test_sizes_that_are_longer_than_the_file():
    np.savez("bad.npz", **ARRAYS)
    content = bytearray(Path("bad.npz").read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 20:entry + 28] = struct.pack("<II", 2**31, 2**31)
    Path("bad.npz").write_bytes(content)
    refused_in_little_memory("its arrays are longer than the file")


def test_an_array_twice():
    np.savez("bad.npz", **ARRAYS)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile("bad.npz", "a") as bad:
        bad.writestr("mean.npy", b"")
    refused_in_little_memory("it holds an array twice")
