"""The derivation of the diffusion loss, step by step. Read from top to bottom, this file is the argument.

Every statement is checked against a route that shares no code with it:

(a) the general algebra of `npddpm.gaussian`, folded over single steps;
(b) exact rational arithmetic. A double is a rational number, so products and quotients of betas have
    exact values; where square roots occur, the schedules have alphas that are squares of rationals;
(c) Gauss-Hermite quadrature where an integral stands, with as many nodes as make it exact.
"""

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pytest import approx

from npddpm import MLP, GaussianMixture, Schedule, gaussian, loss_and_gradient, variational_bound

TIGHT = 1e-12
points = st.floats(-10, 10, allow_subnormal=False).map(lambda x: x if abs(x) > 1e-100 else 0.0)


@st.composite
def schedules(draw, most=1000, least=1):
    """Linear, cosine, or arbitrary betas from 1e-12 to 0.999, with T from `least` to `most`."""
    T = draw(st.integers(least, most))
    kind = draw(st.sampled_from(["linear", "cosine", "arbitrary"]))
    if kind != "arbitrary":
        return getattr(Schedule, kind)(T)
    low = draw(st.sampled_from([1e-12, 1e-6, 1e-3]))
    high = draw(st.sampled_from([1e-11, 1e-3, 0.1, 0.999]).filter(lambda b: b > low))
    uniform = np.random.default_rng(draw(st.integers(0, 2**32))).random(T)
    return Schedule.from_betas(low * (high / low) ** uniform)


@st.composite
def schedules_and_times(draw, first=1, most=1000):
    s = draw(schedules(most, least=first))
    return s, draw(st.integers(first, s.T))


@st.composite
def rational_schedules(draw):
    """alpha_t = r_t^2 with r_t = 1 - j/2^26: both r_t and beta_t = 1 - r_t^2 are doubles, exactly."""
    js = draw(st.lists(st.integers(1, 2**25), min_size=1, max_size=12))
    roots = [1 - Fraction(j, 2**26) for j in js]
    betas = [1 - r * r for r in roots]
    assert all(Fraction(float(b)) == b for b in betas)
    return Schedule.from_betas([float(b) for b in betas]), roots


def exact_laws(roots, t):
    """sqrt(abar_{t-1}), sqrt(abar_t), sqrt(alpha_t) as fractions."""
    before = math.prod(roots[:t - 1], start=Fraction(1))
    return before, before * roots[t - 1], roots[t - 1]


class SignNodes:
    """Stands in for a random generator, and returns the nodes +-1 in every coordinate, one row each.

    Equal weights on them have the moments E z = 0, E z z^T = I of a standard normal, so a mean over the
    rows is the exact expectation of any quadratic function, which all terms of the bound are for a
    denoiser that is linear in x_t.
    """

    def __init__(self, d):
        self.nodes = np.array(list(product([-1.0, 1.0], repeat=d)))

    def standard_normal(self, shape):
        assert shape == self.nodes.shape
        return self.nodes


# ---- step 1 ------------------------------------------------------------------

@given(schedules_and_times(), st.data())
@settings(max_examples=60)
def test_step_1_single_steps_compose(schedule_and_time, data):
    """q(x_t | x_{t-1}) = N(sqrt(alpha_t) x_{t-1}, beta_t I) composes to q(x_t | x_s) for any s < t, and so to
    q(x_t | x_0) = N(sqrt(abar_t) x_0, (1 - abar_t) I).  Route (a): fold `gaussian.compose`.
    """
    schedule, t = schedule_and_time
    s = data.draw(st.integers(0, t - 1))
    scale, variance = 1.0, 0.0
    for r in range(s + 1, t + 1):
        scale, variance = gaussian.compose(scale, variance, math.sqrt(schedule.alphas[r]), schedule.betas[r])
    assert schedule.q_transition(s, t) == approx((scale, variance), rel=TIGHT, abs=0)
    mean, variance_0 = schedule.q_mean_variance(np.ones(1), t)
    whole = gaussian.compose(schedule.sqrt_alpha_bars[s], schedule.one_minus_alpha_bars[s], scale, variance)
    assert (mean[0], variance_0) == approx(whole, rel=TIGHT, abs=0)


@given(rational_schedules(), points, points)
def test_step_1_in_exact_arithmetic(rational, x0, eps):
    """Route (b). sqrt(1 - abar) is irrational, so the noise's share is compared in its square."""
    schedule, roots = rational
    for t in range(1, schedule.T + 1):
        _, root, _ = exact_laws(roots, t)
        mean, variance = schedule.q_mean_variance(np.array([x0]), t)
        assert mean[0] == approx(float(root * Fraction(x0)), rel=1e-14, abs=0)
        assert variance == approx(float(1 - root**2), rel=1e-14, abs=0)
        share = schedule.q_sample(np.zeros(1), t, np.array([eps]))[0]
        assert Fraction(share) ** 2 == approx((1 - root**2) * Fraction(eps) ** 2, rel=1e-14, abs=1e-300)


def test_step_1_as_commonly_computed_loses_its_digits():
    """1 - cumprod(1 - beta) for beta = 1e-12 is off in the fifth digit; the schedule keeps fifteen."""
    schedule = Schedule.from_betas(np.full(1000, 1e-12))
    alpha, exact = 1 - Fraction(1e-12), Fraction(1)
    naive = 1 - np.cumprod(1 - schedule.betas)
    for t in range(1, 1001):
        exact *= alpha
        assert abs(naive[t] / float(1 - exact) - 1) > 1e-5
        assert schedule.one_minus_alpha_bars[t] == approx(float(1 - exact), rel=5e-16, abs=0)


# ---- step 2 ------------------------------------------------------------------

def linear_chain(schedule, slope):
    """eps_hat = slope_t x_t makes the model p Gaussian. Returns Var x_0 under p, from x_T ~ N(0, 1) down."""
    variance = 1.0
    for t in range(schedule.T, 0, -1):
        a = (1 - schedule.betas[t] / math.sqrt(schedule.one_minus_alpha_bars[t]) * slope[t]) / math.sqrt(schedule.alphas[t])
        variance = a * a * variance + schedule.betas[t]
    return variance


@given(st.lists(st.floats(0.01, 0.9), min_size=1, max_size=8), st.data(), st.integers(1, 3))
@settings(max_examples=60)
def test_step_2_is_a_lower_bound(betas, data, d):
    """log p(x_0) >= E_q[log p(x_T) + sum_t log p(x_{t-1} | x_t) - log q(x_t | x_{t-1})].

    *Lower*, for every model p, good or bad: here any linear one, whose log p(x_0) is known exactly.
    """
    schedule = Schedule.from_betas(betas)
    slope = np.array([0.0] + data.draw(st.lists(st.floats(-1, 2), min_size=schedule.T, max_size=schedule.T)))
    x0 = np.array(data.draw(st.lists(st.floats(-3, 3), min_size=d, max_size=d)))
    bound = variational_bound(lambda x, t: slope[t] * x, schedule, np.tile(x0, (2**d, 1)), rng=SignNodes(d)).nats.mean()
    log_p = gaussian.log_density(x0, np.zeros(d), linear_chain(schedule, slope))
    assert bound <= log_p + 1e-9 * (1 + abs(log_p))


@given(st.floats(0.05, 0.95), st.floats(-1, 2), st.floats(-3, 3))
def test_step_2_by_quadrature(beta, slope, x0):
    """Route (c), T = 1: both sides are one-dimensional integrals, log p(x_0) = log E_{x_1}[p(x_0 | x_1)] among them."""
    schedule = Schedule.from_betas([beta])
    x = np.linspace(-40, 40, 40_001)[:, None]
    mu = schedule.reverse_mean(x, 1, slope * x)
    log_joint = gaussian.log_density(x, 0.0, 1.0) + gaussian.log_density(np.array([x0]), mu, beta)
    log_q = gaussian.log_density(x, *schedule.q_mean_variance(np.array([x0]), 1))
    step = x[1, 0] - x[0, 0]
    log_p = math.log(np.exp(log_joint).sum() * step)
    elbo = (np.exp(log_q) * (log_joint - log_q)).sum() * step
    bound = variational_bound(lambda x, t: slope * x, schedule, np.full((2, 1), x0), rng=SignNodes(1)).nats.mean()
    assert bound == approx(elbo, rel=1e-9, abs=1e-9)
    assert elbo <= log_p + 1e-9


# ---- step 3 ------------------------------------------------------------------

@given(schedules_and_times(most=100), st.integers(1, 3), points, points)
@settings(max_examples=60)
def test_step_3_a_term_is_a_squared_distance(schedule_and_time, d, m, mu):
    """E_x log N(x; mu, beta I) = -E|x - mu|^2 / (2 beta) - d/2 log(2 pi beta), the constant written out.

    Route (c): x ~ N(m, beta I) by a product quadrature, exact because the integrand is quadratic.
    """
    schedule, t = schedule_and_time
    beta = schedule.betas[t]
    x = m + math.sqrt(beta) * SignNodes(d).nodes
    left = gaussian.log_density(x, mu, beta).mean()
    right = -((x - mu) ** 2).sum(1).mean() / (2 * beta) - d / 2 * math.log(2 * math.pi * beta)
    assert left == approx(right, rel=TIGHT)


# ---- step 4 ------------------------------------------------------------------

@given(schedules_and_times(), points)
@settings(max_examples=60)
def test_step_4_the_joint_law(schedule_and_time, x0):
    """q(x_{t-1}, x_t | x_0) is Gaussian, with the mean and covariance of `gaussian.joint`.  Route (a)."""
    schedule, t = schedule_and_time
    means, covariance = schedule.q_joint(np.array([x0]), t)
    expected = gaussian.joint(*schedule.q_mean_variance(np.array([x0]), t - 1), math.sqrt(schedule.alphas[t]), schedule.betas[t])
    assert means == approx(expected[0], rel=TIGHT, abs=0)
    assert covariance == approx(expected[1], rel=TIGHT, abs=0)


@given(rational_schedules(), points)
def test_step_4_in_exact_arithmetic(rational, x0):
    schedule, roots = rational
    for t in range(1, schedule.T + 1):
        before, after, root = exact_laws(roots, t)
        v = 1 - before**2
        means, covariance = schedule.q_joint(np.array([x0]), t)
        assert means[:, 0] == approx([float(before * Fraction(x0)), float(after * Fraction(x0))], rel=1e-14, abs=0)
        exact = [[float(v), float(root * v)], [float(root * v), float(1 - after**2)]]
        assert covariance == approx(np.array(exact), rel=1e-14, abs=0)


# ---- step 5 ------------------------------------------------------------------

@given(schedules_and_times(), points, points)
@example((Schedule.from_betas([1e-12, 1e-12]), 2), 1.0, -1.0)
@settings(max_examples=60)
def test_step_5_bayes(schedule_and_time, x0, xt):
    """q(x_{t-1} | x_t, x_0) = N(mu~_t, rho_t I).  Route (a): condition q(x_{t-1} | x_0) on x_t."""
    schedule, t = schedule_and_time
    x0, xt = np.array([x0]), np.array([xt])
    prior = schedule.q_mean_variance(x0, t - 1)
    mean, variance = gaussian.condition(*prior, math.sqrt(schedule.alphas[t]), schedule.betas[t], xt)
    size = np.abs(x0) + np.abs(xt)
    assert schedule.q_posterior(x0, xt, t)[0] == approx(mean, rel=TIGHT, abs=TIGHT * size[0])
    assert schedule.q_posterior(x0, xt, t)[1] == approx(variance, rel=TIGHT, abs=0)


@given(rational_schedules(), points, points)
def test_step_5_in_exact_arithmetic(rational, x0, xt):
    schedule, roots = rational
    for t in range(1, schedule.T + 1):
        before, after, root = exact_laws(roots, t)
        weights = before * (1 - root**2) / (1 - after**2), root * (1 - before**2) / (1 - after**2)
        exact = weights[0] * Fraction(x0) + weights[1] * Fraction(xt)
        mean, variance = schedule.q_posterior(np.array([x0]), np.array([xt]), t)
        assert mean[0] == approx(float(exact), rel=1e-14, abs=1e-15 * (abs(x0) + abs(xt)))
        assert variance == approx(float((1 - root**2) * (1 - before**2) / (1 - after**2)), rel=1e-14, abs=0)


@given(schedules(most=50))
def test_step_5_the_first_step_has_no_doubt(schedule):
    """rho_1 = 0 and mu~_1 = x_0: given x_0 there is nothing left to guess."""
    x0 = np.array([[1.5, -0.5]])
    mean, variance = schedule.q_posterior(x0, 7 * x0, 1)
    assert variance == 0 and mean == approx(x0, rel=TIGHT, abs=0)
    assert math.copysign(1, variance) == 1, "0, not -0"


# ---- step 6 ------------------------------------------------------------------

@given(schedules_and_times(first=2), st.integers(1, 4), st.integers(0, 2**32))
@example((Schedule.from_betas([1e-12, 1e-12]), 2), 2, 0)
@settings(max_examples=60)
def test_step_6_the_mean_square_splits(schedule_and_time, d, seed):
    """E|x_{t-1} - mu|^2 = |mu~ - mu|^2 + d rho_t over x_{t-1} ~ q(x_{t-1} | x_t, x_0).

    It is d rho_t: with rho_t alone, as the sum is often written, it holds in one dimension only.
    """
    schedule, t = schedule_and_time
    x0, xt, mu = np.random.default_rng(seed).standard_normal((3, d))
    mean, rho = schedule.q_posterior(x0, xt, t)
    x = mean + math.sqrt(rho) * SignNodes(d).nodes
    left = ((x - mu) ** 2).sum(1).mean()
    assert left == approx(((mean - mu) ** 2).sum() + d * rho, rel=TIGHT)
    mean, rho = schedule.q_posterior(np.zeros(d), np.zeros(d), t)   # mu = mu~ = 0 leaves the second term alone
    spread = ((math.sqrt(rho) * SignNodes(d).nodes - mean) ** 2).sum(1).mean()
    assert spread == approx(d * rho, rel=TIGHT, abs=0)
    assert d == 1 or spread != approx(rho, rel=0.5, abs=0)


@given(st.floats(1e-6, 10), st.integers(1, 4))
def test_step_6_the_normaliser_has_a_power_of_d(rho, d):
    """The density at its mean is (2 pi rho)^(-d/2): 1/sqrt(2 pi rho) is its value for d = 1."""
    peak = math.exp(gaussian.log_density(np.zeros(d), np.zeros(d), rho))
    assert peak == approx((2 * math.pi * rho) ** (-d / 2), rel=TIGHT)
    if d == 1:
        assert peak == approx(1 / math.sqrt(2 * math.pi * rho), rel=TIGHT)


# ---- step 7 ------------------------------------------------------------------

@given(schedules_and_times(), points, points)
@settings(max_examples=60)
def test_step_7_the_mean_in_terms_of_the_noise(schedule_and_time, x0, eps):
    """mu~_t = (x_t - beta_t / sqrt(1 - abar_t) eps) / sqrt(alpha_t) when x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps.

    The last factor is 1/sqrt(alpha_t). With 1/sqrt(abar_t) it would be the predicted x_0, not x_{t-1}.
    """
    schedule, t = schedule_and_time
    x0, eps = np.array([x0]), np.array([eps])
    xt = schedule.q_sample(x0, t, eps)
    size = (np.abs(x0) + np.abs(eps) + np.abs(xt) / math.sqrt(schedule.alphas[t]))[0]
    assert schedule.reverse_mean(xt, t, eps) == approx(schedule.q_posterior(x0, xt, t)[0], rel=TIGHT, abs=TIGHT * size)


@given(rational_schedules(), points, points)
def test_step_7_in_exact_arithmetic(rational, x0, xt):
    """beta / sqrt(1 - abar) eps = beta / (1 - abar) (x_t - sqrt(abar) x_0) has no square root left.  Route (b)."""
    schedule, roots = rational
    for t in range(1, schedule.T + 1):
        _, after, root = exact_laws(roots, t)
        noise = (1 - root**2) / (1 - after**2) * (Fraction(xt) - after * Fraction(x0))
        exact = (Fraction(xt) - noise) / root
        a0, at = np.array([x0]), np.array([xt])
        ours = schedule.reverse_mean(at, t, schedule.predict_eps(at, t, a0))
        assert ours[0] == approx(float(exact), abs=1e-14 * (abs(x0) + abs(xt)) / float(root))


# ---- step 8 ------------------------------------------------------------------

@given(schedules_and_times(first=2), st.integers(1, 3), st.integers(0, 2**32))
@settings(max_examples=60)
def test_step_8_the_weight(schedule_and_time, d, seed):
    """|mu~ - mu|^2 / (2 beta_t) = beta_t / (2 alpha_t (1 - abar_t)) |eps - e|^2 for any prediction e."""
    schedule, t = schedule_and_time
    x0, eps, e = np.random.default_rng(seed).standard_normal((3, d))
    xt = schedule.q_sample(x0, t, eps)
    # The difference of the means by linearity: as a difference of two numbers it would lose digits.
    difference = schedule.reverse_mean(np.zeros(d), t, e - eps)
    assert difference == approx(schedule.reverse_mean(xt, t, e) - schedule.reverse_mean(xt, t, eps),
                                abs=1e-13 * np.abs(xt).max() / math.sqrt(schedule.alphas[t]))
    left = (difference**2).sum() / (2 * schedule.betas[t])
    assert schedule.loss_weights[t] * ((eps - e) ** 2).sum() == approx(left, rel=TIGHT, abs=0)


@given(rational_schedules())
def test_step_8_in_exact_arithmetic(rational):
    schedule, roots = rational
    for t in range(1, schedule.T + 1):
        _, after, root = exact_laws(roots, t)
        assert schedule.loss_weights[t] == approx(float((1 - root**2) / (2 * root**2 * (1 - after**2))), rel=1e-14, abs=0)


@given(schedules(most=20), st.integers(1, 3), st.integers(0, 2**32))
@settings(max_examples=40)
def test_step_8_the_loss_is_the_bound_less_its_constants(schedule, d, seed):
    """-bound = sum_t w_t |eps - eps_hat|^2 + terms in which the network does not occur.

    The same draws go through `loss_and_gradient` with weighting "elbo", where T d L estimates the sum, and
    through `variational_bound`; what is left is minus the bound of a denoiser that makes no error at all.
    """
    rng = np.random.default_rng(seed)
    x0 = rng.standard_normal((3, d))
    net = MLP(d, 4, 1, schedule=schedule, rng=rng, dtype="float64")
    net.parameters[...] = rng.standard_normal(net.parameters.shape)
    bound = variational_bound(net, schedule, x0, rng=seed)
    draws, again = np.random.default_rng(seed), np.random.default_rng(seed)
    total = sum(d * loss_and_gradient(net, schedule, x0, t, draws.standard_normal((3, d)), "elbo")[0]
                for t in range(1, schedule.T + 1))
    perfect = variational_bound(lambda x, t: again_eps(schedule, x, x0, t), schedule, x0, rng=again)
    assert -bound.nats.mean() == approx(total - perfect.nats.mean(), rel=1e-9)


def again_eps(schedule, xt, x0, t):
    return schedule.predict_eps(xt, t, x0)


# ---- the bound as a whole ----------------------------------------------------

def gaussian_bound(schedule, law, x0, variance):
    """The bound at one x_0 with the exact denoiser of one Gaussian, without sampling error."""
    d = len(x0)
    return variational_bound(law.denoiser(schedule), schedule, np.tile(x0, (2**d, 1)), SignNodes(d), variance).nats.mean()


@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_bound_of_a_gaussian_has_a_closed_form(variance):
    """Data N(m, c), d = 1: eps_hat is linear, and so E|eps - eps_hat|^2 = a^2 + b^2 is elementary."""
    schedule, m, c, x0 = Schedule.linear(30), 0.4, 0.6, 1.1
    expected = -gaussian.kl(*schedule.q_mean_variance(np.array([x0]), 30), np.zeros(1), 1.0)
    for t in range(1, 31):
        abar, one_minus = schedule.alpha_bars[t], schedule.one_minus_alpha_bars[t]
        gain = math.sqrt(one_minus) / (abar * c + one_minus)    # eps_hat = gain (x_t - sqrt(abar) m)
        error = (1 - gain * math.sqrt(one_minus)) ** 2 + (gain * math.sqrt(abar) * (x0 - m)) ** 2
        rho, beta = schedule.posterior_variances[t], schedule.betas[t]
        sigma2 = beta if variance == "beta" or t == 1 else rho
        expected -= schedule.loss_weights[t] * beta / sigma2 * error
        expected -= 0.5 * math.log(2 * math.pi * beta) if t == 1 else 0.5 * (rho / sigma2 - 1 - math.log(rho / sigma2))
    law = GaussianMixture([1], [[m]], [c])
    assert gaussian_bound(schedule, law, np.array([x0]), variance) == approx(expected, rel=TIGHT)


LAW, X0 = GaussianMixture([1], [[0.5, -0.2]], [[1.0, 0.3]]), np.array([0.9, 0.1])


def test_bound_rises_to_the_density_like_1_over_T():
    """Twice the steps, half the gap to log p(x_0). Linear in continuous time, abar_T fixed near 4e-5."""
    log_p = LAW.log_density(X0[None])[0]
    gaps = [log_p - gaussian_bound(Schedule.linear(T), LAW, X0, "beta") for T in (250, 500, 1000, 2000)]
    assert all(gap > 0 for gap in gaps)
    assert np.array(gaps[1:]) / gaps[:-1] == approx(np.full(3, 0.5), abs=0.01)


def test_bound_with_the_posterior_variance_keeps_a_gap_of_euler():
    """For data with a density rho_t is too small a variance, and the gap tends to gamma / 2 a dimension.

    While abar is near 1 the exact reverse variance is beta_t, and with equal betas rho_t / beta_t is
    (t-1)/t. So the gap is sum_t KL = sum_t 1/2 (1/(t-1) - log(t/(t-1))), and that series is Euler's gamma / 2.
    """
    log_p, T = LAW.log_density(X0[None])[0], np.array([500, 2000, 8000])
    gaps = [log_p - gaussian_bound(Schedule.from_betas(np.full(n, 10 / n)), LAW, X0, "posterior") for n in T]
    assert gaps[0] < gaps[1] < gaps[2] < np.euler_gamma
    assert gaps[2] == approx(2 * np.euler_gamma / 2, rel=0.05)


@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_bound_never_exceeds_the_density_of_a_mixture(variance):
    """The mean of log p - bound over 400 points is positive, up to five standard errors of the draw."""
    law = GaussianMixture([1, 2], [[-1.0, 0.5], [1, 0]], [0.2, 0.3])
    for T in (5, 20, 100):
        schedule, x0 = Schedule.linear(T), law.sample(400, 0)
        gap = law.log_density(x0) - variational_bound(law.denoiser(schedule), schedule, x0, 1, variance).nats
        assert gap.mean() > -5 * gap.std() / 20
