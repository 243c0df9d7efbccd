"""What the tests of the mathematics share: schedules to draw from, denoisers, stand-ins for randomness, and arithmetic to 60 digits."""

import decimal
import math
from decimal import Decimal
from itertools import product

import numpy as np
from hypothesis import strategies as st

from npddpm import GaussianMixture, Schedule
from npddpm.testing.exact import DIGITS, PI, exact, tables  # noqa: F401

decimal.getcontext().prec = DIGITS


def reals(low, high):
    """Numbers in [low, high], none so small that a product of two would lose digits to underflow."""
    return st.floats(low, high, allow_subnormal=False).map(lambda x: x if abs(x) > 1e-100 else 0.0)


points = reals(-10, 10)


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
def vectors(draw, most=3):
    """A point of 1 to `most` coordinates."""
    return np.array(draw(st.lists(points, min_size=1, max_size=most)))


# ---- denoisers, and a law for them

WIDE = GaussianMixture([1, 2, 1], [[-1.5, 0], [1, 0.5], [0, -1]], [[0.3, 0.1], [0.2, 0.2], [0.1, 0.1]])


def shrink(x, t):
    """A denoiser that is no better than it looks."""
    return 0.3 * x + 0.01 * np.asarray(t).reshape(-1, 1)


class Knowing:
    """The best prediction for N(mean, diag lambda), which tells lambda."""

    def __init__(self, s, variances, mean=0.0):
        self.variances, self.mean = np.asarray(variances, dtype=float), mean
        self.s, self.rotation = s, s.rotation(self.variances)

    def __call__(self, xt, t):
        return self.rotation.sin[t] / self.rotation.sd[t] * (xt - np.sqrt(self.s.alpha_bars[t]) * self.mean)


# ---- expectations without sampling error

def signs(n):
    """The nodes +-1 in each of n coordinates, (2^n, n).

    Equal weights on them have the moments E z = 0 and E z z^T = I of a standard normal, so a mean over the
    rows is the exact expectation of any quadratic function of z.
    """
    return np.array(list(product([-1.0, 1.0], repeat=n)))


class SignNodes:
    """Stands in for a random generator, and returns `signs(d)`, one row each.

    All terms of the bound are quadratic for a denoiser that is linear in x_t.
    """

    def __init__(self, d):
        self.nodes = signs(d)

    def standard_normal(self, shape):
        assert shape == self.nodes.shape
        return self.nodes


def largest_correlation(rows):
    """Between any two of the rows, in units of the deviation that independent rows have."""
    c = np.corrcoef(rows)
    return np.abs(c - np.eye(len(c))).max() * np.sqrt(rows.shape[1])


def log_normal(x, mean, variance):
    """log N(x; mean, variance I), with the normaliser written out: (2 pi variance)^(-d/2)."""
    return -((x - mean) ** 2).sum(-1) / (2 * variance) - x.shape[-1] / 2 * math.log(2 * math.pi * variance)


# ---- exact values

class Exact:
    """The numbers of a schedule to 60 digits, from `reference.tables`; what follows from them is by another way there."""

    def __init__(self, schedule):
        self.T = schedule.T
        self.beta, self.alpha, self.abar = tables(schedule.betas[1:])

    def forward(self, t):
        """Scale and variance of q(x_t | x_0)."""
        return self.abar[t].sqrt(), 1 - self.abar[t]

    def eps(self, t, x0, xt):
        """The noise that leads from x_0 to x_t."""
        scale, variance = self.forward(t)
        return (xt - scale * x0) / variance.sqrt()

    def posterior(self, t, x0, xt):
        """Mean and variance of q(x_{t-1} | x_t, x_0) by Bayes: precisions add up, and weigh the means."""
        scale, v = self.forward(t - 1)
        if v == 0:
            return x0, Decimal(0)
        rho = 1 / (1 / v + self.alpha[t] / self.beta[t])
        return rho * (scale / v * x0 + self.alpha[t].sqrt() / self.beta[t] * xt), rho

    def linear_bound(self, slope, x0, variance="beta"):
        """The bound at x_0 of the denoiser eps_hat = slope_t x_t, with no expectation left: row t is its term at t.

        With mu~ = a x_0 + b x_t and mu = k x_t, mu~ - mu is a x_0 + (b - k)(sqrt(abar) x_0 + sqrt(1 - abar) eps).
        """
        d, square = len(x0), (x0**2).sum()
        terms = [-(self.abar[-1] * square + d * (1 - self.abar[-1] - 1 - (1 - self.abar[-1]).ln())) / 2]
        for t in range(1, self.T + 1):
            scale, noise2 = self.forward(t)
            a, rho = self.posterior(t, Decimal(1), Decimal(0))
            b, _ = self.posterior(t, Decimal(0), Decimal(1))
            k = (1 - self.beta[t] / noise2.sqrt() * Decimal(float(slope[t]))) / self.alpha[t].sqrt()
            error = (a + (b - k) * scale) ** 2 * square + d * (b - k) ** 2 * noise2     # E |mu~ - mu|^2
            sigma2 = self.beta[t] if variance == "beta" or t == 1 else rho
            constant = (2 * PI * sigma2).ln() if t == 1 else rho / sigma2 - 1 - (rho / sigma2).ln()
            terms.append(-error / (2 * sigma2) - d * constant / 2)
        return terms
