"""The network: a multilayer perceptron on fixed features of x_t and t, forward and backward by hand.

A row is an example, and every A ends in a column of ones, so that the last row of a W is the bias. e = E[eps | x_t] =
sin(theta) u, m = E[x_0 | x_t] = sqrt(lambda) cos(theta) u and theta are those of x_0 ~ N(0, diag lambda), see `schedule.Rotation`.
Below, dX is the derivative of the loss L in X, * is elementwise, and l runs over the hidden layers 1 ... D:

    forward, from the top down                              backward, from the bottom up

    A_0 = features of m and t
    Z_l = A_{l-1} W_l                                       dW_l = A_{l-1}^T dZ_l,      dA_{l-1} = dZ_l W_l^T
    A_l = [ g(Z_l), 1 ]                                     dZ_l = dA_l * g'(Z_l)
    F = A_D W_{D+1}                                         dW_{D+1} = A_D^T dF,        dA_D = dF W_{D+1}^T
    eps_hat = e + cos(theta) * F                            dF = cos(theta) * d eps_hat

The ones are constants: their column is left out of every dA, and the bias row of W_l with it. A_0 is data, and has no dA.
A product is differentiated by the chain rule: Z = A W is z_bj = sum_i a_bi w_ij, so that dw_ij = sum_b a_bi dz_bj
and da_bi = sum_j dz_bj w_ij. All W lie one after the other in a single vector, and the gradient has the same layout:
an optimizer, an average or a checkpoint sees one array.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .arrays.backend import axpby, elementwise, generator, one_plus_tanh
from .arrays.checks import check_out, check_shape
from .arrays.copies import Network
from .arrays.declared import checked, instance, numbers, times
from .arrays.layout import Workspaces, matmul, split, zeros
from .features import TIME_FREQUENCIES, Features, at
from .schedule import Schedule


@elementwise
def g(xp: Any, z_then_a: Any, s: Any) -> None:
    """A = g(Z) = Z S with S = 2 sigma(2Z), sigma(y) = 1 / (1 + e^-y): the SiLU, y sigma(y), of y = 2Z. `g_backward` needs S."""
    one_plus_tanh(xp, z_then_a, out=s)      # 2 sigma(2Z) = 2 / (1 + e^-2Z) = 1 + tanh Z
    z_then_a *= s


@elementwise
def g_backward(xp: Any, da_then_dz: Any, a: Any, s: Any) -> None:
    """dZ = dA g'(Z) = dA (S + Z S') = dA (S + A (2 - S)), since S' = 4 sigma (1 - sigma) = S (2 - S), and A = Z S."""
    slope = 2 - s
    slope *= a
    slope += s
    da_then_dz *= slope


class MLP(Network):
    """The noise prediction: the best one for Gaussian data, plus cos(theta) F.

        eps_hat = e + cos(theta_t) F(m, t),      e = sqrt(1 - abar_t) / v_t x_t,      m = sqrt(abar_t) lambda / v_t x_t

    If x_0 ~ N(0, diag lambda), F = 0 is exact. W_{D+1} starts as 0, so F does, and training starts from there. Since eps is
    sin(theta) u + cos(theta) f, with the f of `schedule.Rotation`, the loss (eps - eps_hat)_i^2 is cos(theta_i)^2 (f - F)_i^2:
    the target f has variance 1, whatever t and lambda are. The network sees m and not u = x_t / sqrt(v_t), in which every axis
    has variance 1: many nearly empty ones would hide the few that carry an image.
    For lambda = 1 f is the "v" of Salimans and Ho (2022, arXiv:2202.00512), sqrt(abar_t) eps - sqrt(1 - abar_t) x_0.

    Parameters
    ----------
    dim : int
        Data dimension d.
    hidden, depth : int
        Width and number of the hidden layers.
    schedule : Schedule
    variances : (d,) array_like, optional
        lambda, the variances of the data, 1 by default. Where one is 0, x_0 is predicted as 0.
    fourier : int
        Octaves of fixed Fourier features, see `Features`.
    rng : None, int or Generator
        For the initial weights.
    dtype : {"float32", "float64", "complex128"}
        Precision. The arithmetic is analytic, so that complex128 gives derivatives by the complex step, Im f(w + ih)/h,
        without cancellation: those in the parameters in the tests, those in u in `log_likelihood`.
    device : {"cpu", "gpu"}

    Attributes
    ----------
    parameters : (P,) array
        All weights; other numbers that are assigned to it are written into its place.
    weights, shapes : lists
        W_1 ... W_{D+1}, views of `parameters`, and their shapes (inputs + 1, outputs); the bias is the last row.
    cos : (T+1, d) array
        cos(theta), for N(0, diag lambda) the deviation of eps given x_t, on the device.
    xp : module
        The array module of the device. Sizes, schedule, variances, dtype and device are as given.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        If an argument cannot be used; if `device` is "gpu" and there is none.
    """

    @checked(schedule=instance(Schedule))
    def __init__(self, dim: int, hidden: int = 128, depth: int = 3, *, schedule: Schedule, variances: Any = None,
                 fourier: int = 0, rng: Any = None, dtype: Any = "float32", device: str = "cpu") -> None:
        super().__init__(dim, hidden, depth, fourier, schedule, variances, dtype, device)
        sin, cos, sd = schedule.rotation(self.variances)
        of_e, of_m = np.divide(sin, sd, out=sin), np.divide(cos * np.sqrt(self.variances), sd, out=sd)
        # The factors of x_t in e and m, and cos(theta): in one array, from which a pass takes the rows of its times at once.
        self._tables = self.xp.empty((3, *sd.shape), dtype=self.dtype)
        for table, values in zip(self._tables, (of_e, of_m, cos)):
            table[...] = self.xp.asarray(values, dtype=self.dtype)
        self.cos = self._tables[2]
        self.features = Features(self.xp, self.dtype, schedule.T, self.dim, self.fourier)
        self.shapes = layer_shapes(self.dim, self.hidden, self.depth, self.fourier, self._outputs())
        self.parameters = zeros(self.xp, (sum(m * n for m, n in self.shapes),), self.dtype)
        self.weights = split(self.parameters, self.shapes)
        rng, k, W_1 = generator(rng), 2 * TIME_FREQUENCIES, self.weights[0]
        for block in (W_1[:k], W_1[k:-1], *(W[:-1] for W in self.weights[1:-1])):
            # He et al. (2015) for relu(2z), which g resembles. The weights of t's features and of m's are scaled by their own numbers
            # of inputs, so that neither drowns the other; the biases and W_{D+1} start as 0.
            deviation = math.sqrt(2 / len(block)) / 2
            block[...] = self.xp.asarray(deviation * rng.standard_normal(block.shape), dtype=self.dtype)
        self._last = Workspaces(self.xp, self.dtype, self.shapes)       # the arrays of the last pass, in each thread its own

    def _outputs(self) -> int:
        return self.dim     # columns of W_{D+1}

    @checked(xt=numbers("B", "dim"), t=times("xt"))
    def __call__(self, xt: Any, t: Any) -> Any:
        """Predict the noise, (B, d). The arrays of the pass are kept for `backward` until the next call in this thread."""
        of_e, of_m, cos = at(self._tables, t)
        F = self.correction(xt, t, of_m)
        self._last.arrays.cos = cos                                     # kept for `backward`
        return axpby(of_e, xt, cos, F)                                  # eps_hat = e + cos(theta) * F

    def correction(self, x: Any, t: Any, of_m: Any = 1.0) -> Any:
        """F, (B, d), for m = of_m x, and t as `__call__` has checked them."""
        arrays = self._last.of(len(x))
        arrays.m = m = arrays.A[0][:, 2 * TIME_FREQUENCIES:][:, :self.dim]    # m's columns of A_0
        self.xp.multiply(of_m, x, out=m)
        # For a single t tau W_t is added to the bias; Z_1 is the same, and backward uses all of A_0.
        A_0, W_1 = self.features.fill_in(arrays.A[0], self.weights[0], m, t)
        A, Z, W = [A_0, *arrays.A[1:]], arrays.Z, [None, W_1, *self.weights[1:]]

        for l in range(1, self.depth + 1):
            matmul(A[l - 1], W[l], out=Z[l])                            # Z_l = A_{l-1} W_l
            arrays.apply(g, l)                                          # A_l = g(Z_l), in the memory of Z_l
        return A[-1] @ W[-1]                                            # F = A_D W_{D+1}

    def backward(self, grad_out: Any, out: Any = None) -> Any:
        """The gradient of L for all parameters, (P,), from grad_out = dL/d eps_hat, (B, d), of the last forward pass.

        It is written to `out`, (P,), if that is given. ValueError if a shape differs, or there was no pass in this thread.
        """
        arrays = self._last.arrays
        d_eps_hat = check_shape("grad_out", self.xp.asarray(grad_out), arrays.batch, self.dim)
        out = zeros(self.xp, self.parameters.shape, self.dtype) if out is None else check_out(out, self.parameters)
        dF = arrays.cos * d_eps_hat                                     # eps_hat = e + cos(theta) * F
        return self.correction_backward(dF, out)

    def correction_backward(self, dF: Any, out: Any) -> Any:
        """The gradient, written to `out`, from dF, F being A_D W_{D+1} of the last pass."""
        arrays = self._last.arrays
        A, dA, dZ = arrays.A, arrays.dA, arrays.dZ
        W, dW = [None, *self.weights], [None, *split(out, self.shapes)]

        # Beside each line stands the forward line that it differentiates. dZ_l takes the place of dA_l.
        matmul(A[-1].T, dF, out=dW[-1])                                 # F = A_D W_{D+1}
        matmul(dF, W[-1][:-1].T, out=dA[-1])                            #     without the bias row: the ones are constants
        for l in range(self.depth, 0, -1):
            arrays.apply_backward(g_backward, l)                        # A_l = g(Z_l): dZ_l = dA_l * g'(Z_l), in place
            matmul(A[l - 1].T, dZ[l], out=dW[l])                        # Z_l = A_{l-1} W_l
            if l > 1:
                matmul(dZ[l], W[l][:-1].T, out=dA[l - 1])               #     without the bias
        return out


def layer_shapes(dim: int, hidden: int, depth: int, fourier: int, outputs: int) -> list[tuple[int, int]]:
    """Rows and columns of W_1 ... W_{D+1}: (inputs + 1, outputs)."""
    features = 2 * TIME_FREQUENCIES + dim + 2 * fourier * dim
    return [(features + 1, hidden), *[(hidden + 1, hidden)] * (depth - 1), (hidden + 1, outputs)]
