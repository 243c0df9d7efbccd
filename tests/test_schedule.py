"""The schedule's arrays and methods against exact rational arithmetic and other statements of them."""

import copy
import pickle
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import approx
from strategies import Exact, points, reals, schedules, schedules_and_times

from npddpm import Schedule
from npddpm.gaussian import condition
from npddpm.samplers import reverse_coefficients
from npddpm.schedule import running_sums


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


@given(st.data(), reals(0, 1), points, points)
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
    a, b, c, sigma = reverse_coefficients(s, t, r, eta)
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
    a, b, _, sigma = reverse_coefficients(s, t, t - 1)
    assert (a, b, sigma) == approx((*map(float, expected), float(rho.sqrt())), rel=1e-12, abs=1e-150)


@pytest.mark.parametrize("start", [1e-4, 0.9])
def test_reverse_coefficients_are_finite_where_the_signal_is_lost(start):
    """sqrt(abar_T) is so small that its square is 0, and 0 itself."""
    s = Schedule.linear(1000, start, 0.999)
    assert np.isfinite([reverse_coefficients(s, 1000, r, eta) for r in (0, 1, 500, 999) for eta in (0, 0.5, 1)]).all()


def test_the_shares_do_not_take_the_precision_of_whole_numbers():
    """s.signal(t, x) for an x of ints, or a list, is not rounded to an int."""
    s, t = Schedule.linear(10), np.array([2, 7])
    for x in (np.ones((2, 3), int), [[1, 1, 1], [1, 1, 1]]):
        assert s.signal(t, x) == approx(np.sqrt(s.alpha_bars[t])[:, None], rel=1e-14)
        assert s.noise(t, x) == approx(np.sqrt(s.one_minus_alpha_bars[t])[:, None], rel=1e-14)
        assert s.weight(t, x) == approx(s.loss_weights[t][:, None], rel=1e-14)


@given(st.lists(st.floats(1e-12, 0.999), min_size=1, max_size=6))
def test_coefficients_of_the_means_against_exact_arithmetic(betas):
    """Of x_0 and x_t in step 5, of x_t and eps in step 7, and the shares of signal and noise; and all at t = 0."""
    s, abar = Schedule(betas), Fraction(1)
    for t, beta in enumerate(map(Fraction, betas), 1):
        before, abar = abar, abar * (1 - beta)
        squares = {"sqrt_alpha_bars": abar, "sqrt_one_minus_alpha_bars": 1 - abar,
                   "posterior_x0_coefs": before * (beta / (1 - abar))**2,
                   "posterior_xt_coefs": (1 - beta) * ((1 - before) / (1 - abar))**2,
                   "rsqrt_alphas": 1 / (1 - beta), "reverse_eps_coefs": beta**2 / ((1 - beta) * (1 - abar))}
        for name, square in squares.items():
            assert getattr(s, name)[t] ** 2 == approx(float(square), rel=1e-13, abs=0), name
        assert s.log_alphas[t] == approx(np.log1p(-float(beta)), rel=1e-15) and s.alphas[t] == 1 - float(beta)
    clean = {"betas": 0, "alphas": 1, "log_alphas": 0, "alpha_bars": 1, "one_minus_alpha_bars": 0, "sqrt_alpha_bars": 1,
             "sqrt_one_minus_alpha_bars": 0, "posterior_variances": 0, "posterior_x0_coefs": 0, "posterior_xt_coefs": 0,
             "rsqrt_alphas": 1, "reverse_eps_coefs": 0, "loss_weights": 0}
    for name, value in clean.items():
        assert getattr(s, name)[0] == value and not getattr(s, name).flags.writeable, name
    assert not np.signbit(s.one_minus_alpha_bars[0])


@pytest.mark.parametrize("T", [1, 5, 19, 20, 21, 150])
def test_ends_of_the_linear_schedule(T):
    """0.1/T and 20/T, at most 0.999; one end may be given without the other."""
    assert Schedule.linear(T).betas[[1, -1]] == approx([min(0.1 / T, 0.999), min(20 / T, 0.999) if T > 1 else 0.1])
    assert Schedule.linear(T, beta_start=0.3).betas[1] == approx(0.3)
    if T > 1:
        both = Schedule.linear(T, beta_end=0.3).betas
        assert both[-1] == approx(0.3) and both[1] == approx(0.1 / T)


def test_usual_lengths():
    assert Schedule.linear().T == Schedule.cosine().T == 1000


def test_q_transition_is_the_product_of_its_steps():
    s = Schedule.cosine(30)
    for r, t in ((0, 30), (0, 1), (7, 7), (7, 8), (29, 30), (3, 17)):
        scale, variance = s.q_transition(r, t)
        assert scale == approx(np.sqrt(np.prod(s.alphas[r + 1:t + 1])), rel=1e-13)
        assert variance == approx(1 - np.prod(s.alphas[r + 1:t + 1]), rel=1e-13, abs=1e-16)
    assert s.q_transition(7, 7) == (1, 0)
    for r, t in ((-1, 3), (3, 2), (0, 31)):
        with pytest.raises(ValueError, match="r must be|t must be"):
            s.q_transition(r, t)


def test_running_sums_are_exact_to_the_last_digit():
    values = np.random.default_rng(0).uniform(-1, 1, 2000) * 10.0 ** np.random.default_rng(1).integers(-9, 0, 2000)
    exact = np.cumsum([Fraction(v) for v in values])
    assert running_sums(values) == approx(np.array([float(e) for e in exact]), rel=1e-15, abs=1e-17)


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


def test_equality_is_of_all_betas():
    assert Schedule([0.1, 0.2]) != Schedule([0.1, 0.3]) and Schedule([0.1]) != Schedule([0.1, 0.1])
    assert Schedule([0.1]) != 0.1 and Schedule([0.1]).__eq__(0.1) is NotImplemented
    with pytest.raises(AttributeError, match="make another one, instead of setting T"):
        Schedule([0.1]).T = 3


@pytest.mark.parametrize("end", ["beta_start", "beta_end"])
@pytest.mark.parametrize("value", [-0.1, 0, 1, 1.5])
def test_ends_out_of_range_are_named(end, value):
    with pytest.raises(ValueError, match=f"{end} must lie strictly between 0 and 1, got {value}"):
        Schedule.linear(1, **{end: value})


@pytest.mark.parametrize("eta", [-0.01, 1.01])
def test_eta_out_of_range_is_named(eta):
    s = Schedule.linear(5)
    assert reverse_coefficients(s, 3, 2) == reverse_coefficients(s, 3, 2, 1) != reverse_coefficients(s, 3, 2, 0)
    with pytest.raises(ValueError, match=f"eta must lie in .*, got {eta}"):
        reverse_coefficients(s, 3, 2, eta)


def test_steps_out_of_range_are_named():
    s = Schedule.linear(5)
    assert s.q_transition(0, 0) == (1, 0) and reverse_coefficients(s, 1, 0)[3] == 0
    for t, r, name in ((0, 0, "t"), (6, 0, "t"), (3, 3, "r"), (3, 4, "r"), (3, -1, "r")):
        with pytest.raises(ValueError, match=f"^{name} must be"):
            reverse_coefficients(s, t, r)
    s.q_joint([1.0], 1), s.q_joint([1.0], 5)
    for t in (0, 6):
        with pytest.raises(ValueError, match=f"^t must be .*, got {t}"):
            s.q_joint([1.0], t)
    for make in (Schedule.linear, Schedule.cosine):
        with pytest.raises(ValueError, match="T must be at most 100000, got 100001"):
            make(100_001)


def test_lists_are_arrays():
    s, x, t = Schedule.linear(9), [[1, 2], [3, 4]], [2, 9]
    for method in (s.signal, s.noise, s.weight):
        assert (method(t, x) == method(np.array(t), np.array(x, float))).all() and method(t, x).shape == (2, 1)
    assert (s.q_mean_variance(x, 4)[0] == s.q_mean_variance(np.array(x, float), 4)[0]).all()
    assert s.q_mean_variance(x, 4)[0] == approx(np.sqrt(s.alpha_bars[4]) * np.array(x))


def test_the_least_beta():
    s, t = Schedule([1e-300] * 4), np.arange(1, 5)
    assert s.one_minus_alpha_bars[1:] == approx(1e-300 * t, rel=1e-15, abs=0)
    assert s.posterior_variances[1:] == approx(1e-300 * (t - 1) / t, rel=1e-15, abs=0)
    assert s.reverse_eps_coefs[1:] == approx(1e-150 / np.sqrt(t), rel=1e-15, abs=0)
    assert s.loss_weights[1:] == approx(0.5 / t, rel=1e-15)


# ---- the angle, and the variance of a Gaussian's step back

@given(schedules(), st.floats(0, 1e3))
@settings(max_examples=50)
def test_the_angle_turns_x0_and_noise_into_x_t(s, lam):
    sin, cos, sd = (table[:, 0] for table in s.rotation(np.array([lam])))
    assert sin**2 + cos**2 == approx(1, rel=1e-14) and sin[0] == 0 and cos[0] == 1
    assert sd * cos == approx(s.sqrt_alpha_bars * np.sqrt(max(lam, 1e-30)), rel=1e-13, abs=1e-300)
    assert sd * sin == approx(s.sqrt_one_minus_alpha_bars, rel=1e-13, abs=1e-300)
    assert (np.diff(sin) >= -1e-15).all()


@given(schedules(), st.floats(0, 1e3))
@settings(max_examples=50)
def test_the_gaussians_variance_is_bayes_rule(s, lam):
    """That of x_{t-1} given x_t, for x_0 ~ N(0, lambda), by `gaussian.condition`; beta_t and rho_t are its ends."""
    found = s.gaussian_variances(np.array([lam, 1.0, 0.0]))
    v = s.alpha_bars * lam + s.one_minus_alpha_bars
    exact = [condition(0, v[t - 1], np.sqrt(s.alphas[t]), s.betas[t], 0)[1] for t in range(1, s.T + 1)]
    assert found.shape == (s.T + 1, 3) and (found[0] == 0).all()
    assert found[1:, 0] == approx(exact, rel=1e-9, abs=1e-29)
    assert found[:, 1] == approx(s.betas, rel=1e-12) and found[:, 2] == approx(s.posterior_variances, rel=1e-9, abs=1e-29)
