"""The derivation of the diffusion loss, step by step. Read from top to bottom, this file is the argument.

Every statement but the last, which holds the bound against the loss, is checked against a route that shares no code with it:

(a) single steps of the forward process, composed one after the other by the algebra of `npddpm.gaussian`;
(b) arithmetic to 60 digits, where products, differences and roots are what they say (`Exact`);
(c) sums over nodes that are the exact expectation of a quadratic function (`signs`), or on a grid so fine that
    they are the integral, to rounding.
"""

import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pytest import approx
from strategies import (
    Exact,
    SignNodes,
    exact,
    log_normal,
    points,
    reals,
    schedules,
    schedules_and_times,
    signs,
    vectors,
)

from npddpm import MLP, Schedule, gaussian, loss_and_gradient, variational_bound

TIGHT = 1e-12


def chain(s, r, t):
    """Scale and variance of q(x_t | x_r): route (a), one step after the other."""
    scale, variance = 1.0, 0.0
    for i in range(r + 1, t + 1):
        scale, variance = gaussian.compose(scale, variance, math.sqrt(s.alphas[i]), s.betas[i])
    return scale, variance


# ---- step 1: single steps compose, q(x_t | x_0) = N( sqrt(abar_t) x_0, (1 - abar_t) I ) -----------------------------

@given(schedules_and_times())
def test_step_1_single_steps_compose(schedule_and_time):
    """q(x_t | x_{t-1}) = N( sqrt(alpha_t) x_{t-1}, beta_t I ), composed from x_0 on, is q(x_t | x_0).  Route (a)."""
    s, t = schedule_and_time
    mean, variance = s.q_mean_variance(np.ones(1), t)
    assert (mean[0], variance) == approx(chain(s, 0, t), rel=TIGHT, abs=0)


@given(schedules_and_times(), st.data())
def test_step_1_from_any_time_on(schedule_and_time, data):
    """The same from x_r for any r < t.  Route (a)."""
    s, t = schedule_and_time
    r = data.draw(st.integers(0, t - 1))
    assert s.q_transition(r, t) == approx(chain(s, r, t), rel=TIGHT, abs=0)


@given(schedules_and_times(most=12), points)
def test_step_1_in_exact_arithmetic(schedule_and_time, x0):
    """Route (b)."""
    s, t = schedule_and_time
    scale, variance = Exact(s).forward(t)
    mean, ours = s.q_mean_variance(np.array([x0]), t)
    assert mean[0] == approx(float(scale * Decimal(x0)), rel=1e-14, abs=0)
    assert ours == approx(float(variance), rel=1e-14, abs=0)


@given(schedules_and_times(most=12), points, points)
def test_step_1_a_sample_is_mean_and_noise(schedule_and_time, x0, eps):
    """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps.  Route (b)."""
    s, t = schedule_and_time
    scale, variance = Exact(s).forward(t)
    expected = float(scale * Decimal(x0) + variance.sqrt() * Decimal(eps))
    assert s.q_sample(np.array([x0]), t, np.array([eps]))[0] == approx(expected, rel=1e-14, abs=1e-14 * (abs(x0) + abs(eps)))


def test_step_1_as_commonly_computed_loses_its_digits():
    """1 - cumprod(1 - beta) for beta = 1e-12 is off in the fifth digit; the schedule keeps fifteen."""
    s = Schedule(np.full(1000, 1e-12))
    true = np.array([float(1 - abar) for abar in Exact(s).abar[1:]])
    assert (np.abs((1 - np.cumprod(1 - s.betas[1:])) / true - 1) > 1e-5).all()
    assert s.one_minus_alpha_bars[1:] == approx(true, rel=5e-16, abs=0)


# ---- step 2: log p(x_0) >= E_q[ log p(x_T) + sum_t log p(x_{t-1} | x_t) - log q(x_t | x_{t-1}) ] ---------------------

@st.composite
def linear_models(draw, most):
    """A schedule, and slopes: eps_hat = slope_t x_t makes every p(x_{t-1} | x_t) = N( gain_t x_t, beta_t I )."""
    betas = np.array(draw(st.lists(st.floats(0.01, 0.9), min_size=1, max_size=most)))
    slopes = np.array(draw(st.lists(reals(-1, 2), min_size=len(betas), max_size=len(betas))))
    gains = (1 - betas / np.sqrt(1 - np.cumprod(1 - betas)) * slopes) / np.sqrt(1 - betas)
    return betas, slopes, gains


def bound_of(betas, slopes, x0):
    """`variational_bound` at one x_0, with the exact expectation."""
    d = len(x0)
    return variational_bound(lambda x, t: slopes[t - 1] * x, Schedule(betas), np.tile(x0, (2**d, 1)), rng=SignNodes(d)).nats.mean()


@given(linear_models(most=3), vectors(most=2))
def test_step_2_is_the_expectation_over_paths(model, x0):
    """The right side as it stands, over all paths x_1 ... x_T of the forward process.

    Its terms are quadratic in the noise of the path.  Route (c).
    """
    betas, slopes, gains = model
    T, d = len(betas), len(x0)
    noise, x = signs(T * d).reshape(-1, T, d), np.tile(x0, (2 ** (T * d), 1))
    inside = 0.0
    for t in range(T):
        before, x = x, math.sqrt(1 - betas[t]) * x + math.sqrt(betas[t]) * noise[:, t]
        inside += log_normal(before, gains[t] * x, betas[t]) - log_normal(x, math.sqrt(1 - betas[t]) * before, betas[t])
    inside += log_normal(x, 0.0, 1.0)
    assert bound_of(betas, slopes, x0) == approx(inside.mean(), rel=1e-10, abs=1e-10)


@given(linear_models(most=8), vectors())
def test_step_2_is_a_lower_bound(model, x0):
    """*Lower*, for every model p, good or bad: here any linear one, of which p(x_0) is a Gaussian known exactly."""
    betas, slopes, gains = model
    variance = 1.0                                      # of x_T under p, and then down to x_0
    for gain, beta in zip(gains[::-1], betas[::-1]):
        variance = gain**2 * variance + beta
    log_p = log_normal(x0, 0.0, variance)
    assert bound_of(betas, slopes, x0) <= log_p + 1e-9 * (1 + abs(log_p))


@given(linear_models(most=1), reals(-3, 3))
def test_step_2_by_integration(model, x0):
    """With T = 1 both sides are integrals over x_1, log p(x_0) = log of that of p(x_0 | x_1) p(x_1) among them.

    They are taken as Riemann sums, which for functions that decay like a Gaussian are exact to rounding.
    """
    (beta,), (slope,), (gain,) = model
    x, x0 = np.linspace(-40, 40, 40_001)[:, None], np.array([x0])
    log_joint = log_normal(x, 0.0, 1.0) + log_normal(x0, gain * x, beta)
    log_q = log_normal(x, math.sqrt(1 - beta) * x0, beta)
    log_p = math.log(np.exp(log_joint).sum() * 0.002)
    elbo = (np.exp(log_q) * (log_joint - log_q)).sum() * 0.002
    assert bound_of([beta], [slope], x0) == approx(elbo, rel=1e-9, abs=1e-9)
    assert elbo <= log_p + 1e-9


# ---- step 3: E log p(x_{t-1} | x_t) = -E |x_{t-1} - mu|^2 / (2 beta_t) - d/2 log(2 pi beta_t) ------------------------

@given(schedules_and_times(most=100), vectors(), points)
def test_step_3_a_term_is_a_squared_distance(schedule_and_time, m, mu):
    """With p(x_{t-1} | x_t) = N(mu, beta_t I), the constant written out.

    x_{t-1} ~ N(m, beta_t I) for some m, and the integrand is quadratic.  Route (c).
    """
    s, t = schedule_and_time
    d, beta = len(m), s.betas[t]
    x = m + math.sqrt(beta) * signs(d)
    right = -((x - mu) ** 2).sum(1).mean() / (2 * beta) - d / 2 * math.log(2 * math.pi * beta)
    assert gaussian.log_density(x, mu, beta).mean() == approx(right, rel=TIGHT)


@given(linear_models(most=1), vectors())
def test_step_3_is_the_first_term_of_the_bound(model, x0):
    """E log p(x_0 | x_1) over x_1 = sqrt(alpha_1) x_0 + sqrt(beta_1) eps.  Route (c)."""
    (beta,), (slope,), (gain,) = model
    d = len(x0)
    x1 = math.sqrt(1 - beta) * x0 + math.sqrt(beta) * signs(d)
    right = -((x0 - gain * x1) ** 2).sum(1).mean() / (2 * beta) - d / 2 * math.log(2 * math.pi * beta)
    bound = variational_bound(lambda x, t: slope * x, Schedule([beta]), np.tile(x0, (2**d, 1)), rng=SignNodes(d))
    assert bound.terms[1].mean() == approx(right, rel=1e-10, abs=1e-10)


# ---- step 4: q(x_{t-1}, x_t | x_0) is a joint Gaussian -------------------------------------------------------------

@given(schedules_and_times(), points)
def test_step_4_the_joint_law(schedule_and_time, x0):
    """q(x_{t-1} | x_0) and then one step more.  Route (a)."""
    s, t = schedule_and_time
    scale, variance = chain(s, 0, t - 1)
    expected = gaussian.joint(np.array([scale * x0]), variance, math.sqrt(s.alphas[t]), s.betas[t])
    means, covariance = s.q_joint(np.array([x0]), t)
    assert means == approx(expected[0], rel=TIGHT, abs=0)
    assert covariance == approx(expected[1], rel=TIGHT, abs=0)


@given(schedules_and_times(most=12), points)
def test_step_4_in_exact_arithmetic(schedule_and_time, x0):
    """Cov(x_{t-1}, x_t) = sqrt(alpha_t) (1 - abar_{t-1}).  Route (b)."""
    s, t = schedule_and_time
    e = Exact(s)
    (before, v), (after, total), root = e.forward(t - 1), e.forward(t), e.alpha[t].sqrt()
    means, covariance = s.q_joint(np.array([x0]), t)
    assert means[:, 0] == approx([float(before * Decimal(x0)), float(after * Decimal(x0))], rel=1e-14, abs=0)
    assert covariance == approx(np.array([[v, root * v], [root * v, total]]).astype(float), rel=1e-14, abs=0)


# ---- step 5: q(x_{t-1} | x_t, x_0) = N(mu~_t, rho_t I), by Bayes -----------------------------------------------------

@given(schedules_and_times(), points, points)
@example((Schedule([1e-12, 1e-12]), 2), 1.0, -1.0)
def test_step_5_bayes(schedule_and_time, x0, xt):
    """q(x_{t-1} | x_0), composed from single steps, conditioned on x_t.  Route (a)."""
    s, t = schedule_and_time
    scale, variance = chain(s, 0, t - 1)
    expected = gaussian.condition(np.array([scale * x0]), variance, math.sqrt(s.alphas[t]), s.betas[t], np.array([xt]))
    mean, rho = s.q_posterior(np.array([x0]), np.array([xt]), t)
    assert mean == approx(expected[0], rel=TIGHT, abs=TIGHT * (abs(x0) + abs(xt)))
    assert rho == approx(expected[1], rel=TIGHT, abs=0)


@given(schedules_and_times(most=12), points, points)
@example((Schedule([1e-12, 1e-12]), 2), 1.0, -1.0)
def test_step_5_in_exact_arithmetic(schedule_and_time, x0, xt):
    """Route (b)."""
    s, t = schedule_and_time
    exact_mean, exact_rho = Exact(s).posterior(t, Decimal(x0), Decimal(xt))
    mean, rho = s.q_posterior(np.array([x0]), np.array([xt]), t)
    assert mean[0] == approx(float(exact_mean), rel=1e-14, abs=1e-14 * (abs(x0) + abs(xt)))
    assert rho == approx(float(exact_rho), rel=1e-14, abs=0)


@given(schedules(most=50))
def test_step_5_the_first_step_has_no_doubt(schedule):
    """rho_1 = 0 and mu~_1 = x_0: given x_0 there is nothing left to guess."""
    x0 = np.array([[1.5, -0.5]])
    mean, variance = schedule.q_posterior(x0, 7 * x0, 1)
    assert variance == 0 and mean == approx(x0, rel=TIGHT, abs=0)
    assert math.copysign(1, variance) == 1, "0, not -0"


# ---- step 6: E |x_{t-1} - mu|^2 = |mu~ - mu|^2 + d rho_t over q(x_{t-1} | x_t, x_0) ----------------------------------

@given(schedules_and_times(first=2, most=30), reals(-1, 2), vectors(most=2))
@example((Schedule([1e-12, 1e-12]), 2), 0.5, np.array([1.0, -2.0]))
def test_step_6_the_mean_square_splits(schedule_and_time, slope, x0):
    """With rho_t alone, as the sum is often written, it holds in one dimension only.

    The bound has the right side in it, as -( |mu~ - mu|^2 + d rho_t ) / (2 beta_t) + d/2 (1 + log(rho_t / beta_t)).
    Here is the left side: x_{t-1} and x_t drawn forwards, with no Bayes.  Routes (b) and (c).
    """
    (s, t), d = schedule_and_time, len(x0)
    e, z = Exact(s), exact(signs(2 * d))
    (scale, variance), root, beta = e.forward(t - 1), e.alpha[t].sqrt(), e.beta[t]
    before = scale * exact(x0) + variance.sqrt() * z[:, :d]
    x = root * before + beta.sqrt() * z[:, d:]
    mu = (x - beta / (1 - e.abar[t]).sqrt() * Decimal(slope) * x) / root
    mean_square = ((before - mu) ** 2).sum(1).mean()
    rho = beta * (1 - e.abar[t - 1]) / (1 - e.abar[t])
    expected = -mean_square / (2 * beta) + d * (1 + (rho / beta).ln()) / 2
    bound = variational_bound(lambda x, t: slope * x, s, np.tile(x0, (2**d, 1)), rng=SignNodes(d))
    assert bound.terms[t].mean() == approx(float(expected), rel=1e-9, abs=1e-8)


@given(schedules_and_times(first=2), vectors(), vectors(most=1), reals(-3, 3))
@example((Schedule([1e-12, 1e-12]), 2), np.array([1.0, -2.0]), np.array([0.5]), 0.0)
def test_step_6_over_the_posterior(schedule_and_time, x0, xt, away):
    """The same for one x_t, with the law that `q_posterior` gives, against the exact mu~_t and rho_t.  Routes (b) and (c)."""
    (s, t), d = schedule_and_time, len(x0)
    xt = x0 + xt
    exact_mean, exact_rho = Exact(s).posterior(t, exact(x0), exact(xt))
    mu = exact_mean.astype(float) + away * math.sqrt(exact_rho)
    mean, rho = s.q_posterior(x0, xt, t)
    left = ((mean + math.sqrt(rho) * signs(d) - mu) ** 2).sum(1).mean()
    assert left == approx(float(((exact_mean - exact(mu)) ** 2).sum() + d * exact_rho), rel=1e-7, abs=0)


@pytest.mark.parametrize("d", [1, 2, 3])
@given(rho=st.floats(1e-6, 10))
@settings(max_examples=10)
def test_step_6_the_normaliser_has_a_power_of_d(d, rho):
    """The density integrates to 1 with the normaliser (2 pi rho)^(-d/2); with 1/sqrt(2 pi rho) for d = 1 only.

    A Riemann sum in steps of half a deviation, which is the integral of a Gaussian to sixteen digits.
    """
    step = 0.5 * math.sqrt(rho)
    grid = np.stack(np.meshgrid(*[step * np.arange(-18, 19)] * d), -1).reshape(-1, d)
    assert np.exp(gaussian.log_density(grid, np.zeros(d), rho)).sum() * step**d == approx(1, rel=TIGHT)


# ---- step 7: mu~_t = ( x_t - beta_t / sqrt(1 - abar_t) eps ) / sqrt(alpha_t) -----------------------------------------

@given(schedules_and_times(), points, points)
def test_step_7_the_mean_in_terms_of_the_noise(schedule_and_time, x0, xt):
    """... when x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps. Bayes' mean and eps are exact, route (b).

    The last factor is 1/sqrt(alpha_t), which leads one step back; 1/sqrt(abar_t) is the same at t = 1 only.
    """
    s, t = schedule_and_time
    e, x0, x = Exact(s), Decimal(x0), Decimal(xt)
    eps, mean = float(e.eps(t, x0, x)), float(e.posterior(t, x0, x)[0])
    size = float((abs(x0) + abs(x)) / e.alpha[t].sqrt())
    assert s.reverse_mean(np.array([xt]), t, np.array([eps]))[0] == approx(mean, rel=TIGHT, abs=1e-14 * size)


@given(schedules_and_times(most=50), points, points)
def test_step_7_the_noise_of_x_0(schedule_and_time, x0, xt):
    """eps = (x_t - sqrt(abar_t) x_0) / sqrt(1 - abar_t).  Route (b)."""
    s, t = schedule_and_time
    size = (abs(x0) + abs(xt)) / s.sqrt_one_minus_alpha_bars[t]
    eps = float(Exact(s).eps(t, Decimal(x0), Decimal(xt)))
    assert s.predict_eps(np.array([xt]), t, np.array([x0]))[0] == approx(eps, rel=1e-14, abs=1e-14 * size)


@given(schedules_and_times(most=50), points, points)
def test_step_7_the_x_0_of_the_noise(schedule_and_time, eps, xt):
    """x_0 = (x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t).  Route (b)."""
    s, t = schedule_and_time
    scale, variance = Exact(s).forward(t)
    size = (abs(eps) + abs(xt)) / float(scale)
    x0 = float((Decimal(xt) - variance.sqrt() * Decimal(eps)) / scale)
    assert s.predict_x0(np.array([xt]), t, np.array([eps]))[0] == approx(x0, rel=TIGHT, abs=TIGHT * size)


# ---- step 8: the loss is sum_t w_t E |eps - eps_hat|^2, w_t = beta_t / (2 alpha_t (1 - abar_t)) ----------------------

@given(schedules_and_times(first=2), points, points, points)
def test_step_8_the_weight(schedule_and_time, x0, xt, error):
    """|mu~ - mu|^2 / (2 beta_t) = w_t |eps - eps_hat|^2 for any prediction eps_hat.  Route (b)."""
    s, t = schedule_and_time
    e, x0, xt, error = Exact(s), Decimal(x0), Decimal(xt), Decimal(error)
    eps_hat = e.eps(t, x0, xt) + error
    mu = (xt - e.beta[t] / (1 - e.abar[t]).sqrt() * eps_hat) / e.alpha[t].sqrt()
    left = (e.posterior(t, x0, xt)[0] - mu) ** 2 / (2 * e.beta[t])
    assert s.loss_weights[t] * float(error) ** 2 == approx(float(left), rel=TIGHT, abs=1e-90)


@given(schedules(most=12), st.integers(1, 3), st.integers(0, 2**32))
@settings(max_examples=40)
def test_step_8_the_loss_is_the_bound_less_its_constants(s, d, seed):
    """Row by row: minus a term of the bound is w_t |eps - eps_hat|^2 and what the network does not occur in.

    The loss is `loss_and_gradient`'s with weighting "elbo", of one example at a time and of the same draws. What
    is left are steps 3 and 6's constants, and w_t ( |eps - e|^2 - E |eps - e|^2 ) of e = sqrt(1 - abar_t) x_t, which
    the bound adds to have less spread, so that its negative has it with a minus sign.
    """
    rng, draws = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    x0 = rng.standard_normal((3, d))
    net = MLP(d, 4, 1, schedule=s, rng=rng, dtype="float64")
    net.parameters[...] = rng.standard_normal(net.parameters.shape)
    terms = variational_bound(net, s, x0, rng=seed + 1).terms
    for t, beta in enumerate(s.betas[1:], 1):
        eps, abar, rest = draws.standard_normal((3, d)), s.alpha_bars[t], s.one_minus_alpha_bars[t]
        losses = [d * loss_and_gradient(net, s, x0[[b]], t, eps[[b]], "elbo")[0] for b in range(3)]
        xt = math.sqrt(abar) * x0 + math.sqrt(rest) * eps
        spread = ((eps - math.sqrt(rest) * xt) ** 2).sum(1) - abar**2 * d - abar * rest * (x0**2).sum(1)
        ratio = s.one_minus_alpha_bars[t - 1] / rest                                # rho_t / beta_t
        constant = d / 2 * (math.log(2 * math.pi * beta) if t == 1 else ratio - 1 - math.log(ratio))
        assert -terms[t] == approx(losses - s.loss_weights[t] * spread + constant, rel=1e-9, abs=1e-8)


# ---- the variance of the step back, and the angle: x_0 ~ N(0, lambda)

lambdas = st.floats(-20, 2).map(lambda power: 10**power)


@given(schedules_and_times(), lambdas)
def test_the_variance_is_that_of_x_before_given_x(s_t, lam):
    """By Bayes, for a prior v_{t-1} seen through step t; Ho et al.'s two are its ends."""
    (s, t), v = s_t, lambda t: s.alpha_bars[t] * lam + s.one_minus_alpha_bars[t]
    _, expected = gaussian.condition(0.0, v(t - 1), math.sqrt(s.alphas[t]), s.betas[t], 0.0)
    assert s.gaussian_variances([lam])[t] == approx(expected, rel=TIGHT)
    assert s.gaussian_variances([1.0])[t] == approx(s.betas[t], rel=TIGHT)
    assert t == 1 or s.gaussian_variances([0.0])[t] == approx(s.posterior_variances[t], rel=TIGHT)


@given(schedules_and_times(), lambdas)
def test_the_variance_maximises_the_bound(s_t, lam):
    """It is E|x_{t-1} - mu|^2 = rho_t + b^2 Var[eps | x_t], by steps 6 and 7, with Var[eps | x_t] = cos(theta)^2."""
    s, t = s_t
    mean_square = s.posterior_variances[t] + s.reverse_eps_coefs[t] ** 2 * s.rotation([lam]).cos[t] ** 2
    assert s.gaussian_variances([lam])[t] == approx(mean_square, rel=TIGHT)


@given(schedules_and_times(), lambdas, points, points)
def test_the_angle_turns_x0_and_eps_into_u_and_f(s_t, lam, x0, eps):
    """x_t / sd is cos x_0 / sqrt(lambda) + sin eps, and x_0 and eps come back from u and f by the opposite turn."""
    s, t = s_t
    sin, cos, sd = (table[t, 0] for table in s.rotation([lam]))
    z, size = x0 / math.sqrt(lam), 1 + abs(x0) / math.sqrt(lam) + abs(eps)
    u, f = s.q_sample(np.array([[x0]]), t, np.array([[eps]])).item() / sd, cos * eps - sin * z
    assert u == approx(cos * z + sin * eps, rel=TIGHT, abs=TIGHT * size)
    assert (sin * u + cos * f, cos * u - sin * f) == approx((eps, z), rel=TIGHT, abs=TIGHT * size)
    assert sd**2 == approx(s.alpha_bars[t] * lam + s.one_minus_alpha_bars[t], rel=TIGHT)
