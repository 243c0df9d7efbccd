"""The schedule's arrays and methods against exact rational arithmetic and other statements of them."""

import copy
import pickle
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest import approx
from strategies import Exact, points, schedules, schedules_and_times

from npddpm import Schedule


def test_shapes_and_the_clean_end():
    s = Schedule.linear(10)
    for name in ("betas", "alphas", "alpha_bars", "posterior_variances", "loss_weights"):
        array = getattr(s, name)
        assert array.shape == (11,) and array.dtype == np.float64
        with pytest.raises(ValueError):
            array[0] = 1
    assert (s.betas[0], s.alphas[0], s.alpha_bars[0]) == (0, 1, 1)
    assert s.posterior_variances[:2].tolist() == [0, 0]


def test_linear_is_ho_et_al():
    s = Schedule.linear()
    assert s.T == 1000
    assert s.betas[1:] == approx(np.linspace(1e-4, 0.02, 1000), rel=1e-15)
    assert Schedule.linear(100).betas[1:] == approx(np.linspace(1e-3, 0.2, 100), rel=1e-15)
    assert Schedule.linear(10, 0.1, 0.3).betas[1:] == approx(np.linspace(0.1, 0.3, 10), rel=1e-15)
    assert Schedule.linear(1).T == 1 and Schedule.linear(5).betas[-1] == 0.999


@given(st.integers(1, 1000))
def test_cosine_is_nichol_and_dhariwal(T):
    """abar_t = f(t)/f(0) up to the clip, computed as they write it."""
    s = Schedule.cosine(T)
    f = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * np.pi / 2) ** 2
    assert s.betas[1:] == approx(np.minimum(1 - f[1:] / f[:-1], 0.999), rel=1e-8)
    unclipped = s.betas < 0.999
    assert s.alpha_bars[unclipped] == approx((f / f[0])[unclipped], rel=1e-9)


@given(st.lists(st.floats(1e-12, 0.999), min_size=1, max_size=40))
def test_arrays_against_exact_arithmetic(betas):
    s = Schedule.from_betas(betas)
    abar = Fraction(1)
    for t, beta in enumerate(map(Fraction, betas), 1):
        before, abar = abar, abar * (1 - beta)
        exact = {"alpha_bars": abar, "one_minus_alpha_bars": 1 - abar,
                 "posterior_variances": beta * (1 - before) / (1 - abar),
                 "loss_weights": beta / (2 * (1 - beta) * (1 - abar))}
        for name, value in exact.items():
            assert getattr(s, name)[t] == approx(float(value), rel=1e-13, abs=0), name


def test_value_semantics():
    a, b = Schedule.linear(10), Schedule.from_betas(Schedule.linear(10).betas[1:])
    assert a == b == Schedule(b.betas[1:]) and hash(a) == hash(b) and a != Schedule.cosine(10) and a != "linear"
    assert copy.deepcopy(a) == a and pickle.loads(pickle.dumps(a)) == a
    assert repr(Schedule.from_betas([0.25])) == "Schedule(T=1, beta_1=0.25, beta_T=0.25, abar_T=0.75)"
    with pytest.raises(AttributeError):
        a.betas = b.betas


@given(st.data())
def test_a_vector_of_times_is_each_time_by_itself(data):
    s = Schedule.cosine(50)
    t = np.array(data.draw(st.lists(st.integers(1, 50), min_size=1, max_size=6)))
    x, y = np.random.default_rng(0).standard_normal((2, len(t), 3))
    for method, args in ((s.q_sample, (x, t, y)), (s.predict_x0, (x, t, y)), (s.predict_eps, (x, t, y)),
                         (s.reverse_mean, (x, t, y))):
        rows = [method(args[0][[i]], int(t[i]), args[2][[i]])[0] for i in range(len(t))]
        assert method(*args) == approx(np.array(rows), rel=1e-13)
    mean, variance = s.q_posterior(x, y, t)
    assert variance.shape == (len(t), 1)
    assert mean[0] == approx(s.q_posterior(x[:1], y[:1], int(t[0]))[0][0], rel=1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_precision_follows_x(dtype):
    s, x = Schedule.linear(10), np.ones((2, 3), dtype)
    for t in (3, np.array([3, 4])):
        assert s.q_sample(x, t, x).dtype == dtype
        assert s.q_posterior(x, x, t)[0].dtype == dtype
    assert s.q_sample(np.ones((2, 3), int), 3, np.ones((2, 3), int)).dtype == np.float64


def test_images_keep_their_shape():
    s, x = Schedule.linear(10), np.ones((2, 8, 8))
    assert s.q_sample(x, np.array([1, 2]), x).shape == x.shape


def test_predictions_undo_q_sample():
    s = Schedule.linear()
    x0, eps = np.random.default_rng(0).standard_normal((2, 5, 3))
    for t in (1, 10, 500):
        xt = s.q_sample(x0, t, eps)
        assert s.predict_x0(xt, t, eps) == approx(x0, rel=1e-10)
        assert s.predict_eps(xt, t, x0) == approx(eps, rel=1e-10)


@given(st.data(), st.floats(0, 1), points, points)
def test_reverse_coefficients_are_song_et_al(data, eta, x, eps):
    """Eq. 12 as it is written, in exact arithmetic: predict x_0, then noise it again as far as r."""
    s = data.draw(schedules(most=50, least=2))
    t = data.draw(st.integers(2, s.T))
    r = data.draw(st.integers(1, t - 1))
    e, exact_eta, exact_x, exact_eps = Exact(s), Decimal(eta), Decimal(x), Decimal(eps)
    a_t, a_r = e.abar[t], e.abar[r]
    variance = exact_eta**2 * (1 - a_r) / (1 - a_t) * (1 - a_t / a_r)
    share = (1 - a_r - variance).sqrt()
    x0 = (exact_x - (1 - a_t).sqrt() * exact_eps) / a_t.sqrt()
    a, b, c, sigma = s.reverse_coefficients(t, r, eta)
    assert (c, sigma) == approx((float(share), float(variance.sqrt())), rel=1e-12, abs=1e-150)
    size = abs(a * x) + abs(a * eps)
    assert a * x - b * eps == approx(float(a_r.sqrt() * x0 + share * exact_eps), abs=1e-12 * size)


@given(schedules_and_times())
def test_reverse_coefficients_hold_step_7(schedule_and_time):
    """With r = t - 1 and eta = 1 they are 1/sqrt(alpha_t), beta_t / sqrt(alpha_t (1 - abar_t)) and sqrt(rho_t), in exact arithmetic."""
    s, t = schedule_and_time
    e = Exact(s)
    _, rho = e.posterior(t, Decimal(0), Decimal(0))
    expected = 1 / e.alpha[t].sqrt(), e.beta[t] / (e.alpha[t] * (1 - e.abar[t])).sqrt()
    a, b, _, sigma = s.reverse_coefficients(t, t - 1)
    assert (a, b, sigma) == approx((*map(float, expected), float(rho.sqrt())), rel=1e-12, abs=1e-150)


@pytest.mark.parametrize("start", [1e-4, 0.9])
def test_reverse_coefficients_are_finite_where_the_signal_is_lost(start):
    """sqrt(abar_T) is so small that its square is 0, and 0 itself."""
    s = Schedule.linear(1000, start, 0.999)
    assert np.isfinite([s.reverse_coefficients(1000, r, eta) for r in (0, 1, 500, 999) for eta in (0, 0.5, 1)]).all()


def test_the_shares_do_not_take_the_precision_of_whole_numbers():
    """s.signal(t, x) for an x of ints, or a list, is not rounded to an int."""
    s, t = Schedule.linear(10), np.array([2, 7])
    for x in (np.ones((2, 3), int), [[1, 1, 1], [1, 1, 1]]):
        assert s.signal(t, x) == approx(np.sqrt(s.alpha_bars[t])[:, None], rel=1e-14)
        assert s.noise(t, x) == approx(np.sqrt(s.one_minus_alpha_bars[t])[:, None], rel=1e-14)
        assert s.weight(t, x) == approx(s.loss_weights[t][:, None], rel=1e-14)
