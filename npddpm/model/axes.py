"""The units of the network: rows of a table, scaled and turned into their principal axes.

    z = ((x - mean) / scale) V,     x = mean + scale * (z V^T)

V has orthonormal columns, so noise N(0, I) on (x - mean) / scale is N(0, I) in z too. Each axis of z has a variance
lambda_i of its own, and no correlation with another: of the Gaussian from which an `MLP` starts, nothing more has to be
known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ..arrays.backend import to_host
from ..arrays.checks import Array
from ..data.table import blocks, moments, spread_over

ROUNDING = 256 * np.finfo(float).eps    # of a number relative to its size, after some arithmetic
HEAVY = 20      # deviation over the usual distance from the median; beyond, a network at unit scale cannot resolve the middle
MOST_TURNED = 3072      # columns, 32 x 32 pixels of three colours: their decomposition takes half a minute and 0.3 GB


class PrincipalAxes(NamedTuple):
    """The principal axes of a table, as `PrincipalAxes.of` finds them.

    Attributes
    ----------
    mean, scale : (d,) float64
        Of the columns. Images have one scale for all pixels, the root mean variance. A column that is constant, or
        varies by less than 6e-14 of its mean, as by rounding, has the scale 0, and is sampled as its mean.
    V : (d, r) float64, or None
        The axes, largest variance first. They are fewer than columns where the rows lie in a plane, because a column is
        constant or a linear function of others: samples lie in that plane too. None stands for the columns themselves,
        but for constant ones, if they are more than 3072.
    variances : (r,) float64
        lambda, of z.
    """

    mean: Array
    scale: Array
    V: Array | None
    variances: Array

    @classmethod
    def of(cls, x: Any, images: bool = False) -> PrincipalAxes:
        """Find the axes of the rows of x, (n, d) float64 or `npddpm.data.table.Mapped`, which have one scale if they are images.

        In each axis the first number that is at least half as large as the largest is positive. Axes of equal variances
        are not unique: there, machines with different linear algebra find different ones, and a training is another one.

        Raises
        ------
        ValueError
            If all rows are equal, or too large to be scaled.
        """
        mean, variance, scale = standardization(x, images)
        n, d = x.shape
        columns = np.flatnonzero(scale)
        if d > MOST_TURNED:
            return cls(mean, scale, None, variance[columns] / scale[columns] ** 2)

        def rows() -> Iterator[Array]:
            return ((block[:, columns] - mean[columns]) / scale[columns] for block in blocks(x))

        def covariance(parts: Iterator[Array]) -> Any:
            return sum(z.T @ z / n for z in parts)

        def rounding(variances: Array, V: Array) -> Any:
            """What rounding makes of the variance of each axis: the rows' own in z, and that of x, as large as the means."""
            return ROUNDING**2 * (variances[0] + (mean[columns] / scale[columns]) ** 2 @ V**2)

        variances, V = spectrum(covariance(rows()))
        first = 0           # the digits of thin axes are lost beside thick ones: look at them again, without those
        while variances[first] > rounding(variances, V)[first] and (variances < 1e-3 * variances[first]).any():
            first = int(np.argmax(variances < 1e-3 * variances[first]))
            variances[first:], W = spectrum(covariance(z @ V[:, first:] for z in rows()))
            V[:, first:] = V[:, first:] @ W
        vary = variances > rounding(variances, V)
        if vary.sum() >= n - 1 > 1:                 # n rows lie in a plane of n - 1 dimensions in any case; two tell no more
            vary[:] = True
        variances, V = variances[vary], V[:, vary]
        if n < 2 * len(variances):
            variances = shrink(variances, n, sum(((z**2).sum(1) ** 2).sum() for z in rows()))
            vary = variances > rounding(variances, V)
            variances, V = variances[vary], V[:, vary]
        large = np.abs(V) >= np.abs(V).max(0) / 2
        whole = np.zeros((d, len(variances)))
        whole[columns] = V * np.sign(np.take_along_axis(V, large.argmax(0)[None], 0))
        return cls(mean, scale, whole, variances)

    def standardize(self, x: Any) -> Any:
        """z of x, (n, d) or images, to (n, r)."""
        z = (np.reshape(x, (len(x), -1)) - self.mean) / np.where(self.scale > 0, self.scale, 1)
        return z[:, self.scale > 0] if self.V is None else z @ self.V

    def restore(self, z: Any) -> Any:
        """x of z, (n, r) to (n, d), in host memory and float64."""
        z = to_host(z).astype(float)
        if self.V is not None:
            return self.mean + self.scale * (z @ self.V.T)
        x = np.tile(self.mean, (len(z), 1))
        x[:, self.scale > 0] += self.scale[self.scale > 0] * z
        return x

    def deviations(self) -> Any:
        """Of the columns, (d,): the root of scale^2 sum_j V_ij^2 lambda_j."""
        if self.V is not None:
            return self.scale * np.sqrt(self.V**2 @ self.variances)
        deviations = self.scale.copy()
        deviations[self.scale > 0] *= np.sqrt(self.variances)
        return deviations

    def log_volume(self) -> float:
        """log |dx/dz|, of a unit of volume in the axes: half the logarithm of det(V^T diag(scale^2) V)."""
        rows = np.argsort(-self.scale)[:np.count_nonzero(self.scale)]
        if self.V is None or self.V.shape[1] == len(rows):
            return float(np.log(self.scale[rows]).sum())
        R = np.linalg.qr(self.V[rows] * self.scale[rows, None], mode="r")       # squares would lose half of the digits
        return float(np.log(np.abs(np.diag(R))).sum())

    def contain(self, x: Any) -> Any:
        """Whether rows lie in the plane of the table's, to 1e-5 of each column's scale and what float64 rounds, (n, d) to (n,)."""
        if (self.scale > 0).all() and (self.V is None or len(self.V) == self.V.shape[1]):
            return np.isfinite(x).all(1)        # it is the whole space
        means = np.abs(self.mean) / np.where(self.scale > 0, self.scale, np.inf)
        if self.V is not None:
            means = np.abs(self.V @ self.V.T) @ means       # the rounding of a large mean reaches the columns that depend on it
        tolerance = 1e-5 * self.scale + ROUNDING * (np.abs(self.mean) + self.scale * means)
        return (np.abs(self.restore(self.standardize(x)) - x) <= tolerance).all(1)


def spectrum(S: Array) -> tuple[Array, Array]:
    """Eigenvalues, falling, and eigenvectors of a symmetric matrix."""
    values, vectors = np.linalg.eigh(S)
    return np.maximum(values[::-1], 0), np.ascontiguousarray(vectors[:, ::-1])


def shrink(variances: Array, n: int, fourth: float) -> Array:
    """Variances of a covariance S from n rows z, few for as many variances, pulled towards their mean m.

    The least ones of S are far too small, and 0 where there are fewer rows; other rows would show it. Ledoit and Wolf (2004,
    doi:10.1016/S0047-259X(03)00096-4) take (1 - delta) S + delta m I with

        delta = min(1, sum_k |z_k z_k^T - S|^2 / n^2 / |S - m I|^2),    sum_k |z_k z_k^T - S|^2 = fourth - n |S|^2

    and `fourth` = sum_k |z_k|^4.
    """
    m, square = variances.mean(), (variances**2).sum()                              # |S|^2
    delta = (fourth - n * square) / n**2 / max(square - len(variances) * m**2, 1e-300)
    return np.asarray(variances + np.clip(delta, 0, 1) * (m - variances))


def as_by_rounding(mean: Array, variance: Array) -> Any:
    """Which columns vary no more than rounding might, (d,)."""
    return np.sqrt(variance) <= ROUNDING * np.abs(mean)


def tell_columns(x: Any, tell: Callable[[str], None], name: str = "x") -> None:
    """Name up to five columns that vary no more than rounding might, which are taken for constant, and five that are narrow beside their tails."""
    some = spread_over(x)
    with np.errstate(over="ignore", invalid="ignore"):      # which `standardization` refuses
        _, mean, variance, low, high = moments(x)
        off = np.abs(some - np.median(some, axis=0))
        typical = np.array([np.median(column[column > 0]) if column.any() else 0 for column in off.T])
    for i in np.flatnonzero((variance > 0) & as_by_rounding(mean, variance) & (low < high))[:5]:
        tell(f"{name}: column {i} (from 0) varies by {np.sqrt(variance[i]):.2g} about {mean[i]:.9g}, as little as by rounding, and is "
             f"taken for constant: if it is not, subtract {low[i]:.17g} from it")
    for i in np.flatnonzero((typical > 0) & (typical * HEAVY < np.sqrt(variance)) & np.isfinite(variance))[:5]:
        tell(f"{name}: column {i} (from 0) has a deviation {np.sqrt(variance[i]) / typical[i]:.0f} times the usual distance from its median, near which "
             "samples will be too wide; if that is a heavy tail, a model of its "
             f"{'logarithm' if low[i] > 0 else 'root' if low[i] == 0 else 'np.arcsinh'} is better")


def standardization(x: Any, images: bool = False) -> tuple[Array, Array, Array]:
    """Mean, variance and scale of the columns; the scale of one that is constant up to rounding is 0."""
    with np.errstate(over="ignore", invalid="ignore"):
        _, mean, variance, low, high = moments(x)
        mean, lost = np.where(low == high, low, mean), (variance == 0) & (low < high)
        variance = np.where(as_by_rounding(mean, variance), 0, variance)
    if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
        raise ValueError(f"x is too large to be scaled in float64: it reaches {max(-low.min(), high.max()):.3g}")
    if lost.any() and (variance > 0).any():
        raise ValueError(f"column {lost.argmax()} of x varies too little for float64: scale it, or leave it out")
    if not (variance > 0).any():
        raise ValueError("x must vary: all its rows are equal, or too near to each other for float64")
    scale = np.where(variance > 0, math.sqrt(variance.mean()), 0.0) if images else np.sqrt(variance)
    return mean, variance, scale
