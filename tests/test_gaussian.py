"""The algebra of isotropic Gaussians against quadrature and against itself."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from pytest import approx

from npddpm import gaussian

variances = st.floats(1e-6, 1e6)
scales = st.floats(-10, 10)
means = st.floats(-100, 100)
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(40)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


@given(means, variances)
def test_log_density_integrates_to_its_entropy(mean, variance):
    """E[-log N(x; m, v)] over x ~ N(m, v), by quadrature, is the entropy; exp(log N) at m is (2 pi v)^(-1/2)."""
    x = mean + math.sqrt(variance) * NODES[:, None]
    assert WEIGHTS @ -gaussian.log_density(x, mean, variance) == approx(0.5 * math.log(2 * math.pi * math.e * variance), rel=1e-6, abs=1e-9)
    peak = gaussian.log_density(np.array([[mean]]), mean, variance)[0]
    assert math.exp(peak) == approx(1 / math.sqrt(2 * math.pi * variance), rel=1e-12)


@given(means, variances, st.integers(1, 5))
def test_density_of_d_coordinates_is_the_product(mean, variance, d):
    x = np.linspace(-1, 1, d)[None]
    one_by_one = sum(gaussian.log_density(x[:, [i]], mean, variance) for i in range(d))
    assert gaussian.log_density(x, mean, variance) == approx(one_by_one, rel=1e-12)


@given(means, variances, means, variances)
def test_kl_is_the_mean_log_ratio(mean_q, variance_q, mean_p, variance_p):
    """KL(q || p) = E_q[log q - log p]: the integrand is quadratic, so the quadrature is exact."""
    x = mean_q + math.sqrt(variance_q) * NODES[:, None]
    log_ratio = gaussian.log_density(x, mean_q, variance_q) - gaussian.log_density(x, mean_p, variance_p)
    expected = WEIGHTS @ log_ratio
    kl = gaussian.kl(np.array([mean_q]), variance_q, np.array([mean_p]), variance_p)
    assert kl == approx(expected, rel=1e-8, abs=1e-6 * (1 + variance_q / variance_p))
    assert kl >= 0
    assert gaussian.kl(np.array([mean_q]), variance_q, np.array([mean_q]), variance_q) == 0


@given(scales, variances, scales, variances, scales, variances)
def test_composition_is_associative(a1, v1, a2, v2, a3, v3):
    left = gaussian.compose(*gaussian.compose(a1, v1, a2, v2), a3, v3)
    right = gaussian.compose(a1, v1, *gaussian.compose(a2, v2, a3, v3))
    assert left == approx(right, rel=1e-12, abs=1e-12)


@given(means, variances, st.floats(0.01, 10), variances, means, means)
def test_bayes_rule(mean, variance, scale, noise, x, y):
    """log p(x) + log p(y | x) = log p(y) + log p(x | y) at every x and y."""
    x, y = np.array([x]), np.array([y])
    post_mean, post_variance = gaussian.condition(mean, variance, scale, noise, y)
    left = gaussian.log_density(x, mean, variance) + gaussian.log_density(y, scale * x, noise)
    evidence = gaussian.log_density(y, np.array([scale * mean]), scale**2 * variance + noise)
    right = evidence + gaussian.log_density(x, post_mean, post_variance)
    assert left == approx(right, rel=1e-6, abs=1e-6)


@given(means, variances, scales, variances)
def test_joint_has_the_marginals_and_the_correlation(mean, variance, scale, noise):
    means_, covariance = gaussian.joint(np.array([mean]), variance, scale, noise)
    assert means_[:, 0] == approx([mean, scale * mean])
    assert covariance[0, 0] == variance
    assert covariance[1, 1] == approx(gaussian.compose(1, variance, scale, noise)[1])
    assert covariance[0, 1] == covariance[1, 0] == scale * variance
    # The conditional variance of x given y is the Schur complement.
    schur = variance - covariance[0, 1] ** 2 / covariance[1, 1]
    assert schur == approx(gaussian.condition(mean, variance, scale, noise, 0.0)[1], rel=1e-6, abs=1e-9 * variance)
