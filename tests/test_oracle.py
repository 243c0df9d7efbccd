"""The oracle against differentiation, simulation and the case of one Gaussian."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest import approx

from npddpm import GaussianMixture, Schedule

S = Schedule.linear(50)
TWO = GaussianMixture([1, 3], [[0.0, 1], [2, -1]], [[[0.3, 0.1], [0.1, 0.2]], [[0.05, 0], [0, 0.4]]])


def test_sample_has_the_moments():
    x = TWO.sample(200_000, 0)
    mean = TWO.weights @ TWO.means
    inner = np.einsum("k,kij->ij", TWO.weights, TWO.covariances)
    outer = np.einsum("k,ki,kj->ij", TWO.weights, TWO.means - mean, TWO.means - mean)
    assert x.mean(0) == approx(mean, abs=0.01)
    assert np.cov(x.T) == approx(inner + outer, abs=0.02)


@given(st.integers(0, 50), st.floats(-3, 3), st.floats(-3, 3))
def test_score_is_the_gradient_of_the_log_density(t, a, b):
    x, h = np.array([[a, b]]), 1e-5
    steps = h * np.eye(2)
    difference = [(TWO.log_density(x + e, S, t) - TWO.log_density(x - e, S, t))[0] / (2 * h) for e in steps]
    assert TWO.score(x, S, t)[0] == approx(difference, rel=1e-5, abs=1e-5)


@given(st.integers(1, 50), st.floats(-3, 3), st.floats(-3, 3))
def test_best_denoiser_is_the_score_scaled(t, a, b):
    """E[eps | x_t] = -sqrt(1 - abar_t) grad log p_t(x_t)."""
    x = np.array([[a, b]])
    expected = -np.sqrt(S.one_minus_alpha_bars[t]) * TWO.score(x, S, t)
    assert TWO.denoiser(S)(x, t) == approx(expected, rel=1e-12)


def test_density_of_the_data_is_that_of_t_0():
    x = TWO.sample(5, 0)
    assert TWO.log_density(x) == approx(TWO.log_density(x, S, 0), rel=1e-14)
    density = sum(w * np.exp(-0.5 * np.einsum("bi,ij,bj->b", x - m, np.linalg.inv(c), x - m))
                  / (2 * np.pi * np.sqrt(np.linalg.det(c))) for w, m, c in zip(TWO.weights, TWO.means, TWO.covariances))
    assert TWO.log_density(x) == approx(np.log(density), rel=1e-12)


def test_one_gaussian_is_linear():
    """E[eps | x_t] = sqrt(1 - abar) (abar C + (1 - abar) I)^-1 (x_t - sqrt(abar) m)."""
    c, m = np.array([[1.0, 0.5], [0.5, 2.0]]), np.array([[1.0, -1.0]])
    law, x, t = GaussianMixture([5], m, c[None]), np.array([[0.3, 0.7]]), 20
    a, b = S.alpha_bars[t], S.one_minus_alpha_bars[t]
    total = a * c + b * np.eye(2)
    assert law.denoiser(S)(x, t)[0] == approx(np.sqrt(b) * np.linalg.solve(total, x[0] - np.sqrt(a) * m[0]), rel=1e-12)
    assert law.least_loss(S, t) == approx(np.trace(a * c @ np.linalg.inv(total)) / 2, rel=1e-12)


@pytest.mark.parametrize("t", [1, 10, 25, 50])
def test_least_loss_is_what_the_best_denoiser_reaches(t):
    """A million draws; five standard errors."""
    rng = np.random.default_rng(0)
    x0 = TWO.sample(250_000, rng)
    eps = rng.standard_normal(x0.shape)
    errors = ((TWO.denoiser(S)(S.q_sample(x0, t, eps), t) - eps) ** 2).mean(1)
    assert TWO.least_loss(S, t) == approx(errors.mean(), abs=5 * errors.std() / 500)


def test_least_loss_by_simulation_keeps_its_tolerance():
    """Three equal halves of one Gaussian in three dimensions: the closed form is known."""
    one = GaussianMixture([1], [[0, 1, 2]], [0.5])
    split = GaussianMixture([1, 2], [[0, 1, 2], [0, 1, 2]], [0.5, 0.5])
    assert split.least_loss(S, 25) == approx(one.least_loss(S, 25), rel=5e-3)
    apart = GaussianMixture([1, 1], [[0, 0, 0], [3, 0, 0]], [0.5, 0.5])
    line = GaussianMixture([1, 1], [[0], [3]], [0.5, 0.5])
    rest = one.least_loss(S, 25)
    assert apart.least_loss(S, 25) == approx((line.least_loss(S, 25) + 2 * rest) / 3, rel=5e-3)


def test_times_by_row():
    x, t = TWO.sample(4, 0), np.array([1, 10, 30, 50])
    rows = np.array([TWO.denoiser(S)(x[[i]], int(t[i]))[0] for i in range(4)])
    assert TWO.denoiser(S)(x, t) == approx(rows, rel=1e-13)


def test_standardized_is_the_law_of_scaled_points():
    mean, scale = np.array([1.0, 2.0]), np.array([0.5, 3.0])
    x = TWO.sample(5, 0)
    expected = TWO.log_density(x) + np.log(scale).sum()
    assert TWO.standardized(mean, scale).log_density((x - mean) / scale) == approx(expected, rel=1e-12)


def test_covariances_in_three_shapes():
    full, diagonal, isotropic = (GaussianMixture([1], [[0, 0]], c) for c in ([2 * np.eye(2)], [[2, 2]], [2]))
    assert (full.covariances == diagonal.covariances).all() and (full.covariances == isotropic.covariances).all()
