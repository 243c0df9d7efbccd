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

from .backend import generator, get_array_module
from .schedule import Schedule, check_count

QUADRATURE_NODES = 80  # per dimension


class GaussianMixture:
    """A mixture of K Gaussians in d dimensions.

    Parameters
    ----------
    weights : (K,) array_like
        Positive; scaled to sum to 1.
    means : (K, d) array_like
    covariances : (K, d, d) array_like, or (K, d), or (K,)
        Full matrices, diagonals, or the variances of isotropic components.

    Raises
    ------
    ValueError
        If shapes disagree, a weight is not positive, or a covariance not positive definite.
    """

    def __init__(self, weights: Any, means: Any, covariances: Any) -> None:
        w, m, c = (np.asarray(a, dtype=np.float64) for a in (weights, means, covariances))
        if w.ndim != 1 or w.size == 0 or not (w > 0).all() or not np.isfinite(w).all():
            raise ValueError(f"weights must be (K,) positive numbers, got {weights!r:.80}")
        if m.ndim != 2 or len(m) != len(w) or m.shape[1] == 0 or not np.isfinite(m).all():
            raise ValueError(f"means must be finite, of shape (K, d) with K = {len(w)}, got shape {m.shape}")
        K, d = m.shape
        if c.shape not in ((K,), (K, d), (K, d, d)):
            raise ValueError(f"covariances must have shape ({K},), ({K}, {d}) or ({K}, {d}, {d}), got {c.shape}")
        if c.ndim < 3:
            c = np.eye(d) * c.reshape(K, -1, 1)
        if not np.isfinite(c).all() or not np.allclose(c, c.swapaxes(1, 2), rtol=1e-10, atol=0):
            raise ValueError("covariances must be finite and symmetric")
        self.weights, self.means, self.covariances = w / w.sum(), m, c
        self.variances, self.axes = np.linalg.eigh(c)   # C_k = axes diag(variances) axes^T
        if self.variances.min() <= 0:
            raise ValueError(f"covariances must be positive definite, got eigenvalue {self.variances.min():.3g}")

    def sample(self, n: int, rng: Any = None) -> np.ndarray:
        """Draw n points of x_0, (n, d)."""
        n, rng = check_count("n", n), generator(rng)
        k = rng.choice(len(self.weights), size=n, p=self.weights)
        z = rng.standard_normal((n, self.means.shape[1])) * np.sqrt(self.variances[k])
        x: np.ndarray = self.means[k] + np.einsum("nij,nj->ni", self.axes[k], z)
        return x

    def standardized(self, mean: Any, scale: Any) -> GaussianMixture:
        """The law of (x - mean) / scale."""
        scale = np.broadcast_to(scale, self.means.shape[1:])
        return GaussianMixture(self.weights, (self.means - mean) / scale,
                               self.covariances / np.multiply.outer(scale, scale))

    def log_density(self, x: Any, s: Schedule | None = None, t: Any = 0) -> Any:
        """log p_t(x), (B,) nats: of the data without a schedule, else of x_t."""
        if s is None:
            s, t = Schedule.from_betas([0.5]), 0
        log_joint, _, _ = self._components(x, s, t)
        top = log_joint.max(-1)
        return top + get_array_module(x).log(get_array_module(x).exp(log_joint - top[:, None]).sum(-1))

    def denoiser(self, s: Schedule) -> Callable[[Any, Any], Any]:
        """The best possible noise prediction, ``(x_t, t) -> E[eps | x_t]``."""
        def best(xt: Any, t: Any) -> Any:
            return self._mix(xt, s, t)[0]
        return best

    def score(self, xt: Any, s: Schedule, t: Any) -> Any:
        """grad log p_t(x_t) = sum_k r_k S_k^-1 (sqrt(abar) m_k - x_t), (B, d); t >= 0."""
        log_joint, whitened, _ = self._components(xt, s, t)
        return -(_softmax(log_joint)[..., None] * whitened).sum(-2)

    def least_loss(self, s: Schedule, t: int, rng: Any = 0, tolerance: float = 1e-3) -> float:
        """The least possible "simple" loss at time t: E |eps - E[eps | x_t]|^2 / d = E tr Var[eps | x_t] / d.

        Closed form for one Gaussian. For mixtures in one or two dimensions the mean over x_t is a
        Gauss-Hermite quadrature; in more, a Monte-Carlo mean whose standard error, in proportion, is at
        most `tolerance`.
        """
        d = self.means.shape[1]
        t = s._check_t(check_count("t", t, least=0), self.means, first=0)
        if len(self.weights) == 1:
            a, b = s.alpha_bars[t], s.one_minus_alpha_bars[t]
            return float(np.mean(a * self.variances / (a * self.variances + b)))
        if d <= 2:
            z, w = np.polynomial.hermite_e.hermegauss(QUADRATURE_NODES)
            nodes = np.stack(np.meshgrid(*[z] * d), -1).reshape(-1, d)
            w = np.prod(np.meshgrid(*[w / w.sum()] * d), axis=0).ravel()
            a, b = s.alpha_bars[t], s.one_minus_alpha_bars[t]
            total = 0.0
            for k, weight in enumerate(self.weights):
                spread = nodes * np.sqrt(a * self.variances[k] + b)
                x = math.sqrt(a) * self.means[k] + spread @ self.axes[k].T
                total += weight * (w @ self._mix(x, s, t)[1])
            return float(total / d)
        rng, values, error = generator(rng), np.empty(0), math.inf
        while error > tolerance:
            x0 = self.sample(10_000, rng)
            xt = s.q_sample(x0, t, rng.standard_normal(x0.shape))
            values = np.append(values, self._mix(xt, s, t)[1])
            error = values.std() / math.sqrt(len(values)) / values.mean()
        return float(values.mean() / d)

    def _components(self, x: Any, s: Schedule, t: Any) -> tuple[Any, Any, Any]:
        """log w_k N(x; sqrt(abar) m_k, S_k), (B, K); S_k^-1 (x - sqrt(abar) m_k), (B, K, d); tr Var, (B, K)."""
        xp = get_array_module(x)
        w, m, lam, axes = (xp.asarray(a) for a in (self.weights, self.means, self.variances, self.axes))
        x = xp.asarray(x)
        if x.ndim != 2 or x.shape[1] != self.means.shape[1]:
            raise ValueError(f"x must have shape (B, {self.means.shape[1]}), got {x.shape}")
        t = s._check_t(t, x, first=0)
        a, root, b = (xp.asarray(s.at(name, t, x[:, None].astype(float))) for name in
                      ("alpha_bars", "sqrt_alpha_bars", "one_minus_alpha_bars"))
        total = a * lam + b                                             # eigenvalues of S_k
        y = xp.einsum("bki,kij->bkj", x[:, None] - root * m, axes)      # in the eigenbasis of C_k
        log_joint = xp.log(w) - 0.5 * (y**2 / total + xp.log(2 * math.pi * total)).sum(-1)
        return log_joint, xp.einsum("bkj,kij->bki", y / total, axes), (a * lam / total).sum(-1)

    def _mix(self, x: Any, s: Schedule, t: Any) -> tuple[Any, Any]:
        """E[eps | x_t = x], (B, d), and tr Var[eps | x_t = x], (B,)."""
        log_joint, whitened, variance = self._components(x, s, t)
        r = _softmax(log_joint)
        noise = s.at("sqrt_one_minus_alpha_bars", s._check_t(t, x, first=0), whitened)
        eps_k = noise * whitened                                        # E[eps | x_t, k]
        eps = (r[..., None] * eps_k).sum(-2)
        return eps, (r * (variance + ((eps_k - eps[:, None]) ** 2).sum(-1))).sum(-1)


def _softmax(logits: Any) -> Any:
    xp = get_array_module(logits)
    p = xp.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)
