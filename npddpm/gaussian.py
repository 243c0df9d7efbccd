"""The algebra of Gaussians N(mean, variance I), or diagonal ones, on which every identity of diffusion rests.

Points and means are (..., d) arrays, vectors on the last axis; variances and scales are scalars or, except in
`joint`, arrays that broadcast against the means. Logarithms are natural: densities and divergences are (...,) arrays of nats.
The bound and `log_likelihood` use `log_density` and `kl`. The others are called by the tests, which hold `Schedule`'s formulas against them.
"""

import math
from typing import Any

from .arrays.backend import get_array_module


def log_density(x: Any, mean: Any, variance: Any) -> Any:
    """log N(x; mean, variance I) = -1/2 sum_i [ (x_i - mean_i)^2 / variance + log(2 pi variance) ], in nats.

    The sum runs over the d coordinates, so the normaliser is (2 pi variance)^(-d/2).
    """
    xp = get_array_module(x, mean, variance)
    return -0.5 * ((x - mean) ** 2 / variance + xp.log(2 * math.pi * xp.asarray(variance))).sum(-1)


def kl(mean_q: Any, variance_q: Any, mean_p: Any, variance_p: Any) -> Any:
    """KL( N(mean_q, variance_q I) || N(mean_p, variance_p I) ) = E_q[ log q - log p ], in nats.

    = 1/2 sum_i [ (mean_q - mean_p)_i^2 / variance_p + e - log(1 + e) ],   1 + e = variance_q / variance_p

    since E_q (x - mean_p)_i^2 = (mean_q - mean_p)_i^2 + variance_q.
    For small e the relative error is about 3e-16 / |e|: variance_q - variance_p is exact, and log1p keeps the digits of e.
    """
    xp = get_array_module(mean_q, mean_p, variance_q, variance_p)
    ratio, e = xp.asarray(variance_q / variance_p), xp.asarray((variance_q - variance_p) / variance_p)
    log_ratio = xp.where(xp.abs(e) < 0.5, xp.log1p(xp.maximum(e, -0.5)), xp.log(ratio))
    return 0.5 * ((mean_q - mean_p) ** 2 / variance_p + (e - log_ratio)).sum(-1)


def compose(scale_1: Any, variance_1: Any, scale_2: Any, variance_2: Any) -> tuple[Any, Any]:
    """Scale and variance of z | x ~ N(scale x, variance I), by way of y.

    If y | x ~ N(scale_1 x, variance_1 I) and z | y ~ N(scale_2 y, variance_2 I), they are scale_1 scale_2 and
    scale_2^2 variance_1 + variance_2: z = scale_2 (scale_1 x + noise_1) + noise_2, and variances of independent noises add.
    """
    return scale_1 * scale_2, scale_2**2 * variance_1 + variance_2


def joint(mean: Any, variance: float, scale: float, noise_variance: float) -> tuple[Any, Any]:
    """Means, (2, ..., d), and covariance, (2, 2), of x ~ N(mean, variance I) and y | x ~ N(scale x, noise_variance I).

    The means are mean and scale mean. With v = variance and a = scale the covariance is
    [[v, a v], [a v, a^2 v + noise_variance]] in every coordinate; coordinates are independent.
    """
    xp = get_array_module(mean)
    covariance = [[variance, scale * variance], [scale * variance, scale**2 * variance + noise_variance]]
    return xp.stack([mean, scale * mean]), xp.asarray(covariance)


def condition(mean: Any, variance: Any, scale: Any, noise_variance: Any, y: Any) -> tuple[Any, Any]:
    """Mean and variance of x given y by Bayes' rule, for the x and y of `joint`.

    They are (noise_variance mean + scale variance y) / total and variance noise_variance / total, where
    total = scale^2 variance + noise_variance is the variance of y: complete the square in x of the exponent,
    -(x - mean)^2 / (2 variance) - (y - scale x)^2 / (2 noise_variance).
    """
    total = scale**2 * variance + noise_variance
    return (noise_variance * mean + scale * variance * y) / total, variance * noise_variance / total
