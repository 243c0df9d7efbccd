"""The network: a multilayer perceptron on fixed features of x_t and t, forward and backward by hand.

A row is an example. A_0 are the features of the batch; every A ends in a column of ones, so that the last row of
a W is the bias, and the forward pass is

    Z_l = A_{l-1} W_l,         A_l = g(Z_l),           l = 1 ... depth,   g(z) = silu(2z) = z (1 + tanh z)
    F   = A_depth W_out

With dX short for dL/dX the backward pass reads the same lines from the bottom up. From Z = A W, that is
z_bj = sum_i a_bi w_ij, the chain rule gives dw_ij = sum_b a_bi dz_bj and da_bi = sum_j dz_bj w_ij:

    dW_out = A_depth^T dF,     dA_depth = dF W_out^T
    dZ_l = dA_l * g'(Z_l),     dW_l = A_{l-1}^T dZ_l,  dA_{l-1} = dZ_l W_l^T,   l = depth ... 1

The 2 in g saves two passes over the batch: silu(z) = z sigma(z) = z/2 (1 + tanh z/2) has two halves.

All W lie one after the other in a single vector, and the gradient has the same layout: an optimizer,
an average or a checkpoint sees one array.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .backend import device_module, elementwise, generator, matmul, zeros
from .schedule import Schedule, axpby, check_count

TIME_FREQUENCIES = 32


@elementwise
def silu(xp: Any, a: Any, u: Any) -> None:
    """A = silu(2Z) = Z u with u = 1 + tanh Z; a holds Z before and A after."""
    xp.tanh(a, out=u)
    u += 1
    a *= u


@elementwise
def silu_backward(xp: Any, d: Any, a: Any, u: Any) -> None:
    """dZ = dA (u + Z (1 - tanh^2 Z)) = dA (u + A (2 - u)), since 1 - tanh^2 = (1 + tanh)(1 - tanh) = u (2 - u).

    d holds dA before and dZ after.
    """
    slope = 2 - u
    slope *= a
    slope += u
    d *= slope


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
        Octaves of fixed Fourier features of x: sin and cos of 2^k x, k = 0 ... fourier - 1. They give a
        narrow network the sharp edges of low-dimensional data.
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
        W_1 ... W_out, views of `parameters`, (inputs + 1, outputs) with the bias in the last row. The inputs
        of W_1 are 64 sines and cosines of t, x_t, and its Fourier features if there are any.

    Raises
    ------
    ValueError
        If a size, `dtype` or `device` cannot be used.
    RuntimeError
        If `device` is "gpu" and there is none.
    """

    def __init__(self, dim: int, hidden: int = 128, depth: int = 3, *, schedule: Schedule,
                 fourier: int = 0, rng: Any = None, dtype: Any = "float32", device: str = "cpu") -> None:
        if not isinstance(schedule, Schedule):
            raise TypeError(f"schedule must be a Schedule, got {schedule!r}")
        self.shapes = layer_shapes(dim, hidden, depth, fourier)
        self.dim, self.hidden, self.depth, self.fourier = dim, hidden, depth, fourier
        self.dtype = check_dtype(dtype, "float32", "float64", "complex128")
        self.xp = xp = device_module(device)
        self.schedule, self.device = schedule, device

        self.omega, self.phase = (xp.asarray(a, dtype=self.dtype) for a in fourier_basis(dim, fourier))
        self.tau = xp.asarray(time_features(schedule), dtype=self.dtype)
        self.parameters = zeros(xp, (sum(m * n for m, n in self.shapes),), self.dtype)
        self.weights = self.split(self.parameters)
        rng, k, W_1 = generator(rng), self.tau.shape[1], self.weights[0]
        for block in (W_1[:k], W_1[k:-1], *(W[:-1] for W in self.weights[1:-1])):
            # He et al. (2015), halved: what t, x and each hidden layer send on keeps its size. The rest starts as 0.
            deviation = math.sqrt(2 / len(block)) / 2
            block[...] = xp.asarray(deviation * rng.standard_normal(block.shape), dtype=self.dtype)
        self._batch, self._grad_out = -1, None

    def split(self, vector: Any) -> list[Any]:
        """Return the views of a (P,) vector that are laid out as `weights`."""
        views, start = [], 0
        for m, n in self.shapes:
            views.append(vector[start:start + m * n].reshape(m, n))
            start += m * n
        return views

    def __call__(self, xt: Any, t: Any) -> Any:
        """Predict the noise.

        Parameters
        ----------
        xt : (B, d) array
        t : int or (B,) ints
            With one t for all rows, its share of the first layer is computed once.

        Returns
        -------
        (B, d) array
        """
        xp, s = self.xp, self.schedule
        xt = xp.asarray(xt, dtype=self.dtype)
        if xt.ndim != 2 or xt.shape[1] != self.dim:
            raise ValueError(f"xt must have shape (B, {self.dim}), got {xt.shape}")
        t = s._check_t(t, xt, first=0)
        self._allocate(len(xt))
        phi, A, k = self._A_0[:len(xt)], self._A, self.tau.shape[1]
        *Ws, W_out = self.weights

        phi[:, k:k + self.dim] = xt
        if self.fourier:
            xp.sin(xt @ self.omega + self.phase, out=phi[:, k + self.dim:-1])
        if isinstance(t, int):      # [tau, phi_x, 1] [W_t; W_x; b] = [phi_x, 1] [W_x; b + tau W_t], alike for all rows
            Ws[0] = xp.concatenate([Ws[0][k:-1], (Ws[0][-1] + self.tau[t] @ Ws[0][:k])[None]])
            A[0] = self._A_0[:, k:]
        else:
            xp.take(self.tau, t, axis=0, out=phi[:, :k])
            A[0] = self._A_0
        for i, W in enumerate(Ws):
            matmul(A[i], W, out=A[i + 1][:, :-1])               # Z = A_prev W
            silu(self._Z[i], self._U[i])                        # A = silu(2Z) = Z (1 + tanh Z), in the place of Z
            if self._rows_are_examples:
                A[i + 1][:, -1] = 1                             # the pass went over the ones too
        F = (A[-1] @ W_out)[:len(xt)]                           # F = A W_out, but for the row that _allocate may add
        self._t, self._grad_out = t, None
        self._noise = s.at("sqrt_one_minus_alpha_bars", t, xt)
        self._signal = s.at("sqrt_alpha_bars", t, xt)
        return axpby(self._noise, xt, self._signal, F)  # eps_hat = sqrt(1 - abar_t) x_t + sqrt(abar_t) F

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
        """
        if self._batch < 0:
            raise ValueError("backward needs a forward pass before it")
        grad_out = self.xp.asarray(grad_out)
        if grad_out.shape != (self._batch, self.dim):
            raise ValueError(f"grad_out must have the shape of the last output, "
                             f"{(self._batch, self.dim)}, got {grad_out.shape}")
        out = zeros(self.xp, self.parameters.shape, self.dtype) if out is None else out
        xp, A, dA, k = self.xp, self._A, self._dA, self.tau.shape[1]
        (*Ws, W_out), (*dWs, dW_out) = self.weights, self.split(out)
        dW_1 = dWs[0]
        if isinstance(self._t, int):
            dWs[0] = dW_1[k:]

        self._grad_out = grad_out
        dF = self._dF                                           # with 0 in the row that _allocate may add
        xp.multiply(self._signal, grad_out, out=dF[:len(grad_out)])     # eps_hat = ... + sqrt(abar_t) F
        matmul(A[-1].T, dF, out=dW_out)                         # F = A W_out
        matmul(dF, W_out[:-1].T, out=dA[-1])
        for i in reversed(range(self.depth)):
            silu_backward(self._D[i], self._Z[i], self._U[i])   # A = silu(2Z) = Z (1 + tanh Z)
            dZ = dA[i]                                          # in the place of dA
            matmul(A[i].T, dZ, out=dWs[i])                      # Z = A_prev W
            if i > 0:
                matmul(dZ, Ws[i][:-1].T, out=dA[i - 1])
        if isinstance(self._t, int):
            dW_1[:k] = self.tau[self._t][:, None] * dW_1[-1]    # W_1 was [W_x; b + tau W_t]
        return out

    def input_gradient(self) -> Any:
        """dL/dx_t, (B, d), after `backward`: through the features and through the linear first term."""
        if self._grad_out is None:
            raise ValueError("input_gradient needs a backward pass before it")
        d, k = self.dim, self.tau.shape[1]
        xt = self._A_0[:self._batch, k:k + d]
        dphi = self._dA[0][:self._batch] @ self.weights[0][k:-1].T      # Z_1 = A_0 W_1
        slope = self.xp.cos(xt @ self.omega + self.phase)               # phi = sin(x omega + ...)
        return self._noise * self._grad_out + dphi[:, :d] + (dphi[:, d:] * slope) @ self.omega.T

    def _allocate(self, batch: int) -> None:
        """Make the buffers of a batch, unless the last one had the same size.

        The products see a row for each example, in `_A` and `_dA`. How that lies in memory is a matter of speed alone.
        OpenBLAS divides a product between threads by rows if it has more rows than columns, else by columns, for which
        they exchange more: up to half as long again where two cores share no cache. So the longer side, batch or layer,
        comes first in memory, and a batch as large as a layer gets one row more, an example of zeros whose dF stays 0.
        Rows a power of two apart would compete for the same few places of the cache; a few more columns prevent it.

        The elementwise passes go over whole arrays, `_Z`, `_U` and `_D`: around gaps they take twice as long. On the
        GPU, where arrays with gaps would be copied before each product, a row is a unit, and the last holds the ones.
        """
        if batch == self._batch:
            return
        self._batch, h, on_cpu = batch, self.hidden, self.xp is np
        self._rows_are_examples = on_cpu and batch >= h
        if self._rows_are_examples:
            examples = max(batch, h + 1)
            shape = shape_with_ones = examples, h + 8 - h % 8
        else:
            examples, columns = batch, batch + 8 * (on_cpu and batch % 512 == 0)
            shape, shape_with_ones = (h, columns), (h + 1, columns)

        def buffers(count: int, shape: tuple[int, int]) -> list[Any]:
            return [zeros(self.xp, shape, self.dtype) for _ in range(count)]

        def by_example(whole: Any, width: int) -> Any:
            return (whole if self._rows_are_examples else whole.T)[:examples, :width]

        self._A_0 = zeros(self.xp, (examples, self.shapes[0][0]), self.dtype)
        self._dF = zeros(self.xp, (examples, self.dim), self.dtype)
        whole = buffers(self.depth, shape_with_ones)
        self._Z = [a[:shape[0]] for a in whole]                 # the place of Z, then of A
        self._A = [self._A_0, *(by_example(a, h + 1) for a in whole)]
        for A in self._A:
            A[:, -1] = 1                                        # for the biases
        self._U = buffers(self.depth, shape)                    # 1 + tanh(Z)
        by_turns = buffers(2, shape) * self.depth
        self._D = by_turns[:self.depth]                         # the place of dA, then of dZ
        self._dA = [by_example(d, h) for d in self._D]


def layer_shapes(dim: int, hidden: int, depth: int, fourier: int) -> list[tuple[int, int]]:
    """Rows and columns of W_1 ... W_out: (inputs + 1, outputs)."""
    dim, hidden, depth = check_count("dim", dim), check_count("hidden", hidden), check_count("depth", depth)
    features = 2 * TIME_FREQUENCIES + dim * (1 + 2 * check_count("fourier", fourier, least=0))
    return [(features + 1, hidden), *[(hidden + 1, hidden)] * (depth - 1), (hidden + 1, dim)]


def check_dtype(dtype: Any, *names: str) -> np.dtype[Any]:
    """Return the dtype if it has one of the names, else raise ValueError."""
    try:
        found: np.dtype[Any] = np.dtype(dtype)
        if found.name in names:
            return found
    except TypeError:
        pass
    raise ValueError(f"dtype must be {', '.join(names[:-1])} or {names[-1]}, got {dtype!r}")


def fourier_basis(dim: int, octaves: int) -> tuple[np.ndarray, np.ndarray]:
    """Omega (d, 2 d octaves) and phase with sin(x Omega + phase) = sin and cos of 2^k x_i, all i and k."""
    frequencies = 2.0 ** np.arange(octaves)
    omega = np.kron(np.eye(dim), np.concatenate([frequencies, frequencies]))
    return omega, np.tile(np.repeat([0, np.pi / 2], octaves), dim)


def time_features(schedule: Schedule) -> np.ndarray:
    """Row t holds sines and cosines of t at geometric frequencies, (T+1, 64).

    The angles are t w_k, w_k = 10000^(-k/32), with t counted in thousandths of T (Vaswani et al. 2017).
    """
    t = np.arange(schedule.T + 1) * 1000 / schedule.T
    angles = np.outer(t, 10000.0 ** (-np.arange(TIME_FREQUENCIES) / TIME_FREQUENCIES))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
