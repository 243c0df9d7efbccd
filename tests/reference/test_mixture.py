"""The mixture against differentiation, quadrature and the case of one Gaussian."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest import approx
from strategies import reals

from npddpm import GaussianMixture, Schedule
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


@pytest.mark.parametrize("x", [1e150, 1e154, 1e160, 1e300])
def test_far_from_everything_the_widest_component_decides(x):
    """The density is 0, and of the components the widest is the likeliest, even where no float holds a logarithm."""
    law = GaussianMixture([1, 1, 1], [[0.0, 0], [1, 1], [0, 5]], [[1, 2], [4, 8], [1, 1]])
    wide = GaussianMixture([1], [[1.0, 1]], [[4, 8]])
    points = np.array([[x, 0], [0, -x], [-x, x]])
    for t in (1, 25):
        assert (law.log_density(points, S, t) <= -x).all()
        assert law.score(points, S, t) == approx(wide.score(points, S, t), rel=1e-12)
        assert law.denoiser(S)(points, t) == approx(wide.denoiser(S)(points, t), rel=1e-12)
    assert (law.log_density(points) == -np.inf).all() == (x > 1e154)


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


def test_standardized_is_the_law_of_scaled_and_turned_points():
    """A rotation that is no symmetric matrix, and covariances that are no diagonal ones: the density of the turned points."""
    law = GaussianMixture([1, 2], [[0.0, 1, 2], [1, -1, 0]], [[[2, 0.5, 0.1], [0.5, 1, 0.3], [0.1, 0.3, 0.6]], np.diag([1, 2, 3])])
    axes = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    mean, scale, x = np.array([1.0, 2, 3]), np.array([0.5, 3, 1]), law.sample(6, 0)
    assert np.abs(axes - axes.T).max() > 0.1
    turned = law.standardized(mean, scale, axes)
    assert turned.log_density((x - mean) / scale @ axes) == approx(law.log_density(x) + np.log(scale).sum(), rel=1e-12)


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


def test_a_law_cannot_be_changed():
    law = GaussianMixture([1, 2], [[0.0], [1.0]], [1, 1])
    for name in ("weights", "means", "covariances"):
        with pytest.raises(AttributeError, match=f"a GaussianMixture cannot be changed: make another one, instead of setting {name}"):
            setattr(law, name, getattr(law, name))
    own = type("Own", (GaussianMixture,), {})([1], [[0.0]], [1])
    other = type("Other", (Schedule,), {"__init__": lambda self, T: Schedule.__init__(self, [0.5] * T)})(3)
    assert type(copy.copy(own)) is type(own) and copy.deepcopy(other) == other and type(copy.copy(other)) is Schedule
    for again in (copy.copy(law), copy.deepcopy(law), pickle.loads(pickle.dumps(law))):
        assert again == law and law == GaussianMixture([1, 2], [[-0.0], [1.0]], [1, 1]) and hash(law) == hash(GaussianMixture([1, 2], [[-0.0], [1.0]], [1, 1]))
        assert again == law and hash(again) == hash(law) and not again.weights.flags.writeable and (again.means == law.means).all()
    assert law != GaussianMixture([1, 2], [[0.0], [1.0]], [1, 2]) and law != Schedule([1e-3]) and GaussianMixture([0.1, 0.2], [[0.0], [1.0]], [1, 1]) != Schedule([0.1, 0.2]) and law.__eq__(0) is NotImplemented


@pytest.mark.parametrize(("given", "error"), [(([0, 0, 0], 1), "mean must have shape"), ((0, 0), "scale must not be 0"), ((0, 1, [[1, 0]]), "axes must have shape"),
                                              ((np.nan, 1), "mean must be finite")])
def test_what_a_law_is_standardized_by_is_checked(given, error):
    law = GaussianMixture([1, 2], [[0.0, 1], [1.0, 2]], [1, 1])
    with pytest.raises(ValueError, match=error):
        law.standardized(*given)
    assert law.standardized(1, [1, 2], [[1, 0], [0, 1]]).means == approx((law.means - 1) / [1, 2])


def test_the_density_is_asked_for_at_finite_points():
    with pytest.raises(ValueError, match="x must be finite, got inf in row 0, column 0"):
        GaussianMixture([1], [[0.0]], [1]).log_density([[np.inf]])
