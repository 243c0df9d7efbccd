"""The features: what the network sees of x_t and t."""

import math
from typing import Any

import numpy as np

TIME_FREQUENCIES = 32


class Features:
    """What the network sees of x_t and t. Nothing in it is learned, so no gradient goes through it.

        A_0 = [ sin(1000 w_j t / T), cos(1000 w_j t / T),  m,  sin(2^k m), cos(2^k m) coordinate by coordinate,  1 ]

    Here m = E[x_0 | x_t] for data N(0, diag lambda), see `schedule.Rotation`. The 32 frequencies
    are w_j = 10000^(-j/32), j = 0 ... 31 (Vaswani et al. 2017). The octaves k = 0 ... fourier - 1 give a narrow network the
    sharp edges of low-dimensional data.

    Attributes
    ----------
    tau : (T+1, 64) array
        Row t is what A_0 has of t.
    octaves, phase : (2 fourier,) and (2 d fourier,) arrays
        sin(octaves m_i + phase), coordinate by coordinate, are the sines and cosines.
    """

    def __init__(self, xp: Any, dtype: Any, T: int, dim: int, fourier: int) -> None:
        self.xp, self.dim = xp, dim
        w = 10000.0 ** (-np.arange(TIME_FREQUENCIES) / TIME_FREQUENCIES)
        angles = np.outer(np.arange(T + 1) * 1000 / T, w)
        tau = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
        octaves = np.tile(2.0 ** np.arange(fourier), 2)                         # once for the sine, once for the cosine
        phase = np.tile(np.repeat([0, math.pi / 2], fourier), dim)              # cos(x) = sin(x + pi/2)
        self.tau, self.octaves, self.phase = (xp.asarray(a, dtype=dtype) for a in (tau, octaves, phase))

    def fill_in(self, A_0: Any, W_1: Any, m: Any, t: Any) -> tuple[Any, Any]:
        """Fill in A_0, which holds m already; return A_0 and W_1 for the product Z_1 = A_0 W_1.

        Write A_0 = [tau, phi, 1], with tau the columns of t and phi those of m, and W_1 = [W_t; W_x; b]. If all rows have
        one t, tau W_t is the same in each, and is added to the bias: A_0 W_1 = [phi, 1] [W_x; b + tau W_t].
        """
        k, tau = 2 * TIME_FREQUENCIES, self.tau
        of_t, of_x = A_0[:, :k], A_0[:, k:-1]
        if len(self.phase):
            angles = (m[:, :, None] * self.octaves).reshape(len(m), len(self.phase))
            self.xp.sin(angles + self.phase, out=of_x[:, self.dim:])
        of_t[:] = at(tau, t)                                            # for one t too: dW_1 = A_0^T dZ_1 needs it
        if not isinstance(t, int) or self.xp is not np:                 # on a GPU folding costs more than it saves
            return A_0, W_1
        return A_0[:, k:], self.xp.concatenate([W_1[k:-1], W_1[-1:] + tau[t] @ W_1[:k]])


def at(table: Any, t: Any) -> Any:
    """Row t of a table (T+1, k), or the rows of (B,) times t; of several tables, (m, T+1, k), those of each."""
    return table[..., t, :] if isinstance(t, int) else table.take(t, axis=-2)
