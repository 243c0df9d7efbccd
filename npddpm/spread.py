"""Samples that vary as much as the data: the variances that the first term of eps_hat needs for it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from .axes import rows_looked_at, typical_size
from .backend import to_host
from .checks import Array
from .features import gaussian_answer
from .mlp import MLP
from .samplers import sample

ROUNDS = 2
STEPS = 20          # in which samples are drawn
WIDEST = 10         # the largest lambda' / lambda


def start_from(net: MLP, variances: Array) -> None:
    """Make the first term of eps_hat E[eps | x_t] for other variances; the rest stays as F was trained with it."""
    net.guess[...] = net.xp.asarray(gaussian_answer(net.schedule, variances)[1], dtype=net.dtype)


def widened_variances(net: MLP, sizes: Array) -> Array:
    """Variances lambda' for E[eps | x_t], with which samples of a trained network vary as much as the data, (d,).

    In training x_t is made from data, in sampling it is the network's own result. Errors add up over the steps, and samples
    vary too little: this is called exposure bias. Ning et al. (2024, arXiv:2308.15321) multiply eps_hat by a number below
    1 for it. Here the first term of eps_hat alone is changed, in each axis by itself. Samples are drawn from the same x_T
    with F = 0 and with the network's F. If s_0^2 and s_F^2 are their variances, F multiplies it by s_F^2 / s_0^2, and

        lambda' = lambda s_0^2 / s_F^2

    makes up for that. F then acts on other x_t, so that this closes most of the gap, and is done once more from there. What
    20 steps do to a variance, and the chance in x_T, are in both variances and cancel.

    A few outliers can make up most of the data's variance, and a network does not learn them. So lambda' is not so large
    that the `typical_size` of the samples would exceed that of the data. And where samples vary too much nothing is
    changed: lambda' is at least lambda, and at most ten times that, beyond which a network is broken.

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
    guess = to_host(net.guess).astype(float)
    factor = draw(lambda x, t: guess[t] * x, np.ones((1, net.dim)))[0]      # F = 0: each axis of x_T is multiplied by it
    # What the steps make of the variance lambda is factor^2, so data have, seen through them,
    variances, squares = factor**2, (factor * sizes) ** 2 / np.maximum(lam, 1e-100)     # this variance and size^2
    widened = lam
    for _ in range(ROUNDS):
        try:
            samples = draw(net, x_T)
        except FloatingPointError:
            return lam          # NaN or infinity, of which the user's own samples will tell
        by_variance = variances / np.maximum(samples.var(0), 1e-100)
        by_size = squares / np.maximum(typical_size(samples) ** 2, 1e-100)
        widened = (widened * np.minimum(by_variance, by_size)).clip(lam, WIDEST * lam)
        start_from(net, widened)
    return widened
