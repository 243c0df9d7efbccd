"""The spread of the samples: the variances with which E[eps | x_t] gives samples that vary as the data do."""

from __future__ import annotations

import copy

import numpy as np

from .axes import size
from .backend import to_host
from .checks import Array
from .mlp import MLP
from .samplers import sample

ROWS, STEPS, MOST = 2000, 20, 10        # samples that are looked at; by so many steps; the largest factor


def corrected_variances(net: MLP, sizes: Array) -> Array:
    """The lambda for E[eps | x_t] with which samples of a trained network vary as the data do, (d,).

    The exact denoiser gives the spread of the data. A trained one meets other x_t on its own way down than in training,
    removes a little too much of them each time, and its samples vary less: of images by half along most axes. Ning et al.
    (2024, arXiv:2308.15321) call it exposure bias, and multiply eps_hat by a number below 1. Here each axis has a
    correction of its own. From the same x_T samples are drawn without the network's F and with it. If u and v are their
    variances, F has changed them by v / u, and

        lambda' = lambda u / v

    makes up for it. F depends on x_t, so that one such step goes most of the way, not all of it. How much the draw of x_T
    and the few steps change is in u and in v, and cancels. A variance can be that of a few extreme rows, which a network
    does not learn. So lambda' is not so large that the `npddpm.axes.size` of the samples would exceed that of the
    data; and not less than lambda, nor more than ten times as much.

    Parameters
    ----------
    net : MLP
        Whose `variances` are lambda.
    sizes : (d,) array
        Of the data, see `npddpm.axes.PrincipalAxes`.

    Raises
    ------
    FloatingPointError
        If the network makes NaN or infinity of x_T.
    """
    d, steps = net.dim, min(STEPS, net.schedule.T)
    x_T = np.random.default_rng(0).standard_normal((min(ROWS, max(100, 2**23 // d)), d))
    start = copy.deepcopy(net)
    start.parameters[...] = 0                       # F = 0: a sample is x_T times a factor for each axis
    factor = to_host(sample(start, net.schedule, 1, d, x_T=np.ones((1, d)), steps=steps)).astype(float)[0]
    samples = to_host(sample(net, net.schedule, len(x_T), d, x_T=x_T, steps=steps)).astype(float)
    by_variance = net.variances * (factor * x_T).var(0) / np.maximum(samples.var(0), 1e-100)
    by_size = (factor * sizes / np.maximum(size(samples), 1e-100)) ** 2
    return np.asarray(np.minimum(by_variance, by_size).clip(net.variances, MOST * net.variances))
