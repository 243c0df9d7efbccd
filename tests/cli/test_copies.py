"""Which rows are copies, and what chance makes equal."""

import numpy as np
import pytest

from npddpm.cli import evaluate
from npddpm.cli.notes import without_copies

RNG = np.random.default_rng(0)


def nearly_copies(x, y):
    return evaluate.nearly_copies(evaluate.to_nearest(x, y), y)


@pytest.mark.parametrize("written", [lambda x: x.round(2), lambda x: np.floor(100 * x) / 100, lambda x: x.astype(np.float16).astype(float)])
def test_copies_with_few_digits_are_almost_equal(written):
    x, new = RNG.standard_normal((2, 400, 3))
    assert nearly_copies(written(x)[:100], x) > 0.9 and nearly_copies(np.concatenate([new[:50], written(x)[:50]]), x) > 0.4


@pytest.mark.parametrize("law", [lambda n: RNG.standard_normal((n, 1)), lambda n: RNG.standard_normal((n, 3)), lambda n: np.rint(RNG.standard_normal((n, 2))),
                                 lambda n: RNG.standard_normal((n, 3)) * np.where(RNG.random((n, 1)) < 0.4, 1e-6, 1),
                                 lambda n: RNG.standard_normal((n, 2)) * (RNG.random((n, 1)) > 0.15)],
                         ids=["line", "space", "whole", "a tight cluster", "many at 0"])
def test_new_rows_are_no_more_so_than_training_rows(law):
    assert abs(nearly_copies(law(400), law(2000))) < 0.08
    with pytest.raises(ValueError, match="y must have|2 rows"):
        nearly_copies(law(4), law(1))


def test_training_rows_are_left_out_unless_so_many_are_equal_by_chance():
    x, new = RNG.standard_normal((400, 3)), RNG.standard_normal((40, 3))
    x[:9, 0] = 0.0
    copied = np.array([[float(f"{v:.15g}") for v in row] for row in x[::-2]])      # as R writes
    copied[copied == 0] = -0.0
    left, told = without_copies(np.concatenate([copied, new]), x)
    assert (left == new).all() and told == "200 of its 240 rows are training rows, which are left out"
    assert without_copies(x[:9], np.concatenate([x, x[:100]]))[0] is None      # four in ten have a double
    whole, others = RNG.poisson(3, (2, 2000, 2)).astype(float)
    counts = np.unique(whole, axis=0, return_counts=True)[1]
    left, told = without_copies(others, whole)
    assert left is others and f"as many as by chance ({counts[counts > 1].sum() / 2000:.1%} of the training rows have a double)" in told
