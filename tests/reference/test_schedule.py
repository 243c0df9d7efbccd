"""The schedule's arrays and methods against exact rational arithmetic and other statements of them."""

import copy
import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import approx
from strategies import schedules

from npddpm import Schedule
from npddpm.arrays.backend import to_host

# ---- the arrays

@pytest.mark.parametrize("T", [1, 5, 19, 20, 21, 150, 1000])
def test_linear_is_ho_et_al(T):
    """0.1/T and 20/T, at most 0.999, and a line between them; one end may be given without the other."""
    low, high = min(0.1 / T, 0.999), min(20 / T, 0.999)
    assert Schedule.linear(T).betas[1:] == approx(np.linspace(low, high, T), rel=1e-15)
    assert Schedule.linear(T, 0.1, 0.3).betas[1:] == approx(np.linspace(0.1, 0.3, T), rel=1e-15)
    assert Schedule.linear(T, beta_start=0.3).betas[1:] == approx(np.linspace(0.3, high, T), rel=1e-15)
    assert Schedule.linear(T, beta_end=0.3).betas[1:] == approx(np.linspace(low, 0.3, T), rel=1e-15)


@given(st.integers(1, 1000))
@settings(max_examples=40)
def test_cosine_is_nichol_and_dhariwal(T):
    """abar_t = f(t)/f(0) up to the clip, computed as they write it."""
    s = Schedule.cosine(T)
    f = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * np.pi / 2) ** 2
    assert s.betas[1:] == approx(np.minimum(1 - f[1:] / f[:-1], 0.999), rel=1e-8)
    unclipped = s.betas < 0.999
    assert s.alpha_bars[unclipped] == approx((f / f[0])[unclipped], rel=1e-9)


def test_usual_lengths():
    assert Schedule.linear().T == Schedule.cosine().T == 1000


@given(st.lists(st.floats(1e-12, 0.999), min_size=1, max_size=40))
@settings(max_examples=60)
def test_arrays_against_exact_arithmetic(betas):
    """And the clean end, t = 0."""
    s, abar = Schedule.from_betas(betas), Fraction(1)
    for t, beta in enumerate(map(Fraction, betas), 1):
        before, abar = abar, abar * (1 - beta)
        exact = {"alpha_bars": abar, "one_minus_alpha_bars": 1 - abar,
                 "posterior_variances": beta * (1 - before) / (1 - abar), "loss_weights": beta / (2 * (1 - beta) * (1 - abar))}
        squares = {"sqrt_alpha_bars": abar, "sqrt_one_minus_alpha_bars": 1 - abar,
                   "posterior_x0_coefs": before * (beta / (1 - abar))**2,
                   "posterior_xt_coefs": (1 - beta) * ((1 - before) / (1 - abar))**2,
                   "rsqrt_alphas": 1 / (1 - beta), "reverse_eps_coefs": beta**2 / ((1 - beta) * (1 - abar))}
        for name, value in exact.items():
            assert getattr(s, name)[t] == approx(float(value), rel=1e-13, abs=0), name
        for name, square in squares.items():
            assert getattr(s, name)[t] ** 2 == approx(float(square), rel=1e-13, abs=0), name
        assert s.log_alphas[t] == approx(np.log1p(-float(beta)), rel=1e-15) and s.alphas[t] == 1 - float(beta)
    clean = {"betas": 0, "alphas": 1, "log_alphas": 0, "alpha_bars": 1, "one_minus_alpha_bars": 0, "sqrt_alpha_bars": 1,
             "sqrt_one_minus_alpha_bars": 0, "posterior_variances": 0, "posterior_x0_coefs": 0, "posterior_xt_coefs": 0,
             "rsqrt_alphas": 1, "reverse_eps_coefs": 0, "loss_weights": 0}
    for name, value in clean.items():
        array = getattr(s, name)
        assert array[0] == value and array.shape == (len(betas) + 1,) and array.dtype == np.float64 and not array.flags.writeable, name
    assert not np.signbit(s.one_minus_alpha_bars[0])


def test_the_least_beta():
    s, t = Schedule([1e-300] * 4), np.arange(1, 5)
    assert s.one_minus_alpha_bars[1:] == approx(1e-300 * t, rel=1e-15, abs=0)
    assert s.posterior_variances[1:] == approx(1e-300 * (t - 1) / t, rel=1e-15, abs=0)
    assert s.reverse_eps_coefs[1:] == approx(1e-150 / np.sqrt(t), rel=1e-15, abs=0)
    assert s.loss_weights[1:] == approx(0.5 / t, rel=1e-15)


def test_q_transition_from_a_time_to_itself():
    s = Schedule.cosine(30)
    assert s.q_transition(0, 0) == s.q_transition(7, 7) == s.q_transition(30, 30) == (1, 0)


@given(schedules(most=100))
@settings(max_examples=30)
def test_the_ends_of_the_angle_and_of_the_gaussians_variance(s):
    """t = 0, where all is signal; lambda = 0, which is kept from dividing; the angle rises. The rest is in the derivation."""
    sin, cos, sd = s.rotation(np.array([0.0, 1e-30, 1.0, 1e3]))
    assert (sin[0] == 0).all() and (cos[0] == 1).all() and (sin[:, 0] == sin[:, 1]).all() and (np.diff(sin, axis=0) >= -1e-15).all()
    assert sin**2 + cos**2 == approx(np.ones(sin.shape), rel=1e-14) and sin.shape == (s.T + 1, 4)
    assert sd[:, 0] == approx(np.maximum(s.sqrt_one_minus_alpha_bars, 1e-15), rel=1e-13)
    variances = s.gaussian_variances(np.array([0.3, 1.0, 0.0]))
    assert variances.shape == (s.T + 1, 3) and (variances[0] == 0).all()
    assert variances[:, 1] == approx(s.betas, rel=1e-12) and variances[:, 2] == approx(s.posterior_variances, rel=1e-9, abs=1e-29)


# ---- the methods


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


def test_values_by_row():
    """A column for x of two axes, one axis more for each of an image; the copies are kept by precision."""
    s, t = Schedule.linear(9), np.array([1, 4, 9])
    for shape in ((3,), (3, 2), (3, 4, 4)):
        for dtype in ("float64", "float32", "float64"):
            x = np.ones(shape, dtype)
            for method, values in ((s.signal, s.sqrt_alpha_bars), (s.noise, s.sqrt_one_minus_alpha_bars),
                                   (s.weight, s.loss_weights)):
                at = method(t, x)
                assert at.shape == (3,) + (1,) * (len(shape) - 1) and at.dtype == dtype
                assert (at.ravel() == values[t].astype(dtype)).all() and method(4, x) == values[4]
                assert isinstance(method(4, x), float)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
@pytest.mark.parametrize("shape", [(2, 3), (2, 8, 8)])
def test_shape_and_precision_follow_x(dtype, shape):
    s, x = Schedule.linear(10), np.ones(shape, dtype)
    for t in (3, np.array([3, 4])):
        assert s.q_sample(x, t, x).dtype == dtype and s.q_sample(x, t, x).shape == shape
        assert s.q_posterior(x, x, t)[0].dtype == dtype
    assert s.q_sample(np.ones((2, 3), int), 3, np.ones((2, 3), int)).dtype == np.float64


def test_lists_are_arrays():
    s, x, t = Schedule.linear(9), [[1, 2], [3, 4]], [2, 9]
    for method in (s.signal, s.noise, s.weight):
        assert (method(t, x) == method(np.array(t), np.array(x, float))).all() and method(t, x).shape == (2, 1)
    assert (s.q_mean_variance(x, 4)[0] == s.q_mean_variance(np.array(x, float), 4)[0]).all()
    assert s.q_mean_variance(x, 4)[0] == approx(np.sqrt(s.alpha_bars[4]) * np.array(x))


@pytest.mark.parametrize("method, least", [("signal", 0), ("noise", 0), ("weight", 0), ("q_sample", 0),
                                           ("q_mean_variance", 0), ("predict_x0", 0), ("q_posterior", 1),
                                           ("predict_eps", 1), ("reverse_mean", 1)])
def test_times_of_every_method(method, least):
    """The first and the last time are taken, those beyond refused."""
    s, x = Schedule.linear(9), np.ones((2, 3))
    call = {"signal": lambda t: s.signal(t, x), "noise": lambda t: s.noise(t, x), "weight": lambda t: s.weight(t, x),
            "q_mean_variance": lambda t: s.q_mean_variance(x, t), "q_posterior": lambda t: s.q_posterior(x, x, t)}.get(method, lambda t: getattr(s, method)(x, t, x))
    call(least), call(9)
    for t in (least - 1, 10):
        with pytest.raises(ValueError, match=f"t must lie in {least}..9, got {t}"):
            call(t)


def test_the_shares_do_not_take_the_precision_of_whole_numbers():
    """s.signal(t, x) for an x of ints, or a list, is not rounded to an int."""
    s, t = Schedule.linear(10), np.array([2, 7])
    for x in (np.ones((2, 3), int), [[1, 1, 1], [1, 1, 1]]):
        assert s.signal(t, x) == approx(np.sqrt(s.alpha_bars[t])[:, None], rel=1e-14)
        assert s.noise(t, x) == approx(np.sqrt(s.one_minus_alpha_bars[t])[:, None], rel=1e-14)
        assert s.weight(t, x) == approx(s.loss_weights[t][:, None], rel=1e-14)


def test_on_a_device(cupy):
    x0, eps, times = *np.random.default_rng(0).standard_normal((2, 5, 3)), np.array([1, 5, 11, 18, 20])
    s, x0_there, eps_there = Schedule.linear(20), cupy.asarray(x0), cupy.asarray(eps)
    for t, t_there in ((7, 7), (times, cupy.asarray(times))):
        for name in ("q_sample", "predict_x0", "predict_eps", "reverse_mean"):
            method = getattr(s, name)
            assert to_host(method(x0_there, t_there, eps_there)) == approx(method(x0, t, eps), rel=1e-14)
        assert to_host(s.q_posterior(x0_there, eps_there, t_there)[0]) == approx(s.q_posterior(x0, eps, t)[0], rel=1e-14)
        assert to_host(s.q_mean_variance(x0_there, t_there)[0]) == approx(s.q_mean_variance(x0, t)[0], rel=1e-14)
    assert to_host(s.q_joint(x0_there, 3)[0]) == approx(s.q_joint(x0, 3)[0], rel=1e-14)


# ---- a value

def test_a_schedule_is_a_value():
    a, b = Schedule.linear(10), Schedule.from_betas(Schedule.linear(10).betas[1:])
    assert a == b == Schedule(b.betas[1:]) and hash(a) == hash(b)
    assert a != Schedule.cosine(10) and Schedule([0.1]) != Schedule([0.1, 0.1]) and Schedule([0.1]).__eq__(0.1) is NotImplemented
    for again in (copy.copy(a), copy.deepcopy(a), pickle.loads(pickle.dumps(a))):
        assert again == a and hash(again) == hash(a) and not again.betas.flags.writeable
    assert repr(Schedule.from_betas([0.25])) == "Schedule(T=1, beta_1=0.25, beta_T=0.25, abar_T=0.75)"
    with pytest.raises(AttributeError, match="make another one, instead of setting T"):
        a.T = 3
    with pytest.raises(AttributeError):
        a.betas = b.betas
