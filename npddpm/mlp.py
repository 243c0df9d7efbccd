"""The network: a multilayer perceptron on fixed features of x_t and t, forward and backward by hand.

A row is an example, and every A ends in a column of ones, so that the last row of a W is the bias. E, sd and m = E[x_0 | x_t]
are those of x_0 ~ N(0, diag lambda), known in closed form, see `MLP`. Below, dX is the derivative of the loss L by X, * goes
element by element, and l runs over the hidden layers 1 ... D:

    forward, from the top down                              backward, from the bottom up

    A_0 = features of m and t
    Z_l = A_{l-1} W_l                                       dW_l = A_{l-1}^T dZ_l,      dA_{l-1} = dZ_l W_l^T
    A_l = [ g(Z_l), 1 ]                                     dZ_l = dA_l * g'(Z_l)
    H = A_D W_{D+1}                                         dW_{D+1} = A_D^T dH,        dA_D = dH W_{D+1}^T
    F = H; or with gates F_0 + (G * (m U)) U^T              dH = dF; or with gates [dF, dG],  dG = (dF U) * (m U)
      where [F_0, G] = H, and U is fixed                      since F = F_0 + Y U^T, Y = G * (m U): dY = dF U
    eps_hat = E[eps | x_t] + sd[eps | x_t] * F              dF = sd[eps | x_t] * d eps_hat

The ones are constants: their column is left out of every dA, and the bias row of W_l with it. A_0 is data, and has no dA.
A product is differentiated by the chain rule: Z = A W is z_bj = sum_i a_bi w_ij, so that dw_ij = sum_b a_bi dz_bj
and da_bi = sum_j dz_bj w_ij. All W lie one after the other in a single vector, and the gradient has the same layout:
an optimizer, an average or a checkpoint sees one array.
"""

import math
import threading
from functools import partial
from typing import Any

import numpy as np

from .backend import axpby, device_module, elementwise, generator, one_plus_tanh
from .checks import (
    check_directions,
    check_dtype,
    check_shape,
    check_shaped,
    check_sizes,
    check_times,
    check_type,
    check_variances,
)
from .features import TIME_FREQUENCIES, Features, at, gaussian_answer
from .layout import Workspace, layer_shapes, matmul, split, zeros
from .schedule import Schedule


@elementwise
def g(xp: Any, z_then_a: Any, u: Any) -> None:
    """A = g(Z) = Z u with u = 2 sigma(2Z), sigma(y) = 1 / (1 + e^-y): the SiLU, y sigma(y), of y = 2Z. `g_backward` needs u."""
    one_plus_tanh(xp, z_then_a, out=u)      # 2 sigma(2Z) = 2 / (1 + e^-2Z) = 1 + tanh Z
    z_then_a *= u


@elementwise
def g_backward(xp: Any, da_then_dz: Any, a: Any, u: Any) -> None:
    """dZ = dA g'(Z) = dA (u + Z u') = dA (u + A (2 - u)), since u' = 4 sigma (1 - sigma) = u (2 - u), and A = Z u."""
    slope = 2 - u
    slope *= a
    slope += u
    da_then_dz *= slope


class MLP:
    """The noise prediction: the exact one for Gaussian data, plus a correction F in units of its standard deviation.

    If x_0 ~ N(0, diag lambda), x_0 and x_t are jointly Gaussian in each coordinate (`gaussian.joint`), like eps and x_t,
    and by Bayes (`gaussian.condition`), with v = Var x_t = abar_t lambda_i + 1 - abar_t,

        E[x_0 | x_t] = (sqrt(abar_t) lambda_i / v) x_t          what the network sees of x_t
        E[eps | x_t] = (sqrt(1 - abar_t) / v) x_t
        Var[eps | x_t] = abar_t lambda_i / v                    sd[eps | x_t] is its root

        eps_hat = E[eps | x_t] + sd[eps | x_t] F( E[x_0 | x_t], t )

    W_{D+1} starts as 0, so F does, and training starts from the exact prediction for Gaussian data. With gates

        F = F_0 + (G * (m U)) U^T

    where U (d, p) is fixed, with a column for each pixel in `DDPM`, so that m U is E[x_0 | x_t] there, and the network sets
    G (B, p), like F_0 (B, d). Since (eps - E[eps | x_t]) / sd[eps | x_t] = (m - x_0) / sd[x_0 | x_t], F has to contain m itself,
    pixel by pixel; layers of some hundreds cannot carry it through, and so G multiplies it by factors. In place of m the network could see x_t or x_t / sqrt(v): both
    drown the few axes that carry an image in hundreds of noise.
    For lambda = 1 F is the "v" of Salimans and Ho (2022, arXiv:2202.00512), sqrt(abar_t) eps - sqrt(1 - abar_t) x_0.

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
    gated : bool
        Whether F has gates.
    directions : (d, p) array_like, optional
        U, whose columns the features and the gates belong to; by default the coordinates.
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
    weights, shapes : lists
        W_1 ... W_{D+1}, views of `parameters`, and their shapes (inputs + 1, outputs); the bias is the last row.
    dim, hidden, depth, fourier, gated, directions, schedule, variances, device
        As given.
    dtype : numpy.dtype
    features : Features
    eps_factor, eps_sd : (T+1, d) arrays
        The first term of eps_hat is eps_factor[t] * x_t (for sampling `spread` makes it smaller), and sd[eps | x_t] is eps_sd[t].
    xp : module
        The array module of the device.

    Raises
    ------
    ValueError
        If a size, `variances`, `directions`, `rng`, `dtype` or `device` cannot be used.
    TypeError
        If `schedule` is no Schedule, `gated` no bool, or `rng` nothing that a generator is made from.
    RuntimeError
        If `device` is "gpu" and there is none.
    """

    def __init__(self, dim: int, hidden: int = 128, depth: int = 3, *, schedule: Schedule,
                 variances: Any = None, fourier: int = 0, gated: bool = False, directions: Any = None, rng: Any = None,
                 dtype: Any = "float32", device: str = "cpu") -> None:
        check_type("schedule", schedule, Schedule)
        check_type("gated", gated, bool)
        dim, hidden, depth, fourier = check_sizes(dim, hidden, depth, fourier, schedule.T)
        self.dim, self.hidden, self.depth, self.fourier = dim, hidden, depth, fourier
        self.dtype = check_dtype(dtype, "float32", "float64", "complex128")
        self.xp, self.schedule, self.device, self.gated = device_module(device), schedule, device, gated
        self.directions = None if directions is None else check_directions(directions, dim)
        self.variances = np.ones(dim) if variances is None else check_variances(variances, dim)
        xp, (x0_factor, eps_factor, eps_sd) = self.xp, gaussian_answer(schedule, self.variances)
        self.eps_factor, self.eps_sd = (xp.asarray(table, dtype=self.dtype) for table in (eps_factor, eps_sd))
        self.features = Features(xp, self.dtype, schedule, x0_factor, fourier, self.directions)
        self.shapes = layer_shapes(dim, hidden, depth, fourier, gated, self.features.p)
        self.parameters = zeros(xp, (sum(m * n for m, n in self.shapes),), self.dtype)
        self.weights = split(self.parameters, self.shapes)
        rng, k, W_1 = generator(rng), 2 * TIME_FREQUENCIES, self.weights[0]
        for block in (W_1[:k], W_1[k:-1], *(W[:-1] for W in self.weights[1:-1])):
            # He et al. (2015) for relu(2z), which g resembles. t and x have a fan-in each, so that neither drowns the
            # other; the biases and W_{D+1} start as 0.
            deviation = math.sqrt(2 / len(block)) / 2
            block[...] = xp.asarray(deviation * rng.standard_normal(block.shape), dtype=self.dtype)
        self._last = threading.local()              # the arrays of the last forward pass, in each thread its own

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy is a new network, so that its weights are views of its own parameters."""
        make = partial(MLP, self.dim, self.hidden, self.depth, schedule=self.schedule, variances=self.variances, rng=0,
                       fourier=self.fourier, gated=self.gated, directions=self.directions, dtype=self.dtype, device=self.device)
        return make, (), (self.parameters, self.eps_factor)

    def __setstate__(self, state: Any) -> None:
        self.parameters[...], self.eps_factor[...] = state

    def __call__(self, xt: Any, t: Any) -> Any:
        """Predict the noise. The arrays of the pass are kept, for `backward`, until the next call in this thread.

        Parameters
        ----------
        xt : (B, d) array
        t : int or (B,) ints in 0..T

        Returns
        -------
        (B, d) array

        Raises
        ------
        ValueError
            If xt is not (B, d), t not one time for each row, or a time out of 0..T.
        TypeError
            If t is not made of ints, or xt not of numbers, or of complex ones where the network is real.
        """
        xt = check_shaped("xt", xt, self.xp, self.dtype, "B", self.dim)
        t = check_times(t, xt, self.schedule.T)
        arrays = getattr(self._last, "arrays", None)
        if arrays is None or arrays.batch != len(xt):
            arrays = self._last.arrays = Workspace(self.xp, self.dtype, len(xt), self.shapes)
        rows, eps_factor = arrays.rows, at(self.eps_factor, t)
        arrays.eps_sd = eps_sd = at(self.eps_sd, t)                     # kept for the backward pass
        # If all rows have one t, its columns are folded into the bias for this product; arrays.A[0] keeps them, for backward.
        A_0, W_1, arrays.mU = self.features.fill_in(arrays.A[0], self.weights[0], xt, t)
        A, Z, W = [A_0, *arrays.A[1:]], arrays.Z, [None, W_1, *self.weights[1:]]

        for l in range(1, self.depth + 1):
            matmul(A[l - 1], W[l], out=Z[l])                            # Z_l = A_{l-1} W_l
            arrays.apply(g, l)                                          # A_l = g(Z_l), in the memory of Z_l
        H = (A[-1] @ W[-1])[rows]                                       # H = A_D W_{D+1}
        F = H[:, :self.dim]
        if self.gated:
            F = F + self.features.back(H[:, self.dim:] * arrays.mU)     # F = F_0 + (G * (m U)) U^T
        return axpby(eps_factor, xt, eps_sd, F)                         # eps_hat = E[eps | x_t] + sd[eps | x_t] * F

    def backward(self, grad_out: Any, out: Any = None) -> Any:
        """The gradient of L for all parameters, from grad_out = dL/d eps_hat of the last forward pass.

        Parameters
        ----------
        grad_out : (B, d) array
        out : (P,) array, optional
            Where to write the gradient; what it held is lost.

        Returns
        -------
        (P,) array

        Raises
        ------
        ValueError
            If there was no forward pass in this thread, grad_out has not the shape of its result, or `out` is not (P,).
        """
        arrays = getattr(self._last, "arrays", None)
        if arrays is None:
            raise ValueError("backward needs a forward pass before it, in the same thread")
        rows = arrays.rows
        d_eps_hat = check_shape("grad_out", self.xp.asarray(grad_out), arrays.batch, self.dim)
        if out is None:
            out = zeros(self.xp, self.parameters.shape, self.dtype)
        check_shape("out", out, len(self.parameters))
        A, dA, dZ, dH = arrays.A, arrays.dA, arrays.dZ, arrays.dH
        dF, dG = dH[rows, :self.dim], dH[rows, self.dim:]
        W, dW = [None, *self.weights], [None, *split(out, self.shapes)]

        # Beside each line stands the forward line that it differentiates. dF and dG lie in dH, dZ_l takes the place of dA_l.
        self.xp.multiply(arrays.eps_sd, d_eps_hat, out=dF)              # eps_hat = E[eps | x_t] + sd[eps | x_t] * F
        if self.gated:
            self.xp.multiply(self.features.along(dF), arrays.mU, out=dG)    # F = F_0 + (G * (m U)) U^T
        matmul(A[-1].T, dH, out=dW[-1])                                 # H = A_D W_{D+1}
        matmul(dH, W[-1][:-1].T, out=dA[-1])                            #     without the bias, since ones stay ones
        for l in range(self.depth, 0, -1):
            arrays.apply_backward(g_backward, l)                        # A_l = g(Z_l): dZ_l = dA_l * g'(Z_l), in place
            matmul(A[l - 1].T, dZ[l], out=dW[l])                        # Z_l = A_{l-1} W_l
            if l > 1:
                matmul(dZ[l], W[l][:-1].T, out=dA[l - 1])               #     without the bias
        return out
