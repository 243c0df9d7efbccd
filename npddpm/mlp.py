"""The network: a multilayer perceptron on fixed features of x_t and t, forward and backward by hand.

A row is an example, and every A ends in a column of ones, so that the last row of a W is the bias. Below, dX is
short for dL/dX, * goes element by element, and l runs over the hidden layers 1 ... L:

    forward, from the top down                              backward, from the bottom up

    A_0 = features of x_t and t
    Z_l = A_{l-1} W_l                                       dW_l = A_{l-1}^T dZ_l,      dA_{l-1} = dZ_l W_l^T
    A_l = g(Z_l)                                            dZ_l = dA_l * g'(Z_l)
    F = A_L W_{L+1}                                         dW_{L+1} = A_L^T dF,        dA_L = dF W_{L+1}^T
    eps_hat = sqrt(1 - abar_t) x_t + sqrt(abar_t) F         dF = sqrt(abar_t) d eps_hat

A product is differentiated by the chain rule: Z = A W is z_bj = sum_i a_bi w_ij, so that dw_ij = sum_b a_bi dz_bj
and da_bi = sum_j dz_bj w_ij. All W lie one after the other in a single vector, and the gradient has the same layout:
an optimizer, an average or a checkpoint sees one array.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np

from .backend import device_module, elementwise, generator
from .checks import MOST_LAYERS, check_count, check_dtype, check_shape, check_type
from .layout import Workspace, matmul, zeros
from .schedule import Schedule, axpby

TIME_FREQUENCIES = 32


@elementwise
def g(xp: Any, a: Any, u: Any) -> None:
    """A = g(Z) = Z u,  u = 1 + tanh Z: the SiLU z sigma(z) = z/2 (1 + tanh z/2) of 2z. a holds Z before and A after."""
    xp.tanh(a, out=u)
    u += 1
    a *= u


@elementwise
def g_backward(xp: Any, d: Any, a: Any, u: Any) -> None:
    """dZ = dA g'(Z) = dA (u + Z (1 - tanh^2 Z)) = dA (u + A (2 - u)), as 1 - tanh^2 = u (2 - u). d holds dA, and dZ after."""
    slope = 2 - u
    slope *= a
    slope += u
    d *= slope


class Features:
    """What the network sees of x_t and t. Nothing in it is learned, so no gradient goes through it.

        A_0 = [ sin(t w), cos(t w),  x_t,  sin(2^k x_t), cos(2^k x_t),  1 ]

    The 32 frequencies w fall from 1 to 10^-4 (Vaswani et al. 2017), with t counted in thousandths of T. The octaves
    k = 0 ... fourier - 1 give a narrow network the sharp edges of low-dimensional data.
    """

    def __init__(self, xp: Any, dtype: Any, schedule: Schedule, dim: int, fourier: int) -> None:
        w = 10000.0 ** (-np.arange(TIME_FREQUENCIES) / TIME_FREQUENCIES)
        angles = np.outer(np.arange(schedule.T + 1) * 1000 / schedule.T, w)
        tau = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)          # row t: its part of A_0
        octaves = np.tile(2.0 ** np.arange(fourier), 2)                         # once for the sine, once for the cosine
        phase = np.tile(np.repeat([0, np.pi / 2], fourier), dim)                # cos(x) = sin(x + pi/2)
        self.tau, self.octaves, self.phase = (xp.asarray(a, dtype=dtype) for a in (tau, octaves, phase))
        self.xp, self.dim = xp, dim

    def of_x(self, xt: Any, out: Any) -> None:
        """Write what A_0 has of x_t into `out`."""
        out[:, :self.dim] = xt
        if len(self.phase):
            angles = (xt[:, :, None] * self.octaves).reshape(len(xt), len(self.phase))
            self.xp.sin(angles + self.phase, out=out[:, self.dim:])


class MLP:
    """The noise prediction eps_hat = sqrt(1 - abar_t) x_t + sqrt(abar_t) F(x_t, t).

    The first term is the best linear guess for data of unit variance, and F starts as 0, so training
    starts from it; F is then the negative "v" of Salimans and Ho (2022, arXiv:2202.00512).

    Parameters
    ----------
    dim : int
        Data dimension d.
    hidden, depth : int
        Width and number of the hidden layers.
    schedule : Schedule
    fourier : int
        Octaves of fixed Fourier features of x_t, see `Features`.
    rng : None, int or Generator
        For the initial weights.
    dtype : {"float32", "float64", "complex128"}
        Precision. The arithmetic is analytic in its parameters, so that complex128 gives derivatives
        by the complex step, Im f(w + ih)/h, without cancellation.
    device : {"cpu", "gpu"}

    Attributes
    ----------
    parameters : (P,) array
        All weights; change it in place.
    weights : list of 2-D arrays
        W_1 ... W_{L+1}, views of `parameters`, (inputs + 1, outputs) with the bias in the last row.
    shapes : list of (int, int)
        Their shapes.

    Raises
    ------
    ValueError
        If a size, `rng`, `dtype` or `device` cannot be used.
    TypeError
        If `schedule` is no Schedule, or `rng` nothing that a generator is made from.
    RuntimeError
        If `device` is "gpu" and there is none.
    """

    def __init__(self, dim: int, hidden: int = 128, depth: int = 3, *, schedule: Schedule,
                 fourier: int = 0, rng: Any = None, dtype: Any = "float32", device: str = "cpu") -> None:
        check_type("schedule", schedule, Schedule)
        self.shapes = layer_shapes(dim, hidden, depth, fourier)
        self.dim, self.hidden, self.depth, self.fourier = dim, hidden, depth, fourier
        self.dtype = check_dtype(dtype, "float32", "float64", "complex128")
        self.xp = xp = device_module(device)
        self.schedule, self.device = schedule, device
        self.features = Features(xp, self.dtype, schedule, dim, fourier)
        self.parameters = zeros(xp, (sum(m * n for m, n in self.shapes),), self.dtype)
        self.weights = self.split(self.parameters)
        rng, k, W_1 = generator(rng), 2 * TIME_FREQUENCIES, self.weights[0]
        for block in (W_1[:k], W_1[k:-1], *(W[:-1] for W in self.weights[1:-1])):
            # He et al. (2015), halved for g: what t, x and each layer send on keeps its size. The rest starts as 0.
            deviation = math.sqrt(2 / len(block)) / 2
            block[...] = xp.asarray(deviation * rng.standard_normal(block.shape), dtype=self.dtype)
        self._last = threading.local()              # the arrays of the last forward pass, in each thread its own

    def __reduce__(self) -> tuple[Any, ...]:
        """Of a copy the weights are views of its own parameters."""
        return _copy, (self.dim, self.hidden, self.depth, self.schedule, self.fourier, self.dtype.name, self.device,
                       self.parameters)

    def split(self, vector: Any) -> list[Any]:
        """Return the views of a (P,) vector that are laid out as `weights`."""
        views, start = [], 0
        for m, n in self.shapes:
            views.append(vector[start:start + m * n].reshape(m, n))
            start += m * n
        return views

    def __call__(self, xt: Any, t: Any) -> Any:
        """Predict the noise, (B, d), from x_t, (B, d), and t, an int or (B,) ints.

        Raises
        ------
        ValueError
            If xt is not (B, d), t not one time for each row, or a time out of 0..T.
        TypeError
            If t is not made of ints.
        """
        xt = check_shape("xt", self.xp.asarray(xt, dtype=self.dtype), "B", self.dim)
        noise, signal = self.schedule.noise(t, xt), self.schedule.signal(t, xt)
        arrays = getattr(self._last, "arrays", None)
        if arrays is None or arrays.batch != len(xt):
            arrays = self._last.arrays = Workspace(self.xp, self.dtype, len(xt), self.shapes)
        rows, arrays.signal = arrays.rows, signal
        A_0, W_1 = self._first_layer(arrays, xt, t)
        A, Z, W = [A_0, *arrays.A[1:]], arrays.Z, [None, W_1, *self.weights[1:]]

        for l in range(1, self.depth + 1):
            matmul(A[l - 1], W[l], out=Z[l])                            # Z_l = A_{l-1} W_l
            arrays.apply(g, l)                                          # A_l = g(Z_l)
        F = A[-1] @ W[-1]                                               # F = A_L W_{L+1}
        return axpby(noise, xt, signal, F[rows])                        # eps_hat = sqrt(1-abar_t) x_t + sqrt(abar_t) F

    def backward(self, grad_out: Any, out: Any = None) -> Any:
        """The gradient of L for all parameters, from grad_out = dL/d eps_hat of the last forward pass.

        Parameters
        ----------
        grad_out : (B, d) array
        out : (P,) array, optional
            Where to write the gradient.

        Returns
        -------
        (P,) array

        Raises
        ------
        ValueError
            If there was no forward pass in this thread, or grad_out has not the shape of its result.
        """
        arrays = getattr(self._last, "arrays", None)
        if arrays is None:
            raise ValueError("backward needs a forward pass before it, in the same thread")
        rows = arrays.rows
        d_eps_hat = check_shape("grad_out", self.xp.asarray(grad_out), arrays.batch, self.dim)
        out = zeros(self.xp, self.parameters.shape, self.dtype) if out is None else out
        A, dA, dZ, dF = arrays.A, arrays.dA, arrays.dZ, arrays.dF
        W, dW = [None, *self.weights], [None, *self.split(out)]

        self.xp.multiply(arrays.signal, d_eps_hat, out=dF[rows])        # eps_hat = sqrt(1-abar_t) x_t + sqrt(abar_t) F
        matmul(A[-1].T, dF, out=dW[-1])                                 # F = A_L W_{L+1}
        matmul(dF, W[-1][:-1].T, out=dA[-1])                            #     without the bias, since ones stay ones
        for l in range(self.depth, 0, -1):
            arrays.apply_backward(g_backward, l)                        # A_l = g(Z_l)
            matmul(A[l - 1].T, dZ[l], out=dW[l])                        # Z_l = A_{l-1} W_l
            if l > 1:
                matmul(dZ[l], W[l][:-1].T, out=dA[l - 1])
        return out

    def _first_layer(self, arrays: Workspace, xt: Any, t: Any) -> tuple[Any, Any]:
        """A_0, filled in, and W_1. With one t for all rows its share of Z_1 is the same in each, and joins the bias:

            [tau, phi, 1] [W_t; W_x; b] = [phi, 1] [W_x; b + tau W_t]
        """
        A_0, tau, W_1, k = arrays.A[0], self.features.tau, self.weights[0], 2 * TIME_FREQUENCIES
        of_t, of_x = A_0[:len(xt), :k], A_0[:len(xt), k:-1]
        self.features.of_x(xt, out=of_x)
        if not isinstance(arrays.signal, float):
            self.xp.take(tau, t, axis=0, out=of_t)
            return A_0, W_1
        of_t[:] = tau[t]                                                # for the backward pass
        return A_0[:, k:], self.xp.concatenate([W_1[k:-1], W_1[-1:] + tau[t] @ W_1[:k]])


def _copy(dim: int, hidden: int, depth: int, schedule: Schedule, fourier: int, dtype: str, device: str, p: Any) -> MLP:
    net = MLP(dim, hidden, depth, schedule=schedule, fourier=fourier, rng=0, dtype=dtype, device=device)
    net.parameters[...] = p
    return net


def layer_shapes(dim: int, hidden: int, depth: int, fourier: int) -> list[tuple[int, int]]:
    """Rows and columns of W_1 ... W_{L+1}: (inputs + 1, outputs)."""
    dim, hidden, depth = check_count("dim", dim), check_count("hidden", hidden), check_count("depth", depth, most=MOST_LAYERS)
    features = 2 * TIME_FREQUENCIES + dim * (1 + 2 * check_count("fourier", fourier, least=0))
    return [(features + 1, hidden), *[(hidden + 1, hidden)] * (depth - 1), (hidden + 1, dim)]
