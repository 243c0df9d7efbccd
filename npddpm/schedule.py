"""The closed-form statistics of the forward process: steps 1, 4, 5, 7 and 8 of the derivation.

The forward process adds noise in T small steps,

    q(x_t | x_{t-1}) = N( sqrt(alpha_t) x_{t-1}, beta_t I ),   alpha_t = 1 - beta_t,

and because Gaussians compose, every law below is Gaussian with coefficients known in advance.
Arrays are indexed by t itself: t = 0 is clean data, beta_0 = 0, abar_0 = 1, and length is T + 1.

Everything is kept in float64 on the host, whatever the precision of the network. The product
abar_t = prod_s (1 - beta_s) is summed as log1p(-beta_s), and 1 - abar_t is -expm1 of that sum: written
as it stands, ``1 - cumprod(1 - betas)``, a schedule that starts at beta = 1e-12 keeps four digits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .backend import fused, get_array_module

Array = np.ndarray[Any, np.dtype[np.float64]]


@fused
def axpby(a: Any, x: Any, b: Any, y: Any) -> Any:
    """The form that most means below have."""
    return a * x + b * y


@dataclass(frozen=True, eq=False, repr=False)
class Schedule:
    """A noise schedule, built by `linear`, `cosine` or `from_betas`: an immutable value.

    Attributes
    ----------
    T : int
        Number of steps.
    betas, alphas, alpha_bars : (T+1,) float64
        beta_t, alpha_t = 1 - beta_t, abar_t = prod_{s<=t} alpha_s.
    posterior_variances : (T+1,) float64
        rho_t, the variance of q(x_{t-1} | x_t, x_0); rho_1 = 0.
    loss_weights : (T+1,) float64
        The weight of |eps - e_theta|^2 in the bound, step 8; 0 at t = 0.

    Notes
    -----
    In the methods, x has shape (B, ...) and t is an int, or (B,) ints, one for each row of x.
    Coefficients take the precision and the device of x. A `t` that lies on the GPU is not checked
    against 1..T, since looking at it would stall the GPU.

    References
    ----------
    J. Ho, A. Jain, P. Abbeel, "Denoising diffusion probabilistic models", 2020, arXiv:2006.11239.
    """

    betas: Array

    @classmethod
    def from_betas(cls, betas: Any) -> Schedule:
        """Take beta_1 ... beta_T as given.

        Parameters
        ----------
        betas : (T,) array_like
            Each strictly between 0 and 1.

        Raises
        ------
        ValueError
            If it is empty, not one-dimensional, or a value is outside (0, 1).
        """
        try:
            betas = np.asarray(betas, dtype=np.float64)
        except (TypeError, ValueError):
            raise ValueError(f"betas must be numbers in (0, 1), got {betas!r:.80}") from None
        if betas.ndim != 1 or betas.size == 0:
            raise ValueError(f"betas must have shape (T,) with T >= 1, got shape {betas.shape}")
        bad = np.flatnonzero(~((betas > 0) & (betas < 1)))
        if bad.size:
            raise ValueError(f"betas must lie strictly between 0 and 1, got {betas[bad[0]]} "
                             f"at index {bad[0]} (pass beta_1 to beta_T, without beta_0)")
        return cls(_frozen(np.concatenate([[0.0], betas])))

    @classmethod
    def linear(cls, T: int = 1000, beta_start: float | None = None,
               beta_end: float | None = None) -> Schedule:
        """beta_t rises linearly from `beta_start` at t = 1 to `beta_end` at t = T.

        Parameters
        ----------
        T : int
            Number of steps.
        beta_start, beta_end : float, optional
            Taken as they are when given. By default Ho et al.'s 1e-4 and 0.02 for T = 1000, scaled by
            1000/T for other T, so that abar_T stays near 4e-5; a scaled beta stops at 0.999.
        """
        T = check_count("T", T)
        start = min(0.1 / T, 0.999) if beta_start is None else beta_start
        end = min(20 / T, 0.999) if beta_end is None else beta_end
        for name, beta in (("beta_start", start), ("beta_end", end)):
            if not (isinstance(beta, (int, float, np.number)) and 0 < beta < 1):
                raise ValueError(f"{name} must lie strictly between 0 and 1, got {beta!r}")
        return cls.from_betas(np.linspace(start, end, T))

    @classmethod
    def cosine(cls, T: int = 1000) -> Schedule:
        """abar_t = f(t)/f(0) with f(t) = cos^2((t/T + 0.008)/1.008 pi/2); beta_t stops at 0.999.

        1 - f(t)/f(t-1) = sin(b - a) sin(b + a) / cos^2(a), where a, b are the angles of t-1 and t: the
        same number with no cancellation.

        References
        ----------
        A. Nichol, P. Dhariwal, "Improved denoising diffusion probabilistic models", 2021, eq. 17.
        """
        T = check_count("T", T)
        angle = (np.arange(T + 1) / T + 0.008) / 1.008 * np.pi / 2
        a, b = angle[:-1], angle[1:]
        betas = np.sin(np.pi / 2 / 1.008 / T) * np.sin(a + b) / np.cos(a) ** 2
        return cls.from_betas(np.minimum(betas, 0.999))

    @property
    def T(self) -> int:
        return len(self.betas) - 1

    @cached_property
    def alphas(self) -> Array:
        """alpha_t = 1 - beta_t."""
        return _frozen(1 - self.betas)

    @cached_property
    def log_alphas(self) -> Array:
        return _frozen(np.log1p(-self.betas))

    @cached_property
    def log_alpha_bars(self) -> Array:
        """log abar_t = sum_{s<=t} log alpha_s, each sum rounded as if it were computed exactly."""
        return _frozen(_cumulative_sum(self.log_alphas))

    @cached_property
    def alpha_bars(self) -> Array:
        """abar_t = prod_{s<=t} alpha_s."""
        return _frozen(np.exp(self.log_alpha_bars))

    @cached_property
    def one_minus_alpha_bars(self) -> Array:
        """1 - abar_t, to full relative precision (0 - expm1: a minus sign alone would give -0.0 at t = 0)."""
        return _frozen(0 - np.expm1(self.log_alpha_bars))

    @cached_property
    def sqrt_alpha_bars(self) -> Array:
        return _frozen(np.exp(0.5 * self.log_alpha_bars))  # reaches further down than sqrt(abar)

    @cached_property
    def sqrt_one_minus_alpha_bars(self) -> Array:
        return _frozen(np.sqrt(self.one_minus_alpha_bars))

    @cached_property
    def posterior_variances(self) -> Array:
        """rho_t = beta_t (1 - abar_{t-1}) / (1 - abar_t)."""
        return _from_1(self.betas[1:] * self._one_minus_ratio)

    @cached_property
    def posterior_x0_coefs(self) -> Array:
        """The weight of x_0 in mu~_t: sqrt(abar_{t-1}) beta_t / (1 - abar_t)."""
        return _from_1(self.sqrt_alpha_bars[:-1] * self.betas[1:] / self.one_minus_alpha_bars[1:])

    @cached_property
    def posterior_xt_coefs(self) -> Array:
        """The weight of x_t in mu~_t: sqrt(alpha_t) (1 - abar_{t-1}) / (1 - abar_t)."""
        return _from_1(np.sqrt(self.alphas[1:]) * self._one_minus_ratio)

    @cached_property
    def reverse_eps_coefs(self) -> Array:
        """The weight of -eps in mu~_t of step 7: beta_t / sqrt(alpha_t (1 - abar_t))."""
        return _from_1(self.betas[1:] / np.sqrt(self.alphas[1:] * self.one_minus_alpha_bars[1:]))

    @cached_property
    def rsqrt_alphas(self) -> Array:
        """1 / sqrt(alpha_t)."""
        return _frozen(1 / np.sqrt(self.alphas))

    @cached_property
    def loss_weights(self) -> Array:
        """Step 8: beta_t / (2 alpha_t (1 - abar_t))."""
        return _from_1(self.betas[1:] / (2 * self.alphas[1:] * self.one_minus_alpha_bars[1:]))

    @property
    def _one_minus_ratio(self) -> Array:
        return self.one_minus_alpha_bars[:-1] / self.one_minus_alpha_bars[1:]

    # ---- step 1: q(x_t | x_0), and q(x_t | x_s) from any s < t

    def q_sample(self, x0: Any, t: Any, eps: Any) -> Any:
        """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, with eps ~ N(0, I) given by the caller."""
        x0, eps = _same_shape(x0=x0, eps=eps)
        t = self._check_t(t, x0, first=0)
        return axpby(self.at("sqrt_alpha_bars", t, x0), x0, self.at("sqrt_one_minus_alpha_bars", t, x0), eps)

    def q_mean_variance(self, x0: Any, t: Any) -> tuple[Any, Any]:
        """Mean and variance of q(x_t | x_0) = N( sqrt(abar_t) x_0, (1 - abar_t) I )."""
        x0, = _same_shape(x0=x0)
        t = self._check_t(t, x0, first=0)
        return self.at("sqrt_alpha_bars", t, x0) * x0, self.at("one_minus_alpha_bars", t, x0)

    def q_transition(self, s: int, t: int) -> tuple[float, float]:
        """Scale and variance of q(x_t | x_s) = N( scale x_s, variance I ), 0 <= s <= t <= T.

        scale^2 = abar_t / abar_s = prod_{s<r<=t} alpha_r and variance = 1 - scale^2. Summed over the
        steps from s to t alone: as a quotient of two abar it would lose digits.
        """
        if not 0 <= s <= t <= self.T:
            raise ValueError(f"s and t must satisfy 0 <= s <= t <= {self.T}, got s={s}, t={t}")
        log_ratio = math.fsum(self.log_alphas[s + 1:t + 1])
        return math.exp(0.5 * log_ratio), 0 - math.expm1(log_ratio)

    # ---- step 4: q(x_{t-1}, x_t | x_0)

    def q_joint(self, x0: Any, t: int) -> tuple[Any, Array]:
        """Joint law of x_{t-1} and x_t given x_0.

        Returns
        -------
        means : (2, B, ...) array
            sqrt(abar_{t-1}) x_0 and sqrt(abar_t) x_0.
        covariance : (2, 2) float64
            [[v, sqrt(alpha_t) v], [sqrt(alpha_t) v, 1 - abar_t]] with v = 1 - abar_{t-1}; the same for
            every coordinate, and different coordinates are independent.
        """
        x0, = _same_shape(x0=x0)
        t = self._check_t(t, x0, first=1)
        if not isinstance(t, int):
            raise TypeError("t must be one int: the covariance of a joint law depends on it")
        before, after = self.one_minus_alpha_bars[t - 1:t + 1]
        cross = math.sqrt(self.alphas[t]) * before
        means = [self.q_mean_variance(x0, s)[0] for s in (t - 1, t)]
        return get_array_module(x0).stack(means), np.array([[before, cross], [cross, after]])

    # ---- step 5: q(x_{t-1} | x_t, x_0)

    def q_posterior(self, x0: Any, xt: Any, t: Any) -> tuple[Any, Any]:
        """Mean mu~_t and variance rho_t of q(x_{t-1} | x_t, x_0), by Bayes.

        mu~_t = [ sqrt(abar_{t-1}) beta_t x_0 + sqrt(alpha_t) (1 - abar_{t-1}) x_t ] / (1 - abar_t)
        """
        x0, xt = _same_shape(x0=x0, xt=xt)
        t = self._check_t(t, x0, first=1)
        mean = axpby(self.at("posterior_x0_coefs", t, x0), x0, self.at("posterior_xt_coefs", t, x0), xt)
        return mean, self.at("posterior_variances", t, x0)

    # ---- step 7: the same mean in terms of the noise

    def predict_x0(self, xt: Any, t: Any, eps: Any) -> Any:
        """x_0 = (x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t): `q_sample` solved for x_0."""
        xt, eps = _same_shape(xt=xt, eps=eps)
        t = self._check_t(t, xt, first=0)
        return (xt - self.at("sqrt_one_minus_alpha_bars", t, xt) * eps) / self.at("sqrt_alpha_bars", t, xt)

    def predict_eps(self, xt: Any, t: Any, x0: Any) -> Any:
        """eps = (x_t - sqrt(abar_t) x_0) / sqrt(1 - abar_t): `q_sample` solved for eps."""
        xt, x0 = _same_shape(xt=xt, x0=x0)
        t = self._check_t(t, xt, first=1)
        return (xt - self.at("sqrt_alpha_bars", t, xt) * x0) / self.at("sqrt_one_minus_alpha_bars", t, xt)

    def reverse_mean(self, xt: Any, t: Any, eps: Any) -> Any:
        """mu~_t = (x_t - beta_t / sqrt(1 - abar_t) eps) / sqrt(alpha_t)."""
        xt, eps = _same_shape(xt=xt, eps=eps)
        t = self._check_t(t, xt, first=1)
        return axpby(self.at("rsqrt_alphas", t, xt), xt, -self.at("reverse_eps_coefs", t, xt), eps)

    # ---- DDIM: from x_t to x_s, s < t, in one step

    def ddim_coefficients(self, t: int, s: int, eta: float) -> tuple[float, float, float]:
        """The coefficients of x_s = a x_t - b eps + sigma z, z ~ N(0, I).

        Song et al. (2021, arXiv:2010.02502, eq. 12 and 16) write, with v = 1 - abar_t / abar_s,

            sigma^2 = eta^2 v (1 - abar_s) / (1 - abar_t)
            x_s = sqrt(abar_s) x_0 + c eps + sigma z,   c = sqrt(1 - abar_s - sigma^2)

        with x_0 predicted from x_t and eps. Inserting it gives a = sqrt(abar_s / abar_t) and
        b = a sqrt(1 - abar_t) - c, a difference of near equals, which the identity
        (a^2 (1 - abar_t) - c^2) / (a sqrt(1 - abar_t) + c) turns into a quotient of positive terms.
        With s = t - 1 and eta = 1 these are 1/sqrt(alpha_t), `reverse_eps_coefs` and sqrt(rho_t).
        """
        scale, v = self.q_transition(s, t)
        noise_s, noise_t = self.one_minus_alpha_bars[[s, t]].tolist()
        a = 1 / scale
        sigma2 = eta**2 * v * noise_s / noise_t
        c = math.sqrt(noise_s * ((1 - eta) * (1 + eta) + eta**2 * scale**2 * noise_s / noise_t))
        b = (sigma2 + a**2 * v) / (a * math.sqrt(noise_t) + c)
        return a, b, math.sqrt(sigma2)

    # ---- looking a coefficient up

    def at(self, name: str, t: Any, x: Any) -> Any:
        """The array `name` at t: a float for an int t, else shaped to multiply the rows of x."""
        if isinstance(t, int):
            return float(getattr(self, name)[t])
        xp, dtype = get_array_module(x), x.real.dtype
        key = name, xp, dtype
        if key not in self._tables:
            self._tables[key] = xp.asarray(getattr(self, name), dtype=dtype)
        return self._tables[key][t].reshape(t.shape + (1,) * (x.ndim - 1))

    @cached_property
    def _tables(self) -> dict[Any, Any]:
        return {}  # copies of the arrays in the precision and on the device of some x

    def _check_t(self, t: Any, x: Any, first: int) -> Any:
        """Return t as an int or as an int array with one entry per row of x."""
        xp = get_array_module(x)
        if not isinstance(t, int):
            t = xp.asarray(t)
            if t.dtype.kind not in "iu":
                raise TypeError(f"t must be an int or an array of ints, got dtype {t.dtype}")
            if t.ndim == 0:
                t = int(t)
            elif t.shape != x.shape[:1]:
                raise ValueError(f"t must be an int or have shape {x.shape[:1]}, one time for each row "
                                 f"of x, got shape {t.shape}")
        if isinstance(t, bool):
            raise TypeError("t must be an int or an array of ints, got a bool")
        if isinstance(t, int) or xp is np:
            low, high = (t, t) if isinstance(t, int) else (t.min(initial=first), t.max(initial=first))
            if low < first or high > self.T:
                raise ValueError(f"t must lie in {first}..{self.T}, got {low if low < first else high}")
        return t

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Schedule):
            return NotImplemented
        return np.array_equal(self.betas, other.betas)

    def __hash__(self) -> int:
        return hash(self.betas.tobytes())

    def __repr__(self) -> str:
        return (f"Schedule(T={self.T}, beta_1={self.betas[1]:.4g}, beta_T={self.betas[-1]:.4g}, "
                f"abar_T={self.alpha_bars[-1]:.4g})")


def _frozen(values: Array) -> Array:
    values.flags.writeable = False
    return values


def _from_1(values: Array) -> Array:
    """Prepend the entry of t = 0, where there is no step to take."""
    return _frozen(np.concatenate([[0.0], values]))


def _cumulative_sum(values: Array) -> Array:
    """Running sums with Neumaier's compensation: the error does not grow with the number of terms."""
    sums, total, lost = np.empty_like(values), 0.0, 0.0
    for i, value in enumerate(values.tolist()):
        new = total + value
        big, small = (total, value) if abs(total) >= abs(value) else (value, total)
        lost += (big - new) + small
        total = new
        sums[i] = total + lost
    return sums


def check_count(name: str, value: Any, least: int = 1) -> int:
    """Return `value` as an int, or raise ValueError if it is no whole number, below `least` or beyond int64."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name} must be an int of at least {least}, got {value!r}")
    if value >= 2**63:
        raise ValueError(f"{name} must be below 2^63, got {value}")
    return int(value)


def _same_shape(**arrays: Any) -> list[Any]:
    """Return the arguments as floating-point arrays; they must agree in shape."""
    xp = get_array_module(*arrays.values())
    out: list[Any] = []
    for name, array in arrays.items():
        array = xp.asarray(array)
        if array.dtype.kind not in "fc":
            if array.dtype.kind not in "iu":
                raise TypeError(f"{name} must be an array of numbers, got dtype {array.dtype}")
            array = array.astype(np.float64)
        if out and array.shape != out[0].shape:
            first = next(iter(arrays))
            raise ValueError(f"{name} must have the shape of {first}, {out[0].shape}, got {array.shape}")
        out.append(array)
    return out
