"""Which rows are copies, whatever digits they were written with; and what chance makes equal."""

from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import pytest
from pytest import approx

from npddpm.cli.copies import by_chance, copies, repeated

RNG = np.random.default_rng(0)
X = RNG.standard_normal((400, 3)) * [1, 1e4, 1]
SHORT = np.round(X * [1, 1e-4, 1], 3)


def half_up(x, k):
    return [[float(Decimal(repr(v)).quantize(Decimal(1).scaleb(-k), ROUND_HALF_UP)) for v in row] for row in x.tolist()]


def formatted(x, form):
    return [[float(form % v) for v in row] for row in x.tolist()]


@pytest.mark.parametrize(("trained", "written"), [
    (X, formatted(X, "%.15g")), (X, formatted(X, "%.5g")), (X, X.astype(np.float32)), (X, [[float(str(v)) for v in row] for row in X.astype(np.float32)]),
    (SHORT, formatted(SHORT, "%.2f")), (SHORT, half_up(SHORT, 2)), (X, np.stack([np.round(X[:, 0], 3), np.round(X[:, 1], 0), np.round(X[:, 2], 4)], 1)),
    (formatted(X, "%.4f"), X), (X, X), (np.cumsum(RNG.exponential(2e-4, (400, 1)))[:, None] + 1.7e9, None)],
    ids=["15 digits", "5 digits", "float32", "float32 in text", "printf", "half up", "by columns", "the training rows have fewer", "all digits", "microseconds"])
def test_copies_are_found(trained, written):
    trained = np.asarray(trained, dtype=float)
    written = np.asarray(trained if written is None else written, dtype=float)[::-1]
    new = RNG.standard_normal((4, trained.shape[1])) * trained.std(0) + trained.mean(0)
    found, told = copies(np.concatenate([written, new]), trained)
    assert found[:-4].all() and not found[-4:].any() and told


def test_what_rounding_makes_equal_tells_nothing():
    x, new = RNG.standard_normal((2, 400, 1))
    for a, b in ((np.rint(new), x), (new, np.rint(x)), (np.round(x, 1), x)):
        found, told = copies(a, b)
        assert not found.any() and not told
    assert not copies(RNG.integers(0, 2, (300, 9)) / 7, RNG.integers(0, 2, (300, 9)))[0][10:].all()


def test_so_many_are_equal_by_chance():
    rows, new = RNG.poisson(3, (2, 2000, 2)).astype(float)
    share, most = by_chance(rows, 2000)
    counts = np.unique(rows, axis=0, return_counts=True)[1]
    assert share == counts[counts > 1].sum() / 2000 and copies(new, rows)[0].sum() <= most < 2001
    assert by_chance(X, 100) == (0, 0) and repeated(np.concatenate([X, X[:7]])) == 7
    twice = np.concatenate([X, X[:100]])
    assert by_chance(twice, 1000)[0] == approx(0.4) and by_chance(twice, 1000)[1] == approx(400 + 3 * 240**0.5)
