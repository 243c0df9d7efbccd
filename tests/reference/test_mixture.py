"""The mixture against differentiation, quadrature and the case of one Gaussian."""

import copy
import pickle

import numpy as np
import pytest
from bounded import memory
from hypothesis import given
from hypothesis import strategies as st
from pytest import approx
from strategies import reals

from npddpm import GaussianMixture, Schedule, mixture
from npddpm.arrays.backend import to_host

S = Schedule.linear(50)
TWO = GaussianMixture([1, 3], [[0.0, 1], [2, -1]], [[[0.3, 0.1], [0.1, 0.2]], [[0.05, 0], [0, 0.4]]])
THREE = GaussianMixture([2, 1, 1], [[0.0, 1, 0], [2, -1, 1], [-1, 0, 3]], [[0.3, 0.1, 0.5], [1, 1, 1], [0.05, 2, 0.7]])

# ---- the density, its score and the best denoiser


FULL = GaussianMixture([1, 3], [[0.0, 1, -1], [2, -1, 0]], [[[0.3, 0.1, 0.05], [0.1, 0.2, -0.1], [0.05, -0.1, 0.6]],
                                                         [[0.5, 0.2, 0.3], [0.2, 0.4, 0.1], [0.3, 0.1, 0.3]]])
spaces = st.lists(reals(-3, 3), min_size=3, max_size=3).map(lambda x: np.array([x]))


def density(x, t):
    """p_t(x) of FULL, (B,), as it is written: a sum of Gaussians with inverse matrices and determinants."""
    covariances = S.alpha_bars[t] * FULL.covariances + S.one_minus_alpha_bars[t] * np.eye(3)
    away = x[:, None] - np.sqrt(S.alpha_bars[t]) * FULL.means
    exponent = np.einsum("bki,kij,bkj->bk", away, np.linalg.inv(covariances), away)
    return (np.exp(-exponent / 2) / np.sqrt(np.linalg.det(2 * np.pi * covariances))) @ [0.25, 0.75]


def gradient_of_the_log(x, t, h=1e-20):
    """By complex steps, Im f(x + ih) / h."""
    return np.stack([np.imag(np.log(density(x + 1j * h * e, t))) / h for e in np.eye(3)], axis=-1)


@given(spaces, st.integers(0, 50))
def test_log_density_of_x_t(x, t):
    assert FULL.log_density(x, S, t) == approx(np.log(density(x, t)), rel=1e-11, abs=1e-11)


@given(spaces, st.integers(0, 50))
def test_score_is_the_gradient_of_the_log_density(x, t):
    assert FULL.score(x, S, t) == approx(gradient_of_the_log(x, t), rel=1e-10, abs=1e-10)


@given(spaces, st.integers(1, 50))
def test_best_denoiser_is_the_score_scaled(x, t):
    """E[eps | x_t] = -sqrt(1 - abar_t) grad log p_t(x_t)."""
    expected = -np.sqrt(S.one_minus_alpha_bars[t]) * gradient_of_the_log(x, t)
    assert FULL.denoiser(S)(x, t) == approx(expected, rel=1e-10, abs=1e-10)


def test_one_gaussian_is_linear():
    """E[eps | x_t] = sqrt(1 - abar) (abar C + (1 - abar) I)^-1 (x_t - sqrt(abar) m)."""
    c, m = np.array([[1.0, 0.5], [0.5, 2.0]]), np.array([[1.0, -1.0]])
    law, x, t = GaussianMixture([5], m, c[None]), np.array([[0.3, 0.7]]), 20
    a, b = S.alpha_bars[t], S.one_minus_alpha_bars[t]
    total = a * c + b * np.eye(2)
    assert law.denoiser(S)(x, t)[0] == approx(np.sqrt(b) * np.linalg.solve(total, x[0] - np.sqrt(a) * m[0]), rel=1e-12)
    assert law.least_loss(S, t) == approx(np.trace(a * c @ np.linalg.inv(total)) / 2, rel=1e-12)


def test_times_by_row():
    x, t = TWO.sample(4, 0), np.array([1, 10, 30, 50])
    rows = np.array([TWO.denoiser(S)(x[[i]], int(t[i]))[0] for i in range(4)])
    assert TWO.denoiser(S)(x, t) == approx(rows, rel=1e-13)


def test_far_from_everything_the_density_is_still_a_number():
    """Where every component has underflowed, the nearest one decides."""
    x = np.array([[1e4, 0, 0], [0, 0, -1e5]])
    assert np.isfinite(THREE.log_density(x)).all() and np.isfinite(THREE.denoiser(S)(x, 1)).all()
    assert (THREE.log_density(x) < -1e6).all()


def test_density_without_a_time_or_a_schedule_is_that_of_the_data():
    x = THREE.sample(4, 0)
    assert (THREE.log_density(x, S) == THREE.log_density(x)).all() and (THREE.log_density(x, S, 0) == THREE.log_density(x)).all()


def test_the_answers_are_in_float64_whatever_x_is():
    x = np.array([[1, -1], [0, 2]])
    for other in (x.astype("float32"), x, x.tolist()):
        for answer in (TWO.log_density(other), TWO.score(other, S, 3), TWO.denoiser(S)(other, 3)):
            assert answer.dtype == np.float64
        assert (TWO.log_density(other) == TWO.log_density(x.astype(float))).all()
        assert (TWO.denoiser(S)(other, [3, 9]) == TWO.denoiser(S)(x.astype(float), np.array([3, 9]))).all()


def test_on_a_device(cupy):
    law = GaussianMixture([1, 2], [[0, 1, 2], [1, 0, 0]], [0.5, 0.3])
    x0, times = np.random.default_rng(0).standard_normal((5, 3)), np.array([1, 5, 11, 18, 20])
    x = cupy.asarray(x0)
    for t_host, t in ((7, 7), (times, cupy.asarray(times))):
        assert to_host(law.denoiser(S)(x, t)) == approx(law.denoiser(S)(x0, t_host), rel=1e-12)
        assert to_host(law.log_density(x, S, t)) == approx(law.log_density(x0, S, t_host), rel=1e-12)
        assert to_host(law.score(x, S, t)) == approx(law.score(x0, S, t_host), rel=1e-12)


# ---- what a mixture is made of, and its samples


def test_a_mixture_keeps_what_it_is_made_of():
    assert THREE.weights.tolist() == [0.5, 0.25, 0.25] and THREE.covariances.shape == (3, 3, 3)
    whole = GaussianMixture([1, 3], [[0, 1], [2, 3]], [1, 2])
    for name in ("weights", "means", "covariances", "variances", "axes"):
        assert getattr(whole, name).dtype == np.float64, name
    rebuilt = THREE.axes @ (THREE.variances[:, :, None] * THREE.axes.swapaxes(1, 2))
    assert rebuilt == approx(THREE.covariances, rel=1e-14, abs=1e-15)
    by_number = THREE.standardized(2.0, 4.0)
    assert by_number.means == approx((THREE.means - 2) / 4) and by_number.covariances == approx(THREE.covariances / 16)
    assert by_number.weights.tolist() == THREE.weights.tolist()


def test_covariances_in_three_shapes():
    full, diagonal, isotropic = (GaussianMixture([1], [[0, 0]], c) for c in ([2 * np.eye(2)], [[2, 2]], [2]))
    assert (full.covariances == diagonal.covariances).all() and (full.covariances == isotropic.covariances).all()


def test_covariances_are_symmetric_to_ten_digits_at_any_size():
    for size in (1e-12, 1, 1e12):
        nearly, not_quite = (size * np.array([[2, 0.1], [0.1 * (1 + e), 2]]) for e in (1e-13, 1e-8))
        assert GaussianMixture([1], [[0, 0]], [nearly]).variances == approx(size * np.array([[1.9, 2.1]]), rel=1e-9)
        with pytest.raises(ValueError, match="finite and symmetric"):
            GaussianMixture([1], [[0, 0]], [not_quite])


def test_standardized_is_the_law_of_scaled_points():
    mean, scale = np.array([1.0, 2.0]), np.array([0.5, 3.0])
    x = TWO.sample(5, 0)
    expected = TWO.log_density(x) + np.log(scale).sum()
    assert TWO.standardized(mean, scale).log_density((x - mean) / scale) == approx(expected, rel=1e-12)


def test_sampling_by_hand():
    """First the components, then one normal vector for each point; points of one component are independent."""
    rng = np.random.default_rng(3)
    k = rng.choice(2, size=50, p=TWO.weights)
    z = rng.standard_normal((50, 2))
    expected = [TWO.means[i] + TWO.axes[i] @ (np.sqrt(TWO.variances[i]) * v) for i, v in zip(k, z)]
    assert TWO.sample(50, 3) == approx(np.array(expected), rel=1e-12)
    assert TWO.sample(50, np.random.default_rng(3)) == approx(np.array(expected), rel=1e-12)


@pytest.mark.parametrize("weights", [[1e308, 1e308], [1e-300, 1], [5e-324, 5e-324]])
def test_extreme_weights(weights):
    law = GaussianMixture(weights, [[0.0], [1.0]], [1, 1])
    share = weights[0] / max(weights) / (weights[0] / max(weights) + weights[1] / max(weights))
    assert law.weights == approx([share, 1 - share], rel=1e-15, abs=0)
    assert np.isfinite(law.log_density([[0.0], [50.0]])).all() and 0 < law.least_loss(S, 25, 0, 0.1) < 1


@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, lambda law: pickle.loads(pickle.dumps(law))])
def test_a_copy_draws_the_same(duplicate):
    assert (duplicate(TWO).sample(3, 0) == TWO.sample(3, 0)).all()


# ---- the least loss


def least_loss_by_quadrature(law, s, t):
    """1 - (1 - abar_t) E |grad log p_t(x_t)|^2 / d, since E |eps|^2 = d = E |E[eps | x_t]|^2 + E tr Var[eps | x_t].

    Gauss-Legendre with 8 nodes on every half deviation of every component, out to nine, in each coordinate: with
    twelve on every third the results are the same to 1e-14.
    """
    a, b, d = s.alpha_bars[t], s.one_minus_alpha_bars[t], law.means.shape[1]
    covariances, nodes, axes, weights = a * law.covariances + b * np.eye(d), np.polynomial.legendre.leggauss(8), [], np.ones(1)
    for i in range(d):
        deviations = np.sqrt(covariances[:, i, i])[:, None]
        edges = np.unique(np.sqrt(a) * law.means[:, i, None] + deviations * np.arange(-9, 9.5, 0.5))
        half = np.diff(edges)[:, None] / 2
        axes.append((edges[:-1, None] + half + half * nodes[0]).ravel())
        weights = np.multiply.outer(weights, (half * nodes[1]).ravel()).ravel()
    x, p, slope = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, d), 0.0, 0.0
    for w, m, precision in zip(law.weights, law.means, np.linalg.inv(covariances)):
        whitened = (x - np.sqrt(a) * m) @ precision
        part = np.exp(-0.5 * (whitened * (x - np.sqrt(a) * m)).sum(1)) * w * np.sqrt(np.linalg.det(precision / 2 / np.pi))
        p, slope = p + part, slope - part[:, None] * whitened
    seen = p > 0
    assert weights @ p == approx(1, rel=1e-12)
    return 1 - b / d * weights[seen] @ ((slope[seen] ** 2).sum(1) / p[seen])


LINEAR = Schedule.linear(1000)
MIXTURES = {
    "narrow in wide": (GaussianMixture([1, 1], [[0], [0]], [1, 1e-4]), (10, 50)),
    "very narrow in wide": (GaussianMixture([1, 1], [[0], [0]], [1, 1e-6]), (10,)),
    "rare and wide": (GaussianMixture([1e-4, 1], [[0], [0.5]], [100, 1e-2]), (50,)),
    "rarer and wider": (GaussianMixture([1e-6, 1], [[0], [0.5]], [1e6, 1]), (300, 1000)),
    "the same in the plane": (GaussianMixture([1e-3, 1], [[0, 0], [0, 0]], [1, 1e-6]), (30, 300)),
    "three": (GaussianMixture([1, 2, 3], [[-2], [0], [0.5]], [1, 1e-2, 1e-4]), (200, 1000)),
    "a cross": (GaussianMixture([1, 1], [[0, 0], [0, 0]], [[1, 1e-6], [1e-6, 1]]), (10,)),
    "two": (TWO, (300,)),
}


@pytest.mark.parametrize("law, t", [(law, t) for law, times in MIXTURES.values() for t in times],
                         ids=[f"{name}, t={t}" for name, (_, times) in MIXTURES.items() for t in times])
def test_least_loss_is_right(law, t):
    """To five of its standard errors, which are at most a thousandth of it."""
    assert law.least_loss(LINEAR, t) == approx(least_loss_by_quadrature(law, LINEAR, t), rel=5e-3)


def test_the_quadrature_is_that_of_another():
    """The figures of scipy.integrate.quad."""
    law = MIXTURES["narrow in wide"][0]
    assert [least_loss_by_quadrature(law, LINEAR, t) for t in (10, 50)] == approx([0.6229603753716, 0.6834608034493], rel=1e-12)


def test_least_loss_at_both_ends():
    """At t = 0 all of eps is unknown; for one component it is a number whatever the seed."""
    assert TWO.least_loss(S, 0) == 1
    one = GaussianMixture([1], [[0, 1]], [[0.5, 2]])
    a, b = S.alpha_bars[50], 1 - S.alpha_bars[50]
    exact = np.mean([a * v / (a * v + b) for v in (0.5, 2)])
    assert one.least_loss(S, 50, rng=7) == approx(exact, rel=1e-13)
    assert one.least_loss(S, 50) == one.least_loss(S, 50, 1)


def test_least_loss_of_one_gaussian_in_two_parts():
    """Two components alike are one, whose loss is closed-form: not knowing which costs nothing."""
    one, split = GaussianMixture([1], [[0, 1, 2]], [0.5]), GaussianMixture([1, 2], [[0, 1, 2]] * 2, [0.5, 0.5])
    assert split.least_loss(S, 25) == approx(one.least_loss(S, 25), rel=1e-12)


def test_least_loss_where_all_draws_agree(monkeypatch):
    """Two points, nearly, at a late time: the result has five digits. 1 - E best^2 is the same by quadrature."""
    monkeypatch.setattr(mixture, "BATCH", 800)
    law, x = GaussianMixture([1, 1], [[-1.0], [1]], [1e-3, 1e-3]), np.linspace(-9, 9, 4001)[:, None]
    best, density = law.denoiser(S)(x, 40), np.exp(law.log_density(x, S, 40))
    assert law.least_loss(S, 40) == approx(1 - (density * best[:, 0] ** 2).sum() * (x[1, 0] - x[0, 0]), rel=5e-5)


@pytest.mark.parametrize("tolerance", [3e-3, 1e-3])
def test_least_loss_draws_until_its_tolerance_is_met(tolerance, monkeypatch):
    """With few draws at a time it goes on: of ten results the mean square error is that of the tolerance, or less."""
    monkeypatch.setattr(mixture, "BATCH", 20_000)
    law = MIXTURES["narrow in wide"][0]
    found = np.array([law.least_loss(LINEAR, 50, rng, tolerance) for rng in range(10)])
    assert np.sqrt(((found / least_loss_by_quadrature(law, LINEAR, 50) - 1) ** 2).mean()) < 1.5 * tolerance


def test_least_loss_stops_at_the_tolerance_that_was_asked_for(monkeypatch):
    """Drawn in small batches, the results of other seeds spread by the tolerance, and no less: it stops in time."""
    monkeypatch.setattr(mixture, "BATCH", 8000)                  # a thousand of each component at a time
    found = np.array([TWO.least_loss(S, 10, seed, tolerance=4e-3) for seed in range(16)])
    assert 2e-3 < found.std() / found.mean() < 7e-3
    assert found.mean() == approx(TWO.least_loss(S, 10, 3, tolerance=1e-3), rel=5e-3)
    assert TWO.least_loss(S, 10, 5, tolerance=4e-3) == found[5]


def test_usual_seed_and_tolerance_of_the_least_loss(monkeypatch):
    monkeypatch.setattr(mixture, "BATCH", 80_000)
    assert TWO.least_loss(S, 10) == TWO.least_loss(S, 10, 0, 1e-3)


def noted_draws(monkeypatch, law, batch):
    """How many points `law` looks at in each draw, of at most `batch` numbers."""
    drawn, components = [], law._components
    monkeypatch.setattr(mixture, "BATCH", batch)
    monkeypatch.setattr(law, "_components", lambda x, *at: drawn.append(len(x)) or components(x, *at), raising=False)
    return drawn


def test_a_rare_wide_component_takes_few_draws(monkeypatch):
    """The first ten thousand are enough for a hundredth. Without the weights p / q it takes five times as many."""
    law = GaussianMixture([1e-4, 1], [[0, 0], [0, 0]], [1, 1e-6])
    drawn = noted_draws(monkeypatch, law, 20_000)
    found = np.array([law.least_loss(LINEAR, 300, seed, 0.01) for seed in range(10)])
    assert np.sqrt(((found / least_loss_by_quadrature(law, LINEAR, 300) - 1) ** 2).mean()) < 0.01 and sum(drawn) < 120_000


@pytest.mark.parametrize("t, tolerance", [(10, 10), (40, 1e-3)])
def test_least_loss_takes_ten_thousand_draws_and_no_more_where_they_are_enough(monkeypatch, t, tolerance):
    """They are if much is tolerated, and at t = 40, where all draws agree."""
    law = GaussianMixture([1, 3], [[-1.0, 0], [1, 0]], [1e-3, 1e-3])
    drawn = noted_draws(monkeypatch, law, 800)
    law.least_loss(S, t, 0, tolerance)
    assert 10_000 <= sum(drawn) < 10_200 and set(drawn) == {200}


def test_many_components_fit_into_memory():
    """A hundred in ten dimensions, far from each other: at small noise the loss is that of one of them."""
    means = 100 * np.random.default_rng(0).standard_normal((100, 10))
    one = GaussianMixture([1], means[:1], [0.5]).least_loss(LINEAR, 10)
    with memory(100e6):
        assert GaussianMixture(np.ones(100), means, np.full(100, 0.5)).least_loss(LINEAR, 10) == approx(one, rel=1e-9)
