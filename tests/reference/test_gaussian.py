"""The algebra of isotropic Gaussians against integrals and exact arithmetic."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest import approx
from strategies import PI, exact, log_normal, reals, signs, vectors

from npddpm import gaussian

variances = st.floats(1e-6, 1e6)
scales = reals(-10, 10)
means = reals(-100, 100)


@given(vectors(most=5), means, variances)
def test_log_density_in_exact_arithmetic(x, mean, variance):
    v = Decimal(variance)
    expected = -(((exact(x) - Decimal(mean)) ** 2).sum() / v + len(x) * (2 * PI * v).ln()) / 2
    size = ((x - mean) ** 2).sum() / variance + len(x) * abs(math.log(2 * math.pi * variance))
    assert gaussian.log_density(x, mean, variance) == approx(float(expected), abs=1e-14 * size)


@given(means, variances)
def test_log_density_has_its_moments(mean, variance):
    """The density integrates to 1, with the mean and the variance that it is given: a Riemann sum, exact to rounding."""
    z = np.linspace(-10, 10, 101)
    weights = np.exp(gaussian.log_density(mean + math.sqrt(variance) * z[:, None], mean, variance)) * 0.2 * math.sqrt(variance)
    assert [weights.sum(), weights @ z, weights @ z**2] == approx([1, 0, 1], rel=1e-6, abs=1e-6)


@given(reals(-3, 3), st.floats(0.01, 100), reals(-3, 3), st.floats(0.01, 100))
def test_kl_is_the_mean_log_ratio(mean_q, variance_q, mean_p, variance_p):
    """KL(q || p) = E_q[ log q - log p ], by Gauss-Hermite quadrature, which three nodes make exact: the log ratio is quadratic."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    x = mean_q + math.sqrt(variance_q) * nodes[:, None]
    expected = weights / weights.sum() @ (log_normal(x, mean_q, variance_q) - log_normal(x, mean_p, variance_p))
    kl = gaussian.kl(np.array([mean_q]), variance_q, np.array([mean_p]), variance_p)
    assert kl == approx(expected, rel=1e-11, abs=1e-12 * (1 + variance_q / variance_p))
    assert kl >= 0


@given(vectors(), vectors(most=1), variances, variances)
def test_kl_in_exact_arithmetic(mean_q, away, variance_q, variance_p):
    mean_p, vq, vp, d = mean_q + away, Decimal(variance_q), Decimal(variance_p), len(mean_q)
    expected = (((exact(mean_q) - exact(mean_p)) ** 2).sum() / vp + d * (vq / vp - 1 - (vq / vp).ln())) / 2
    assert gaussian.kl(mean_q, variance_q, mean_p, variance_p) == approx(float(expected), rel=1e-14, abs=1e-15)


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("e", [s * 10.0**-k for k in range(1, 9) for s in (1, -1)])
def test_kl_of_nearly_equal_variances_keeps_its_digits(e, d):
    """Of variances 1 + e and 1, about e^2/4 a dimension: to a relative error of 2^-52 / e, with 1e-8 to eight digits."""
    vq, vp, mean = (1 + e) * 0.3, 0.3, np.zeros(d)
    ratio = Decimal(vq) / Decimal(vp)
    assert gaussian.kl(mean, vq, mean, vp) == approx(float(d * (ratio - 1 - ratio.ln()) / 2), rel=2.0**-52 / abs(e) + 1e-15, abs=0)


@pytest.mark.parametrize("ratio", [1e-300, 1e-12, 0.4999, 0.5, 1.4999, 1.5, 1e12, 1e300])
def test_kl_of_unequal_variances_keeps_its_digits(ratio):
    vq, vp, mean = ratio * 0.3, 0.3, np.zeros(2)
    true = Decimal(vq) / Decimal(vp)
    assert gaussian.kl(mean, vq, mean, vp) == approx(float(true - 1 - true.ln()), rel=2e-15, abs=0)


def test_kl_of_a_law_from_itself_is_nothing():
    assert gaussian.kl(np.array([0.3, 7.0]), 0.3, np.array([0.3, 7.0]), 0.3) == 0


@given(scales, variances, scales, variances, means)
def test_a_chain_has_the_composed_moments(a, v, b, w, x):
    """z = b y + noise and y = a x + noise: mean and variance over nodes that are exact for both."""
    scale, variance = gaussian.compose(a, v, b, w)
    noise = signs(2)
    z = b * (a * x + math.sqrt(v) * noise[:, 0]) + math.sqrt(w) * noise[:, 1]
    size = abs(a * b * x) + abs(b) * math.sqrt(v) + math.sqrt(w)
    assert scale * x == approx(z.mean(), abs=1e-13 * size)
    assert variance == approx(((z - a * b * x) ** 2).mean(), rel=1e-12, abs=1e-13 * size * (abs(a * b * x) + math.sqrt(variance)))


@given(vectors(), variances, scales, variances)
def test_joint_has_the_moments_of_both(mean, variance, scale, noise):
    """x and y = scale x + noise, each by itself and together, in exact arithmetic: Cov(x, y) = scale Var x."""
    means_, covariance = gaussian.joint(mean, variance, scale, noise)
    v, a, w = Fraction(variance), Fraction(scale), Fraction(noise)
    assert means_ == approx(np.array([mean, [float(a * Fraction(m)) for m in mean]]), rel=1e-15, abs=0)
    assert covariance == approx(np.array([[v, a * v], [a * v, a * a * v + w]]).astype(float), rel=1e-15, abs=0)


@given(means, variances, scales, variances, means)
def test_bayes_rule_in_exact_arithmetic(mean, variance, scale, noise, y):
    """Precisions add up, and weigh what is known: 1/v = 1/variance + scale^2/noise."""
    m, v, a, w, exact_y = map(Fraction, (mean, variance, scale, noise, y))
    exact_variance = 1 / (1 / v + a * a / w)
    parts = exact_variance * m / v, exact_variance * a * exact_y / w
    post_mean, post_variance = gaussian.condition(mean, variance, scale, noise, y)
    assert post_variance == approx(float(exact_variance), rel=1e-14, abs=0)
    assert post_mean == approx(float(sum(parts)), abs=1e-14 * float(abs(parts[0]) + abs(parts[1])))


@given(reals(-3, 3), st.floats(0.1, 10), st.floats(0.1, 3), st.floats(0.1, 10), reals(-3, 3))
def test_bayes_rule_by_integration(mean, variance, scale, noise, y):
    """Mean and variance of p(x) p(y | x), scaled to integrate to 1."""
    x = np.linspace(-50, 50, 20_001)[:, None]
    p = np.exp(log_normal(x, mean, variance) + log_normal(np.array([y]), scale * x, noise))
    x, p = x[:, 0], p / p.sum()
    post_mean, post_variance = gaussian.condition(mean, variance, scale, noise, y)
    assert post_mean == approx(p @ x, abs=1e-10)
    assert post_variance == approx(p @ (x - p @ x) ** 2, rel=1e-10)
