"""Which row is nearest, and what ties, in exact arithmetic: whole numbers, far clusters, large offsets, all sizes."""

from fractions import Fraction

import numpy as np
import pytest
from pytest import approx

from npddpm.cli import evaluate
from npddpm.cli.evaluate import distances, energy_distance, nearest, one_nearest_neighbour, precision_recall


def exact_squares(x, y):
    return [[sum((Fraction(float(a)) - Fraction(float(b))) ** 2 for a, b in zip(p, q)) for q in y] for p in x]


def exact_share_told_apart(x, y):
    right = []
    for a, b in ((x, y), (y, x)):
        for i, (own, other) in enumerate(zip(exact_squares(a, a), exact_squares(a, b))):
            near, far = min(own[:i] + own[i + 1:]), min(other)
            right.append(Fraction(1, 2) if near == far else Fraction(near < far))
    return float(sum(right) / len(right))


def exact_share_inside(x, y, k):
    radius = [sorted(row)[k] for row in exact_squares(y, y)]
    return sum(any(s <= r for s, r in zip(row, radius)) for row in exact_squares(x, y)) / len(x)


def tables(kind, seed):
    rng = np.random.default_rng(seed)
    n, d = rng.integers(5, 20), rng.integers(1, 4)
    x, far = rng.standard_normal((2, n, d)), rng.integers(0, 2, (2, n, 1))
    return {"whole": rng.integers(0, 6, (2, n, d)), "whole, far from 0": rng.integers(0, 6, (2, n, d)) + 10**15,
            "large whole": rng.integers(-3, 4, (2, n, d)) * 2.0**40, "halves": rng.integers(0, 9, (2, n, d)) / 2 - 3e5,
            "clusters 1e7 apart": x + 1e7 * far, "clusters 1e12 apart": x + 1e12 * far, "far from 0": x + 1e6,
            "large": x * 1e149, "small": x * 1e-149}[kind]


@pytest.mark.parametrize("kind", ["whole", "whole, far from 0", "large whole", "halves", "clusters 1e7 apart",
                                  "clusters 1e12 apart", "far from 0", "large", "small"])
def test_neighbours_in_exact_arithmetic(kind, monkeypatch):
    for seed in range(4):
        x, y = tables(kind, seed)
        told_apart, inside = exact_share_told_apart(x, y), (exact_share_inside(x, y, 2), exact_share_inside(y, x, 2))
        root = np.median([float(min(row)) ** 0.5 for row in exact_squares(x, y)])
        for rows in (4, 1000):
            monkeypatch.setattr(evaluate, "BLOCK", rows)
            assert one_nearest_neighbour(x, y) == approx(told_apart, abs=1e-12), seed
            assert precision_recall(x, y, 2) == approx(inside, abs=1e-12), seed
            assert nearest(x, y) == approx(root, rel=1e-13, abs=0), seed


def test_a_tie_of_three_rows():
    """20 stands in both tables, and 17 is as near to the one as to the other."""
    assert one_nearest_neighbour([[12], [20], [17]], [[5], [20], [9]]) == 0.25


@pytest.mark.parametrize("offset", [0, 1e3, 1e6])
def test_tenths_tie_where_they_tie_before_they_are_rounded(offset):
    x, y = np.random.default_rng(0).integers(0, 12, (2, 30, 2))
    assert one_nearest_neighbour(x / 10 + offset, y / 10 + offset) == one_nearest_neighbour(x, y)
    assert precision_recall(x / 10 + offset, y / 10 + offset) == precision_recall(x, y)


def test_a_column_that_is_constant_and_large_decides_no_tie():
    x, y = np.random.default_rng(0).standard_normal((2, 200, 3))
    for a in (x, y):
        a[:, 0] = 1e15
    assert one_nearest_neighbour(x, y) == one_nearest_neighbour(x[:, 1:], y[:, 1:])


@pytest.mark.parametrize("block", [7, 1000])
@pytest.mark.parametrize("far", [0, 1e4, 1e7])
@pytest.mark.parametrize("unbiased", [True, False])
def test_energy_distance_is_its_definition(far, unbiased, block, monkeypatch):
    """From differences in long double, and with both clusters in shares that agree, so that only what is near counts."""
    monkeypatch.setattr(evaluate, "BLOCK", block)
    rng = np.random.default_rng(0)
    x, y = (np.longdouble(rng.standard_normal((n, 2)) + far * (np.arange(n) % 2)[:, None] + 1e5) for n in (60, 40))

    def mean(a, b):
        d = np.sqrt(((a[:, None] - b) ** 2).sum(-1))
        return d.sum() / (len(a) * (len(a) - 1)) if unbiased and a is b else d.mean()
    expected = 2 * mean(x, y) - mean(x, x) - mean(y, y)
    assert energy_distance(x.astype(float), y.astype(float), unbiased) == approx(float(expected), abs=1e-9 + 1e-13 * far)


@pytest.mark.parametrize("far", [1, 1e7])
def test_every_distance_has_nine_digits(far):
    x = np.random.default_rng(0).standard_normal((300, 5)) + far * (np.arange(300) % 2)[:, None]
    exact = np.linalg.norm(x[:, None] - x, axis=-1)
    assert (np.abs(distances(x, x) - exact) <= 1e-9 * exact).all()


def test_nearest_keeps_its_digits_where_rows_almost_agree():
    """|x|^2 + |y|^2 - 2 x.y, which finds the nearest row, has none left at 1e-10."""
    z = np.random.default_rng(2).standard_normal((200, 64))
    assert nearest(z, z) == 0 and nearest(z + 1e-10, z) == approx(8e-10, rel=1e-4)
