"""How good a model is: its loss by t, the distance of its samples to real data, and whether it copies."""

from __future__ import annotations

from typing import Any

import numpy as np

from .backend import generator, get_array_module
from .diffusion import predict
from .schedule import Schedule

Array = np.ndarray[Any, np.dtype[np.float64]]


def distances(x: Array, y: Array) -> Any:
    """Euclidean distances of all rows of x to all rows of y, (n, m): |x - y|^2 = |x|^2 + |y|^2 - 2 x.y."""
    center = y.mean(0)
    x, y = x - center, y - center
    squared = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
    return np.sqrt(np.maximum(squared, 0))


def energy_distance(x: Any, y: Any, unbiased: bool = True) -> float:
    """E|x - y| - E|x - x'|/2 - E|y - y'|/2, times 2: the squared energy distance of two samples.

    It is 0 only between equal laws (Szekely and Rizzo 2013, doi:10.1016/j.jspi.2013.03.018).

    Parameters
    ----------
    x, y : (n, d) and (m, d) array_like
    unbiased : bool
        The U-statistic, which leaves out each point's distance to itself and is 0 in the mean for equal
        laws; else the V-statistic, which is never negative.

    Raises
    ------
    ValueError
        If x and y are not tables of one width, with a row or more, or two for the U-statistic.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    for name, z in (("x", x), ("y", y)):
        if z.ndim != 2 or len(z) < 1 + unbiased or z.shape[1] != x.shape[1]:
            raise ValueError(f"{name} must have {1 + unbiased} or more rows, and x and y as many columns, "
                             f"got {x.shape} and {y.shape}")

    def within(z: Array) -> float:
        n = len(z)
        return float(_total(z, z)) / (n * (n - 1) if unbiased else n * n)

    return 2 * _total(x, y) / (len(x) * len(y)) - within(x) - within(y)


def _total(x: Array, y: Array, rows: int = 1000) -> float:
    return float(sum(distances(x[i:i + rows], y).sum() for i in range(0, len(x), rows)))


def nearest(x: Array, y: Array, rows: int = 1000) -> float:
    """The median over the rows of x of the distance to the nearest row of y; 0 where that is the row itself."""
    found = np.concatenate([distances(x[i:i + rows], y).argmin(1) for i in range(0, len(x), rows)])
    return float(np.median(np.linalg.norm(x - y[found], axis=1)))


def loss_at(denoiser: Any, s: Schedule, x0: Any, t: int, rng: Any = None) -> float:
    """The "simple" loss at one time, per dimension, with one draw of the noise for each row of x0."""
    xp = get_array_module(x0)
    eps = generator(rng, xp).standard_normal(x0.shape, dtype=x0.dtype)
    return float(((predict(denoiser, s.q_sample(x0, t, eps), t) - eps) ** 2).mean())
