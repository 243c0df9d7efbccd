"""Files that are mapped, not read: the same numbers as from an array, in little memory."""

import tracemalloc

import numpy as np
import pytest
from pytest import approx

from npddpm import DDPM, Schedule, data
from npddpm.cli.main import digest, main
from npddpm.data import table
from npddpm.model.axes import PrincipalAxes, standardization

S = Schedule.linear(10)
SMALL = ["--hidden", "8", "--depth", "1", "--T", "10", "--batch-size", "9", "--steps", "20"]
TABLE = np.random.default_rng(0).standard_normal((1000, 3)) * [1, 1e-6, 1e6] + [1e3, 0, 0]
PIXELS = np.random.default_rng(1).integers(0, 256, (200, 5, 5), dtype=np.uint8)


@pytest.fixture
def mapped(tmp_path, monkeypatch):
    """A function that saves an array and maps it, to be looked at a few rows at a time; in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(table, "BLOCK", 100)

    def save(x, name="x.npy"):
        np.save(name, x)
        return np.load(name, mmap_mode="r")

    return save


@pytest.mark.parametrize("dtype", ["float64", "float32", "int16"])
def test_a_training_is_the_one_on_the_array(mapped, dtype, monkeypatch):
    x = (10 * np.random.default_rng(2).standard_normal((60, 3))).astype(dtype)
    a = DDPM(S, 8, 1).fit(x, 120, 16, rng=0)
    b = DDPM(S, 8, 1).fit(mapped(x), 120, 16, rng=0)
    assert b.axes.mean == approx(a.axes.mean, rel=1e-14, abs=1e-14) and b.axes.scale == approx(a.axes.scale, rel=1e-14)
    assert b.net.parameters == approx(a.net.parameters, abs=1e-4)
    monkeypatch.setattr(table, "BLOCK", 1000)        # in one block the scale has the same bits, and so has the rest
    assert (DDPM(S, 8, 1).fit(mapped(x), 120, 16, rng=0).net.parameters == a.net.parameters).all()


@pytest.mark.parametrize("x", [TABLE, TABLE[:7], np.column_stack([TABLE, np.full(1000, 0.1)]), PIXELS.reshape(200, 25),
                               PIXELS.reshape(200, 25) / 255])
def test_the_scale_of_blocks_is_that_of_the_whole(mapped, x):
    expected = standardization(x.astype(float))
    found = standardization(table.check_rows_of(mapped(x)))
    assert found[0] == approx(expected[0], rel=1e-13) and found[2] == approx(expected[2], rel=1e-9)
    assert ((found[2] == 0) == (expected[2] == 0)).all()
    few, many = PrincipalAxes.of(table.check_rows_of(mapped(x))), PrincipalAxes.of(x.astype(float))
    assert few.variances == approx(many.variances, rel=1e-8) and few.V.shape == many.V.shape
    assert data.image_side(table.check_rows_of(mapped(x))) == data.image_side(x) == (5 if x.shape[1] == 25 else 0)


def test_what_is_no_image_in_its_last_block(mapped):
    for x in (PIXELS.reshape(200, 25).astype(float), PIXELS.reshape(200, 25) / 255.0):
        for value in (-1, 256, 0.5 if x.max() > 1 else 2):
            x[-1, -1] = value
            assert data.image_side(table.check_rows_of(mapped(x))) == data.image_side(x) == 0


@pytest.mark.parametrize("x, said", [
    (np.where(np.arange(3000).reshape(1000, 3) == 2999, np.nan, TABLE), "x must be finite, got nan in row 999, column 2"),
    (np.where(np.arange(3000).reshape(1000, 3) == 2999, 2**60, 1), "x must hold integers of at most 2\\^53"),
    (TABLE[:, 0], r"x must have shape \(n, d\) .* got \(1000,\)"), (TABLE[:1], r"got \(1, 3\)"),
    (TABLE * 1j, "x must hold real numbers, got dtype complex128"), (np.ones((9, 2)), "x must vary"),
    (1e300 * TABLE / np.abs(TABLE).max(), r"too large to be scaled in float64: it reaches 1e\+300")])
def test_what_cannot_be_used_is_refused_as_in_an_array(mapped, x, said):
    for given in (x, mapped(x)):
        with pytest.raises(ValueError, match=said):
            DDPM(S, 8, 1).fit(given, 3, 4, rng=0)


def test_rows_of_rows(mapped):
    x = table.check_rows_of(mapped(TABLE))
    for part in (slice(3, 9), 5, -1, np.array([7, 2, 7])):
        assert (x[part] == TABLE[part]).all()
        assert (x.take(np.arange(50, 0, -1))[part] == TABLE[50:0:-1][part]).all()
    assert (x.take(np.arange(50, 0, -1)).take(np.array([4, 0]))[:] == TABLE[[46, 50]]).all()
    assert (np.asarray(x) == TABLE).all() and len(x) == 1000 and x.shape == (1000, 3)
    for found, expected in zip(data.split(x, 0.3), data.split(TABLE, 0.3)):
        assert (found[:] == expected).all()
        assert (np.concatenate([*data.blocks(found)]) == TABLE[np.isin(TABLE[:, 0], expected[:, 0])]).all()


def test_the_commands_on_a_long_file(mapped, monkeypatch, capsys):
    """Every command has the result of a file that is read whole; so do the digest, and images in rows and columns."""
    mapped(PIXELS, "images.npy")
    results = []
    for limit in (2**28, 1000):
        monkeypatch.setattr(table, "IN_MEMORY", limit)
        x = data.load("images.npy")
        assert isinstance(x, table.Mapped) == (limit == 1000) and x.shape == (200, 25)
        assert main(["train", "images.npy", *SMALL, "--out", f"{limit}.npz"]) == 0
        assert main(["train", "images.npy", "--steps", "30", "--resume", "--out", f"{limit}.npz"]) == 0
        assert main(["evaluate", f"{limit}.npz"]) == 0
        results.append((digest(x), capsys.readouterr().out.replace(f"{limit}.npz", "")))
    assert results[0][0] == results[1][0] == digest(PIXELS.reshape(200, 25).astype(float))
    assert "images of 5 x 5" in results[0][1] and results[0][1] == results[1][1]


def test_a_long_file_is_never_in_memory(mapped, monkeypatch):
    """32 MB of float32, in float64 twice as much: less than a quarter of it is held at any time."""
    monkeypatch.setattr(table, "BLOCK", 2**16)
    monkeypatch.setattr(table, "IN_MEMORY", 2**20)
    rng = np.random.default_rng(0)
    np.save("long.npy", rng.standard_normal((2**17, 64), dtype=np.float32))
    main(["train", "moons", *SMALL])
    tracemalloc.start()
    try:
        assert main(["train", "long.npy", *SMALL]) == 0
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()
