"""Distances between samples."""

import numpy as np
import pytest
from pytest import approx

from npddpm import GaussianMixture, Schedule, evaluate
from npddpm.evaluate import distances, energy_distance, loss_at, loss_by_time, nearest

X, Y = np.random.default_rng(0).standard_normal((40, 3)), 5 + np.random.default_rng(1).standard_normal((25, 3))


def test_distances():
    expected = np.linalg.norm(X[:, None] - Y, axis=-1)
    assert distances(X, Y) == approx(expected, rel=1e-10)
    assert nearest(X, Y) == approx(np.median(expected.min(1)))


@pytest.mark.parametrize("unbiased", [True, False])
def test_energy_distance_is_its_definition(unbiased):
    def mean(a, b):
        d = np.linalg.norm(a[:, None] - b, axis=-1)
        return d.sum() / (len(a) * (len(a) - 1)) if unbiased and a is b else d.mean()
    assert energy_distance(X, Y, unbiased) == approx(2 * mean(X, Y) - mean(X, X) - mean(Y, Y), rel=1e-10)


def test_energy_distance_of_points():
    """Two point masses at distance 3: 2 * 3 - 0 - 0."""
    assert energy_distance(np.zeros((5, 1)), np.full((4, 1), 3.0)) == approx(6)
    assert energy_distance(X, X, unbiased=False) == approx(0, abs=1e-7)


@pytest.mark.parametrize("name, x, y", [("x", X[:1], Y), ("y", X, Y[:1]), ("y", X, Y[:, :2]), ("y", X, Y[0])])
def test_energy_distance_needs_tables_of_two_rows(name, x, y):
    with pytest.raises(ValueError, match=f"^{name} must have 2 or more rows, and x and y as many columns, got"):
        energy_distance(x, y)


def test_nearest_keeps_its_digits_where_rows_almost_agree():
    """|x|^2 + |y|^2 - 2 x.y, which finds the nearest row, has none left at 1e-10."""
    z = np.random.default_rng(2).standard_normal((200, 64))
    assert nearest(z, z) == 0 and nearest(z + 1e-10, z) == approx(8e-10, rel=1e-4)


def test_loss_of_the_best_denoiser_is_the_least_loss():
    law, s = GaussianMixture([1], [[0.0, 1.0]], [0.5]), Schedule.linear(50)
    assert loss_at(law.denoiser(s), s, law.sample(100_000, 0), 20, rng=1) == approx(law.least_loss(s, 20), rel=0.03)


@pytest.mark.parametrize("rows", [1, 5, 7, 24, 39])
def test_blocks_change_nothing(monkeypatch, rows):
    """They only bound what is held at a time; every pair of rows counts once."""
    whole = energy_distance(X, Y), energy_distance(X, Y, unbiased=False), nearest(X, Y), nearest(Y, X)
    monkeypatch.setattr(evaluate, "BLOCK", rows)
    assert max(len(block) for block in evaluate.blocks(X)) == rows
    assert (energy_distance(X, Y), energy_distance(X, Y, unbiased=False), nearest(X, Y), nearest(Y, X)) == approx(whole, rel=1e-8)


def test_one_row_has_a_v_statistic():
    """Of point masses at distance 5; a table without rows has none."""
    assert energy_distance([[0, 0]], [[3, 4]], unbiased=False) == approx(10)
    with pytest.raises(ValueError, match="x must have 1 or more rows"):
        energy_distance(X[:0], Y, unbiased=False)


@pytest.mark.parametrize("T, times", [(1, [1]), (4, [1, 2, 3, 4]), (100, [1, 2, 4, 5, 8, 12, 19, 28, 43, 66, 100])])
@pytest.mark.parametrize("rows, draws", [(1, 4000), (300, 4200), (3999, 7998), (4000, 4000), (4001, 4000)])
def test_loss_by_time(T, times, rows, draws):
    """Rows are used as often as makes 4000 draws, and the same noise at each time."""
    s, law = Schedule.linear(T), GaussianMixture([1], [[0.0, 1.0]], [0.5])
    x0, seen = law.sample(rows, 0), []

    def denoiser(xt, t):
        seen.append(len(xt))
        return law.denoiser(s)(xt, t)

    found = loss_by_time(denoiser, s, x0, 3)
    assert found[:, 0].tolist() == times and np.isnan(found[:, 2]).all() and set(seen) == {draws}
    again = np.concatenate([x0] * (draws // rows + 1))[:draws]
    assert found[:, 1].tolist() == [loss_at(denoiser, s, again, t, 3) for t in times]


def test_the_least_loss_stands_beside_the_loss():
    s, law = Schedule.linear(4), GaussianMixture([1], [[0.0, 1.0]], [0.5])
    found = loss_by_time(law.denoiser(s), s, law.sample(5, 0), law=law)
    assert found[:, 2].tolist() == [law.least_loss(s, t) for t in (1, 2, 3, 4)]
    assert (found[:, :2] == loss_by_time(law.denoiser(s), s, law.sample(5, 0), 0)[:, :2]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_loss_is_taken_in_the_precision_of_the_rows(dtype):
    s, seen = Schedule.linear(4), []
    loss_at(lambda xt, t: seen.append(xt.dtype) or xt, s, X.astype(dtype), 2, rng=0)
    assert seen == [dtype]
