"""The closed-form statistics of the forward process: steps 1, 4, 5, 7 and 8 of the derivation.

The forward process adds noise in T small steps,

    q(x_t | x_{t-1}) = N( sqrt(alpha_t) x_{t-1}, beta_t I ),   alpha_t = 1 - beta_t,

and because Gaussians compose, every law below is Gaussian with coefficients known in advance.
Arrays are indexed by t itself: t = 0 is clean data, beta_0 = 0, abar_0 = 1, and length is T + 1.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from .arrays.backend import axpby, get_array_module, running_sums
from .arrays.checks import MOST_STEPS, Array, check_betas
from .arrays.copies import Value
from .arrays.declared import checked, count, lambdas, like, numbers, optional, real, steps_of, times


class Schedule(Value):
    """A noise schedule (Ho et al. 2020, arXiv:2006.11239), made of beta_1 ... beta_T, or by `linear` or `cosine`.

    Parameters
    ----------
    betas : (T,) array_like
        beta_1 to beta_T, each at least 1e-300 and below 1; else ValueError.

    Attributes
    ----------
    T : int
        Number of steps. The arrays below are (T+1,) float64, on the host, whatever the precision of the network.
    betas, alphas, log_alphas, alpha_bars : arrays
        beta_t, alpha_t = 1 - beta_t, its logarithm, and abar_t = prod_{i<=t} alpha_i.
    one_minus_alpha_bars, sqrt_alpha_bars, sqrt_one_minus_alpha_bars : arrays
        The variance of q(x_t | x_0), the factor of x_0 and the factor of eps in x_t.
    posterior_variances, posterior_x0_coefs, posterior_xt_coefs : arrays
        rho_t, the variance of q(x_{t-1} | x_t, x_0), with rho_1 = 0, and the coefficients of its mean in step 5.
    rsqrt_alphas, reverse_eps_coefs, loss_weights : arrays
        The coefficients of the same mean in step 7, and step 8's weight of |eps - eps_hat|^2 in the bound, 0 at t = 0.

    Notes
    -----
    In the methods x, x0, xt and eps are (B, ...) arrays, and t is an int, or (B,) ints, one for each row. What is returned has
    the shape, precision and device of x, where nothing else is said; a variance or coefficient is a float for an int t, else of
    shape (B, 1, ...). A t on the GPU is not compared with T: looking at it would stall the GPU. Setting an attribute raises
    AttributeError.
    """

    def __init__(self, betas: Any) -> None:
        self.betas = np.append(0.0, check_betas(betas))
        self.alphas, self.log_alphas = 1 - self.betas, np.log1p(-self.betas)
        log_alpha_bars = running_sums(self.log_alphas)                      # log abar_t = sum_{i<=t} log alpha_i
        self.alpha_bars = np.exp(log_alpha_bars)
        self.one_minus_alpha_bars = 0 - np.expm1(log_alpha_bars)            # so that beta = 1e-12 keeps its digits. 0 - x: no -0.0
        self.sqrt_alpha_bars = np.exp(0.5 * log_alpha_bars)                 # abar_t underflows before its root
        self.sqrt_one_minus_alpha_bars = np.sqrt(self.one_minus_alpha_bars)

        before = np.append(0.0, self.one_minus_alpha_bars[:-1])             # 1 - abar_{t-1}
        after = np.append(1.0, self.one_minus_alpha_bars[1:])               # 1 - abar_t; the 1 at t = 0 avoids 0/0
        self.posterior_variances = self.betas * (before / after)                                    # rho_t
        self.posterior_x0_coefs = np.append(0.0, self.sqrt_alpha_bars[:-1]) * self.betas / after    # of x_0 in mu~_t
        self.posterior_xt_coefs = np.sqrt(self.alphas) * (before / after)                           # of x_t in mu~_t
        self.rsqrt_alphas = 1 / np.sqrt(self.alphas)                                                # of x_t in step 7
        self.reverse_eps_coefs = self.betas / np.sqrt(self.alphas * after)                          # of -eps in step 7
        self.loss_weights = self.betas / (2 * self.alphas * after)                                  # step 8
        for array in vars(self).values():
            array.flags.writeable = False
        self._copies: dict[Any, Any] = {}
        self.T, self._made = len(self.betas) - 1, (Schedule, (self.betas[1:],))

    @classmethod
    def from_betas(cls, betas: Any) -> Schedule:
        """The same as ``Schedule(betas)``."""
        return cls(betas)

    @classmethod
    @checked(T=count(most=MOST_STEPS), beta_start=optional(real(0, 1)), beta_end=optional(real(0, 1)))
    def linear(cls, T: int = 1000, beta_start: float | None = None, beta_end: float | None = None) -> Schedule:
        """beta_t rises linearly from `beta_start` at t = 1 to `beta_end` at t = T, both in (0, 1).

        By default they are Ho et al.'s 1e-4 and 0.02 for T = 1000, scaled by 1000/T for other T, so that abar_T stays
        near 4e-5 if T is some hundreds or more; a scaled `beta_end` stops at 0.999. T = 1 has `beta_start` alone.
        """
        start = 0.1 / T if beta_start is None else beta_start
        end = min(20 / T, 0.999) if beta_end is None else beta_end
        return cls(np.linspace(start, end, T))

    @classmethod
    @checked(T=count(most=MOST_STEPS))
    def cosine(cls, T: int = 1000) -> Schedule:
        """abar_t = f(t)/f(0) with f(t) = cos^2((t/T + 0.008)/1.008 pi/2); beta_t stops at 0.999.

        Nichol and Dhariwal (2021, arXiv:2102.09672), eq. 17. With a, b for the angles of t-1 and t, beta_t is
        1 - f(t)/f(t-1) = sin(b - a) sin(b + a) / cos^2(a): the same number with no cancellation.
        """
        angle = (np.arange(T + 1) / T + 0.008) / 1.008 * np.pi / 2
        a, b = angle[:-1], angle[1:]
        betas = np.sin(np.pi / 2 / 1.008 / T) * np.sin(a + b) / np.cos(a) ** 2
        return cls(np.minimum(betas, 0.999))

    # ---- step 1: q(x_t | x_0), and q(x_t | x_r) from any r < t
    @checked(x=numbers(), t=times("x"))
    def signal(self, t: Any, x: Any) -> Any:
        """sqrt(abar_t), the factor of x_0 in x_t; x tells shape, precision and device."""
        return self._at(t, x, self.sqrt_alpha_bars)[0]

    @checked(x=numbers(), t=times("x"))
    def noise(self, t: Any, x: Any) -> Any:
        """sqrt(1 - abar_t), the factor of eps in x_t; x tells shape, precision and device."""
        return self._at(t, x, self.sqrt_one_minus_alpha_bars)[0]

    @checked(eps=like("x0"), t=times("x0"))
    def q_sample(self, x0: Any, t: Any, eps: Any) -> Any:
        """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, with eps ~ N(0, I) given by the caller; t = 0 is x_0."""
        signal, noise = self._at(t, x0, self.sqrt_alpha_bars, self.sqrt_one_minus_alpha_bars)
        return axpby(signal, x0, noise, eps)

    @checked(x0=numbers(), t=times("x0"))
    def q_mean_variance(self, x0: Any, t: Any) -> tuple[Any, Any]:
        """Mean and variance of q(x_t | x_0) = N( sqrt(abar_t) x_0, (1 - abar_t) I )."""
        signal, variance = self._at(t, x0, self.sqrt_alpha_bars, self.one_minus_alpha_bars)
        return signal * x0, variance

    @checked(t=count(0, most=steps_of), r=count(0, most=lambda args: args["t"]))
    def q_transition(self, r: int, t: int) -> tuple[float, float]:
        """Scale and variance of q(x_t | x_r) = N( scale x_r, variance I ), for ints 0 <= r <= t <= T.

        scale^2 = abar_t / abar_r = prod_{r<i<=t} alpha_i and variance = 1 - scale^2. The logarithms of these alpha_i are
        summed, since the quotient of two abar would lose digits.
        """
        log_ratio = math.fsum(self.log_alphas[r + 1:t + 1])
        return math.exp(0.5 * log_ratio), 0 - math.expm1(log_ratio)

    # ---- step 4: q(x_{t-1}, x_t | x_0)
    @checked(x0=numbers(), t=count(most=steps_of))
    def q_joint(self, x0: Any, t: int) -> tuple[Any, Array]:
        """Means, (2, B, ...), and covariance, (2, 2), of x_{t-1} and x_t given x_0, for an int t >= 1.

        The means are sqrt(abar_{t-1}) x_0 and sqrt(abar_t) x_0. With v = 1 - abar_{t-1} the covariance is
        [[v, sqrt(alpha_t) v], [sqrt(alpha_t) v, 1 - abar_t]] in every coordinate; coordinates are independent.
        """
        v, after = self.one_minus_alpha_bars[t - 1:t + 1]
        cross = math.sqrt(self.alphas[t]) * v
        means = [signal * x0 for signal in self.sqrt_alpha_bars[t - 1:t + 1].tolist()]
        return get_array_module(x0).stack(means), np.array([[v, cross], [cross, after]])

    # ---- step 5: q(x_{t-1} | x_t, x_0)
    @checked(xt=like("x0"), t=times("x0", least=1))
    def q_posterior(self, x0: Any, xt: Any, t: Any) -> tuple[Any, Any]:
        """Mean mu~_t and variance rho_t of q(x_{t-1} | x_t, x_0), by Bayes, for t >= 1.

        mu~_t = [ sqrt(abar_{t-1}) beta_t x_0 + sqrt(alpha_t) (1 - abar_{t-1}) x_t ] / (1 - abar_t)
        rho_t = beta_t (1 - abar_{t-1}) / (1 - abar_t)
        """
        a, b, rho = self._at(t, x0, self.posterior_x0_coefs, self.posterior_xt_coefs, self.posterior_variances)
        return axpby(a, x0, b, xt), rho

    # ---- step 7: the same mean in terms of the noise
    @checked(eps=like("xt"), t=times("xt"))
    def predict_x0(self, xt: Any, t: Any, eps: Any) -> Any:
        """x_0 = (x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t): `q_sample` solved for x_0."""
        return (xt - self.noise(t, xt) * eps) / self.signal(t, xt)

    @checked(x0=like("xt"), t=times("xt", least=1))
    def predict_eps(self, xt: Any, t: Any, x0: Any) -> Any:
        """eps = (x_t - sqrt(abar_t) x_0) / sqrt(1 - abar_t): `q_sample` solved for eps, for t >= 1."""
        return (xt - self.signal(t, xt) * x0) / self.noise(t, xt)

    @checked(eps=like("xt"), t=times("xt", least=1))
    def reverse_mean(self, xt: Any, t: Any, eps: Any) -> Any:
        """mu~_t = (x_t - beta_t / sqrt(1 - abar_t) eps) / sqrt(alpha_t), for t >= 1."""
        a, b = self._at(t, xt, self.rsqrt_alphas, self.reverse_eps_coefs)
        return axpby(a, xt, -b, eps)

    # ---- step 8
    @checked(x=numbers(), t=times("x"))
    def weight(self, t: Any, x: Any) -> Any:
        """beta_t / (2 alpha_t (1 - abar_t)), the weight of |eps - eps_hat|^2."""
        return self._at(t, x, self.loss_weights)[0]

    # ---- data whose variances lambda are known: the angle, and the best variance of a step back
    @checked(variances=lambdas())
    def rotation(self, variances: Any) -> Rotation:
        """The angle theta_t of x_t, coordinate by coordinate, for x_0 ~ N(0, diag lambda), see `Rotation`.

        `variances` is lambda, (d,), on the host; less than 1e-30 is raised to that, so that theta_0 is defined.
        """
        root = np.sqrt(np.maximum(variances, 1e-30))
        signal, noise = self.sqrt_alpha_bars[:, None] * root, self.sqrt_one_minus_alpha_bars[:, None]
        sd = np.hypot(signal, noise)                                        # v_t = abar_t lambda + 1 - abar_t
        return Rotation(noise / sd, signal / sd, sd)

    def gaussian_variances(self, variances: Any) -> Array:
        """sigma_t^2 = beta_t v_{t-1} / v_t, (T+1, d), the variance of x_{t-1} given x_t for x_0 ~ N(0, diag lambda).

        By Bayes it is that of a prior v_{t-1} seen through sqrt(alpha_t) and the noise beta_t, `gaussian.condition`, and
        v_t = alpha_t v_{t-1} + beta_t. With the exact mu no other makes the bound larger (Bao et al. 2022, arXiv:2201.06503).
        """
        v = self.rotation(variances).sd ** 2        # `rotation` checks them
        return np.concatenate([0 * v[:1], self.betas[1:, None] * v[:-1] / v[1:]])

    def _at(self, t: Any, x: Any, *tables: Array) -> list[Any]:
        """The tables at t: floats for an int t, else arrays to multiply the rows of x, in its precision, on its device."""
        if isinstance(t, int):
            return [float(table[t]) for table in tables]
        xp, dtype, out = get_array_module(x), x.real.dtype, []
        for table in tables:
            key = id(table), xp, dtype
            if key not in self._copies:
                self._copies[key] = xp.asarray(table, dtype=dtype)
            out.append(self._copies[key].take(t).reshape(t.shape + (1,) * (x.ndim - 1)))
        return out

    def __repr__(self) -> str:
        return f"Schedule(T={self.T}, beta_1={self.betas[1]:.4g}, beta_T={self.betas[-1]:.4g}, abar_T={self.alpha_bars[-1]:.4g})"


class Rotation(NamedTuple):
    """theta_t turns x_0 / sqrt(lambda) and eps into u = x_t / sd and f: its tables sin, cos and sd = sqrt(v_t), (T+1, d) each.

        u = cos(theta) x_0 / sqrt(lambda) + sin(theta) eps          tan(theta_t) = sqrt((1 - abar_t) / (abar_t lambda))
        f = cos(theta) eps - sin(theta) x_0 / sqrt(lambda)          v_t = Var x_t = abar_t lambda + 1 - abar_t

    For x_0 ~ N(0, lambda) both are N(0, 1), and independent, since E[u f] = cos sin (E[eps^2] - E[x_0^2] / lambda) = 0. So

        E[eps | x_t] = sin(theta) u        E[x_0 | x_t] = sqrt(lambda) cos(theta) u        E[f | x_t] = 0

    and theta goes from 0, clean data, to nearly pi/2, noise. Other data differ by F = E[f | x_t]; then

        E[eps | x_t] = sin(theta) u + cos(theta) F        E[x_0 | x_t] = sqrt(lambda) (cos(theta) u - sin(theta) F)
    """

    sin: Array
    cos: Array
    sd: Array
