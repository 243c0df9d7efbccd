"""The samplers: line by line, their law, from anywhere, in few steps and in all; the walk without noise is in test_flow.py.

With the exact denoiser of one Gaussian every step is affine in x_t, so the mean and variance of x_0 follow from an exact
recursion. Tests on samples use fixed seeds and a two-sided false-alarm rate of 1e-6 each.
"""

import math
from decimal import Decimal
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import approx
from strategies import WIDE, Exact, largest_correlation, points, reals, schedules, schedules_and_times, shrink

from npddpm import MLP, GaussianMixture, Schedule, data, encode, sample, trajectory, variational_bound
from npddpm.arrays.backend import standard_normal, to_host
from npddpm.cli.evaluate import energy_distance
from npddpm.samplers import reverse_coefficients

S, LONG = Schedule.linear(20), Schedule.linear(1000)
MEAN, VARIANCE = 0.7, 0.5
LAW = GaussianMixture([1], [[MEAN]], [VARIANCE])
Z = NormalDist().inv_cdf(1 - 0.5e-6)
ZERO, ONE = np.zeros((1, 1)), np.ones((1, 1))

# ---- the coefficients of a step


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


@pytest.mark.parametrize("beta", [1e-3, 1e-160, 1e-200, 1e-300])
def test_the_coefficients_of_tiny_betas(beta):
    """Step 7, from the tables of the schedule: nothing underflows in between."""
    s = Schedule([beta] * 3)
    a, b, c, sigma = reverse_coefficients(s, 3, 2)
    assert (a, b) == approx((s.rsqrt_alphas[3], s.reverse_eps_coefs[3]), rel=1e-14, abs=0)
    assert sigma == approx(s.posterior_variances[3] ** 0.5, rel=1e-14, abs=0)
    assert c == approx(s.one_minus_alpha_bars[2] / s.sqrt_one_minus_alpha_bars[3] / s.rsqrt_alphas[3], rel=1e-14, abs=0)


@pytest.mark.parametrize("start", [1e-4, 0.9])
def test_reverse_coefficients_are_finite_where_the_signal_is_lost(start):
    """sqrt(abar_T) is so small that its square is 0, and 0 itself."""
    s = Schedule.linear(1000, start, 0.999)
    assert np.isfinite([reverse_coefficients(s, 1000, r, eta) for r in (0, 1, 500, 999) for eta in (0, 0.5, 1)]).all()


# ---- the steps, line by line


def replay(s, x, noise, variance):
    """Ho et al.'s Algorithm 2, line by line."""
    for t in range(s.T, 0, -1):
        beta, abar, before = s.betas[t], s.alpha_bars[t], s.alpha_bars[t - 1]
        sigma2 = beta if variance == "beta" else beta * (1 - before) / (1 - abar)
        z = noise[t] if t > 1 else 0
        x = (x - beta / np.sqrt(1 - abar) * shrink(x, t)) / np.sqrt(1 - beta) + np.sqrt(sigma2) * z
    return x


@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_ancestral_sampling_is_algorithm_2(variance):
    x_T, noise = np.random.default_rng(0).standard_normal((4, 2)), np.random.default_rng(1).standard_normal((21, 4, 2))
    x = sample(shrink, S, 4, 2, x_T=x_T, noise=noise, variance=variance)
    assert x == approx(replay(S, x_T, noise, variance), rel=1e-12)
    assert (sample(shrink, S, 4, 2, x_T=x_T.tolist(), noise=noise.tolist(), variance=variance) == x).all()


@given(st.integers(1, 40), st.integers(0, 2**32))
@settings(max_examples=30)
def test_eta_1_over_all_steps_is_ancestral_with_the_posterior_variance(T, seed):
    """For any denoiser, any schedule, any noise: equal to the rounding."""
    rng = np.random.default_rng(seed)
    s = Schedule.from_betas(rng.uniform(0.001, 0.7, T))
    x_T, noise = rng.standard_normal((3, 2)), rng.standard_normal((T + 1, 3, 2))
    bent = lambda x, t: np.tanh(x) + 0.1 * t
    both = [sample(bent, s, 3, 2, x_T=x_T, noise=noise, **options)
            for options in ({"variance": "posterior"}, {"steps": T, "eta": 1.0})]
    assert both[0] == approx(both[1], rel=1e-12, abs=1e-12 * np.abs(both[0]).max())


@given(st.integers(1, 20))
def test_ddim_without_noise_is_deterministic(steps):
    x_T = np.random.default_rng(0).standard_normal((4, 2))
    first, second = (sample(shrink, S, 4, 2, rng=seed, x_T=x_T, steps=steps, eta=0.0) for seed in (1, 2))
    assert (first == second).all()
    assert (sample(shrink, S, 4, 2, x_T=x_T, steps=S.T, eta=0.0) == sample(shrink, S, 4, 2, x_T=x_T, eta=0.0)).all()


def test_ddim_of_a_point_lands_on_it():
    """If all data are one point m, eps = (x_t - sqrt(abar) m)/sqrt(1 - abar), and any step count ends at m."""
    m = np.array([1.0, -2.0])
    exact = lambda x, t: S.predict_eps(x, t, np.broadcast_to(m, x.shape))
    for steps in (1, 3, 20):
        assert sample(exact, S, 5, 2, rng=0, steps=steps, eta=0.0) == approx(np.tile(m, (5, 1)), rel=1e-9)


def test_ddim_reaches_the_figures_of_another_implementation():
    """Those of diffusers' own test (tests/schedulers/test_scheduler_ddim.py, test_full_loop_no_noise, float32).

    Its times run from 0 to 999, ten of them from 900 down, and x_0 is kept within [-1, 1].
    """
    x_T = np.arange(768).reshape(3, 8, 8, 4).transpose(3, 0, 1, 2).reshape(4, -1) / 768
    x = sample(lambda x, t: x * (t - 1) / t, Schedule.linear(1000), 4, 192, x_T=x_T,
               steps=range(901, 0, -100), eta=0.0, clip=(-1, 1))
    assert np.abs(x).sum() == approx(172.0067, abs=1e-3) and np.abs(x).mean() == approx(0.223967, abs=1e-6)


def test_times_of_ddim():
    """Evenly spread, rounded up: T - floor(T i / n)."""
    times = lambda steps: [t for t, _ in trajectory(shrink, S, 1, 1, rng=0, steps=steps, eta=0.0)]
    assert times(3) == [20, 14, 7, 0] and times(1) == [20, 0] and times(20) == times(None) == list(range(20, -1, -1))
    assert times(np.int64(3)) == times(3) and times((np.int64(9), 4)) == [9, 4, 0]


def test_trajectory_yields_every_time_and_ends_in_the_sample():
    steps = list(trajectory(shrink, S, 3, 2, rng=0))
    assert [t for t, _ in steps] == list(range(20, -1, -1))
    assert (steps[-1][1] == sample(shrink, S, 3, 2, rng=0)).all()
    assert [t for t, _ in trajectory(shrink, S, 3, 2, rng=0, steps=4, eta=0.5)] == [20, 15, 10, 5, 0]
    assert [t for t, _ in trajectory(shrink, S, 3, 2, rng=0, steps=[19, 4, 1])] == [19, 4, 1, 0]


# ---- the law of the samples

SAMPLERS = {
    "beta": {"variance": "beta"},
    "posterior": {"variance": "posterior"},
    "ddim eta 0": {"steps": 10, "eta": 0.0},
    "ddim eta 0.5": {"steps": 10, "eta": 0.5},
    "ddim eta 1": {"steps": 10, "eta": 1.0},
    "all steps, eta 0": {"eta": 0.0},
}


def recursion(s, variance=None, steps=None, eta=1.0):
    """Mean and variance of x_0 when x_T ~ N(0, 1), from the papers' formulas alone."""
    mean, var = 0.0, 1.0
    times = list(range(s.T, -1, -1)) if steps is None else [round(s.T * (steps - i) / steps) for i in range(steps + 1)]
    for t, r in pairwise(times):
        a_t, a_r = s.alpha_bars[t], s.alpha_bars[r]
        slope = math.sqrt(1 - a_t) / (a_t * VARIANCE + 1 - a_t)       # eps_hat = slope (x_t - sqrt(abar_t) m)
        offset = -slope * math.sqrt(a_t) * MEAN
        if variance is not None:                                      # Ho et al., Algorithm 2
            beta = s.betas[t]
            sigma2 = (beta if variance == "beta" else beta * (1 - a_r) / (1 - a_t)) if t > 1 else 0.0
            gain, shift = 1 / math.sqrt(1 - beta), -beta / math.sqrt((1 - a_t) * (1 - beta))
        else:                                                         # Song et al., equation 12
            sigma2 = eta**2 * (1 - a_r) / (1 - a_t) * (1 - a_t / a_r)
            gain = math.sqrt(a_r / a_t)
            shift = math.sqrt(max(1 - a_r - sigma2, 0)) - gain * math.sqrt(1 - a_t)
        mean = (gain + shift * slope) * mean + shift * offset
        var = (gain + shift * slope) ** 2 * var + sigma2
    return mean, var


@pytest.mark.parametrize("options", SAMPLERS.values(), ids=SAMPLERS)
def test_the_chain_is_the_recursion_exactly(options):
    """The chain is x_0 = c_T x_T + sum_t c_t z_t + b: each coefficient is read off, with no randomness."""
    s = Schedule.linear(20)
    denoiser = LAW.denoiser(s)

    def run(x_T, noise):
        return sample(denoiser, s, 1, 1, x_T=x_T, noise=noise, **options)[0, 0]

    none = np.zeros((21, 1, 1))
    base = run(ZERO, none)
    squares = (run(ONE, none) - base) ** 2
    for t in range(1, 21):
        one = none.copy()
        one[t] = 1
        squares += (run(ZERO, one) - base) ** 2
    assert (base, squares) == approx(recursion(s, **options), rel=1e-10)


@pytest.mark.parametrize("kind", ["beta", "posterior", "all steps, eta 0"])
def test_the_law_tends_to_that_of_the_data(kind):
    """The error of the variance halves when T doubles; that of the mean is sqrt(abar_T), the forgotten start."""
    errors = []
    for T in (800, 1600, 3200, 6400):
        mean, var = recursion(Schedule.linear(T, 1 / T, 30 / T), **SAMPLERS[kind])
        errors.append([abs(mean - MEAN), abs(var - VARIANCE)])
    errors = np.array(errors)
    assert (errors[1:, 1] / errors[:-1, 1] == approx(np.full(3, 0.5), abs=0.05))
    assert errors[-1].max() < 0.01


def test_ddim_without_noise_is_a_map_of_quantiles():
    """In the limit of small steps eta = 0 carries N(0, 1) to the data's law: x_0 = m + sd x_T, up to abar_T."""
    s = Schedule.linear(2000)
    ends = [sample(LAW.denoiser(s), s, 1, 1, x_T=np.array([[z]]), eta=0.0)[0, 0] for z in (-2.0, 0.0, 2.0)]
    assert ends == approx([MEAN + math.sqrt(VARIANCE) * z for z in (-2, 0, 2)], abs=0.01)


def test_mixture_samples_have_the_right_shares():
    """Ancestral sampling with the exact denoiser of a mixture: the count of each component is binomial."""
    law = GaussianMixture([1, 3], [[-2.0, 0], [2, 1]], [0.1, 0.2])
    s, n = Schedule.linear(200), 5000
    x = sample(law.denoiser(s), s, n, 2, rng=0)
    left = (x[:, 0] < 0).mean()
    assert abs(left - 0.25) < Z * math.sqrt(0.25 * 0.75 / n)


def test_twenty_steps_are_as_good_as_a_thousand():
    """Eight Gaussians with the exact denoiser: no farther from fresh points than real ones are; DDIM is with a few more."""
    law = data.GAUSSIANS
    fresh, real = law.sample(4000, 1), law.sample(2000, 2)
    x_T = np.random.default_rng(0).standard_normal((2000, 2))
    drawn = [sample(law.denoiser(LONG) , LONG, 2000, 2, x_T=x_T, **options) for options in ({"steps": 20}, {"steps": 20, "eta": 0.0})]
    usual, (few, ddim) = energy_distance(real, fresh), (energy_distance(x, fresh) for x in drawn)
    assert few < usual + 0.002 and few < ddim - 0.0002


def test_a_noised_input_is_denoised():
    """From x_t at t, with Algorithm 2 and with few steps: the samples are draws of x_0 given x_t."""
    law = GaussianMixture([1], [[0.0]], [1.0])
    xt = np.full((4000, 1), 0.8)
    for options in ({}, {"eta": 1.0, "steps": 200}):
        x0 = sample(law.denoiser(LONG) , LONG, 4000, 1, 0, x_T=xt, start=300, **options)
        assert x0.mean() == approx(LONG.sqrt_alpha_bars[300] * 0.8, abs=0.05)
        assert x0.var() == approx(LONG.one_minus_alpha_bars[300], rel=0.1)
    assert [t for t, _ in trajectory(law.denoiser(LONG) , LONG, 4000, 1, 0, x_T=xt, start=300, steps=3)] == [300, 134, 34, 0]


@given(st.integers(1, 50), st.lists(st.floats(-8, 1).map(lambda e: 10**e), min_size=1, max_size=3), st.sampled_from([Schedule.linear, Schedule.cosine]))
@settings(max_examples=40)
def test_all_steps_with_the_gaussians_variance_draw_a_gaussian_exactly(T, lam, make):
    """x_0 is linear in x_T and in the noise of each step, whose squares are added up: lambda, whatever T is.

    But for N(0, I) in the place of q(x_T), whose variance is that of x_T here.
    """
    s, d, lam = make(T), len(lam), np.array(lam)
    sin, _, sd = s.rotation(lam)
    best = lambda x, t: sin[t] / sd[t] * x
    best.variances = lam
    x_T, noise = np.zeros((T + 1, d)), np.zeros((T + 1, T + 1, d))
    x_T[0] = sd[T]
    noise[np.arange(1, T + 1), np.arange(1, T + 1)] = 1
    drawn = sample(best, s, T + 1, d, x_T=x_T, noise=noise, variance="gaussian")
    assert (drawn**2).sum(0) == approx(lam, rel=1e-9)
    losing = sample(best, s, T + 1, d, x_T=x_T, noise=noise, variance="posterior")
    assert ((losing**2).sum(0) < lam).all()


def test_the_gaussians_variance_is_asked_of_the_denoiser():
    """Without `variances` lambda is 1, whose variance is beta_t: the same steps, with noise in the last one too."""
    s, bent = Schedule.linear(20), lambda x, t: np.tanh(x)
    x_T, noise = np.random.default_rng(0).standard_normal((3, 2)), np.random.default_rng(1).standard_normal((21, 3, 2))
    beta, ours = (sample(bent, s, 3, 2, x_T=x_T, noise=noise, variance=variance) for variance in ("beta", "gaussian"))
    assert ours == approx(beta + math.sqrt(s.betas[1]) * noise[1], rel=1e-12)


# ---- who draws what, and in which order


@pytest.mark.parametrize("options", [{}, {"variance": "posterior"}, {"steps": 7, "eta": 0.5}, {"steps": [20, 9, 1]}])
@pytest.mark.parametrize("dim", [2, 2048])      # whose noise is drawn in two ways in float32
def test_the_sampler_draws_x_T_and_then_one_noise_for_each_step(options, dim):
    def narrow(x, t):
        assert x.dtype == np.float32
        return np.float32(0.3) * x

    narrow.dtype, rng = np.dtype("float32"), np.random.default_rng(3)
    x_T, noise = standard_normal(rng, (4, dim), narrow.dtype), np.zeros((21, 4, dim), "float32")
    times = options.get("steps", 20)
    for t in (range(20, 0, -1) if times == 20 else [20, 18, 15, 12, 9, 6, 3] if times == 7 else times)[:-1]:
        noise[t] = standard_normal(rng, (4, dim), narrow.dtype)
    drawn = sample(narrow, S, 4, dim, rng=3, **options)
    assert (drawn == sample(narrow, S, 4, dim, rng=9, x_T=x_T, noise=noise, **options)).all()


def test_rows_and_steps_have_noise_of_their_own():
    """No two rows of one draw, no two steps and no two seeds share their noise."""
    n, d = 24, 4000
    steps = [x for _, x in trajectory(lambda x, t: np.zeros_like(x), S, n, d, rng=0)]
    shares = [reverse_coefficients(S, t, t - 1)[0] for t in range(20, 0, -1)]
    noise = [steps[0], *(after - a * before for a, before, after in zip(shares, steps, steps[1:]))][:20]
    assert largest_correlation(np.concatenate(noise[:6])) < 6 and largest_correlation(np.concatenate(noise[-6:])) < 6
    other = sample(shrink, S, n, d, rng=1)
    assert largest_correlation(np.concatenate([sample(shrink, S, n, d, rng=0), other])) < 6


def test_seed_decides_the_samples():
    first, same, other = (sample(shrink, S, 3, 2, rng=seed) for seed in (0, np.random.default_rng(0), 1))
    assert (first == same).all() and (first != other).any()


# ---- clip


def test_clip_by_hand():
    """The predicted x_0 is kept in range; eps and x_r follow from it. The range may differ by column."""
    x_T, noise = np.random.default_rng(0).standard_normal((4, 2)), np.random.default_rng(1).standard_normal((21, 4, 2))
    low, high = np.array([-0.2, -1.0]), np.array([0.3, 0.1])
    x, abar = x_T, S.alpha_bars
    for t in range(20, 0, -1):
        x0 = np.clip((x - np.sqrt(1 - abar[t]) * shrink(x, t)) / np.sqrt(abar[t]), low, high)
        mean = (np.sqrt(abar[t - 1]) * S.betas[t] * x0 + np.sqrt(S.alphas[t]) * (1 - abar[t - 1]) * x) / (1 - abar[t])
        x = mean + (np.sqrt(S.betas[t]) * noise[t] if t > 1 else 0)
    ours = sample(shrink, S, 4, 2, x_T=x_T, noise=noise, clip=(low, high))
    assert ours == approx(x, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("options", [{}, {"steps": 5, "eta": 0.5}])
def test_clip_bounds_the_predicted_x0(options):
    """In the last step x_0 is its own prediction, so it lies within the range, and inside it nothing changes."""
    wild, tame = lambda x, t: 3 * x, lambda x, t: np.sqrt(S.one_minus_alpha_bars[t]) * x
    assert np.abs(sample(wild, S, 50, 2, rng=0, clip=(-1.5, 1.5), **options)).max() <= 1.5 + 1e-12
    free = sample(tame, S, 50, 2, rng=0, **options)
    assert sample(tame, S, 50, 2, rng=0, clip=(-1e3, 1e3), **options) == approx(free, rel=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", [{}, {"steps": 1}, {"steps": 5}, {"steps": 5, "eta": 0.0}], ids=str)
@pytest.mark.parametrize("ends", [(1000, 1e-4, 0.5), (300, 0.99, 0.999)])
def test_clip_where_the_signal_is_lost(ends, options, dtype):
    """sqrt(abar_T) is 1e-67, which is 0 in float32, and less than 1e-324, which is 0 in float64."""
    s = Schedule.linear(*ends)
    net = MLP(2, 4, 1, schedule=s, rng=0, dtype=dtype)
    x = sample(net, s, 5, 2, rng=0, clip=(-1, 1), **options)
    assert x.dtype == dtype and np.abs(x).max() <= 1 + 1e-6


def test_clip_where_nothing_of_the_signal_is_left():
    """sqrt(abar_T) = 1e-40 is no reason for NaN or infinity, in any precision."""
    s = Schedule([0.9999] * 20)
    for dtype in ("float32", "float64"):
        x = sample(MLP(2, 4, 1, schedule=s, rng=0, dtype=dtype), s, 3, 2, rng=0, clip=(-1, 1))
        assert np.isfinite(x).all() and np.abs(x).max() <= 1 + 1e-5


def test_clip_where_the_noise_is_less_than_float32_holds():
    """sqrt(1 - abar_1) = 3e-48 is 0 in float32, and is not divided by."""
    s = Schedule([1e-95, 0.5])
    for dtype in ("float32", "float64"):
        x = sample(MLP(2, 4, 1, schedule=s, rng=0, dtype=dtype), s, 4, 2, rng=0, clip=(-1, 1))
        assert np.isfinite(x).all() and np.abs(x).max() <= 1 + 1e-5


def test_clip_with_few_steps_and_by_a_function():
    x = sample(WIDE.denoiser(S), S, 500, 2, 0, steps=10, clip=(-0.5, 0.75))
    assert x.min() == approx(-0.5) and x.max() == approx(0.75)
    assert (sample(WIDE.denoiser(S), S, 500, 2, 0, steps=10, clip=lambda x0: x0.clip(-0.5, 0.75)) == x).all()


@pytest.mark.parametrize("options", [{"steps": 4}, {"eta": 0.5, "steps": 4}, {}])
def test_a_clip_may_return_the_same_array_each_time(options):
    same = np.empty((3, 2))

    def clip(x0):
        return np.clip(x0, -0.3, 0.4, out=same)
    for seed in (0, 1):
        x = sample(WIDE.denoiser(S), S, 3, 2, seed, clip=clip, **options)
        kept = x.copy()
        clip(np.ones((3, 2)))
        assert (x == kept).all() and (x == sample(WIDE.denoiser(S), S, 3, 2, seed, clip=(-0.3, 0.4), **options)).all()


# ---- arrays: their kind, and who may write into them


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_denoiser_is_given_its_own_precision_whatever_the_rest_has(dtype):
    """x_T, noise and clip of another precision, or lists."""
    def narrow(x, t):
        assert x.dtype == dtype
        return 0.5 * x

    narrow.dtype = np.dtype(dtype)
    for other in ("float32", "float64"):
        x_T, noise = np.ones((3, 2), other), np.ones((21, 3, 2), other)
        for clip in (None, (np.full(2, -1, other), np.full(2, 1.5, other)), (-1, 1)):
            for options in ({}, {"x_T": x_T}, {"noise": noise}, {"x_T": x_T.tolist(), "noise": noise.tolist()}):
                assert sample(narrow, S, 3, 2, rng=0, clip=clip, **options).dtype == dtype


class Reusing:
    """The exact prediction, always in the same memory."""

    def __init__(self):
        self.out = np.empty((50, 2))

    def __call__(self, x, t):
        self.out[...] = WIDE.denoiser(S)(x, t)
        return self.out


def test_a_denoiser_may_write_each_result_in_the_place_of_the_last():
    for options in ({"steps": 10}, {"steps": 10, "eta": 0.5}, {}):
        assert (sample(Reusing(), S, 50, 2, 0, **options) == sample(WIDE.denoiser(S), S, 50, 2, 0, **options)).all()
    x = WIDE.sample(50, 1)
    assert (encode(Reusing(), S, x, 20) == encode(WIDE.denoiser(S), S, x, 20)).all()


def test_what_is_done_to_the_first_x_t_is_not_done_to_the_callers():
    x_T = np.ones((3, 2))
    _, first = next(trajectory(WIDE.denoiser(S), S, 3, 2, x_T=x_T))
    first *= 0
    assert (x_T == 1).all()


@pytest.mark.parametrize("options", [{}, {"steps": 4}, {"steps": 4, "clip": (-1, 1)}])
def test_a_denoiser_that_writes_into_its_input(options):
    good, x = WIDE.denoiser(S), WIDE.sample(30, 1)

    def careless(xt, t):
        eps = good(xt, t)
        xt[...] = 77
        return eps

    assert (sample(careless, S, 5, 2, rng=0, **options) == sample(good, S, 5, 2, rng=0, **options)).all()
    assert (variational_bound(careless, S, x, rng=0).nats == variational_bound(good, S, x, rng=0).nats).all()
    for (_, a), (_, b) in zip(trajectory(careless, S, 5, 2, rng=0), trajectory(good, S, 5, 2, rng=0)):
        assert (a == b).all()


@pytest.mark.parametrize("options", [{}, {"variance": "posterior"}, {"variance": "gaussian"}, {"steps": 5}, {"steps": 5, "eta": 0.5}, {"clip": (-1, 1)}, {"steps": 5, "clip": (-1, 1)}])
def test_sampling_on_a_device(cupy, gated_on_both, options):
    cpu, gpu = gated_on_both
    rng = np.random.default_rng(2)
    x_T, noise = rng.standard_normal((4, 3)), rng.standard_normal((21, 4, 3))
    expected = sample(cpu, S, 4, 3, x_T=x_T, noise=noise, **options)
    ours = sample(gpu, S, 4, 3, x_T=cupy.asarray(x_T), noise=cupy.asarray(noise), **options)
    assert to_host(ours) == approx(expected, rel=1e-8)
    assert isinstance(sample(gpu, S, 4, 3, rng=0, **options), cupy.ndarray)


@pytest.mark.parametrize("own", ["cosine", None, Schedule.linear(20)])
def test_a_denoiser_may_have_a_schedule_that_is_none_or_longer(own):
    def denoiser(x, t):
        return x
    denoiser.schedule = own
    assert sample(denoiser, Schedule.from_betas(Schedule.linear(20).betas[1:11]), 3, 2, 0).shape == (3, 2)


class Tensor:
    """Of another library: NumPy can make an array of it, or not."""

    def __init__(self, x, error=None):
        self.x, self.shape, self.dtype, self.error = x, x.shape, "float", error

    def __array__(self, dtype=None, copy=None):
        if self.error:
            raise self.error
        return self.x


def test_a_denoiser_of_another_library():
    assert (sample(lambda x, t: Tensor(0.1 * x), S, 3, 2, rng=0) == sample(lambda x, t: 0.1 * x, S, 3, 2, rng=0)).all()
    with pytest.raises(TypeError, match="denoiser must return an array, got Tensor: it requires grad"):
        sample(lambda x, t: Tensor(x, RuntimeError("it requires grad")), S, 3, 2)
