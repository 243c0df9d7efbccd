"""The data sets."""

import numpy as np
import pytest
from refused import refused

from npddpm import data


@pytest.mark.parametrize("name", data.PLANAR)
def test_planar_sets(name):
    x = data.load(name, 2000)
    assert x.shape == (2000, 2) and np.isfinite(x).all() and np.abs(x).max() < 20
    assert (data.load(name, 2000) == x).all() and (data.load(name, 2000, rng=1) != x).any()
    assert data.load(name).shape == (10_000, 2)


def test_checkerboard_fills_the_dark_squares_evenly():
    x = data.load("checkerboard", 80_000)
    column, row = np.floor(x + 2).astype(int).T
    assert ((column + row) % 2 == 0).all() and set(column) == set(range(4)) == set(row)
    _, counts = np.unique(4 * column + row, return_counts=True)
    assert len(counts) == 8 and np.abs(counts - 10_000).max() < 6 * 100


def test_gaussians_follow_their_law():
    x = data.load("gaussians", 100_000)
    radius = np.hypot(*x.T)
    assert radius.mean() == pytest.approx(2, abs=0.03) and x.mean(0) == pytest.approx([0, 0], abs=0.03)


def test_digits():
    x = data.load("digits")
    assert x.shape == (1797, 8, 8) and (x.min(), x.max()) == (0, 16)


@pytest.mark.parametrize("case", [
    (lambda: data.load("spiral"), "did you mean 'spirals'"), (lambda: data.load("zzz"), "data sets are digits, moons"),
    (lambda: data.load("moons", 1), "n must be an int of at least 2, got 1"),
    (lambda: data.load("none.csv"), "cannot read none.csv: No such file", OSError)],
    ids=lambda case: case[1])
def test_what_is_no_data_set(case):
    refused(*case)


def test_a_folder_is_no_file(in_an_empty_folder):
    (in_an_empty_folder / "folder.npy").mkdir()
    with pytest.raises(OSError, match="cannot read folder.npy: Is a directory"):
        data.load("folder.npy")
