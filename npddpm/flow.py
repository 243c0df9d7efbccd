"""Without noise: a walk in the angle theta, du = F dtheta, down to samples, up to x_T, and the density that it carries.

A small step of the deterministic DDIM predicts x_0_hat and eps_hat, holds them, and moves x_t to the next time. In the units of
`schedule.Rotation`, u = cos(theta) x_0_hat / sqrt(lambda) + sin(theta) eps_hat, theta alone changes, so that

    du = (cos(theta) eps_hat - sin(theta) x_0_hat / sqrt(lambda)) dtheta = F dtheta

(the probability-flow ODE of Song et al. 2021, arXiv:2011.13456). F = 0 for N(0, diag lambda): u stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from . import gaussian
from .arrays.backend import generator, get_array_module
from .arrays.checks import Denoiser, check_finite, check_steps, predict, variances_of
from .arrays.declared import checked, count, optional, points, schedule, steps_of
from .schedule import Rotation, Schedule

POWER = 2.0     # of `few_times`
LONGER = 4      # a step more than this many times as long as the one before does without the earlier F
LOST = 1e-12    # cos(theta) below which float64 has no digits of F left in a predicted noise


class Axes:
    """What a denoiser makes of u and t: F, and the steps in theta, for lambda = its `variances`, see `schedule.Rotation`."""

    def __init__(self, denoiser: Denoiser, s: Schedule, dim: int, xp: Any, dtype: Any, cut: Any = None) -> None:
        self.denoiser, self.s, self.xp, self.dtype, self.cut = denoiser, s, xp, dtype, cut
        self.rotation = s.rotation(variances_of(denoiser, dim))

    def _at(self, t: int) -> Rotation:
        return Rotation(*(self.xp.asarray(table[t], dtype=self.dtype) for table in self.rotation))

    def sd(self, t: int) -> Any:
        """sqrt(v_t), which is sqrt(lambda) for t = 0."""
        return self.xp.asarray(self.rotation.sd[t], dtype=self.dtype)

    def F(self, u: Any, t: int) -> Any:
        """F at u. A network gives it; from eps_hat, divided by a small cos(theta), it would have lost its digits."""
        sin, cos, sd = self._at(t)
        if hasattr(self.denoiser, "correction"):
            F = self.denoiser.correction(self.sd(0) * cos * u, t)       # of m = E[x_0 | x_t]
        else:       # solve eps_hat = sin(theta) u + cos(theta) F
            eps_hat = predict(self.denoiser, sd * u, t)
            F = (eps_hat - sin * u) / self.xp.where(cos > LOST, cos, math.inf)
        if self.cut is None:
            return F
        root = self.sd(0)
        x0 = self.cut(root * (cos * u - sin * F))
        return (cos * u - x0 / root) / self.xp.maximum(sin, 1e-30)

    def turn(self, t: int, r: int) -> tuple[Any, Any]:
        """sin and cos of h = theta_r - theta_t, on the host.

        For r < t the sine of theta_t - theta_r is sqrt(lambda) (n_t s_r - s_t n_r) / sqrt(v_t v_r), with s^2 = abar and n^2 = 1 - abar.
        The difference is abar_r beta / (n_t s_r + s_t n_r), where beta = 1 - abar_t / abar_r, and so keeps its digits.
        """
        low, high = sorted((t, r))
        sin, cos, sd = self.rotation
        scale, beta = self.s.q_transition(low, high)
        n = self.s.sqrt_one_minus_alpha_bars
        sine = cos[low] * beta / (sd[high] * (n[high] + scale * n[low]))
        return sine if r > t else -sine, sin[t] * sin[r] + cos[t] * cos[r]

    def weights(self, before: int | None, t: int, r: int) -> tuple[Any, Any]:
        """a and b of u_r = u_t + a F_t - b F', where F' is that at `before`, the time before t.

        They are exact for F = 0, N(0, diag lambda), and for F = p cos(theta) + q sin(theta), a single point. With h = theta_r -
        theta_t and g = theta_t - theta' the integral of the latter over h is a F_t - b F' for

            b = (1 - cos h) / sin g,      a = sin h + b cos g

        (the two-step method of Adams and Bashforth, in trigonometric form; Gautschi 1961, doi:10.1007/BF01386037). In the
        first step, and along axes where a step is more than four times as long as the one before, b = 0: F' is too far away to
        help. Then u_r = u_t + sin(h) F_t, which is DDIM's step, cos(h) u_t + sin(h) F_t, and (1 - cos h) u_t besides, without
        which N(0, diag lambda) would shrink. It happens in the last step, along axes that are thin beside its noise.
        """
        sin_h, cos_h = self.turn(t, r)
        a, b = sin_h, np.zeros_like(sin_h)
        if before is not None:
            sin_g, cos_g = self.turn(before, t)
            near = np.abs(sin_h) < LONGER * np.abs(sin_g)
            b = np.where(near, sin_h**2 / (1 + cos_h) / np.where(near, sin_g, 1), 0)
            a = np.where(near, sin_h + b * cos_g, a)
        return self.xp.asarray(a, dtype=self.dtype), self.xp.asarray(b, dtype=self.dtype)


def walk(axes: Axes, F: Callable[[Any, int], Any], u: Any, times: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """du = F(u, t) dtheta from times[0] through all `times`, up or down, of second order: (t, u) after each step.

    u may be a stack, (..., B, d). At t = 0, F = E[eps | x_0] = 0, so that the first step up takes the mean of 0
    and F at its end (Heun's method).
    """
    before, last = None, 0 * u
    for t, r in pairwise(times):
        now = F(u, t) if t > 0 else last
        a, b = axes.weights(before, t, r)
        u = u + a * now - b * last if t > 0 else u + a / 2 * F(u, r)
        before, last = t, now
        yield r, u


def few_times(start: int, steps: int | Sequence[int] | None, power: float = 1.0) -> list[int]:
    """n decreasing times, start (i/n)^power rounded up for i = n ... 1, at least i; without `steps` all from `start` to 1; or
    `steps` itself, checked.

    With the power 1 they are evenly spread. With 2 they lie closer together near 0, where x_t gets its detail.
    """
    n = start if steps is None else check_steps(steps, start)
    if isinstance(n, list):
        return n
    return [max(i, math.ceil(round(start * (i / n) ** power, 9))) for i in range(n, 0, -1)]


def times_up(s: Schedule, steps: int | None) -> list[int]:
    """0 and the times of so many steps, rising; by default of 100, or T where that is less."""
    return [0, *few_times(s.T, min(100, s.T) if steps is None else steps, POWER)[::-1]]


@checked(s=schedule(Schedule), x0=points("B", "d"), steps=optional(count(most=steps_of)))
def encode(denoiser: Denoiser, s: Schedule, x0: Any, steps: int | None = None) -> Any:
    """Go up from data to the x_T from which ``sample(..., x_T=x_T, steps=steps)`` comes down to the data again.

    The same `walk` over the same times as there. What comes back differs from x0 by an error of second order in the
    step, and by the denoiser's own where x0 is unlike the data.

    Parameters
    ----------
    denoiser : callable
        As in `trajectory`.
    s : Schedule
    x0 : (B, d) array
    steps : int, optional
        At most T; by default min(100, T). `sample` has to be given this number, since without one it takes all steps, with noise.

    Returns
    -------
    (B, d) array

    Raises
    ------
    FloatingPointError
        If the denoiser makes NaN or infinity of it.
    """
    axes = Axes(denoiser, s, x0.shape[1], get_array_module(x0), x0.dtype)
    for t, u in walk(axes, axes.F, x0 / axes.sd(0), times_up(s, steps)):
        x = axes.sd(t) * u
    return check_finite(x, x0=x0)


@checked(s=schedule(Schedule), x0=points("B", "d", dtype=float), steps=optional(count(most=steps_of)), probes=optional(count(2)))
def log_likelihood(denoiser: Denoiser, s: Schedule, x0: Any, steps: int | None = None, *, probes: int | None = None,
                   rng: Any = None) -> Any:
    """log p(x_0) under the walk of ``sample(..., steps=steps)``, (B,) nats: an estimate of the density, not of a bound.

    The `walk` upwards carries it (Chen et al. 2018, arXiv:1806.07366): p(x_0) is the density of x_T times the change of volume,

        log p(x_0) = log N(x_T; 0, I) + sum_i log sqrt(v_T,i / lambda_i) + integral of sum_i dF_i/du_i dtheta_i

    with the weights of the walk for the integral too, so that its error is of second order in the step. Where dF/du is large,
    between clusters that are narrow beside their distance, few steps may be far off, to either side: compare two step counts.

    Parameters
    ----------
    denoiser : callable
        As in `trajectory`. It is given complex numbers: dF/du is a complex step, Im F(u + ih)/h, see `MLP`. A network with a method
        `astype` is copied to complex128.
    s : Schedule
    x0 : (B, d) array
    steps : int, optional
        At most T; by default min(100, T). Each calls the denoiser d times, once for each column, or `probes` times.
    probes : int, optional
        In place of the columns random directions z of +-1, whose z dF/du z has the mean sum_i dF_i/du_i (Hutchinson 1989); 2 or
        more, for many columns.
    rng : None, int or Generator
        Draws the probes.

    Returns
    -------
    (B,) array
        With `probes` a pair of them: the estimate, and its standard error.

    Raises
    ------
    TypeError
        If the denoiser returns real numbers for complex ones.
    FloatingPointError
        If the denoiser makes NaN or infinity of it.
    """
    denoiser = denoiser.astype("complex128") if hasattr(denoiser, "astype") else denoiser
    xp, h = get_array_module(x0), 1e-20
    directions = xp.eye(x0.shape[1]) if probes is None else generator(rng, xp).integers(0, 2, (probes, *x0.shape)) * 2.0 - 1
    axes = Axes(denoiser, s, x0.shape[1], xp, np.dtype(float))

    def F_and_diagonal(state: Any, t: int) -> Any:
        """F, and z * (dF/du z) for each direction z, or their sum over the columns, the diagonal of dF/du."""
        u, parts = state[0], []
        for z in directions:
            F = axes.F(u + 1j * h * z, t)
            parts.append(z * (F.imag / h))
        return xp.stack([F.real, *(parts if probes is not None else [sum(parts)])])

    state = xp.zeros((2 if probes is None else 1 + probes, *x0.shape))
    state[0], state[1:] = x0 / axes.sd(0), xp.log(axes.sd(s.T) / axes.sd(0))    # log sqrt(v_T / lambda) and the integral
    for _, end in walk(axes, F_and_diagonal, state, times_up(s, steps)):
        pass
    integral = end[1:].sum(-1)
    nats = check_finite(gaussian.log_density(axes.sd(s.T) * end[0], 0.0, 1.0) + integral.mean(0), x0=x0)
    return nats if probes is None else (nats, integral.std(0, ddof=1) / math.sqrt(probes))
