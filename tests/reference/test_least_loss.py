"""The least loss where components hardly meet, against quadrature; and that a mixture keeps to itself."""

import time

import numpy as np
import pytest
from pytest import approx

from npddpm import GaussianMixture, Schedule, mixture

S = Schedule.linear(1000)


def cost_on(x, law, s, t):
    """p sum_k r_k |eps_k - eps|^2 / d at x, (B,), as sum_{j<k} w_j p_j w_k p_k / p |eps_j - eps_k|^2 / d, in logarithms."""
    a, b, d = s.sqrt_alpha_bars[t], s.sqrt_one_minus_alpha_bars[t], x.shape[1]
    logs, eps = [], []
    for w, m, c in zip(law.weights, law.means, law.covariances):
        S_k = a**2 * c + b**2 * np.eye(d)
        whitened = (x - a * m) @ np.linalg.inv(S_k)
        logs.append(np.log(w) - 0.5 * ((x - a * m) * whitened).sum(1) - 0.5 * np.linalg.slogdet(2 * np.pi * S_k)[1])
        eps.append(b * whitened)
    log_p = np.logaddexp.reduce(logs)
    return sum(np.exp(logs[j] + logs[k] - log_p) * ((eps[j] - eps[k]) ** 2).sum(1) / d for j in range(len(eps)) for k in range(j))


def by_trapezoid(law, s, t):
    """In one dimension: on a thousandth of each deviation, forty to each side."""
    a, b = s.sqrt_alpha_bars[t], s.sqrt_one_minus_alpha_bars[t]
    variances = a**2 * law.variances[:, 0] + b**2
    x = np.unique(np.concatenate([a * m + np.sqrt(v) * np.linspace(-40, 40, 80_001) for m, v in zip(law.means[:, 0], variances)]))
    return law.weights @ (a**2 * law.variances[:, 0] / variances) + np.trapezoid(cost_on(x[:, None], law, s, t), x)


LAWS = {
    "alike": ([1, 1], [0, 1], [1, 1]), "of little variance": ([1, 1], [0, 1], [1e-6, 1e-6]), "of none": ([1, 1], [0, 1], [1e-12, 1e-12]),
    "rare": ([1e-8, 1], [0, 1], [1e-10, 1e-8]), "rarer": ([1e-20, 1, 1], [0, 1, 3], [1e-10, 1e-14, 1e-8]),
    "wide and far": ([1, 1], [0, 4], [1e-9, 1]), "five": ([1, 2, 3, 2, 1], [0, 1, 2, 3.5, 1e5], [1e-9] * 5),
    "far from 0": ([1, 1], [1e8, 1e8 + 1], [1e-12] * 2)}


@pytest.mark.parametrize("t", [0, 10, 20, 25, 100, 1000])
@pytest.mark.parametrize("name", LAWS)
def test_least_loss_in_one_dimension(name, t):
    """To five of its standard errors, wherever the two meet: from never, at small t, to always."""
    weights, means, variances = LAWS[name]
    law = GaussianMixture(weights, np.array(means, dtype=float)[:, None], variances)
    assert law.least_loss(S, t) == approx(by_trapezoid(law, S, t), rel=5e-3, abs=0)


def test_a_component_at_the_end_of_the_world_adds_its_own_loss():
    near, far = GaussianMixture([1, 2], [[0], [1]], [1e-9] * 2), GaussianMixture([1], [[1e160]], [1e-3])
    both = GaussianMixture([1, 2, 1], [[0], [1], [1e160]], [1e-9, 1e-9, 1e-3])
    assert both.least_loss(S, 30) == approx(0.75 * near.least_loss(S, 30) + 0.25 * far.least_loss(S, 30), rel=3e-3, abs=0)


@pytest.mark.parametrize("scale, t", [(1, 30), (1e-2, 30), (1e-4, 24), (1e-4, 30)])
def test_least_loss_in_the_plane(scale, t):
    """Turned and unlike covariances, on a grid that covers all three components."""
    turned = np.array([[3.0, 1.2], [1.2, 1.0]]) * 1e-2
    law = GaussianMixture([1, 3, 2], [[0, 0], [1, 0.3], [0.4, 1]], scale * np.array([turned, turned[::-1, ::-1], [[0.01, 0], [0, 0.001]]]))
    axis = np.linspace(-1.5, 2.5, 1001)
    x = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    total = S.alpha_bars[t] * law.variances + S.one_minus_alpha_bars[t]
    expected = law.weights @ (S.alpha_bars[t] * law.variances / total).mean(1) + cost_on(x, law, S, t).sum() * (axis[1] - axis[0]) ** 2
    assert law.least_loss(S, t) == approx(expected, rel=5e-3, abs=0)


@pytest.mark.parametrize("t", [50, 200, 400])
def test_least_loss_of_many_components_by_plain_draws(t):
    """Forty that overlap: E |eps - E[eps | x_t]|^2 / d as it is written."""
    rng = np.random.default_rng(0)
    law = GaussianMixture(rng.uniform(1, 3, 40), rng.standard_normal((40, 3)), rng.uniform(0.01, 0.1, (40, 3)))
    eps = rng.standard_normal((100_000, 3))
    plain = ((law.denoiser(S)(S.q_sample(law.sample(len(eps), rng), t, eps), t) - eps) ** 2).mean()
    assert law.least_loss(S, t, tolerance=3e-3) == approx(plain, rel=0.02)


def test_the_error_is_what_it_says(monkeypatch):
    """Of other seeds the mean square error is that of the tolerance, or less, also where the two hardly meet."""
    monkeypatch.setattr(mixture, "BATCH", 10_000)
    law = GaussianMixture([1, 1], [[0.0], [1.0]], [1e-12] * 2)
    found = np.array([law.least_loss(S, 20, seed, 1e-2) for seed in range(20)])
    assert np.sqrt(((found / by_trapezoid(law, S, 20) - 1) ** 2).mean()) < 1.3e-2


def test_a_tolerance_that_would_take_too_many_draws():
    law, start = GaussianMixture([1, 1], [[0.0], [1.0]], [1e-12] * 2), time.monotonic()
    with pytest.raises(ValueError, match=r"^tolerance must be at least \d\.\de-04 here, for 10,000,000 draws, got 1e-06; .* draws reached"):
        law.least_loss(S, 20, tolerance=1e-6)
    assert time.monotonic() - start < 10


def test_what_is_given_is_copied():
    weights, means, covariances = np.array([1.0, 3.0]), np.array([[0.0], [1.0]]), np.ones((2, 1, 1))
    law, x = GaussianMixture(weights, means, covariances), np.array([[0.3]])
    before = law.log_density(x)
    for array in (weights, means, covariances):
        array *= 9
    assert law.log_density(x) == before and law.means.tolist() == [[0], [1]] and law.covariances.tolist() == [[[1]], [[1]]]
    for name in ("weights", "means", "covariances", "variances", "axes"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(law, name)[0] = 2


@pytest.mark.parametrize("x", [1e150, 1e154, 1e160, 1e300])
def test_far_from_everything(x):
    """The density is 0, and of the components the widest is the likeliest, even where no float holds a logarithm."""
    law = GaussianMixture([1, 1, 1], [[0.0, 0], [1, 1], [0, 5]], [[1, 2], [4, 8], [1, 1]])
    wide = GaussianMixture([1], [[1.0, 1]], [[4, 8]])
    points = np.array([[x, 0], [0, -x], [-x, x]])
    for t in (1, 500):
        assert (law.log_density(points, S, t) <= -x).all()
        assert law.score(points, S, t) == approx(wide.score(points, S, t), rel=1e-12)
        assert law.denoiser(S)(points, t) == approx(wide.denoiser(S)(points, t), rel=1e-12)
    assert (law.log_density(points) == -np.inf).all() == (x > 1e154)


def test_standardized_turns_by_the_transposed_axes():
    """A rotation that is no symmetric matrix, and covariances that are no diagonal ones: the density of the turned points."""
    law = GaussianMixture([1, 2], [[0.0, 1, 2], [1, -1, 0]], [[[2, 0.5, 0.1], [0.5, 1, 0.3], [0.1, 0.3, 0.6]], np.diag([1, 2, 3])])
    axes = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    mean, scale, x = np.array([1.0, 2, 3]), np.array([0.5, 3, 1]), law.sample(6, 0)
    assert np.abs(axes - axes.T).max() > 0.1
    turned = law.standardized(mean, scale, axes)
    assert turned.log_density((x - mean) / scale @ axes) == approx(law.log_density(x) + np.log(scale).sum(), rel=1e-12)
