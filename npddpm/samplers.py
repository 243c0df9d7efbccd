"""Samplers, for any noise prediction ``denoiser(x_t, t)``: from x_T to x_0, in T steps or in twenty.

`trajectory` yields every (t, x_t), so that a film or a progress bar needs nothing else; `sample` keeps the last.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, pairwise
from typing import Any, cast

import numpy as np

from .arrays.backend import axpby, generator, standard_normal
from .arrays.checks import Denoiser, check_finite, check_points, predict, variances_of
from .arrays.declared import checked, choice, count, home_of, limits, optional, points, real, schedule, steps_of
from .flow import POWER, Axes, few_times, walk
from .schedule import Schedule


@checked(s=schedule(Schedule), n=count(), dim=count(), variance=choice("beta", "posterior", "gaussian"),
         start=optional(count(most=steps_of)), eta=optional(real(0, 1, closed=True)), clip=optional(limits()),
         x_T=optional(points("n", "dim")))
def trajectory(denoiser: Denoiser, s: Schedule, n: int, dim: int, rng: Any = None, *, x_T: Any = None,
               start: int | None = None, noise: Any = None, variance: str = "beta",
               steps: int | Sequence[int] | None = None, eta: float | None = None,
               clip: tuple[Any, Any] | Callable[[Any], Any] | None = None) -> Iterator[tuple[int, Any]]:
    """The reverse process as a generator of (t, x_t), from x_T down to the samples x_0.

    By default Ho et al.'s Algorithm 2, from each t to r = t - 1; with `eta` DDIM (Song et al. 2021). Both are

        x_r = a x_t - b eps_hat(x_t, t) + sigma_t z_t,      z_t ~ N(0, I)

    with the a, b and sigma of `reverse_coefficients`, or the sigma of `variance`. With `steps` alone there is no noise, and a solver
    of second order, `flow.walk`.

    Parameters
    ----------
    denoiser : callable
        ``denoiser(x_t, t)`` with x_t of shape (n, dim) and t an int. If it has attributes `dtype` and
        `device`, as `MLP` has, it is given such arrays; else float64, where x_T is. Its `variances`, (dim,), are lambda, by
        default 1; if they are right, `walk` and variance="gaussian" turn N(0, diag v_T) into N(0, diag lambda) exactly.
    s : Schedule
    n, dim : int
        Number of samples, and their dimension.
    rng : None, int or Generator
        Draws x_T and the noise, unless these are given.
    x_T : (n, dim) array, optional
        Where to begin, by default N(0, I); it is copied.
    start : int, optional
        The time of x_T, by default T. With a noised input x_t for x_T and its t for `start`, the input is denoised.
    noise : (T+1, n, dim) array, optional
        Row t is z_t, so that a trajectory can be replayed exactly. Row 0 is not used, nor, but for "gaussian", that of the last
        step; all must be finite.
    variance : {"beta", "posterior", "gaussian"}
        sigma_t^2 of Algorithm 2: Ho et al.'s beta_t or rho_t, with no noise in the last step; or that of `Schedule.gaussian_variances`,
        axis by axis, in the last step too. It has no effect on other samplers.
    steps : int or sequence of ints, optional
        The number of steps, see `few_times`, or the decreasing times themselves, the first of which is that of x_T: if it is
        not T and no x_T is given, N(0, I) stands for the law of x_t there, as in other libraries.
    eta : float in [0, 1], optional
        DDIM's share of noise: 0 is deterministic, and of first order; 1 has the variance rho of each step, but is Algorithm 2, with
        `variance`, without `steps`. With it an int `steps` gives evenly spaced times, without it quadratic ones.
    clip : (low, high) or callable, optional
        Range for the predicted x_0, enforced at every step: numbers, or (dim,) arrays; or a function of it.

    Yields
    ------
    t : int
    x_t : (n, dim) array
        From which the next step is taken: copy it before you change it.

    Raises
    ------
    ValueError, TypeError
        If `start` has no x_T or is not the first of `steps`; on the way, if the denoiser or `clip` returns no numbers of the
        shape that it is given.
    RuntimeError
        If the denoiser's device is "gpu" and there is none.
    """
    noise_free = steps is not None and eta is None
    times = few_times(s.T if start is None else start, steps, POWER if noise_free else 1.0)
    eta = 1.0 if eta is None else eta
    if steps is not None or eta < 1:
        variance = "posterior"
    if start is not None and x_T is None:
        raise ValueError("start needs x_T, which is N(0, I) at T alone")
    if start is not None and times[0] != start:
        raise ValueError(f"steps must begin at start, {start}, got {times[0]}")
    (xp, dtype), cut = home_of(denoiser, x_T), cast(Any, clip)
    z = None if noise is None else check_points("noise", noise, xp, dtype, s.T + 1, n, dim)
    rng = generator(rng, xp)
    x_T = standard_normal(rng, (n, dim), dtype) if x_T is None else x_T.copy()

    def one_by_one(x: Any) -> Iterator[tuple[int, Any]]:
        sds = np.sqrt(s.gaussian_variances(variances_of(denoiser, dim))) if variance == "gaussian" else None
        for t, r in pairwise([*times, 0]):
            a, b, c, sigma = reverse_coefficients(s, t, r, eta, "posterior" if variance == "gaussian" else variance)
            eps_hat = predict(denoiser, x.copy(), t)        # a denoiser may write into what it is given
            if cut is None and a < 1e3:
                x = axpby(a, x, -b, eps_hat)
            else:   # predict x_0, clip it, noise it again as far as r; also for large a, beside which b holds no digits of c
                x0 = axpby(1.0, x, -s.noise(t, x), eps_hat) / max(s.signal(t, x), 1e-30)
                if cut is not None:
                    x0 = cut(x0)
                    eps_hat = axpby(1.0, x, -s.signal(t, x), x0) / max(s.noise(t, x), 1e-30)
                x = axpby(s.signal(r, x), x0, c, eps_hat)
            if sds is not None or sigma > 0:
                of_z = sigma if sds is None else xp.asarray(sds[t], dtype=dtype)
                x = axpby(1.0, x, of_z, standard_normal(rng, (n, dim), dtype) if z is None else z[t])
            yield r, x

    def without_noise(x: Any) -> Iterator[tuple[int, Any]]:
        axes = Axes(denoiser, s, dim, xp, dtype, cut)
        for t, u in walk(axes, axes.F, x / axes.sd(times[0]), [*times, 0]):
            yield t, axes.sd(t) * u if t > 0 or cut is None else cut(axes.sd(0) * u)

    return chain([(times[0], x_T)], (without_noise if noise_free else one_by_one)(x_T))


def sample(denoiser: Denoiser, s: Schedule, n: int, dim: int, rng: Any = None, **options: Any) -> Any:
    """Draw n samples of x_0, (n, dim): the end of a `trajectory`, with its parameters and errors.

    Raises
    ------
    FloatingPointError
        If the denoiser makes NaN or infinity of it, or x_T is too large.
    """
    for _, x in trajectory(denoiser, s, n, dim, rng, **options):
        pass
    return check_finite(x, x_T=options.get("x_T"))


@checked(s=schedule(Schedule), variance=choice("beta", "posterior"), t=count(most=steps_of), r=count(0, lambda args: args["t"] - 1),
         eta=real(0, 1, closed=True))
def reverse_coefficients(s: Schedule, t: int, r: int, eta: float = 1.0,
                         variance: str = "posterior") -> tuple[float, float, float, float]:
    """a, b, c and sigma of the step from x_t back to x_r by the predicted noise e: x_r = a x_t - b e + sigma z.

    Here 0 <= r < t <= T are ints, z ~ N(0, I), and eta in [0, 1] is the share of noise. Song et al. (2021,
    arXiv:2010.02502, eq. 12 and 16) predict x_0 and noise it again as far as r,

        x_r = sqrt(abar_r) x_0 + c e + sigma z,                    c = sqrt(1 - abar_r - sigma^2)
        sigma^2 = eta^2 beta (1 - abar_r) / (1 - abar_t),          beta = 1 - abar_t / abar_r

    so that x_r has the variance of q(x_r | x_0): c^2 + sigma^2 = 1 - abar_r. By 1 - abar_t - beta = (1 - beta)(1 - abar_r)
    c^2 is (1 - abar_r) (1 - eta^2 + eta^2 (1 - beta)(1 - abar_r) / (1 - abar_t)), without a difference of near equals.
    Inserting x_0 = (x_t - sqrt(1 - abar_t) e) / sqrt(abar_t) gives a = sqrt(abar_r / abar_t) and the difference
    b = a sqrt(1 - abar_t) - c of near equals. It is (a^2 (1 - abar_t) - c^2) / (a sqrt(1 - abar_t) + c), whose numerator
    is a^2 beta + sigma^2, a sum of positive terms, since a^2 (1 - abar_t) - (1 - abar_r) = a^2 - 1 = a^2 beta.
    r = t - 1 and eta = 1 give step 7: a = 1/sqrt(alpha_t), b = beta_t/sqrt(alpha_t (1 - abar_t)), sigma^2 = rho_t. For these
    steps Ho et al. also allow sigma^2 = beta_t: variance="beta" takes it, but 0 in the last step, r = 0.
    """
    if variance == "beta" and (eta < 1 or r < t - 1):
        raise ValueError(f"variance must be 'posterior' unless r = t - 1 and eta = 1, got 'beta' with r = {r}, t = {t}, eta = {eta}")
    scale, beta = s.q_transition(r, t)
    before, after = s.one_minus_alpha_bars[[r, t]].tolist()             # 1 - abar_r and 1 - abar_t
    a = 1 / max(scale, 1e-300)                                          # no overflow where all of the signal is lost
    sigma2 = eta**2 * beta * (before / after)
    c = math.sqrt(before) * math.sqrt((1 - eta) * (1 + eta) + eta**2 * scale**2 * (before / after))
    b = a * (beta + scale**2 * sigma2) / (math.sqrt(after) + scale * c)    # numerator and denominator divided by a
    return a, b, c, math.sqrt(beta if variance == "beta" and r > 0 else sigma2)
