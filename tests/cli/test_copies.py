"""Which rows are copies, and what chance makes equal."""

import numpy as np
import pytest
from pytest import approx

from npddpm.cli import evaluate
from npddpm.cli.notes import copies, equal_by_chance, repeated

RNG = np.random.default_rng(0)
X = RNG.standard_normal((400, 3)) * [1, 1e4, 1]


def nearly_copies(x, y):
    return evaluate.nearly_copies(evaluate.to_nearest(x, y), y)


def formatted(x, form):
    return np.array([[float(form % v) for v in row] for row in x.tolist()])


@pytest.mark.parametrize(("trained", "written"), [
    (X, formatted(X, "%.15g")), (X, X.astype(np.float32).astype(float)), (X, np.array([[float(str(v)) for v in row] for row in X.astype(np.float32)])),
    (X, X), (np.cumsum(RNG.exponential(2e-4, (400, 1)))[:, None] + 1.7e9, None), (np.rint(X), None)],
    ids=["15 digits", "float32", "float32 in text", "all digits", "microseconds", "whole"])
def test_copies_are_found(trained, written):
    written = (trained if written is None else written)[::-1]
    new = RNG.standard_normal((4, trained.shape[1])) * trained.std(0) + trained.mean(0)
    found = copies(np.concatenate([written, new]), trained)
    assert found[:-4].all() and not found[-4:].any()


def test_in_single_precision_rows_are_compared_if_one_table_is():
    x, new = RNG.random((60_000, 1)), RNG.random((20_000, 1))
    assert not copies(new, x).any() and copies(x[:99].astype(np.float32).astype(float), x).all()


def test_rows_that_single_precision_makes_equal_are_no_copies():
    x, new = 1.7e9 + RNG.uniform(0, 600, (2, 400, 1))
    assert not copies(x, new).any() and not copies(new.astype(np.float32).astype(float), x).any()


@pytest.mark.parametrize("written", [lambda x: formatted(x, "%.2f"), lambda x: np.floor(100 * x) / 100, lambda x: x.astype(np.float16).astype(float)])
def test_copies_with_few_digits_are_almost_equal(written):
    x, new = RNG.standard_normal((2, 400, 3))
    assert not copies(written(x), x).any() and nearly_copies(written(x)[:100], x) > 0.9
    assert nearly_copies(np.concatenate([new[:50], written(x)[:50]]), x) > 0.4


@pytest.mark.parametrize("law", [lambda n: RNG.standard_normal((n, 1)), lambda n: RNG.standard_normal((n, 3)), lambda n: np.rint(RNG.standard_normal((n, 2))),
                                 lambda n: RNG.standard_normal((n, 3)) * np.where(RNG.random((n, 1)) < 0.4, 1e-6, 1),
                                 lambda n: RNG.standard_normal((n, 2)) * (RNG.random((n, 1)) > 0.15)],
                         ids=["line", "space", "whole", "a tight cluster", "many at 0"])
def test_new_rows_are_no_more_so_than_training_rows(law):
    assert abs(nearly_copies(law(400), law(2000))) < 0.08
    with pytest.raises(ValueError, match="y must have|2 rows"):
        nearly_copies(law(4), law(1))


def test_so_many_are_equal_by_chance():
    rows, new = RNG.poisson(3, (2, 2000, 2)).astype(float)
    share, most = equal_by_chance(rows, 2000)
    counts = np.unique(rows, axis=0, return_counts=True)[1]
    assert share == counts[counts > 1].sum() / 2000 and copies(new, rows).sum() <= most < 2001
    assert equal_by_chance(X, 100) == (0, 0) == equal_by_chance(X[:0], 5) and repeated(np.concatenate([X, X[:7]])) == 7
    twice = np.concatenate([X, X[:100]])
    assert equal_by_chance(twice, 1000)[0] == approx(0.4) and equal_by_chance(twice, 1000)[1] == approx(400 + 3 * 240**0.5)
