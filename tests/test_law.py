"""The law of the samplers. With the exact denoiser of one Gaussian every step is affine in x_t, so the mean
and variance of x_0 follow from an exact recursion, and the samples are tested against it.

Tests on samples use fixed seeds and a two-sided false-alarm rate of 1e-6 each.
"""

import math
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import approx

from npddpm import GaussianMixture, Schedule, sample

MEAN, VARIANCE = 0.7, 0.5
LAW = GaussianMixture([1], [[MEAN]], [VARIANCE])
Z = NormalDist().inv_cdf(1 - 0.5e-6)
ZERO, ONE = np.zeros((1, 1)), np.ones((1, 1))

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
def test_samples_follow_the_recursion(options):
    """z test of the mean, chi-squared test of the variance, 40,000 samples."""
    s, n = Schedule.linear(20), 40_000
    mean, var = recursion(s, **options)
    x = sample(LAW.denoiser(s), s, n, 1, rng=0, **options)[:, 0]
    assert abs(x.mean() - mean) < Z * math.sqrt(var / n)
    chi2 = (n - 1) * x.var(ddof=1) / var        # chi-squared with n - 1 degrees, normal to 1e-2 of its deviation
    assert abs(chi2 - (n - 1)) < 1.02 * Z * math.sqrt(2 * (n - 1))


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


def test_mixture_samples_have_the_right_shares():
    """Ancestral sampling with the exact denoiser of a mixture: the count of each component is binomial."""
    law = GaussianMixture([1, 3], [[-2.0, 0], [2, 1]], [0.1, 0.2])
    s, n = Schedule.linear(200), 5000
    x = sample(law.denoiser(s), s, n, 2, rng=0)
    left = (x[:, 0] < 0).mean()
    assert abs(left - 0.25) < Z * math.sqrt(0.25 * 0.75 / n)


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
