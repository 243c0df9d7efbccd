"""The features: what the network sees of x_t and t."""

from __future__ import annotations

from typing import Any

import numpy as np

from .checks import Array
from .schedule import Schedule

TIME_FREQUENCIES = 32


class Features:
    """What the network sees of x_t and t. Nothing in it is learned, so no gradient goes through it.

        A_0 = [ sin(w_j s), cos(w_j s),  m,  sin(2^k u.m), cos(2^k u.m),  1 ],      m = E[x_0 | x_t],  s = 1000 t / T

    The 32 frequencies are w_j = 10000^(-j/32) (Vaswani et al. 2017). The octaves k = 0 ... fourier - 1, along each
    direction u, give a narrow network the sharp edges of low-dimensional data.

    Attributes
    ----------
    tau : (T+1, 64) array
        Row t is what A_0 has of t.
    known : (T+1, d) array
        E[x_0 | x_t] is known[t] * x_t.
    time_columns : int
        Their number, 64.
    directions : (d, m) array or None
        The u, one a column; None for the coordinates.
    octaves, phase : (2 fourier,) and (2 m fourier,) arrays
        sin(octaves u.m + phase) are the sines and cosines.
    """

    def __init__(self, xp: Any, dtype: Any, schedule: Schedule, known: Array, fourier: int,
                 directions: Array | None) -> None:
        self.xp, self.dim = xp, known.shape[1]
        m = self.dim if directions is None else directions.shape[1]
        w = 10000.0 ** (-np.arange(TIME_FREQUENCIES) / TIME_FREQUENCIES)
        angles = np.outer(np.arange(schedule.T + 1) * 1000 / schedule.T, w)
        tau = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
        octaves = np.tile(2.0 ** np.arange(fourier), 2)                         # once for the sine, once for the cosine
        phase = np.tile(np.repeat([0, np.pi / 2], fourier), m)           # cos(x) = sin(x + pi/2)
        self.tau, self.known, self.octaves, self.phase = (xp.asarray(a, dtype=dtype) for a in (tau, known, octaves, phase))
        self.directions = None if directions is None else xp.asarray(directions, dtype=dtype)
        self.time_columns = tau.shape[1]

    def write_x(self, xt: Any, t: Any, out: Any) -> None:
        """Write what A_0 has of x_t, (B, d), into `out`."""
        x = self.xp.multiply(at(self.known, t), xt, out=out[:, :self.dim])
        if len(self.phase):
            x = x if self.directions is None else x @ self.directions
            angles = (x[:, :, None] * self.octaves).reshape(len(xt), len(self.phase))
            self.xp.sin(angles + self.phase, out=out[:, self.dim:])


def at(table: Any, t: Any) -> Any:
    """Row t of a table, or the rows of (B,) times t."""
    return table[t] if isinstance(t, int) else table.take(t, axis=0)


def count_features(dim: int, fourier: int, directions: int) -> int:
    """Columns of A_0, without the ones."""
    return 2 * TIME_FREQUENCIES + dim + 2 * fourier * directions
