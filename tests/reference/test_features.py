"""The features: by hand, for one t and for many, and in little memory."""

import numpy as np
import pytest
from bounded import memory
from pytest import approx

from npddpm import MLP, Schedule
from npddpm.features import Features
from npddpm.mlp import layer_shapes


@pytest.mark.parametrize("t", [7, np.array([1, 7, 12, 20])])
@pytest.mark.parametrize("fourier", [0, 1, 3])
def test_features_by_hand(fourier, t):
    """A_0 as its equation has it; and for one t, where what is the same in all rows is left out, the same product A_0 W_1."""
    rng, features = np.random.default_rng(0), Features(np, np.dtype("float64"), 20, 2, fourier)
    k = layer_shapes(2, 1, 1, fourier, 2)[0][0] - 1
    m, A_0, W_1 = rng.standard_normal((4, 2)), np.ones((4, k + 1)), rng.standard_normal((k + 1, 5))
    A_0[:, 64:66] = m
    angles = np.outer(np.broadcast_to(t, 4) * 50.0, [10_000 ** (-i / 32) for i in range(32)])       # t in thousandths of T = 20
    octaves = [f(2.0**k * m[:, i]) for i in range(2) for f in (np.sin, np.cos) for k in range(fourier)]
    expected = np.column_stack([np.sin(angles), np.cos(angles), m, *octaves, np.ones(4)])
    A, W = features.fill_in(A_0, W_1, m, t)
    assert A_0 == approx(expected, rel=1e-12, abs=1e-12) and A @ W == approx(expected @ W_1, rel=1e-12, abs=1e-12)


def test_features_of_many_columns_take_little_memory():
    """No (d, d) matrix: a checkpoint of a narrow network for a hundred thousand columns is a small file."""
    with memory(2**26):
        MLP(100_000, 1, 1, schedule=Schedule.linear(10), fourier=1, rng=0)
