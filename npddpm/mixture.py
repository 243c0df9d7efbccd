"""The exact answers when the data are a Gaussian mixture: best denoiser, score, density, least loss.

If x_0 ~ sum_k w_k N(m_k, C_k), the noisy x_t is a mixture too, of N( sqrt(abar) m_k, S_k ) with
S_k = abar C_k + (1 - abar) I, and given its component everything is linear:

    E[eps | x_t, k]   = sqrt(1 - abar) S_k^-1 (x_t - sqrt(abar) m_k)
    Var[eps | x_t, k] = I - (1 - abar) S_k^-1 = abar C_k S_k^-1

The components are mixed with their posterior weights r_k(x_t), proportional to w_k N(x_t; ...).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .arrays.backend import generator, get_array_module
from .arrays.checks import check_array, check_shaped, check_type
from .arrays.declared import checked, count, instance, real
from .schedule import Schedule

BATCH = 500_000   # numbers in the largest array of `least_loss`


class GaussianMixture:
    """A mixture of K Gaussians in d dimensions.

    Parameters
    ----------
    weights : (K,) array_like
        Positive; scaled to sum to 1.
    means : (K, d) array_like
    covariances : (K, d, d) array_like, or (K, d), or (K,)
        Full matrices, diagonals, or the variances of isotropic components.

    Attributes
    ----------
    weights, means, covariances : (K,), (K, d) and (K, d, d) float64
    variances, axes : (K, d) and (K, d, d) float64
        C_k = axes_k diag(variances_k) axes_k^T.

    Raises
    ------
    ValueError
        If shapes disagree, a weight is not positive or below 1e-300 of the largest, or a covariance not positive definite.
    TypeError
        If they do not hold real numbers.
    """

    def __init__(self, weights: Any, means: Any, covariances: Any) -> None:
        given = {"weights": weights, "means": means, "covariances": covariances}
        w, m, c = (check_array(name, a, np, np.float64) for name, a in given.items())
        if w.ndim != 1 or w.size == 0 or not (w > 0).all() or not np.isfinite(w).all():
            raise ValueError(f"weights must be (K,) positive numbers, got {weights!r:.80}")
        w = w / w.max()
        if w.min() < 1e-300:
            raise ValueError(f"weights must be at least 1e-300 of the largest, got {weights!r:.80}")
        if m.ndim != 2 or len(m) != len(w) or m.shape[1] == 0 or not np.isfinite(m).all():
            raise ValueError(f"means must be finite, of shape (K, d) with K = {len(w)}, got shape {m.shape}")
        K, d = m.shape
        if c.shape not in ((K,), (K, d), (K, d, d)):
            raise ValueError(f"covariances must have shape ({K},), ({K}, {d}) or ({K}, {d}, {d}), got {c.shape}")
        if c.ndim < 3:
            c = np.eye(d) * c.reshape(K, -1, 1)
        if not np.isfinite(c).all() or not np.allclose(c, c.swapaxes(1, 2), rtol=1e-10, atol=0):
            raise ValueError("covariances must be finite and symmetric")
        self.weights, self.means, self.covariances = w / w.sum(), m.copy(), c.copy()
        self.variances, self.axes = np.linalg.eigh(c)
        if self.variances.min() <= 0:
            raise ValueError(f"covariances must be positive definite, got eigenvalue {self.variances.min():.3g}")

    @checked(n=count())
    def sample(self, n: int, rng: Any = None) -> np.ndarray:
        """Draw n points of x_0, (n, d)."""
        rng = generator(rng)
        return self._points(rng.choice(len(self.weights), size=n, p=self.weights), rng)

    def _points(self, k: np.ndarray, rng: Any) -> np.ndarray:
        """A point of component k_i for each i."""
        z = rng.standard_normal((len(k), self.means.shape[1])) * np.sqrt(self.variances[k])
        x: np.ndarray = self.means[k] + np.einsum("nij,nj->ni", self.axes[k], z)
        return x

    def standardized(self, mean: Any, scale: Any, axes: Any = None) -> GaussianMixture:
        """The law of (x - mean) / scale, for numbers or (d,) arrays, turned by axes^T, (d, d), where they are given."""
        scale = np.broadcast_to(scale, self.means.shape[1:])
        axes = np.eye(len(scale)) if axes is None else axes
        turned = axes.T @ (self.covariances / np.multiply.outer(scale, scale)) @ axes
        return GaussianMixture(self.weights, (self.means - mean) / scale @ axes, (turned + turned.swapaxes(1, 2)) / 2)

    def log_density(self, x: Any, s: Schedule | None = None, t: Any = 0) -> Any:
        """log p_t(x), (B,) nats, for x of shape (B, d): of x_t, or, without a schedule, of the data."""
        if s is None and not (isinstance(t, int) and t == 0):
            raise ValueError(f"log_density at t = {t!r:.80} needs a schedule s")
        return _log_sum_exp(self._components(x, Schedule([0.5]) if s is None else s, t)[0])

    @checked(s=instance(Schedule))
    def denoiser(self, s: Schedule) -> Callable[[Any, Any], Any]:
        """The best possible noise prediction, ``(x_t, t) -> E[eps | x_t]``, (B, d).

        It is analytic, and takes complex x_t as well.
        """
        def best(xt: Any, t: Any) -> Any:
            return self._mix(*self._components(xt, s, t))[0]
        return best

    def score(self, xt: Any, s: Schedule, t: Any) -> Any:
        """grad log p_t(x_t) = sum_k r_k S_k^-1 (sqrt(abar) m_k - x_t), (B, d); t >= 0."""
        log_joint, whitened, _ = self._components(xt, s, t)
        return -(_softmax(log_joint)[..., None] * whitened).sum(-2)

    @checked(s=instance(Schedule), tolerance=real(0), t=count(0))
    def least_loss(self, s: Schedule, t: int, rng: Any = 0, tolerance: float = 1e-3) -> float:
        """The least possible "simple" loss at time t: E |eps - E[eps | x_t]|^2 / d = E tr Var[eps | x_t] / d.

        By the law of total variance it is the mean of tr Var[eps | x_t, k], which has a closed form, and what is lost
        by not knowing k. The latter is a mean over draws of x_t, as many from each component as from any other, weighted
        with p / q, the density of x_t over that of the draws (Veach and Guibas 1995, doi:10.1145/218380.218498).

        Parameters
        ----------
        s : Schedule
        t : int in 0..T
        rng : None, int or Generator
        tolerance : float
            Draws go on until the standard error is at most this share of the result. For 1e-3 this takes seconds
            for a few components in the plane, and minutes for dozens in dozens of dimensions.

        Returns
        -------
        float
        """
        d, K, rng = self.means.shape[1], len(self.weights), generator(rng)
        signal, noise = s.signal(t, self.means), s.noise(t, self.means)
        known = self.weights @ (signal**2 * self.variances / (signal**2 * self.variances + noise**2)).mean(1)
        if K == 1:
            return float(known)
        n = max(1, BATCH // (K * K * d))                                # draws of each component at a time
        k, sums, draws, error, found = np.repeat(np.arange(K), n), np.zeros((2, K)), 0, math.inf, 0.0
        while draws < 100 or draws * K < 10_000 or error > tolerance * found:
            x0 = self._points(k, rng)
            components = self._components(signal * x0 + noise * rng.standard_normal(x0.shape), s, t)
            log_p, log_q = (_log_sum_exp(components[0] - log_w) for log_w in (0, np.log(self.weights) + math.log(K)))
            lost = (np.exp(log_p - log_q) * self._mix(*components)[1] / d).reshape(K, n)
            sums, draws = sums + [lost.sum(1), (lost**2).sum(1)], draws + n
            mean, square = sums / draws
            error = math.sqrt(np.maximum(square - mean**2, 0).sum() / draws) / K
            found = float(known + mean.mean())
        return found

    def _components(self, x: Any, s: Schedule, t: Any) -> tuple[Any, Any, Any]:
        """log w_k N(x; sqrt(abar) m_k, S_k), (B, K); S_k^-1 (x - sqrt(abar) m_k), (B, K, d); sqrt(1 - abar)."""
        check_type("s", s, Schedule)
        xp = get_array_module(x)
        w, m, lam, axes = (xp.asarray(a) for a in (self.weights, self.means, self.variances, self.axes))
        x = check_shaped("x", x, xp, np.complex128 if xp.iscomplexobj(x) else np.float64, "B", self.means.shape[1])[:, None]
        signal, noise = s.signal(t, x), s.noise(t, x)
        total = signal**2 * lam + noise**2                              # eigenvalues of S_k
        y = xp.einsum("bki,kij->bkj", x - signal * m, axes)             # in the eigenbasis of C_k
        log_joint = xp.log(w) - 0.5 * (y**2 / total + xp.log(2 * math.pi * total)).sum(-1)
        return log_joint, xp.einsum("bkj,kij->bki", y / total, axes), noise

    def _mix(self, log_joint: Any, whitened: Any, noise: Any) -> tuple[Any, Any]:
        """E[eps | x_t = x], (B, d), and the trace of the variance of E[eps | x_t = x, k] over k, (B,)."""
        r = _softmax(log_joint)
        eps_k = noise * whitened                                        # E[eps | x_t, k]
        eps = (r[..., None] * eps_k).sum(-2)
        return eps, (r * ((eps_k - eps[:, None]) ** 2).sum(-1)).sum(-1)


def _log_sum_exp(logits: Any) -> Any:
    xp, top = get_array_module(logits), logits.max(-1)
    return top + xp.log(xp.exp(logits - top[:, None]).sum(-1))


def _softmax(logits: Any) -> Any:
    xp = get_array_module(logits)
    p = xp.exp(logits - logits.real.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)
