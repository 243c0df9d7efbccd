"""The features: what the network sees of x_t and t."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .backend import axpby
from .checks import Array
from .schedule import Schedule

TIME_FREQUENCIES = 32


class Features:
    """What the network sees of x_t and t. Nothing in it is learned, so no gradient goes through it.

        A_0 = [ sin(w_j s), cos(w_j s),  m,  sin(2^k m.u), cos(2^k m.u) for each u,  1 ],     m = E[x_0 | x_t],  s = 1000 t / T

    Here m is what x_0 would be on average if the data were N(0, diag lambda), see `gaussian_answer`. The 32 frequencies
    are w_j = 10000^(-j/32), j = 0 ... 31 (Vaswani et al. 2017). The octaves k = 0 ... fourier - 1, along each
    direction u, give a narrow network the sharp edges of low-dimensional data.

    Attributes
    ----------
    tau : (T+1, 64) array
        Row t is what A_0 has of t.
    x0_factor : (T+1, d) array
        E[x_0 | x_t] is x0_factor[t] * x_t.
    U : (d, p) array or None
        The directions u, one a column; None for the coordinates.
    p : int
        Their number.
    octaves, phase : (2 fourier,) and (2 p fourier,) arrays
        sin(octaves m.u + phase) are the sines and cosines.
    """

    def __init__(self, xp: Any, dtype: Any, schedule: Schedule, x0_factor: Array, fourier: int,
                 directions: Array | None) -> None:
        self.xp, self.dim = xp, x0_factor.shape[1]
        self.p = self.dim if directions is None else directions.shape[1]
        w = 10000.0 ** (-np.arange(TIME_FREQUENCIES) / TIME_FREQUENCIES)
        angles = np.outer(np.arange(schedule.T + 1) * 1000 / schedule.T, w)
        tau = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
        octaves = np.tile(2.0 ** np.arange(fourier), 2)                         # once for the sine, once for the cosine
        phase = np.tile(np.repeat([0, np.pi / 2], fourier), self.p)    # cos(x) = sin(x + pi/2)
        self.tau, self.x0_factor, self.octaves, self.phase = (xp.asarray(a, dtype=dtype) for a in (tau, x0_factor, octaves, phase))
        self.U = None if directions is None else xp.asarray(directions, dtype=dtype)

    def fill_in(self, A_0: Any, W_1: Any, xt: Any, t: Any) -> tuple[Any, Any, Any]:
        """Fill in A_0; return A_0 and W_1 for the product Z_1 = A_0 W_1, and m U.

        Write A_0 = [tau, phi, 1], with tau the columns of t and phi those of x_t, and W_1 = [W_t; W_x; b]. If all rows have
        one t, tau W_t is the same in each, and is added to the bias: A_0 W_1 = [phi, 1] [W_x; b + tau W_t].
        """
        k, tau = 2 * TIME_FREQUENCIES, self.tau
        of_t, of_x = A_0[:len(xt), :k], A_0[:len(xt), k:-1]
        mU = self.along(self.xp.multiply(at(self.x0_factor, t), xt, out=of_x[:, :self.dim]))
        if len(self.phase):
            angles = (mU[:, :, None] * self.octaves).reshape(len(xt), len(self.phase))
            self.xp.sin(angles + self.phase, out=of_x[:, self.dim:])
        if isinstance(t, int):
            of_t[:] = tau[t]                                            # needed in dW_1 = A_0^T dZ_1 all the same
        else:
            self.xp.take(tau, t, axis=0, out=of_t)
        if not isinstance(t, int) or self.xp is not np:                 # on a GPU the sum's own kernels take longer
            return A_0, W_1, mU
        return A_0[:, k:], self.xp.concatenate([W_1[k:-1], W_1[-1:] + tau[t] @ W_1[:k]]), mU

    def along(self, x: Any) -> Any:
        """x U, from the coordinates to the directions."""
        return x if self.U is None else x @ self.U

    def back(self, y: Any) -> Any:
        """y U^T."""
        return y if self.U is None else y @ self.U.T


def at(table: Any, t: Any) -> Any:
    """Row t of a table, or the rows of (B,) times t."""
    return table[t] if isinstance(t, int) else table.take(t, axis=0)


def count_features(dim: int, fourier: int, p: int) -> int:
    """Columns of A_0 for p directions, without the ones."""
    return 2 * TIME_FREQUENCIES + dim + 2 * fourier * p


def gaussian_answer(s: Schedule, variances: Array) -> tuple[Array, Array, Array]:
    """What x_t is multiplied by in E[x_0 | x_t] and E[eps | x_t], and sd[eps | x_t], for x_0 ~ N(0, diag lambda).

    Three (T+1, d) tables, with the row t for x_t. By Bayes' rule, `gaussian.condition`: x_t given x_0 has the scale sqrt(abar_t)
    and the noise's variance 1 - abar_t; given eps, it has the scale sqrt(1 - abar_t) and x_0's variance abar_t lambda for noise.
    """
    lam = np.maximum(variances, 1e-30)                                  # v = 0 for lambda = 0 at t = 0: no 0/0
    abar, rest = s.alpha_bars[:, None], s.one_minus_alpha_bars[:, None]
    v = abar * lam + rest                                               # Var x_t
    return np.sqrt(abar) * lam / v, np.sqrt(rest) / v, np.sqrt(abar * lam / v)


def control_variate(s: Schedule, x0: Any, t: int, eps: Any, lam: Any) -> Any:
    """|eps - e|^2 - E|eps - e|^2 for e = E[eps | x_t] of a Gaussian N(0, diag lam), (B,); v as above.

    eps - e = abar_t lam / v eps - sqrt(abar_t (1 - abar_t)) / v x_0. Given x_0, where E eps_i = 0 and E eps_i^2 = 1, the
    expectation is the sum over i of both factors squared.
    """
    abar, rest = float(s.alpha_bars[t]), float(s.one_minus_alpha_bars[t])
    v = abar * lam + rest
    of_eps, of_x0 = abar * lam / v, math.sqrt(abar * rest) / v * x0
    return (axpby(of_eps, eps, -1.0, of_x0) ** 2 - (of_eps**2 + of_x0**2)).sum(-1)
