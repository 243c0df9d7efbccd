"""Tables of numbers: arrays in files, images, rows held out, and what is mapped instead of read."""

import math
import os
import re
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from bounded import memory
from commands import SMALL
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import approx
from refused import read_or_refuse

from npddpm import DDPM, Schedule, data
from npddpm.cli.main import main
from npddpm.cli.notes import digest
from npddpm.data import table
from npddpm.model.axes import PrincipalAxes, standardization

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")
S = Schedule.linear(10)
X = np.array([[1.5, 2.0], [3.0, 4.25]])
TABLE = np.random.default_rng(0).standard_normal((1000, 3)) * [1, 1e-6, 1e6] + [1e3, 0, 0]
PIXELS = np.random.default_rng(1).integers(0, 256, (200, 5, 5), dtype=np.uint8)

# ---- files of arrays

def load(name):
    told = []
    return data.load(name, tell=told.append), *told


@pytest.mark.parametrize("shape", [(5, 8, 8), (5, 2, 7), (5, 4, 6, 3), (5, 1, 8, 8)])
def test_images(shape):
    """The shape of an array decides: all that have three or four dimensions, oblong ones and colours too."""
    images, of = np.random.default_rng(0).random(shape), " x ".join(map(str, shape[1:]))
    np.save("f.npy", images)
    x, line = load("f.npy")
    assert (x == images).all() and line == f"f.npy: 5 images of {of}"
    for arrays, names in (({"x": images, "y": np.arange(5)}, "x of x, y"), ({"anything": images}, "anything of anything")):
        np.savez("f.npz", **arrays)
        x, line = load("f.npz")
        assert (x == images).all() and line == f"f.npz: 5 images of {of}, array {names}"
    rows, image = data.as_rows(x)
    assert (rows == images.reshape(5, -1)).all() and image == shape[1:] and (data.as_images(rows, image) == images).all()


def test_columns_are_columns():
    """A table stays one, whatever its width and numbers look like."""
    rng = np.random.default_rng(0)
    for x in (rng.integers(0, 2, (60, 16)), rng.random((5, 784)), np.array([[1], [2**53]])):
        np.savetxt("f.csv", x, delimiter=",")
        np.save("f.npy", x)
        for table_ in (data.load("f.csv"), data.load("f.npy"), x):
            rows, image = data.as_rows(table_)
            assert (rows == x).all() and image == ()


NPY = [
    (np.zeros((3, 2, 2, 2, 2)), r"got \(3, 2, 2, 2, 2\)"), (np.zeros(3), r"got \(3,\)"), (np.zeros((0, 2)), r"got \(0, 2\)"),
    (np.zeros((3, 0)), r"got \(3, 0\)"), (np.array([["a"], ["b"]]), "must hold real numbers, got dtype <U1"),
    (np.array([[1j], [2]]), "must hold real numbers, got dtype complex128"), (np.array([[object()], [1]]), "pickle"),
    *[(np.array([[1], [i]]), f"f.npy must hold integers of at most 2.53, which float64 does not round, got {i}")
      for i in (2**53 + 1, -2**53 - 1, 2**63 - 1, -2**63)],
    (np.array([[np.inf], [1]]), "got inf in row 0, column 0"), (np.zeros((2, 2), [("a", "f4")]), "must hold real numbers"),
]


@pytest.mark.parametrize("array, message", NPY)
def test_arrays_that_are_no_tables_are_refused(array, message):
    np.save("f.npy", array)
    with pytest.raises(ValueError, match=message):
        data.load("f.npy")


HEADER = b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (2, 2), }"


@given(st.binary(max_size=200), st.sampled_from([b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00", HEADER]), st.sampled_from(["npy", "npz"]))
def test_any_arrays(tmp_path_factory, content, start, kind):
    read_or_refuse(tmp_path_factory.getbasetemp() / f"fuzz.{kind}", start + content)


# ---- tables that are mapped


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
    found = standardization(table.as_rows(mapped(x))[0])
    assert found[0] == approx(expected[0], rel=1e-13) and found[2] == approx(expected[2], rel=1e-9)
    assert ((found[2] == 0) == (expected[2] == 0)).all()
    few, many = PrincipalAxes.of(table.as_rows(mapped(x))[0]), PrincipalAxes.of(x.astype(float))
    assert few.variances == approx(many.variances, rel=1e-8) and few.V.shape == many.V.shape


@pytest.mark.parametrize("x, said", [
    (np.where(np.arange(3000).reshape(1000, 3) == 2999, np.nan, TABLE), "x must be finite, got nan in row 999, column 2"),
    (np.where(np.arange(3000).reshape(1000, 3) == 2999, 2**60, 1), "x must hold integers of at most 2\\^53"),
    (TABLE[:, 0], r"x must have shape \(n, d\) .* got \(1000,\)"), (TABLE[:1], r"got \(1, 3\)"),
    (TABLE * 1j, "x must hold real numbers, got dtype complex128"), (np.ones((9, 2)), "x must vary"),
    (1e300 * TABLE / np.abs(TABLE).max(), r"too large to be scaled in float64: it reaches 1e\+300")])
def test_what_cannot_be_used_is_refused_as_in_an_array(mapped, x, said):
    for table_ in (x, mapped(x)):
        with pytest.raises(ValueError, match=said):
            DDPM(S, 8, 1).fit(table_, 3, 4, rng=0)


def test_a_mapped_table_is_indexed_as_its_array(mapped):
    """Also where rows of it are chosen, again and again; its blocks have the order of the file."""
    part, expected = table.as_rows(mapped(TABLE))[0], TABLE
    gone = np.array([0, 3, 4, 17])
    choices = [lambda x: data.leave_out(x, gone), lambda x: data.split(x, 0.3)[0], lambda x: data.split(x, 0.6)[1]]
    for choose in [lambda x: x, *choices, *choices]:
        part, expected = choose(part), choose(expected)
        assert part.shape == expected.shape and len(part) == len(expected)
        for rows in (slice(3, 9), slice(0), slice(None), 5, -1, np.array([7, 2, 7]), np.arange(len(expected)) % 7 == 3):
            assert np.array_equal(part[rows], expected[rows])
        assert np.array_equal(part, expected) and np.array_equal(list(part), expected)
        assert np.array_equal(np.concatenate([*data.blocks(part)]), TABLE[np.isin(TABLE[:, 0], expected[:, 0])])
        for rows in (len(part), -len(part) - 1, 1.0, [0.5], np.ones(3, dtype=bool), (0, 1)):
            with pytest.raises(IndexError):
                part[rows]


@given(st.integers(1, 3000), st.floats(0, 1))
def test_a_split_shuffles_the_rows_and_loses_none(n, holdout):
    x = np.arange(n)
    training, held = data.split(x, holdout)
    assert len(held) == round(holdout * n) and sorted([*training, *held]) == [*x]
    assert data.split(np.arange(20))[1].tolist() == [12, 5, 11, 7]     # as ever: a model's held-out rows are found again
    if n > 1000 and len(training) > 500:
        assert abs(np.corrcoef(training[1:], training[:-1])[0, 1]) < 0.2 and abs(training.mean() / n - 0.5) < 0.07


@given(st.integers(2, 300), st.data())
def test_a_view_knows_where_its_rows_were(n, draw):
    """`position` is the inverse of `of`, and -1 for the rows that are not in it."""
    start = draw.draw(st.integers(0, n - 1))
    stop = draw.draw(st.integers(start + 1, n))
    gone = np.array(sorted(draw.draw(st.sets(st.integers(0, n - 1), min_size=1, max_size=n - 1))))
    for view in (table.shuffled(n, start, stop), table.without(n, gone)):
        rows = view.of(np.arange(view.n))
        assert len({*rows}) == view.n and rows.min() >= 0 and rows.max() < n
        expected = np.full(n, -1)
        expected[rows] = np.arange(view.n)
        assert (view.position(np.arange(n)) == expected).all()
    assert (table.without(n, gone).of(np.arange(n - len(gone))) == np.delete(np.arange(n), gone)).all()


def test_rows_of_a_split_without_some(mapped):
    """Views of views, read by number and in the order of the file."""
    part = table.as_rows(mapped(TABLE))[0]
    expected = TABLE
    for _ in range(2):
        gone = np.array([0, 3, 4, 17])
        part, expected = part.seen(table.without(len(part), gone)), np.delete(expected, gone, axis=0)
        part, expected = data.split(part, 0.3)[0], data.split(expected, 0.3)[0]
    assert (part[:] == expected).all() and part.shape == expected.shape
    assert (np.concatenate([*data.blocks(part)]) == TABLE[np.isin(TABLE[:, 0], expected[:, 0])]).all()


def test_a_far_cell_is_left_out_of_a_split_too(mapped):
    """Where the rows have another order than in the file, whose median is not that of its first rows."""
    x = np.sort(np.random.default_rng(0).standard_normal((1000, 1)), axis=0)
    x[700] = 1e9
    training = data.split(table.as_rows(mapped(x))[0], 0.0)[0]
    told = []
    kept = data.without_far(training, told.append)
    assert len(kept) == 999 and kept[:].max() < 10 and training[int(re.search(r"row (\d+)", told[0])[1])] == 1e9


def test_row_numbers_beyond_the_rows_are_refused(mapped):
    x = table.as_rows(mapped(TABLE))[0]
    part = x.seen(table.without(1000, np.array([999])))
    assert (part[-1] == TABLE[998]).all() and part[:0].shape == (0, 3)
    assert (part[np.arange(999) % 7 == 3] == TABLE[:999][3::7]).all() and np.array_equal(list(part), TABLE[:999])
    with pytest.raises(IndexError, match=r"rows must be one index: x\[rows\]\[:, columns\], got \(0, 1\)"):
        part[0, 1]
    for i in (999, -1000, 1.0, [0.5], np.ones(3, dtype=bool)):
        with pytest.raises(IndexError, match=r"rows must be a slice, ints in 0\.\.998, or a mask of them all, got"):
            part[i]


@pytest.mark.parametrize("limit", [2**28, 100])
def test_what_follows_an_array_is_refused(monkeypatch, limit):
    monkeypatch.setattr(table, "IN_MEMORY", limit)
    np.save("a.npy", TABLE)
    with open("a.npy", "ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError, match="something follows its array"):
        data.load("a.npy")


@pytest.mark.parametrize("holdout", [-0.2, 1.5, math.nan])
def test_a_share_lies_between_0_and_1(holdout):
    with pytest.raises(ValueError, match=r"holdout must lie in \[0, 1\], got"):
        data.split(TABLE, holdout)


def test_a_split_keeps_no_list_of_its_rows(monkeypatch):
    """Ten million rows of one byte: a list of them would take eight times as much."""
    monkeypatch.setattr(table, "BLOCK", 2**17)
    with open("bytes.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (10**7, 1)})
        file.truncate(file.tell() + 10**7)
    with memory(20e6):
        x = table.as_rows(np.load("bytes.npy", mmap_mode="r"))[0]
        training, held = data.split(x)
        assert sum(len(block) for block in data.blocks(held)) == len(held) == 2 * 10**6
        assert training[np.array([5, 10**6])].shape == (2, 1)


def test_the_commands_on_a_long_file(mapped, monkeypatch, capsys):
    """Every command has the result of a file that is read whole; so do the digest, and images in rows and columns."""
    mapped(PIXELS, "images.npy")
    results = []
    for limit in (2**28, 1000):
        monkeypatch.setattr(table, "IN_MEMORY", limit)
        x = data.load("images.npy")
        assert isinstance(x, table.Mapped) == (limit == 1000) and data.as_rows(x)[0].shape == (200, 25)
        assert main(["train", "images.npy", *SMALL, "--out", f"{limit}.npz"]) == 0
        assert main(["train", "images.npy", "--steps", "30", "--resume", "--out", f"{limit}.npz"]) == 0
        assert main(["evaluate", f"{limit}.npz"]) == 0
        np.save("other.npy", PIXELS[:50] + 1)
        assert main(["evaluate", f"{limit}.npz", "other.npy"]) == 0
        assert main(["plot", f"{limit}.npz"]) == 0
        results.append((digest(data.as_rows(x)[0]), re.sub(rf"{limit}\.(npz|png)", "", capsys.readouterr().out)))
    assert results[0][0] == results[1][0] == digest(PIXELS.reshape(200, 25).astype(float))
    assert "images of 5 x 5" in results[0][1] and results[0][1] == results[1][1]


def test_a_long_file_is_never_in_memory(mapped, monkeypatch):
    """32 MB of float32, in float64 twice as much: less than a quarter of it is held at any time."""
    monkeypatch.setattr(table, "BLOCK", 2**16)
    monkeypatch.setattr(table, "IN_MEMORY", 2**20)
    rng = np.random.default_rng(0)
    np.save("long.npy", rng.standard_normal((2**17, 64), dtype=np.float32))
    main(["train", "moons", *SMALL])
    with memory(8e6):
        assert main(["train", "long.npy", *SMALL]) == 0


@pytest.mark.parametrize("how", ["cut", "filled", "edited"])
def test_a_mapped_file_that_changes_is_named(how):
    """By its length, by what is no number, and else by its time."""
    np.save("x.npy", np.random.default_rng(0).standard_normal((5000, 2)))
    before = os.stat("x.npy").st_mtime_ns
    with pytest.raises(ValueError, match=r"x\.npy has changed while it was in use") as found:
        for step in DDPM(S, 4, 1).training(np.load("x.npy", mmap_mode="r"), 50, 8, rng=0):
            if step == 5 and how == "cut":
                os.truncate("x.npy", 1000)
            elif step == 5:
                np.load("x.npy", mmap_mode="r+")[:] = np.nan if how == "filled" else 7
            os.utime("x.npy", ns=(before, before + 10**9 * (step == 5 and how == "edited")))
    assert step == 5 and "learning rate" not in str(found.value)


def test_a_mapped_file_that_is_replaced_is_still_read(mapped):
    """What has no name any more cannot be written to by name."""
    x = table.as_rows(mapped(TABLE))[0]
    os.unlink("x.npy")
    assert (x[3] == TABLE[3]).all()
    np.save("x.npy", TABLE + 1)
    assert (x[3] == TABLE[3]).all()


# ---- cells that stand apart


@given(st.integers(0, 2**32), st.integers(100, 400), st.sampled_from([1, 2, 3]), st.sampled_from([1e5, -9999.0, 1e300]))
@settings(max_examples=25)
def test_cells_that_stand_apart_are_found(seed, n, how_many, value):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 3))
    assert table.far_cells(x) == []
    rows = sorted(rng.choice(n, min(how_many, n // 100), replace=False).tolist())
    x[rows, 1] = value
    assert [(cell.row, cell.column, cell.value) for cell in table.far_cells(x)] == [(row, 1, value) for row in rows]


def test_values_that_agree_are_a_group_and_few_rows_are_not_judged():
    rng = np.random.default_rng(0)
    cluster = np.concatenate([0.01 * rng.standard_normal((990, 1)), 10 + rng.standard_normal((10, 1))])
    assert table.far_cells(cluster) == [] and table.far_cells(np.array([[0.0], [1], [1000]])) == []
    x = rng.standard_normal((100, 1))
    x[:2, 0] = 1e6, 9e5
    assert table.far_cells(x) == []
    x[:2, 0] = 1e6, 0
    assert [cell[:3] for cell in table.far_cells(x)] == [(0, 0, 1e6)]


@pytest.mark.parametrize("x", [np.random.default_rng(0).standard_cauchy((2000, 1)), np.exp(2 * np.random.default_rng(0).standard_normal((2000, 3))),
                               np.where(np.random.default_rng(0).random((500, 2)) < 0.02, 1000.0, np.random.default_rng(1).random((500, 2)) < 0.2)])
def test_heavy_tails_and_rare_events_stand_with_the_rest(x):
    assert table.far_cells(x) == []


def test_rows_with_such_cells_are_left_out_and_named(mapped, monkeypatch):
    x, lines = TABLE.copy(), []
    x[[4, 700], [2, 0]] = 1e9, -1e7
    monkeypatch.setattr(table, "BLOCK", 10_000)
    for rows in (x, table.as_rows(mapped(x))[0]):
        assert (data.without_far(rows, lines.append, "f.csv")[:] == np.delete(x, [4, 700], 0)).all()
    assert lines[:2] == lines[2:] and lines[1].startswith("f.csv: row 700, column 0 (from 0) holds -10000000, 1e+07 deviations")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = DDPM(S, 8, 1).fit(x, 3, 4, rng=0)
    assert (model.net.parameters == DDPM(S, 8, 1).fit(np.delete(x, [4, 700], 0), 3, 4, rng=0).net.parameters).all()
    assert [str(warning.message)[:29] for warning in said] == ["x: row 4, column 2 (from 0) h", "x: row 700, column 0 (from 0)"]


class Frame:
    """As a data frame of pandas: an array of objects, and names of columns."""

    def __init__(self, cells, columns):
        self.cells, self.columns = np.array(cells, dtype=object), columns

    def __array__(self, dtype=None, copy=None):
        return self.cells


def test_what_holds_numbers_is_taken():
    assert (table.as_rows(Frame([[1.5, True], [2, np.False_]], ["a", "b"]))[0] == [[1.5, 1], [2, 0]]).all()
    sparse = SimpleNamespace(toarray=lambda: np.eye(2))
    assert (table.as_rows(sparse)[0] == np.eye(2)).all()
    for cell, names, said in (("low", ["a", "b"], "real numbers, got 'low' in row 1, column 1, b"),
                              ("2", [], "real numbers, got '2' in row 1, column 1"),
                              (10**400, [], "integers of at most 2.53, which float64 does not round, got 10+ in row 1, column 1")):
        with pytest.raises(ValueError, match=f"x must hold {said}: give it numbers, or leave the column out"):
            table.as_rows(Frame([[1.5, 1], [2, cell]], names))


def test_what_pandas_would_round_is_refused():
    """A column of integers beside one of floats, which a data frame would make floats of all."""
    class Pandas(Frame):
        dtypes = "int64", "float64"
        iloc = property(lambda self: Columns(self.cells))

        def __array__(self, dtype=None, copy=None):
            return self.cells.astype(float)

        def astype(self, dtype):
            return Frame(self.cells, self.columns)

    class Columns(SimpleNamespace):
        def __init__(self, cells):
            self.cells = cells

        def __getitem__(self, place):
            return SimpleNamespace(to_numpy=lambda dtype: self.cells[place].astype(dtype))

    assert table.as_rows(Pandas([[2**53, 0.5], [1, 0.5]], ["a", "b"]))[0].tolist() == [[2.0**53, 0.5], [1, 0.5]]
    with pytest.raises(ValueError, match="x must hold integers of at most 2.53, which float64 does not round, got 9007199254740995 in row 1, column 0, a"):
        table.as_rows(Pandas([[1, 0.5], [2**53 + 3, 0.5]], ["a", "b"]))


def test_a_split_takes_what_holds_rows():
    rows = [[i, i + 0.5] for i in range(10)]
    expected = table.split(np.array(rows, dtype=float), 0.4)
    for x in (rows, Frame(rows, ["a", "b"])):
        assert all((a == b).all() for a, b in zip(table.split(x, 0.4), expected))


def test_a_data_set_may_be_named_by_a_path():
    assert (data.load(Path("moons"), 5) == data.load("moons", 5)).all()
    with pytest.raises(ValueError, match="data 'mons' is neither .* did you mean 'moons'"):
        data.load(Path("mons"))
