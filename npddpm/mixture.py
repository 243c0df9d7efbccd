"""The exact answers when the data are a Gaussian mixture: best denoiser, score, density, least loss.

If x_0 ~ sum_k w_k N(m_k, C_k), the noisy x_t is a mixture too, of N( sqrt(abar) m_k, S_k ) with
S_k = abar C_k + (1 - abar) I, and given its component everything is linear:

    E[eps | x_t, k]   = sqrt(1 - abar) S_k^-1 (x_t - sqrt(abar) m_k)
    Var[eps | x_t, k] = I - (1 - abar) S_k^-1 = abar C_k S_k^-1

The components are mixed with their posterior weights r_k(x_t), proportional to w_k N_k(x_t).

N_k is the density of component k of x_t, p = sum_k w_k N_k, and r_k = w_k N_k / p. With eps_k = E[eps | x_t, k] the best
prediction is eps_bar = sum_k r_k eps_k. Not knowing k costs

    E_p[ sum_k r_k |eps_k - eps_bar|^2 ] = E_p[ sum_{j<k} r_j r_k |eps_j - eps_k|^2 ].

For components far apart both weights are large only where x_t is rarely drawn, so that draws are made there on purpose: from
the bridge of the pair, the Gaussian b_jk = (w_j N_j)^a (w_k N_k)^(1-a) / Z_jk, with the a in 0..1 for which Z_jk is about
least. Since Z_jk b_jk = p r_j^a r_k^(1-a), the cost is, with q = sum_jk c_jk Z_jk b_jk / B, B = sum_jk c_jk Z_jk and any
c_jk > 0,

    B E_q[ sum_k r_k |eps_k - eps_bar|^2 / sum_jk c_jk r_j^a r_k^(1-a) ].

A pair costs at most Z_jk E |eps_j - eps_k|^2 over b_jk, because r_j r_k <= r_j^a r_k^(1-a). With that mean as c_jk no draw
counts for much more than B, and most pairs can be left out (Chernoff 1952, doi:10.1214/aoms/1177729330; for draws from a
mixture of proposals see Veach and Guibas 1995, doi:10.1145/218380.218498).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .arrays.backend import generator, get_array_module
from .arrays.checks import check_array, check_entries, check_points, check_shaped, check_type, shown
from .arrays.copies import Value
from .arrays.declared import checked, count, instance, real
from .schedule import Schedule

BATCH = 100_000   # numbers in the largest array of `least_loss`
FEWEST, MOST = 10_000, 10_000_000   # draws of `least_loss`
_ENDS = 2.0 ** -np.arange(14, 4, -0.5)
EXPONENTS = np.concatenate([_ENDS, np.arange(1, 16) / 16, 1 - _ENDS])   # a, few enough to take all pairs of one a together


class GaussianMixture(Value):
    """A mixture of K Gaussians in d dimensions; two are equal if they were given the same numbers.

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
        Copies; these arrays cannot be written to.
    variances, axes : (K, d) and (K, d, d) float64
        C_k = axes_k diag(variances_k) axes_k^T.

    Raises
    ------
    ValueError
        If shapes disagree, a weight is 0, negative or below 1e-300 of the largest, or a covariance not positive definite.
    TypeError
        If they do not hold real numbers.
    """

    def __init__(self, weights: Any, means: Any, covariances: Any) -> None:
        given = {"weights": weights, "means": means, "covariances": covariances}
        w, m, c = (check_array(name, a, np, np.float64).copy() for name, a in given.items())
        if w.ndim != 1 or w.size == 0 or not (w > 0).all() or not np.isfinite(w).all():
            raise ValueError(f"weights must be (K,) positive numbers, got {shown(weights)}")
        made = GaussianMixture, (w, m, c)
        w = w / w.max()
        if w.min() < 1e-300:
            raise ValueError(f"weights must be at least 1e-300 of the largest, got {shown(weights)}")
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
        self.variances, self.axes = np.linalg.eigh(c)
        if self.variances.min() <= 0:
            raise ValueError(f"covariances must be positive definite, got eigenvalue {self.variances.min():.3g}")
        for array in (self.weights, self.means, self.covariances, self.variances, self.axes):
            array.flags.writeable = False
        self._made = made

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
        """The law of (x - mean) / scale, for numbers or (d,) arrays, turned by axes^T, (d, d), where they are given.

        Raises
        ------
        ValueError, TypeError
            If they are no finite numbers of these shapes, or a scale is 0.
        """
        d = self.means.shape[1]
        mean, scale = (check_points(name, np.broadcast_to(value, d) if np.ndim(value) == 0 else value, np, np.float64, d)
                       for name, value in (("mean", mean), ("scale", scale)))
        if (scale == 0).any():
            raise ValueError("scale must not be 0")
        axes = np.eye(d) if axes is None else check_points("axes", axes, np, np.float64, d, "r")
        turned = axes.T @ (self.covariances / np.multiply.outer(scale, scale)) @ axes
        return GaussianMixture(self.weights, (self.means - mean) / scale @ axes, (turned + turned.swapaxes(1, 2)) / 2)

    def log_density(self, x: Any, s: Schedule | None = None, t: Any = 0) -> Any:
        """log p_t(x), (B,) nats, for x of shape (B, d): of x_t, or, without a schedule, of the data."""
        if s is None and not (isinstance(t, int) and t == 0):
            raise ValueError(f"log_density at t = {shown(t)} needs a schedule s")
        x = check_entries("x", check_array("x", x, get_array_module(x)))
        log_joint, *_, far = self._components(x, Schedule([0.5]) if s is None else s, t)
        with np.errstate(over="ignore"):        # to -inf
            return _log_sum_exp(log_joint) * far**2

    @checked(s=instance(Schedule))
    def denoiser(self, s: Schedule) -> Callable[[Any, Any], Any]:
        """The best possible noise prediction, ``(x_t, t) -> E[eps | x_t]``, (B, d).

        It is analytic, and takes complex x_t as well.
        """
        def best(xt: Any, t: Any) -> Any:
            log_joint, whitened, noise, _ = self._components(xt, s, t)
            return (_softmax(log_joint)[..., None] * noise * whitened).sum(-2)
        return best

    def score(self, xt: Any, s: Schedule, t: Any) -> Any:
        """grad log p_t(x_t) = sum_k r_k S_k^-1 (sqrt(abar) m_k - x_t), (B, d); t >= 0."""
        log_joint, whitened, *_ = self._components(xt, s, t)
        return -(_softmax(log_joint)[..., None] * whitened).sum(-2)

    @checked(s=instance(Schedule), tolerance=real(0), t=count(0))
    def least_loss(self, s: Schedule, t: int, rng: Any = 0, tolerance: float = 1e-3) -> float:
        """The least possible "simple" loss at time t: E |eps - E[eps | x_t]|^2 / d = E tr Var[eps | x_t] / d.

        By the law of total variance it is the mean of tr Var[eps | x_t, k], which has a closed form, and what not knowing k
        costs, which is a mean over draws from the bridges between components.

        Parameters
        ----------
        s : Schedule
        t : int in 0..T
        rng : None, int or Generator
        tolerance : float
            Draws go on until the standard error is at most this share of the result, and so is B / n, what one draw more of a
            kind that n draws have not met may add. For 1e-3 this takes about a second for a few components, and a minute for
            a hundred in dozens of dimensions.

        Raises
        ------
        ValueError
            If the tolerance would take more than ten million draws.

        Returns
        -------
        float
        """
        (K, d), rng = self.means.shape, generator(rng)
        signal, noise = (float(f(t, self.means)) for f in (s.signal, s.noise))
        found = known = float(self.weights @ (signal**2 * self.variances / (signal**2 * self.variances + noise**2)).mean(1))
        bridges = self._bridges(signal, noise, negligible=1e-3 * tolerance * known * d / K**2)
        B, n = float(bridges.share.sum()) / d, max(1, BATCH // max(K * d, d * d))
        draws, sums, needed = 0, np.zeros(2), FEWEST if B else 0
        while draws < needed:
            log_joint, whitened, *_ = self._components(bridges.sample(n, rng), s, t)
            part = bridges.cost(log_joint, noise * whitened)
            sums, draws = sums + [part.sum(), (part**2).sum()], draws + n
            mean, square = (sums / draws).tolist()
            found = known + B * mean
            if draws >= FEWEST:
                deviation, unseen = B / found * math.sqrt(max(square - mean**2, 0)), B / found
                needed = max(FEWEST, (deviation / tolerance) ** 2, unseen / tolerance)
                if needed > MOST:
                    reached, possible = (max(deviation / math.sqrt(m), unseen / m) for m in (draws, MOST))
                    raise ValueError(f"tolerance must be at least {1.1 * possible:.1e} here, for {MOST:,} draws, got {tolerance}; "
                                     f"{draws:,} draws reached {reached:.1e}, with {found:.4g}")
        return found

    def _bridges(self, signal: float, noise: float, negligible: float) -> Bridges:
        """The bridges of all pairs with c Z above `negligible`; where a pair overlaps its two components will do."""
        (K, d), w, means = self.means.shape, self.weights, signal * self.means
        deviations = np.sqrt(signal**2 * self.variances + noise**2)
        roots, inverses = self.axes * deviations[:, None], self.axes.swapaxes(1, 2) / deviations[:, :, None]    # of S_k
        alone, found = np.zeros(K), []
        for j, k in np.array_split(np.stack(np.triu_indices(K, 1)), -(-K * K * max(d * d, len(EXPONENTS)) // BATCH), axis=1):
            if (self.axes == self.axes[0]).all():               # where x = m_j + root_j U y, S_j is I and S_k diag(g)
                U, g = np.tile(np.eye(d), (len(j), 1, 1)), (deviations[k] / deviations[j]) ** 2
            else:
                U, g, _ = np.linalg.svd(inverses[j] @ roots[k])
                g = g**2
            apart = _times(U.swapaxes(1, 2) @ inverses[j], means[k] - means[j])
            with np.errstate(over="ignore", invalid="ignore"):  # where components are so far apart that Z = 0
                Z = np.stack([_bridge(np.full(len(j), a), w[j], w[k], g, apart)[0] for a in EXPONENTS])
                a, close = EXPONENTS[Z.argmin(0)], Z.min(0) > np.minimum(w[j], w[k]) / 4
                a = np.where(close, w[j] < w[k], a)
                Z, y, v = _bridge(a, w[j], w[k], g, apart)
                spread = inverses[j].swapaxes(1, 2) @ U         # eps_j - eps_k = noise spread (y - (y - apart) / g)
                c = noise**2 * ((_times(spread, y - (y - apart) / g)) ** 2 + _times(spread**2, (1 - 1 / g) ** 2 * v)).sum(1)
                matters = c * Z > negligible
            for i in (j, k):                                    # as many draws from the one as from the other
                np.maximum.at(alone, i[matters & close], (c * np.minimum(w[j], w[k]) / w[i])[matters & close])
            j, k, a, c, Z, y, v, root = (b[matters & ~close] for b in (j, k, a, c, Z, y, v, roots[j] @ U))
            found.append(Bridges(j, k, a, c, c * Z, means[j] + _times(root, y), root * np.sqrt(v)[:, None]))
        one = np.flatnonzero(alone)
        found.append(Bridges(one, one, np.ones(len(one)), alone[one], alone[one] * w[one], means[one], roots[one]))
        return Bridges(*map(np.concatenate, zip(*found)))

    def _components(self, x: Any, s: Schedule, t: Any) -> tuple[Any, Any, Any, Any]:
        """log w_k N(x; sqrt(abar) m_k, S_k), (B, K); S_k^-1 (x - sqrt(abar) m_k), (B, K, d); sqrt(1 - abar); and `far`, (B,).

        `far` is 1, or by how much x is beyond 1e150 deviations of all components; then the logarithms are divided by its square.
        """
        check_type("s", s, Schedule)
        xp = get_array_module(x)
        w, m, lam, axes = (xp.asarray(a) for a in (self.weights, self.means, self.variances, self.axes))
        x = check_shaped("x", x, xp, np.complex128 if xp.iscomplexobj(x) else np.float64, "B", self.means.shape[1])[:, None]
        signal, noise = s.signal(t, x), s.noise(t, x)
        total = signal**2 * lam + noise**2                              # eigenvalues of S_k
        y = xp.einsum("bki,kij->bkj", x - signal * m, axes)             # in the eigenbasis of C_k
        far = xp.maximum(1, (xp.abs(y) / xp.sqrt(total)).max(-1).min(-1) / 1e150)
        with np.errstate(over="ignore"):                                # of the components that are farther than the nearest
            log_joint = xp.log(w) - 0.5 * ((y / far[:, None, None]) ** 2 / total + xp.log(2 * math.pi * total)).sum(-1)
        return log_joint, xp.einsum("bkj,kij->bki", y / total, axes), noise, far


class Bridges(NamedTuple):
    """Gaussians N(mean, root root^T) that are p r_j^a r_k^(1-a) / Z, with c and the shares c Z of B."""

    j: np.ndarray
    k: np.ndarray
    a: np.ndarray
    c: np.ndarray
    share: np.ndarray
    mean: np.ndarray
    root: np.ndarray

    def sample(self, n: int, rng: Any) -> np.ndarray:
        i = rng.choice(len(self.share), n, p=self.share / self.share.sum())
        x: np.ndarray = self.mean[i] + _times(self.root[i], rng.standard_normal((n, self.mean.shape[1])))
        return x

    def cost(self, log_joint: np.ndarray, eps_k: np.ndarray) -> np.ndarray:
        """sum_k r_k |eps_k - eps|^2 / sum_jk c_jk r_j^a r_k^(1-a), (B,), without cancellation where all r_k but one are small."""
        log_r = np.maximum(log_joint - _log_sum_exp(log_joint)[:, None], -1e300)
        q = np.zeros(len(log_r))
        for a in np.unique(self.a):
            at, c = self.a == a, np.zeros((log_r.shape[1],) * 2)
            c[self.j[at], self.k[at]] = self.c[at]
            q += ((np.exp(a * log_r) @ c) * np.exp((1 - a) * log_r)).sum(1)
        top = np.arange(len(log_r)), log_r.argmax(1)
        away = np.clip(eps_k - eps_k[top][:, None], -1e150, 1e150)      # beyond, r = 0
        log_r[top] = -math.inf
        second = log_r.max(1)
        r = np.exp(log_r - second[:, None])                             # relative to the second largest
        cost: np.ndarray = (r * (away**2).sum(2)).sum(1) - np.exp(second) * ((r[:, :, None] * away).sum(1) ** 2).sum(1)
        cost = np.divide(np.exp(second) * cost, q, out=np.zeros_like(q), where=q > 0)
        return cost


def _bridge(a: Any, w_j: Any, w_k: Any, g: Any, apart: Any) -> tuple[Any, Any, Any]:
    """Z, mean and variances of the bridge between w_j N(0, I) and w_k N(apart, diag(g))."""
    a = a[:, None]
    h = a * g + 1 - a
    log_Z = a[:, 0] * np.log(w_j) + (1 - a[:, 0]) * np.log(w_k) + 0.5 * (a * np.log(g) - np.log(h) - a * (1 - a) * apart**2 / h).sum(1)
    return np.exp(log_Z), (1 - a) * apart / h, g / h


def _times(matrices: Any, vectors: Any) -> Any:
    return np.einsum("nij,nj->ni", matrices, vectors)


def _log_sum_exp(logits: Any) -> Any:
    xp, top = get_array_module(logits), logits.max(-1)
    return top + xp.log(xp.exp(logits - top[:, None]).sum(-1))


def _softmax(logits: Any) -> Any:
    xp = get_array_module(logits)
    p = xp.exp(logits - logits.real.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)
