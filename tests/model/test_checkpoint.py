"""Checkpoints: all of a model comes back, a run goes on to the bit, and what is no checkpoint is refused by its fault, in little memory."""

import errno
import gc
import io
import json
import re
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from bounded import memory
from hypothesis import given
from hypothesis import strategies as st

from npddpm import DDPM, Schedule, data
from npddpm.arrays.checks import MOST_STEPS
from npddpm.model import checkpoint, ranks
from npddpm.model.ddpm import FORMAT

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")
MOONS = data.load("moons", 500)
S = Schedule.linear(10)
X = np.random.default_rng(0).standard_normal((30, 2))


# ---- what comes back

def test_all_of_a_model_comes_back(content):
    model = DDPM(Schedule.cosine(7), 5, 3, fourier=1, gated=True, dtype="float64").fit(MOONS, 103, 4, rng=0)
    model.about = {"data": "moons", "a": [1, 2.5, None, True, {"b": "\ud800 ü \0"}], "": {}}
    model.save("m.npz")
    again = DDPM.load("m.npz")
    assert again.shape == model.shape == {"hidden": 5, "depth": 3, "fourier": 1, "gated": True, "dtype": "float64"}
    assert again.schedule == model.schedule and again.step == 103 and again.about == model.about and content(again) == content(model)
    assert (again.sample(7, rng=3) == model.sample(7, rng=3)).all() and (again.bound(MOONS[:3], rng=0) == model.bound(MOONS[:3], rng=0)).all()
    with np.load("m.npz") as file:
        config = json.loads(str(file["config"]))
    assert config["loss_sum"] == model._loss_sum and config["format"] == 12      # which later versions must know
    assert [path.name for path in Path().iterdir()] == ["m.npz"]


@pytest.mark.parametrize("stop", [1, 99, 100, 137])
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(monkeypatch, content, stop):
    """With other numbers of threads for the same slices too."""
    monkeypatch.setattr(ranks, "WORK", 1)
    model, settings = DDPM(Schedule.linear(50), 16, 2), {"steps": 210, "batch_size": 64, "rng": 0}
    whole = DDPM(Schedule.linear(50), 16, 2).fit(MOONS, **settings, threads=1)
    assert [*islice(model.training(MOONS, **settings, threads=3), stop)][-1] == stop
    model.save("m.npz")
    assert content(DDPM.load("m.npz").fit(MOONS, **settings, resume=True, threads=2)) == content(whole)


def test_what_could_not_be_read_again_is_not_saved():
    """The last step is followed by no loss that would show it. The checkpoint before it stays."""
    DDPM(Schedule.linear(50), 4, 1).fit(MOONS, 60, 8, rng=0).save("m.npz")
    model = DDPM.load("m.npz")
    with np.errstate(all="ignore"):
        model.fit(MOONS, 61, 8, lr=1e300, resume=True)
    with pytest.raises(FloatingPointError, match="became NaN or infinite at step 61: the learning rate is too high"):
        model.save("m.npz")
    assert DDPM.load("m.npz").step == 60 and [p.name for p in Path().iterdir()] == ["m.npz"]


# ---- saving takes neither memory nor a complaint more than it must

def model(**options):
    return DDPM(S, 4, 1, **options).fit(X, 120, 8, rng=0)


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


def test_a_copy_replaces_no_file(twin):
    a = model()
    a.save("m.npz")
    good = Path("m.npz").read_bytes()
    b = twin(a)
    b.fit(1.1 * X, 240, 8, resume=True)
    aside = b.save("m.npz")
    assert aside.read_bytes() == good and DDPM.load("m.npz").step == 240
    assert b.save("m.npz") is None                                              # which is its own now
    theirs = a.save("m.npz")
    assert DDPM.load(theirs).step == 240 and Path("m.npz").read_bytes() == good


# ---- notes

CIRCLE = {}
CIRCLE["self"] = CIRCLE


@pytest.mark.parametrize("notes", [
    {"a": np.float32(1)}, {"a": float("nan")}, {1: "a"}, {"a": (1, 2)}, {"a": {1, 2}}, "text", CIRCLE,
], ids=repr)
def test_notes_that_json_cannot_hold_are_refused_at_once(notes):
    """And again before a training and before they are saved, since they may have been changed in place."""
    refused, model = pytest.raises(TypeError, match="about must be a dict of what JSON can hold"), DDPM(Schedule.linear(10), 8, 1)
    with refused:
        model.about = notes
    assert model.about == {}
    if isinstance(notes, dict):
        model.about.update(notes)
        with refused:
            model.fit(MOONS, steps=1)
        assert model.step == 0
        model.about.clear()
        model.fit(MOONS, steps=1, rng=0).about.update(notes)
        with refused:
            model.save("m.npz")
        assert not list(Path().iterdir())


# ---- what is no checkpoint


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "good.npz"
    DDPM(S, 4, 1).fit(np.eye(4), steps=2, rng=0).save(path)
    return path


@pytest.fixture(scope="module")
def saved(good):
    return good.read_bytes()


@pytest.fixture(scope="module")
def arrays(good):
    with np.load(good) as content:
        return dict(content)


def refused_in_little_memory(message):
    with memory(2**22), pytest.raises(ValueError, match="cannot read bad.npz: .*" + message):
        DDPM.load("bad.npz")


@pytest.mark.parametrize("name, value, message", [
    ("format", 1, f"it has format 1, .* reads format {FORMAT}"), ("format", "new", "it has format new, .* use the version that wrote it"),
    ("depth", 10**9, "depth must be at most 1000"), ("hidden", 4.0, "hidden must be an int"), ("hidden", 10**9, "hidden must be at most"),
    ("hidden", 5, "its parameters must be finite numbers"), ("fourier", None, "fourier must be an int"), ("fourier", 10**9, "fourier must be at most 64"),
    ("gated", None, "its gated must be a bool"), ("dtype", "float16", "its parameters must be finite numbers of float16"), ("dtype", "floaty", ""),
    ("step", 1.5, "its step must be"), ("step", 0, "its step must be an int of at least 1, got 0"),
    ("optimizer_t", [], "its optimizer_t must be"), ("optimizer_t", 0, "its optimizer_t must be an int of at least 1, got 0"),
    ("loss_sum", float("inf"), "its loss_sum must"), ("loss_sum", "0", "its loss_sum must"), ("image", [2, 3], "its image must be the shape of 4 numbers"),
    ("image", [2.0, 2], "its image must be an int"),
    ("about", {"a": float("nan")}, "about must be a dict"), ("rng", 3, ""), ("rng", {"bit_generator": "MT19937"}, ""),
])
def test_every_value_of_the_configuration_is_checked(name, value, message, arrays):
    config = json.loads(str(arrays["config"])) | {name: value}
    np.savez("bad.npz", **{**arrays, "config": np.array(json.dumps(config))})
    refused_in_little_memory(message)


@pytest.mark.parametrize("name, change, message", [
    *((name, change, f"its {name} must be finite numbers of float.., of shape .*, and are") for name, change in (
        ("average", lambda a: a[:-1]), ("parameters", lambda a: a[None]), ("m", lambda a: a.astype(int)), ("v", lambda a: a + np.nan),
        ("mean", lambda a: a.astype("float32")), ("scale", lambda a: a + np.inf), ("losses", lambda a: a[None]), ("V", lambda a: np.zeros((3, 3))))),
    ("variances", lambda a: np.ones(10**5), "its V must be finite numbers of float64, of shape"),
    ("variances", lambda a: -a, "its variances must not be negative"), ("scale", lambda a: -np.ones(4), "its scale must not be negative"),
    ("v", lambda a: -a - 1, "its v must not be negative"),
    ("betas", lambda a: np.array([2.0]), "betas"), ("betas", lambda a: np.full(MOST_STEPS + 1, 0.1), f"betas must be at most {MOST_STEPS} numbers"),
    ("m", lambda a: np.array([print], dtype=object), "pickle"), ("average", lambda a: None, "it has no 'average'"),
    ("more", lambda a: np.zeros(3), "it holds more, which no checkpoint has"),
    ("config", lambda a: None, "it is no npddpm checkpoint"), ("config", lambda a: np.array("{"), ""), ("config", lambda a: np.array("[1]"), ""),
])
def test_every_array_is_checked(name, change, message, arrays):
    np.savez("bad.npz", **{k: v for k, v in (arrays | {name: change(arrays.get(name))}).items() if v is not None})
    refused_in_little_memory(message)


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


# ---- damage

def test_cut_checkpoints_and_tables_are_refused(saved):
    np.save("rows.npy", MOONS)
    for damaged in (b"", saved[:10], saved[:len(saved) // 2], saved[:-1], b"PK" + saved[5:], b"text"):
        Path("bad.npz").write_bytes(damaged)
        refused_in_little_memory("")
    Path("bad.npz").write_bytes(Path("rows.npy").read_bytes())
    refused_in_little_memory("it is no npddpm checkpoint")


@pytest.mark.parametrize("mark, offset, bit", [
    (b"PK\x01\x02", 8, 0),       # the directory says: encrypted
    (b"PK\x05\x06", 17, 7),      # the directory begins before the file does
    (b"'<f4', ", 6, 3),          # the header of an array: a bracket that nobody closes
])
def test_bits_that_matter(tmp_path, saved, mark, offset, bit):
    refused_or_harmless(tmp_path / "bad.npz", saved, saved.index(mark) + offset, bit)


@given(st.integers(0, 10**6), st.integers(0, 7))
def test_flipped_bits_are_refused_or_harmless(saved, tmp_path_factory, position, bit):
    refused_or_harmless(tmp_path_factory.getbasetemp() / "bad.npz", saved, position % len(saved), bit)


def refused_or_harmless(path, saved, position, bit):
    content = bytearray(saved)
    content[position] ^= 1 << bit
    path.write_bytes(content)
    try:
        damaged = DDPM.load(path)
    except ValueError as error:
        assert re.match(r"cannot read .*bad.npz: ", str(error))
    else:
        path.write_bytes(saved)
        whole = DDPM.load(path)                         # the bit carried no meaning
        assert (damaged.average == whole.average).all() and damaged.schedule == whole.schedule
