"""Data sets and files."""

import numpy as np
import pytest

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
    assert x.shape == (1797, 64) and (x.min(), x.max()) == (0, 16) and data.image_side(x) == 8


def test_what_is_an_image():
    x = np.random.default_rng(0).random((5, 16))
    assert data.image_side(x) == data.image_side(np.round(255 * x)) == 4
    assert not data.image_side(255 * x) and not data.image_side(x - 0.5) and not data.image_side(x[:, :9])


def test_split_is_fixed_and_loses_nothing():
    x = np.arange(20.0).reshape(10, 2)
    rows, held = data.split(x)
    assert len(rows) == 8 and len(held) == 2
    assert sorted(np.concatenate([rows, held])[:, 0]) == sorted(x[:, 0])
    assert (data.split(x)[1] == held).all() and len(data.split(x, 0)[1]) == 0


X = np.array([[1.0, 2.5], [-3.0, 4e-3]])


def test_files_are_read_back(tmp_path):
    np.save(tmp_path / "a.npy", X)
    np.savez(tmp_path / "b.npz", x=X, other=np.zeros(3))
    np.savez(tmp_path / "c.npz", anything=X)
    (tmp_path / "d.csv").write_text("1,2.5\n-3,4e-3\n")
    (tmp_path / "e.csv").write_text("\ufeffleft,right\r\n1, 2.5\r\n\r\n-3, 4e-3\r\n", encoding="utf-8")
    for name in ("a.npy", "b.npz", "c.npz", "d.csv", "e.csv"):
        assert (data.load(str(tmp_path / name)) == X).all(), name
