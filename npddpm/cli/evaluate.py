"""How good a model is: its loss by t, the distance of its samples to real data, and whether it copies."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..arrays.backend import generator, get_array_module
from ..arrays.checks import Array, check_count, check_data, check_rows, check_type, predict
from ..mixture import GaussianMixture
from ..schedule import Schedule

BLOCK = 1000    # rows whose distances to as many others are held at a time
ROUNDING = 1e-14    # of a squared distance, relative to the squares it is the difference of
DRAWS = 4000    # of the noise for a loss by time, and twice as many at most


def distances(x: Array, y: Array) -> Any:
    """Euclidean distances of all rows of x to all rows of y, (n, m): |x - y|^2 = |x|^2 + |y|^2 - 2 x.y."""
    center = y.mean(0)
    x, y = x - center, y - center
    squared = -2 * x @ y.T
    squared += (x**2).sum(1)[:, None]
    squared += (y**2).sum(1)
    return np.sqrt(np.maximum(squared, 0, out=squared), out=squared)


def slack(x: Array) -> Any:
    """What rounding may make of the squared distances of each row of x, (n,): those that differ by less count as equal."""
    return ROUNDING * ((x - x.mean(0)) ** 2).sum(1)


def blocks(x: Array) -> Iterator[Array]:
    """The rows, a thousand at a time."""
    return (x[i:i + BLOCK] for i in range(0, len(x), BLOCK))


def check_tables(least: int = 1, **tables: Any) -> Iterator[Array]:
    """The tables as float64; ValueError unless they are finite numbers of usual size, of `least` rows or more, and of one width."""
    first = None
    for name, x in tables.items():
        x = check_data(x, name, least)
        first = x if first is None else first
        if x.shape[1] != first.shape[1]:
            raise ValueError(f"{name} must have {first.shape[1]} columns as {next(iter(tables))}, got {x.shape[1]}")
        if (top := float(np.abs(x).max())) > 1e150 or 0 < top < 1e-150:
            raise ValueError(f"{name} must reach between 1e-150 and 1e150, where float64 holds squares, got {top:.3g}")
        yield x


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
        If x and y are not tables of finite numbers and of one width, with a row or more, or two for the U-statistic.
    """
    x, y = check_tables(1 + unbiased, x=x, y=y)

    def total(a: Array, b: Array) -> float:
        return float(sum(distances(c, d).sum() for c in blocks(a) for d in blocks(b)))

    def within(z: Array) -> float:
        n = len(z)
        return total(z, z) / (n * (n - 1) if unbiased else n * n)

    return 2 * total(x, y) / (len(x) * len(y)) - within(x) - within(y)


def nearest(x: Any, y: Any) -> float:
    """The median over the rows of x of the distance to the nearest row of y; 0 where that is the row itself.

    x and y are (n, d) and (m, d) array_like, else ValueError. The distance is taken from the two rows, since
    |x|^2 + |y|^2 - 2 x.y, by which the nearest row is found, loses the digits of a small distance, which tells copies. Of rows
    whose distances differ by less than 1e-7 of the extent of y either may be taken.
    """
    x, y = check_tables(x=x, y=y)

    def from_block(a: Array) -> Any:
        found = (b[distances(a, b).argmin(1)] for b in blocks(y))
        return functools.reduce(np.minimum, (np.linalg.norm(a - nearest_of_b, axis=1) for nearest_of_b in found))

    return float(np.median(np.concatenate([from_block(a) for a in blocks(x)])))


def neighbour_distances(x: Array, y: Array, k: int) -> Array:
    """The distance of each row of x to the k-th nearest row of y, (n,); a row of y itself is its own first."""
    return np.concatenate([np.partition(distances(a, y), k - 1, axis=1)[:, k - 1] for a in blocks(x)])


def one_nearest_neighbour(x: Any, y: Any) -> float:
    """How well the nearest other row tells rows of x and of y apart: the share that it labels rightly, 0.5 for equal laws.

    Leave-one-out accuracy of the 1-nearest-neighbour classifier (Lopez-Paz and Oquab 2017, arXiv:1610.06545), for x and
    y of as many rows, (n, d) array_like with n >= 2, else ValueError. Where the nearest row of x and of y are equally near
    it counts half. It sees what is too near as well: below 0.5 rows of x copy rows of y. For equal laws its standard error
    is about 0.64 / sqrt(2 n) in few dimensions: two rows that are each other's nearest share their fate.
    """
    x, y = check_tables(2, x=x, y=y)
    if len(x) != len(y):
        raise ValueError(f"y must have as many rows as x, {len(x)}, got {len(y)}")

    def right(a: Array, b: Array) -> Any:
        own, other = neighbour_distances(a, a, 2) ** 2, neighbour_distances(a, b, 1) ** 2
        return np.where(np.abs(own - other) <= slack(a), 0.5, own < other)

    return float(np.concatenate([right(x, y), right(y, x)]).mean())


def precision_recall(drawn: Any, real: Any, k: int = 3) -> tuple[float, float]:
    """Shares of the samples that lie where real rows do, and of the real rows that lie where samples do.

    Of two tables (n, d) and (m, d) with more than k rows each, else ValueError, a set's place is the union of balls around
    its rows, each as far as the k-th nearest other row (Kynkaanniemi et al. 2019, arXiv:1904.06991). Two sets of real rows
    do not reach 1 either: compare with theirs.
    """
    drawn, real = check_tables(1 + check_count("k", k), drawn=drawn, real=real)

    def inside(a: Array, b: Array) -> float:
        radius = np.sqrt(neighbour_distances(b, b, k + 1) ** 2 + slack(b))
        return float(np.concatenate([(distances(c, b) <= radius).any(1) for c in blocks(a)]).mean())

    return inside(drawn, real), inside(real, drawn)


def loss_at(denoiser: Any, s: Schedule, x0: Any, t: int, rng: Any = None) -> float:
    """The "simple" loss at one time, per dimension, with one draw of the noise for each row of x0."""
    xp = get_array_module(x0)
    check_rows("x0", x0)
    eps = generator(rng, xp).standard_normal(x0.shape, dtype=x0.dtype)
    return float(((predict(denoiser, s.q_sample(x0, t, eps), t) - eps) ** 2).mean())


def loss_by_time(net: Any, s: Schedule, x0: Any, rng: int = 0, law: GaussianMixture | None = None) -> Array:
    """Rows of (t, loss, least possible loss or NaN) at a dozen times between 1 and T, (12 or fewer, 3).

    Each row of x0, (n, d) in the units of `net`, is used as often as makes 4000 draws or more; of more rows than that the first
    4000 are. The least loss is that of `law`.
    """
    check_type("s", s, Schedule)
    check_rows("x0", x0)
    x0 = x0[:DRAWS]
    x0 = get_array_module(x0).tile(x0, (-(-DRAWS // len(x0)), 1))
    times = np.unique(np.geomspace(1, s.T, 12).round().astype(int)).tolist()
    return np.array([[t, loss_at(net, s, x0, t, rng), law.least_loss(s, t) if law else np.nan] for t in times])
