"""How good a model is: its loss by t, the distance of its samples to real data, and whether it copies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..arrays.backend import generator, get_array_module
from ..arrays.checks import Array, check_count, check_data, check_rows, check_type, predict
from ..mixture import GaussianMixture
from ..schedule import Schedule

BLOCK = 1000    # rows whose distances to as many others are held at a time
PAIRS = 2**20   # numbers in the differences of pairs of rows that are held at a time
DRAWS = 4000    # of the noise for a loss by time, and twice as many at most


def squares(x: Array, y: Array) -> tuple[Array, Array]:
    """|x - y|^2 of all rows as |x|^2 + |y|^2 - 2 x.y, (n, m), and for each row of x the e, (n, 1), with an error < e + |x - y|^2 / 2^20.

    With u = 2^-53 rounding makes (d + 8) u (|x|^2 + |y|^2) of it at most, and |y|^2 <= 2 |x|^2 + 2 |x - y|^2.
    """
    center = y.mean(0)
    x, y = x - center, y - center
    squared = -2 * x @ y.T
    own = (x**2).sum(1)[:, None]
    squared += own
    squared += (y**2).sum(1)
    return squared, 4 * (x.shape[1] + 8) * 2.0**-53 * own + 1e-305


def parts(n: int, d: int) -> Iterator[slice]:
    """n pairs of rows of d columns, as many at a time as are held."""
    step = max(1, PAIRS // d)
    return (slice(start, start + step) for start in range(0, n, step))


def apart(x: Array, y: Array, i: Any, j: Any) -> Array:
    """|x_i - y_j| from the differences, for pairs of row numbers, (n,). Of whole numbers the squares are exact."""
    out = np.empty(len(i))
    for part in parts(len(i), x.shape[1]):
        out[part] = np.sqrt(((x[i[part]] - y[j[part]]) ** 2).sum(1))
    return out


def distances(x: Array, y: Array) -> Array:
    """Euclidean distances of all rows of x to all rows of y, (n, m), to nine digits or more: those of near rows from the differences."""
    squared, error = squares(x, y)
    i, j = np.nonzero(squared < 1e10 * error)
    np.sqrt(np.maximum(squared, 0, out=squared), out=squared)
    squared[i, j] = apart(x, y, i, j)
    return squared


def neighbours(x: Array, y: Array, k: int) -> Any:
    """The number of the k-th nearest row of y for each row of x, (n,); a row of y itself is its own first."""
    return np.concatenate([_neighbours(a, y, k) for a in blocks(x)])


def _neighbours(a: Array, y: Array, k: int) -> Any:
    near, number = np.empty((len(a), 0)), np.empty((len(a), 0), dtype=int)
    for first, b in zip(range(0, len(y), BLOCK), blocks(y)):
        squared, error = squares(a, b)
        m = min(k, len(b))
        most = (squared.min(1) if m == 1 else np.partition(squared, m - 1, axis=1)[:, m - 1])[:, None]
        i, j = np.nonzero(squared <= most + 2 * error + np.abs(most) / 2**18)
        distance = apart(a, b, i, j)
        chosen = np.lexsort((distance, i))[np.searchsorted(i, np.arange(len(a)))[:, None] + np.arange(m)]       # i is sorted
        near, number = np.hstack([near, distance[chosen]]), np.hstack([number, first + j[chosen]])
    best = np.argsort(near, axis=1, kind="stable")[:, k - 1]
    return number[np.arange(len(a)), best]


def nearer(x: Array, y: Array, z: Array) -> Array:
    """Row by row 1 where y is nearer to x than z is, 0 where z is, and 1/2 where they are equally near, (n,).

    Of whole numbers squared distances are exact up to 2^53. Others are equally near where what was rounded when the
    numbers were stored, and in the sums, may decide.
    """
    rows = np.stack([x, y, z])
    ulp, (y, z) = np.spacing(np.abs(rows).max(0)), np.abs(rows[1:] - x)
    to_y, to_z = (y**2).sum(1), (z**2).sum(1)
    rounded = (8 * (y + z) * ulp).sum(1) + x.shape[1] * 2.0**-52 * (to_y + to_z)
    exact = (rows == np.rint(rows)).all((0, 2)) & (to_y + to_z < 2.0**53)
    return np.where(np.abs(to_y - to_z) <= np.where(exact, 0, rounded), 0.5, to_y < to_z)


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

    x and y are (n, d) and (m, d) array_like, else ValueError. It keeps its digits where it is small, which tells copies.
    """
    return float(np.median(to_nearest(x, y)))


def to_nearest(x: Any, y: Any, k: int = 1) -> Array:
    """The distance from each row of x to the k-th nearest row of y, (n,); both have k rows or more, else ValueError."""
    x, y = check_tables(k, x=x, y=y)
    return apart(x, y, np.arange(len(x)), neighbours(x, y, k))


def nearly_copies(near: Array, y: Array) -> float:
    """The share of rows that are almost equal to a row of y, less the share of rows of y that are so to another of them.

    That is, nearer than a twentieth of the median distance from a row of y to the nearest other one. `near` is `to_nearest` of the rows,
    (n,). For equal laws it is about 0.
    """
    own = to_nearest(y[:len(near)], y, 2)
    least = np.median(own) / 20
    return float((near < least).mean() - (own < least).mean())


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
        return nearer(a, a[neighbours(a, a, 2)], b[neighbours(a, b, 1)])

    return float(np.concatenate([right(x, y), right(y, x)]).mean())


def _inside(x: Array, centers: Array, edges: Array) -> Array:
    """Whether each row of x lies in a ball, (n,); where rounding may decide, as `nearer` says."""
    found = np.zeros(len(x), dtype=bool)
    for b, edge in zip(blocks(centers), blocks(edges)):
        radius = ((edge - b) ** 2).sum(1)
        squared, error = squares(x, b)
        error = 2 * error + radius / 2**18
        found |= (squared < radius - error).any(1)
        i, j = np.nonzero((squared <= radius + error) & ~found[:, None])
        for part in parts(len(i), x.shape[1]):
            p, q = i[part], j[part]
            found[p[nearer(b[q], x[p], edge[q]) >= 0.5]] = True
    return found


def precision_recall(drawn: Any, real: Any, k: int = 3) -> tuple[float, float]:
    """Shares of the samples that lie where real rows do, and of the real rows that lie where samples do.

    Of two tables (n, d) and (m, d) with more than k rows each, else ValueError, a set's place is the union of balls around
    its rows, each as far as the k-th nearest other row (Kynkaanniemi et al. 2019, arXiv:1904.06991). Two sets of real rows
    do not reach 1 either: compare with theirs.
    """
    drawn, real = check_tables(1 + check_count("k", k), drawn=drawn, real=real)

    def inside(a: Array, b: Array) -> float:
        edge = b[neighbours(b, b, k + 1)]
        return float(np.concatenate([_inside(c, b, edge) for c in blocks(a)]).mean())

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
