"""The exact answers: each formula as it stands in the papers, in decimal arithmetic of 60 digits.

It shares no code with the rest of npddpm, and nothing is clever: at 60 digits a difference of near equals still has
more digits than a double. Arrays are NumPy arrays of `Decimal`; t runs from 1 to T, and abar_0 = 1. All functions have
beta_t, alpha_t and abar_t at hand, needed or not: `slips` puts one for another.
"""
# ruff: noqa: RUF059

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Context, Decimal
from functools import lru_cache
from typing import Any

import numpy as np

DIGITS = 60
CONTEXT = Context(prec=DIGITS, traps=[])    # in which all this is called: 1/0 is infinite, as in floating point
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899")
Denoiser = Callable[[Any, int], Any]


def exact(values: Any) -> Any:
    """The same numbers as Decimals: a float is one exactly."""
    if isinstance(values, np.ndarray):
        return np.array([Decimal(v) for v in values.ravel().tolist()], dtype=object).reshape(values.shape)
    return values


def tables(betas: Any) -> tuple[Sequence[Decimal], Sequence[Decimal], Sequence[Decimal]]:
    """beta_t, alpha_t and abar_t for t = 0 ... T. The betas themselves are doubles."""
    return _tables(betas.tobytes())


@lru_cache(64)
def _tables(betas: bytes) -> tuple[Sequence[Decimal], Sequence[Decimal], Sequence[Decimal]]:
    b = [Decimal(0), *map(Decimal, np.frombuffer(betas).tolist())]
    a = [1 - beta for beta in b]
    A = [Decimal(1)]
    for alpha in a[1:]:
        A.append(A[-1] * alpha)
    return b, a, A


def linear_betas(T: int) -> Any:
    first, last = Decimal("0.0001"), Decimal("0.02")
    return np.array([first + (last - first) * i / (T - 1) for i in range(T)])


def cosine_betas(T: int) -> Any:
    """Nichol and Dhariwal (2021), eq. 17."""
    f = [cos((Decimal(t) / T + Decimal("0.008")) / Decimal("1.008") * PI / 2) ** 2 for t in range(T + 1)]
    return np.array([min(1 - f[t] / f[t - 1], Decimal("0.999")) for t in range(1, T + 1)])


def cos(x: Decimal) -> Decimal:
    if not abs(x) < 100:        # that of a slip: its series would take long, or never end
        return Decimal("NaN")
    total, term, n = Decimal(0), Decimal(1), 0
    while abs(term) > Decimal(10) ** -DIGITS:
        total += term
        n += 2
        term *= -x * x / (n * (n - 1))
    return total


def alpha_bars(betas: Any) -> Any:
    b, a, A = tables(betas)
    return np.array(A[1:])


def q_sample(betas: Any, x0: Any, t: int, eps: Any) -> Any:
    """Step 1."""
    b, a, A = tables(betas)
    return A[t].sqrt() * x0 + (1 - A[t]).sqrt() * eps


def q_posterior(betas: Any, x0: Any, xt: Any, t: int) -> tuple[Any, Any]:
    """Step 5."""
    b, a, A = tables(betas)
    mean = A[t - 1].sqrt() * b[t] / (1 - A[t]) * x0 + a[t].sqrt() * (1 - A[t - 1]) / (1 - A[t]) * xt
    return mean, posterior_variance(betas, t)


def posterior_variance(betas: Any, t: int) -> Decimal:
    b, a, A = tables(betas)
    return b[t] * (1 - A[t - 1]) / (1 - A[t])


def predict_x0(betas: Any, xt: Any, t: int, eps: Any) -> Any:
    """Step 1 solved for x_0."""
    b, a, A = tables(betas)
    return (xt - (1 - A[t]).sqrt() * eps) / A[t].sqrt()


def reverse_mean(betas: Any, xt: Any, t: int, eps: Any) -> Any:
    """Step 7."""
    b, a, A = tables(betas)
    return (xt - b[t] / (1 - A[t]).sqrt() * eps) / a[t].sqrt()


def reverse_step(betas: Any, denoiser: Denoiser, xt: Any, t: int, z: Any, variance: str) -> Any:
    """One step of Ho et al. (2020), Algorithm 2."""
    b, a, A = tables(betas)
    eps = denoiser(xt, t)
    mean = reverse_mean(betas, xt, t, eps)
    sigma2 = b[t] if variance == "beta" else posterior_variance(betas, t)
    return mean + sigma2.sqrt() * z if t > 1 else mean


def ddim_step(betas: Any, denoiser: Denoiser, xt: Any, t: int, s: int, eta: float, z: Any) -> Any:
    """Song et al. (2021), eq. 12 and 16."""
    b, a, A = tables(betas)
    eta2 = Decimal(eta) ** 2
    eps = denoiser(xt, t)
    x0 = predict_x0(betas, xt, t, eps)
    sigma2 = eta2 * (1 - A[t] / A[s]) * (1 - A[s]) / (1 - A[t])
    return A[s].sqrt() * x0 + (1 - A[s] - sigma2).sqrt() * eps + sigma2.sqrt() * z


def sample(betas: Any, denoiser: Denoiser, x_T: Any, noise: Any, variance: str) -> Any:
    x, T = x_T, len(betas)
    for t in range(T, 0, -1):
        x = reverse_step(betas, denoiser, x, t, noise[t], variance)
    return x


def loss_weights(betas: Any) -> Any:
    """Step 8."""
    return np.array([loss_weight(betas, t) for t in range(1, len(betas) + 1)])


def loss_weight(betas: Any, t: int) -> Decimal:
    b, a, A = tables(betas)
    return b[t] / (2 * a[t] * (1 - A[t]))


def variational_bound(betas: Any, denoiser: Denoiser, x0: Any, noise: Any) -> Any:
    """Steps 2, 3 and 6, with sigma_t^2 = beta_t: minus a KL divergence for each t > 1, and log p(x_0 | x_1)."""
    b, a, A = tables(betas)
    T, d = len(betas), x0.shape[1]
    bound = -(A[T] * (x0**2).sum(1) + d * (-A[T] - (1 - A[T]).ln())) / 2
    for t in range(1, T + 1):
        eps_hat = denoiser(q_sample(betas, x0, t, noise[t]), t)
        error = ((noise[t] - eps_hat) ** 2).sum(1)
        if t > 1:
            ratio = posterior_variance(betas, t) / b[t]
            constant = d * (ratio - 1 - ratio.ln()) / 2
        else:
            constant = d * (2 * PI * b[1]).ln() / 2
        bound = bound - loss_weight(betas, t) * error - constant
    return bound
