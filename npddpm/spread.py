"""Samples that vary as much as the data: the variances that the first term of eps_hat needs, and what a sampler takes away."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from .axes import rows_looked_at, typical_size
from .backend import to_host
from .checks import Array, Denoiser
from .features import gaussian_answer
from .mlp import MLP
from .samplers import encode, plan, reverse_coefficients, sample, times_up
from .schedule import Schedule

ROUNDS = 2
STEPS = 20          # in which samples are drawn
THIN = 0.05         # of the variance: where 20 steps take less of it, an axis is not stretched
MOST_STRETCHED = 100        # further, rounding errors of float32 would be seen
WIDEST = 10         # the largest lambda' / lambda


def replace_first_term(net: MLP, variances: Array) -> None:
    """Make the first term of eps_hat E[eps | x_t] for other variances; all else, `variances` too, stays as F was trained with it."""
    net.eps_factor[...] = net.xp.asarray(gaussian_answer(net.schedule, variances)[1], dtype=net.dtype)


def linear(eps_factor: Array) -> Denoiser:
    """The denoiser with F = 0, eps_hat = eps_factor[t] x_t."""
    return lambda x, t: eps_factor[t] * x


class Spread(NamedTuple):
    """What samples drawn in 20 steps show of each axis, (d,): see `widened_variances` and `stretch`.

    Attributes
    ----------
    widened : lambda', for the first term of eps_hat.
    target : the variance that samples are stretched to: lambda, or less where a few outliers make it up.
    learned : (s_F^2 - s_0^2) / (target - s_0^2), between 0 and 1: the share of what the steps take from a Gaussian that F gives
        back. It is 1 where they take less than a twentieth: such an axis is not thin.
    """

    widened: Array
    target: Array
    learned: Array


def widened_variances(net: MLP, sizes: Array) -> Spread:
    """Variances lambda' for E[eps | x_t], with which samples of a trained network vary as much as the data, (d,).

    It also returns what `stretch` needs, of the last samples that are drawn, for which lambda' is that of the round before.

    In training x_t is made from data, in sampling it is the network's own result. Errors add up over the steps, and samples
    vary too little: this is called exposure bias. Ning et al. (2024, arXiv:2308.15321) multiply eps_hat by a number below
    1 for it. Here the first term of eps_hat alone is changed, in each axis by itself. Samples are drawn from the same x_T
    with F = 0 and with the network's F. Let s_0^2 and s_F^2 be their variances. The samples
    then vary like lambda s_F^2 / s_0^2, and with lambda' in the place of lambda like lambda' s_F^2 / s_0^2, as far as F's effect
    stays the same. That is lambda for

        lambda' = lambda s_0^2 / s_F^2

    F then acts on other x_t, so that this closes most of the gap, and it is done once more from there. What
    20 steps do to a variance, and the chance in x_T, are in both variances and cancel.

    A few outliers can make up most of the data's variance, and a network does not learn them. So lambda' is not so large
    that the `typical_size` of the samples would exceed that of the data. And where samples vary too much nothing is
    changed: lambda' is at least lambda, and at most ten times that, as a safeguard.

    Parameters
    ----------
    net : MLP
        The trained network; its `variances` are lambda.
    sizes : (d,) array
        The `typical_size` of the data along each axis, see `npddpm.axes.PrincipalAxes`.
    """
    net, s, lam = copy.deepcopy(net), net.schedule, net.variances

    def draw(denoiser: Any, x_T: Array) -> Any:
        return to_host(sample(denoiser, s, *x_T.shape, x_T=x_T, steps=min(STEPS, s.T))).astype(float)

    x_T = np.random.default_rng(0).standard_normal((rows_looked_at(net.shapes[0][0]), net.dim))
    x_T = (x_T - x_T.mean(0)) / x_T.std(0)
    eps_factor = to_host(net.eps_factor).astype(float)
    factor = draw(linear(eps_factor), np.ones((1, net.dim)))[0]      # with F = 0 a sample is factor * x_T
    # So s_0^2 = factor^2, which is lambda for exact steps alone; the square of the data's size is multiplied by the same factor^2 / lambda.
    of_gaussian, squared_sizes = factor**2, (factor * sizes) ** 2 / np.maximum(lam, 1e-100)
    widened = lam
    for _ in range(ROUNDS):
        try:
            samples = draw(net, x_T)
        except FloatingPointError:
            return Spread(lam, lam, np.ones(net.dim))       # NaN or infinity, of which the user's own samples will tell
        of_samples, squared_size = samples.var(0), np.maximum(typical_size(samples) ** 2, 1e-100)
        by_variance = of_gaussian / np.maximum(of_samples, 1e-100)
        by_size = squared_sizes / squared_size
        widened = (widened * np.minimum(by_variance, by_size)).clip(lam, WIDEST * lam)
        replace_first_term(net, widened)
    target = np.minimum(lam, sizes**2 / squared_size * of_samples)
    lost = target - of_gaussian
    learned = np.where(lost > THIN * lam, (of_samples - of_gaussian) / np.maximum(lost, 1e-100), 1).clip(0, 1)
    return Spread(widened, target, learned)


def stretch(s: Schedule, variances: Array, target: Array, learned: Any = 0.0, *, steps: int | Sequence[int] | None = None,
            eta: float | None = None, variance: str = "beta") -> Array:
    """What samples drawn with these options of `sample` are multiplied by along each axis, so that thin axes survive, (d,).

    The last step, from x_t, returns E[x_0 | x_t]. Its variance is abar_t lambda / v times that of x_0, so that little is left
    of an axis that is thin beside the noise of x_t: for `Schedule.linear(1000)` half of lambda = 1e-4. What all steps make
    of the variance of N(0, diag lambda) with its exact eps_hat is known: with k = E[x_0 | x_t] / x_t and
    e = E[eps | x_t] / x_t each is x_r = (sqrt(abar_r) k + c e) x_t + sigma z, see `reverse_coefficients`. F gives back what
    other axes tell of this one: the share `learned` of what lacks to the variance `target`, see `Spread`. The rest is made up
    for, but never by more than what the last step has taken, or a factor of 100.
    """
    times, eta, variance, second_order = plan(s.T, steps, eta, variance)
    x0_factor, eps_factor, _ = gaussian_answer(s, variances)
    if second_order:                                        # no noise: each axis is multiplied by a number
        ones = np.ones((1, len(variances)))
        found = sample(linear(eps_factor), s, *ones.shape, x_T=ones, steps=times)[0] ** 2
    else:
        found = np.ones(len(variances))
        for t, r in pairwise([*times, 0]):
            _, _, c, sigma = reverse_coefficients(s, t, r, eta, variance)
            found = (s.sqrt_alpha_bars[r] * x0_factor[t] + c * eps_factor[t]) ** 2 * found + sigma**2
    found = found + learned * np.maximum(target - found, 0)
    return within_last_step(target / np.maximum(found, 1e-100), s, variances, times[-1])


def stretch_up(s: Schedule, variances: Array, learned: Any, steps: int | None) -> Array:
    """The same for `encode`: what rows are multiplied by along each axis before it, so that they come back, (d,).

    The way up has to end with the variance 1. Its first step, too, is large for what is thin beside the noise of its t.
    """
    eps_factor, ones = gaussian_answer(s, variances)[1], np.ones((1, len(variances)))
    found = variances * encode(linear(eps_factor), s, ones, steps)[0] ** 2
    found = found + learned * np.maximum(1 - found, 0)
    return within_last_step(1 / np.maximum(found, 1e-100), s, variances, times_up(s, steps)[0])


def within_last_step(square: Array, s: Schedule, variances: Array, t: int) -> Array:
    """The roots of squared factors, which are to lie between 1 and what the last step takes, from t, v / (abar_t lambda)."""
    rest = s.one_minus_alpha_bars[t] / np.maximum(s.alpha_bars[t] * variances, 1e-100)
    return np.asarray(np.sqrt(square.clip(1, np.minimum(1 + rest, MOST_STRETCHED**2))))
