"""The loss, and the variational bound as a whole: its digits, its limits and its spread. Their derivation has a folder of its own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest import approx
from strategies import Exact, Knowing, SignNodes, exact, largest_correlation, schedules, shrink, signs, vectors

from npddpm import DDPM, MLP, GaussianMixture, Schedule, gaussian, loss_and_gradient, variational_bound
from npddpm.arrays.backend import to_host

S = Schedule.linear(20)
VARIANCES = pytest.mark.parametrize("variance", ["beta", "posterior"])
ALL = pytest.mark.parametrize("variance", ["beta", "posterior", "gaussian"])


def plain_bound(denoiser, s, x0, rng):
    """The estimate without the control variate, for sigma_t^2 = beta_t."""
    total = -gaussian.kl(*s.q_mean_variance(x0, s.T), 0.0, 1.0)
    for t in range(1, s.T + 1):
        eps = rng.standard_normal(x0.shape)
        xt = s.q_sample(x0, t, eps)
        mean = s.reverse_mean(xt, t, denoiser(xt, t))
        total += gaussian.log_density(x0, mean, s.betas[t]) if t == 1 else -gaussian.kl(*s.q_posterior(x0, xt, t), mean, s.betas[t])
    return total


def mean_terms(denoiser, s, x0, variance="beta", n=1):
    """E_q of each term at one x_0, for a denoiser that is linear in x_t, without sampling error."""
    d = len(x0)
    return variational_bound(denoiser, s, np.tile(x0, (2**d, 1)), SignNodes(d), variance, n).terms.mean(1)


def slopes(s, c):
    """eps_hat = slope_t x_t is the best prediction for data N(0, c I)."""
    return s.sqrt_one_minus_alpha_bars / (s.alpha_bars * c + s.one_minus_alpha_bars)


# ---- the loss


def test_elbo_loss_is_the_weighted_one():
    net = MLP(2, 4, 1, schedule=S, rng=0, dtype="float64")
    rng = np.random.default_rng(0)
    x0, eps, t = rng.standard_normal((3, 2)), rng.standard_normal((3, 2)), np.array([1, 7, 20])
    error = (net(S.q_sample(x0, t, eps), t) - eps) ** 2
    assert loss_and_gradient(net, S, x0, t, eps)[0] == approx(error.mean(), rel=1e-12)
    weighted = (S.loss_weights[t][:, None] * error).mean()
    loss, _ = loss_and_gradient(net, S, x0, t, eps, "elbo")
    assert loss == approx(weighted, rel=1e-12) and isinstance(loss, float)


def test_usual_arguments_of_the_loss_and_lists_for_arrays():
    net, x, t = MLP(2, 4, 1, schedule=S, rng=0, dtype="float64"), np.random.default_rng(0).standard_normal((4, 2)), np.arange(1, 5)
    net.weights[-1][:] = 1
    for usual, weighting in (((), "simple"), (("elbo",), "elbo")):
        loss, gradient = loss_and_gradient(net, S, x, t, x + 1, *usual)
        again, out = loss_and_gradient(net, S, x.tolist(), t.tolist(), (x + 1).tolist(), weighting)
        assert loss == again and (gradient == out).all()
    assert (net.backward(x) == net.backward(x.tolist())).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_loss_is_a_plain_number(dtype):
    net, x = MLP(2, 4, 1, schedule=S, rng=0, dtype=dtype), np.ones((3, 2))
    assert type(loss_and_gradient(net, S, x, 3, x)[0]) is float


@pytest.mark.parametrize("weighting", ["simple", "elbo", np.linspace(0, 2, S.T + 1)])
@pytest.mark.parametrize("one_t", [True, False])
def test_loss_and_gradient_on_a_device(cupy, gated_on_both, weighting, one_t):
    cpu, gpu = gated_on_both
    x0, eps, times = *np.random.default_rng(0).standard_normal((2, 5, 3)), np.array([1, 5, 11, 18, 20])
    t, t_there = (4, 4) if one_t else (times, cupy.asarray(times))
    w_there = weighting if isinstance(weighting, str) else cupy.asarray(weighting)
    loss, gradient = loss_and_gradient(cpu, S, x0, t, eps, weighting)
    loss_there, gradient_there = loss_and_gradient(gpu, S, cupy.asarray(x0), t_there, cupy.asarray(eps), w_there)
    assert isinstance(loss_there, cupy.ndarray) and float(loss_there) == approx(loss, rel=1e-12)
    assert to_host(gradient_there) == approx(gradient, rel=1e-9, abs=1e-12)


# ---- the bound: by hand, and its digits


@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_the_bound_by_hand(variance):
    """Each term from the draws of the same generator, with every constant written out."""
    s, rng, n, d = Schedule.cosine(5), np.random.default_rng(4), 2, 3
    x0 = np.random.default_rng(5).standard_normal((4, d))
    expected, abar = np.zeros((6, 4)), s.alpha_bars
    for t in [1, 2, 3, 4, 5] * n:
        eps, beta, rest = rng.standard_normal((4, d)), s.betas[t], 1 - abar[t]
        x = np.sqrt(abar[t]) * x0 + np.sqrt(rest) * eps
        mu = (x - beta / np.sqrt(rest) * shrink(x, t)) / np.sqrt(1 - beta)
        rho = beta * (1 - abar[t - 1]) / rest
        sigma2 = beta if variance == "beta" or t == 1 else rho
        if t == 1:
            term = -((x0 - mu) ** 2).sum(1) / (2 * beta) - d / 2 * np.log(2 * np.pi * beta)
        else:
            exact = (x - beta / np.sqrt(rest) * eps) / np.sqrt(1 - beta)
            term = -((exact - mu) ** 2).sum(1) / (2 * sigma2) - d / 2 * (rho / sigma2 - 1 - np.log(rho / sigma2))
        error = ((eps - np.sqrt(rest) * x) ** 2).sum(1)     # of the best guess for N(0, I), whose mean is known
        mean = d * abar[t] ** 2 + abar[t] * rest * (x0**2).sum(1)
        expected[t] += (term + beta**2 / ((1 - beta) * rest) * (error - mean) / (2 * sigma2)) / n
    m2, v = abar[5] * (x0**2).sum(1), 1 - abar[5]
    expected[0] = -0.5 * (m2 + d * (v - 1 - np.log(v)))
    bound = variational_bound(shrink, s, x0, rng=4, variance=variance, n=n)
    assert bound.terms == approx(expected, rel=1e-9, abs=1e-12) and bound.nats == approx(expected.sum(0), rel=1e-9)


@VARIANCES
@pytest.mark.parametrize("betas", [np.linspace(1e-4, 0.02, 1000), np.full(1000, 1e-12), np.geomspace(1e-12, 0.1, 1000),
                                   np.full(1000, 1e-40)], ids=["linear", "all 1e-12", "from 1e-12 on", "all 1e-40"])
def test_against_the_closed_form(betas, variance):
    """Also where beta is so small that the means mu~ and mu have all of their digits in common."""
    s, x0 = Schedule(betas), np.array([0.9, -1.7])
    slope = slopes(s, 0.3)
    true = sum(Exact(s).linear_bound(slope, exact(x0), variance))
    assert mean_terms(lambda x, t: slope[t] * x, s, x0, variance).sum() == approx(float(true), rel=1e-14)


@given(schedules(most=30), vectors(), st.sampled_from(["beta", "posterior"]), st.floats(0.01, 10))
def test_each_term_is_off_by_its_rounding(s, x0, variance, c):
    """A term is off by 1e-15 (d + |x_0|^2) nats or less, whatever beta is."""
    slope = slopes(s, c)
    terms = np.array(Exact(s).linear_bound(slope, exact(x0), variance)).astype(float)
    off = np.abs(mean_terms(lambda x, t: slope[t] * x, s, x0, variance) - terms)[1:]
    assert (off <= 1e-15 * (len(x0) + x0 @ x0) + 1e-14 * np.abs(terms[1:])).all()


def test_usual_arguments_of_the_bound_and_lists_for_arrays():
    x0 = np.random.default_rng(0).standard_normal((4, 2))
    expected = variational_bound(shrink, S, x0, rng=1, variance="beta", n=1).terms
    for x in (x0, x0.tolist()):
        assert (variational_bound(shrink, S, x, rng=1).terms == expected).all()
    assert variational_bound(shrink, S, np.zeros((0, 2))).nats.shape == (0,)


def test_the_bound_on_a_device(cupy, gated_on_both):
    _, gpu = gated_on_both
    bound = variational_bound(gpu, S, cupy.asarray(np.random.default_rng(0).standard_normal((5, 3))), rng=0)
    assert bound.terms.shape == (21, 5) and np.isfinite(to_host(bound.nats)).all()


# ---- the control variate, and n draws


@given(schedules(most=30), vectors(), st.sampled_from(["beta", "posterior"]), st.sampled_from([0.0, 0.3, 2.0]))
def test_the_control_variate_moves_no_mean(s, x0, variance, lam):
    """Whatever lambda the denoiser tells, the expectation is the closed form's."""
    slope = slopes(s, 0.3)

    def told(x, t):
        return slope[t] * x

    told.variances = np.linspace(lam, 1, len(x0))
    terms = np.array(Exact(s).linear_bound(slope, exact(x0), variance)).astype(float)
    assert mean_terms(told, s, x0, variance) == approx(terms, rel=1e-9, abs=1e-9 * (len(x0) + x0 @ x0))


@ALL
def test_a_draw_of_the_best_denoiser_is_its_expectation(variance):
    """Whatever lambda is: no spread is left."""
    s, lam, x0 = Schedule.linear(50), [1e-4, 0.3, 1.0, 4.0], np.tile([0.01, -0.5, 1.2, 3.0], (20, 1))
    assert variational_bound(Knowing(s, lam), s, x0, 0, variance).nats.std() < 1e-8


ZERO = np.zeros((1, 8))


@pytest.mark.parametrize("law, left, without", [
    (GaussianMixture([1], ZERO, [1.0]), 0.0, 2.8),
    (GaussianMixture([1], ZERO, [np.geomspace(0.1, 2, 8)]), 0.2, 2.8),
    (GaussianMixture([1, 2], [[-1.0, 0.5], [1, 0]], [0.2, 0.3]), 0.12, 1.3),
], ids=["N(0, I)", "a Gaussian", "a mixture"])
def test_the_deviations_that_variational_bound_tells(law, left, without):
    """Of one draw in nats, with the control variate and without it: the numbers of its docstring."""
    s = Schedule.linear(1000)
    rows = np.repeat(law.sample(10, rng=0), 50, axis=0)
    both = variational_bound(law.denoiser(s), s, rows, 0).nats, plain_bound(law.denoiser(s), s, rows, np.random.default_rng(0))
    deviation, plain = (nats.reshape(10, 50).std(1).mean() for nats in both)
    assert deviation == approx(left, abs=0.05 if left else 1e-12) and plain == approx(without, abs=0.3)


@ALL
def test_n_draws_are_averaged(variance):
    """Term by term, the mean of n bounds drawn one after the other."""
    s, x0, one, other = Schedule.linear(7), np.array([[0.5, 1.0], [2, -1]]), np.random.default_rng(0), np.random.default_rng(0)
    bent = lambda x, t: np.tanh(x) + 0.1 * t
    singles = [variational_bound(bent, s, x0, one, variance).terms for _ in range(3)]
    bound = variational_bound(bent, s, x0, other, variance, n=3)
    assert bound.terms == approx(np.mean(singles, 0), rel=1e-12)
    assert bound.nats == approx(np.mean(singles, 0).sum(0), rel=1e-12)


def test_draws_of_the_bound_have_noise_of_their_own():
    seen = []
    variational_bound(lambda x, t: seen.append(x) or x, S, np.zeros((3, 4000)), rng=0, n=3)
    rows = np.concatenate(seen)     # 3 rows, 3 draws, 20 times
    assert len(rows) == 180 and largest_correlation(rows) < 6


# ---- limits

LAW, X0 = GaussianMixture([1], [[0.5, -0.2]], [[1.0, 0.3]]), np.array([0.9, 0.1])


def gap(s, variance):
    """log p(x_0) less the bound, with the best denoiser of one Gaussian."""
    return LAW.log_density(X0[None])[0] - mean_terms(LAW.denoiser(s), s, X0, variance).sum()


def test_it_rises_to_the_density_like_1_over_T():
    """Twice the steps, half the gap. Linear in continuous time, abar_T fixed near 4e-5."""
    gaps = np.array([gap(Schedule.linear(T), "beta") for T in (250, 500, 1000, 2000)])
    assert (gaps > 0).all()
    assert gaps[1:] / gaps[:-1] == approx(np.full(3, 0.5), abs=0.01)


def test_with_the_posterior_variance_a_gap_of_euler_stays():
    """For data with a density rho_t is too small a variance, and the gap tends to gamma / 2 a dimension.

    While abar is near 1 the exact reverse variance is beta_t, and with equal betas rho_t / beta_t is
    (t-1)/t. So the gap is sum_t KL = sum_t 1/2 (1/(t-1) - log(t/(t-1))), and that series is Euler's gamma / 2.
    """
    gaps = [gap(Schedule(np.full(T, 10 / T)), "posterior") for T in (500, 2000, 8000)]
    assert gaps[0] < gaps[1] < gaps[2] < np.euler_gamma
    assert gaps[2] == approx(2 * np.euler_gamma / 2, rel=0.05)


@pytest.mark.parametrize("make, T, cost", [(Schedule.linear, 1000, 0.465), (Schedule.cosine, 1000, 0.407),
                                           (Schedule.linear, 100, 1.346)], ids=["linear", "cosine", "a hundred steps"])
def test_what_the_posterior_variance_costs(make, T, cost):
    """In nats a dimension, for data N(0, I): more than gamma / 2 = 0.29 for fewer steps, and where betas grow.

    The terms depend on x_0 through |x_0|^2 alone, which has the mean d, as at (1, 1).
    """
    s = make(T)
    slope = s.sqrt_one_minus_alpha_bars
    both = [mean_terms(lambda x, t: slope[t] * x, s, np.ones(2), variance).sum() for variance in ("beta", "posterior")]
    assert (both[0] - both[1]) / 2 == approx(cost, abs=0.001)


@VARIANCES
@pytest.mark.parametrize("T", [5, 20, 100])
def test_it_stays_below_the_density_of_a_mixture(T, variance):
    """The mean of log p - bound over 400 points is positive, up to five standard errors; with beta_t it is small."""
    law, s = GaussianMixture([1, 2], [[-1.0, 0.5], [1, 0]], [0.2, 0.3]), Schedule.linear(T)
    x0 = law.sample(400, 0)
    gaps = law.log_density(x0) - variational_bound(law.denoiser(s), s, x0, 1, variance).nats
    assert gaps.mean() > -5 * gaps.std() / 20
    assert variance == "posterior" or gaps.mean() < 0.4


# ---- the variance of a Gaussian's own step back

lambdas = st.lists(st.floats(-8, 1).map(lambda e: 10**e), min_size=1, max_size=3)


@given(schedules(most=50), lambdas)
def test_with_the_gaussians_variance_the_bound_is_the_density_on_average(s, lam):
    """E bound = E log p(x_0) - KL( q(x_T) || N(0, I) ), for every T.

    A draw is its own expectation here, a quadratic in x_0, whose mean over N(0, lambda) is what 0 and sqrt(lambda) e_i add up to.
    """
    d, lam = len(lam), np.array(lam)
    nats = variational_bound(Knowing(s, lam), s, np.concatenate([np.zeros((1, d)), np.diag(np.sqrt(lam))]), 0, "gaussian").nats
    v = s.alpha_bars[-1] * lam + s.one_minus_alpha_bars[-1]
    expected = -0.5 * np.log(2 * np.pi * np.e * lam).sum() - 0.5 * (v - 1 - np.log(v)).sum()
    assert nats[0] + (nats[1:] - nats[0]).sum() == approx(expected, rel=1e-9, abs=1e-8)


@pytest.mark.parametrize("lam", [[1.0, 1.0], [0.0, 0.0]])
def test_the_ends_of_the_gaussians_variance_are_the_two_of_ho_et_al(lam):
    s = Schedule.cosine(20)
    bent, x0 = lambda x, t: np.tanh(x), np.array([[0.3, -1.0]])
    bent.variances = np.array(lam)
    ours, theirs = (variational_bound(bent, s, x0, 0, variance).terms for variance in ("gaussian", "beta" if lam[0] else "posterior"))
    assert ours[2:] == approx(theirs[2:], rel=1e-9) and ours[0] == theirs[0]


def test_sample_and_bound_of_a_model_are_of_one_law():
    """F = 0 and every default: the law of `sample` is N(0, V), from the noise's own coefficients, and the bound is not above it.

    On average over the law of the samples the bound falls short by KL( q(x_T) || N(0, I) ), which is small.
    """
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 2)) @ [[1, 0.98], [0, 0.1]] + [3, -1]
    model = DDPM(Schedule.linear(30), 4, 1, dtype="float64").fit(x, steps=1, rng=0)
    model.average[:] = 0
    r, T = 2, 30
    x_T, noise = np.zeros((1 + r * (T + 1), r)), np.zeros((T + 1, 1 + r * (T + 1), r))
    for row, (t, i) in enumerate(((t, i) for t in range(T + 1) for i in range(r)), 1):
        (x_T if t == 0 else noise[t])[row, i] = 1
    drawn = model.sample(len(x_T), x_T=x_T, noise=noise)
    mean, directions = drawn[0], drawn[1:] - drawn[0]
    law = GaussianMixture([1], [mean], [directions.T @ directions])
    assert mean == approx(x.mean(0)) and directions.T @ directions == approx(np.cov(x.T, bias=True), rel=1e-9)
    s, lam = model.schedule, model.axes.variances
    v = s.alpha_bars[-1] * lam + s.one_minus_alpha_bars[-1]
    nodes = mean + signs(r) @ np.linalg.cholesky(directions.T @ directions).T       # which have the mean and the covariance
    gap = (law.log_density(nodes) - model.bound(nodes, 0)).mean()
    assert gap == approx(0.5 * (v - 1 - np.log(v)).sum(), rel=1e-6, abs=1e-9)
