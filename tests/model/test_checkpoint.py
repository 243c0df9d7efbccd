"""What is trained is not lost, and nobody changes it: saving without memory or room, copies, what was given, and small files that ask for much."""

import copy
import errno
import gc
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bounded import memory
from commands import SMALL

from npddpm import DDPM, MLP, GaussianMixture, Schedule
from npddpm.arrays import checks
from npddpm.cli.main import main
from npddpm.data import files
from npddpm.model import checkpoint
from npddpm.model.gates import GatedMLP

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")
S = Schedule.linear(10)
X = np.random.default_rng(0).standard_normal((30, 2))
COPIES = [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))]


def model(**options):
    return DDPM(S, 4, 1, **options).fit(X, 120, 8, rng=0)


# ---- saving takes neither memory nor a complaint more than it must

@pytest.mark.parametrize("options", [{}, {"dtype": "float64"}, {"gated": True}])
def test_a_checkpoint_has_the_bytes_of_savez(options):
    model(**options).save("m.npz")
    with np.load("m.npz") as arrays:
        assert arrays.files[:5] == ["config", "parameters", "average", "m", "v"]
        np.savez("by_numpy.npz", **arrays)
    assert Path("m.npz").read_bytes() == Path("by_numpy.npz").read_bytes()


def test_saving_takes_no_memory():
    it = DDPM(S, 500, 3).fit(X, 2, 8, rng=0)
    assert it.net.parameters.nbytes > 2e6
    with memory(2e5):
        it.save("m.npz")


TIGHT = """
import resource
import numpy as np
from npddpm import DDPM, Schedule
model = DDPM(Schedule.linear(10), 2000, 3).fit(np.eye(4), 2, 4, rng=0)
with open("/proc/self/statm") as file:
    now = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 2**22, now + 2**22))
model.save("m.npz")
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="nobody says how much memory there is")
def test_a_model_that_fills_the_memory_is_saved():
    """Four arrays of 32 MB, with 4 MiB left."""
    done = subprocess.run([sys.executable, "-c", TIGHT], capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == "" and DDPM.load("m.npz").step == 2


@pytest.mark.parametrize("room", [0, 100, 300, 1500, 3000, 4000])
def test_a_full_disk_is_one_error(room):
    """The zip writer says nothing more when it is collected: pytest would see it."""
    class Full(io.BytesIO):
        def write(self, data):
            if self.tell() + memoryview(data).nbytes > room:
                raise OSError(errno.ENOSPC, "full")
            return super().write(data)

    model().save("m.npz")
    with open("m.npz", "rb") as file:
        whole = checkpoint.read(file)
    assert Path("m.npz").stat().st_size > 4000
    with pytest.raises(OSError, match="full"):
        checkpoint.write(Full(), *whole)
    gc.collect()


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
def train(monkeypatch, tmp_path, capsys):
    """A function that trains for 20 steps with a save every 5, where something happens after 7, and gives output and errors."""
    whole = DDPM.training
    monkeypatch.setattr("npddpm.cli.main.SAVE_EVERY", 5)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    Path("temporary").mkdir()
    Path("d").mkdir()

    def run(happens, code=2):
        def training(self, *args, **options):
            for step in whole(self, *args, **options):
                if step == 7:
                    happens(monkeypatch)
                yield step

        monkeypatch.setattr(DDPM, "training", training)
        assert main(["train", "moons", *SMALL, "--steps", "20", "--out", "d/m.npz"]) == code
        out, err = capsys.readouterr()
        return out, err.splitlines()[-1]

    return run


@pytest.mark.parametrize("happens, why", [
    (moved, "No such file"), *((number, os.strerror(number)) for number in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT))])
def test_a_training_is_kept_in_this_folder(happens, why, train, tmp_path):
    out, line = train(blocked(happens, tmp_path / "d") if isinstance(happens, int) else happens)
    assert line.startswith("npddpm: cannot write d/m.npz: " + why) and line.endswith(f"; step 20 is in {tmp_path}/m.npz")
    assert DDPM.load("m.npz").step == 20
    assert "step 15 is not saved, the training goes on" in out and "step 20" not in out


def test_a_folder_takes_the_name(train):
    def taken(_):
        Path("d/m.npz").unlink()
        Path("d/m.npz").mkdir()

    assert train(taken, code=0)[0].endswith("wrote d/m.1.npz\n") and DDPM.load("d/m.1.npz").step == 20


def test_what_is_in_this_folder_stays(train):
    Path("m.npz").write_text("mine")
    _, line = train(moved)
    assert line.endswith("/m.1.npz") and DDPM.load("m.1.npz").step == 20 and Path("m.npz").read_text() == "mine"


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_a_training_is_kept_in_a_temporary_folder(train, tmp_path):
    _, line = train(blocked(errno.ENOSPC, tmp_path, tmp_path / "d"))
    kept = Path(line.split("step 20 is in ")[1])
    assert kept.parent.parent == tmp_path / "temporary" and kept.parent.stat().st_mode & 0o777 == 0o700
    assert DDPM.load(kept).step == 20 and not Path("m.npz").exists()


@pytest.mark.skipif(os.name != "posix", reason="a folder that is in use cannot be removed")
def test_not_even_this_folder_is_there_any_more(train, tmp_path, monkeypatch):
    def vanish(_):
        for path in (Path("d/m.npz"), Path("d")):
            path.unlink() if path.is_file() else path.rmdir()
        monkeypatch.chdir(tmp_path / "temporary")
        monkeypatch.setattr(os, "getcwd", lambda: str(tmp_path / "gone"))

    assert "/temporary/npddpm-" in train(vanish)[1]


def test_no_place_at_all(train, tmp_path):
    def full(_):
        raise OSError(errno.ENOSPC, "full")

    _, line = train(lambda patch: patch.setattr(files, "temporary_beside", full))
    assert line.startswith("npddpm: cannot write d/m.npz: full; nor can this folder or the temporary one take step 20")
    assert DDPM.load("d/m.npz").step == 5 and not list(Path("temporary").iterdir())


# ---- a copy is a copy

@pytest.mark.parametrize("twin", COPIES)
def test_a_copy_is_trained_by_itself(twin):
    a = model()
    before, parameters = a.sample(5, rng=0), a.net.parameters.copy()
    twin(a).fit(X + 5, 240, 8, resume=True)
    assert (a.sample(5, rng=0) == before).all() and (a.net.parameters == parameters).all() and (a.step, len(a.losses)) == (120, 1)


@pytest.mark.parametrize("twin", COPIES)
def test_a_copy_replaces_no_file(twin):
    a = model()
    a.save("m.npz")
    good = Path("m.npz").read_bytes()
    b = twin(a)
    b.fit(X + 5, 240, 8, resume=True)
    aside = b.save("m.npz")
    assert aside.read_bytes() == good and DDPM.load("m.npz").step == 240
    assert b.save("m.npz") is None                                              # which is its own now
    theirs = a.save("m.npz")
    assert DDPM.load(theirs).step == 240 and Path("m.npz").read_bytes() == good


# ---- what is given is kept as it was

def test_what_is_given_may_change_later():
    lam, betas, U, means, full = np.array([4.0, 1.0]), np.full(10, 0.1), np.eye(2), np.zeros((1, 2)), np.eye(2)[None]
    x, t, notes = np.ones((3, 2)), np.array([1, 5, 9]), {"a": {"b": [1]}}
    schedule, law, it = Schedule(betas), GaussianMixture([1], means, full), model()
    nets = [MLP(2, 4, 1, schedule=S, variances=lam, rng=0, dtype="float64"),
            GatedMLP(2, 4, 1, schedule=S, variances=lam, directions=U, rng=0, dtype="float64")]
    it.about = notes
    for net in nets:
        net.parameters[...] = np.random.default_rng(0).standard_normal(len(net.parameters))
    before = [net(x, t).copy() for net in nets], law.log_density(x)
    for array in (lam, betas, U, means, full):
        array *= 9
        array += 1
    notes["a"]["b"].append(2)
    for net, expected in zip(nets, before[0]):
        for other in (net, *(twin(net) for twin in COPIES), net.astype("float64")):
            assert (other(x, t) == expected).all() and (other.variances == [4, 1]).all() and not other.variances.flags.writeable
    assert schedule == Schedule(np.full(10, 0.1)) and (law.log_density(x) == before[1]).all() and (law.sample(9, 0) == GaussianMixture(
        [1], [[0, 0]], [1]).sample(9, 0)).all()
    assert it.about == {"a": {"b": [1]}}


# ---- small files that ask for much memory

def test_tables_are_bounded_together(monkeypatch):
    """Each is below the limit, and six of them are not."""
    with memory(2**24), pytest.raises(ValueError, match="the numbers in the network's tables .* must be at most 134217728, got 156673400"):
        MLP(1300, 1, 1, schedule=Schedule.linear(20_000), rng=0)
    monkeypatch.setattr(checks, "MOST_ENTRIES", 2**23)
    T = (2**23 - 512 * 1000) // 6000 - 1
    with memory(8 * 2**23):
        MLP(1000, 1, 1, schedule=Schedule.linear(T), rng=0)
    with pytest.raises(ValueError, match="must be at most 8388608"):
        MLP(1000, 1, 1, schedule=Schedule.linear(T + 1), rng=0)


@pytest.mark.parametrize("fourier, T", [(0, 20_000), (64, 12_000)])
def test_a_small_checkpoint_of_large_tables_is_refused(fourier, T):
    d, r = 3073, 1300
    DDPM(Schedule.linear(3), 1, 1, fourier=fourier, gated=False).fit(np.eye(4), 2, 4, rng=0).save("m.npz")
    with np.load("m.npz") as file:
        arrays = dict(file)
    del arrays["V"]
    P = 64 + (1 + 2 * fourier) * r + 1 + 2 * r
    arrays |= {name: np.zeros(P, np.float32) for name in ("parameters", "average", "m", "v")}
    arrays |= {"betas": np.full(T, 1e-3), "mean": np.zeros(d), "scale": np.where(np.arange(d) < r, 1.0, 0.0),
               "variances": np.ones(r)}
    np.savez("bad.npz", **arrays)
    with memory(2**24), pytest.raises(ValueError, match="^cannot read bad.npz: the numbers in the network's tables and a batch's features"):
        DDPM.load("bad.npz")
    np.savez("good.npz", **{**arrays, "betas": np.full(10, 0.1)})
    assert DDPM.load("good.npz").net.dim == r


# ---- a file that changes while it is read

@pytest.mark.parametrize("how", ["cut", "filled"])
def test_a_mapped_file_that_changes_is_named(how):
    np.save("x.npy", np.random.default_rng(0).standard_normal((5000, 2)))
    with pytest.raises(ValueError, match=r"x\.npy has changed while it was in use") as found:
        for step in DDPM(S, 4, 1).training(np.load("x.npy", mmap_mode="r"), 50, 8, rng=0):
            if step == 5 and how == "cut":
                os.truncate("x.npy", 1000)
            elif step == 5:
                np.load("x.npy", mmap_mode="r+")[:] = np.nan
    assert step == 5 and "learning rate" not in str(found.value)
