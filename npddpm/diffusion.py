"""The loss, the sampler and the variational bound, for any noise prediction ``denoiser(x_t, t)``.

A denoiser is a callable that takes x_t of shape (B, d) with t, an int or (B,) ints, and returns its
prediction of eps, (B, d): an `MLP`, the exact `GaussianMixture.denoiser`, or a function of yours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import gaussian
from .backend import device_module, generator, get_array_module, standard_normal
from .checks import (
    Denoiser,
    check_alike,
    check_choice,
    check_clip,
    check_count,
    check_finite,
    check_real,
    check_rows,
    check_shape,
    check_steps,
    predict,
)
from .schedule import Schedule, axpby


def loss_and_gradient(net: Any, s: Schedule, x0: Any, t: Any, eps: Any, weighting: str = "simple",
                      out: Any = None) -> tuple[Any, Any]:
    """The training loss on a batch, and its gradient for all parameters of the network.

        L = 1/(B d) sum_b w_{t_b} |eps_b - eps_hat(x_{t_b}, t_b)|^2,   x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps

    Parameters
    ----------
    net : MLP
        Or any denoiser with a method ``backward(dL/d eps_hat, out)``.
    s : Schedule
    x0, eps : (B, d) arrays
        Data, and the noise to add to it.
    t : int or (B,) ints in 1..T
    weighting : {"simple", "elbo"}
        w_t = 1, or `Schedule.loss_weights`. With "elbo" and t uniform on 1..T, T d L is an unbiased
        estimate of step 8's sum, in nats.
    out : (P,) array, optional
        Where to write the gradient.

    Returns
    -------
    loss : float
        On the GPU a 0-d array, so that nothing waits for it; ``float(loss)`` does.
    gradient : (P,) array

    Raises
    ------
    ValueError
        If shapes disagree, the batch is empty, a time lies outside 0..T, or `weighting` is unknown.
    TypeError
        If t is not made of ints, an array not of numbers, or `net` cannot be called.
    """
    check_choice("weighting", weighting, "simple", "elbo")
    xt = s.q_sample(x0, t, eps)
    check_rows("x0", xt)
    r = predict(net, xt, t) - eps                                   # r = eps_hat - eps
    weighted = r if weighting == "simple" else s.weight(t, xt) * r
    loss = (r.ravel() @ weighted.ravel()) / r.size                  # L = 1/(B d) sum w r^2
    grad = (2 / r.size) * weighted                                  # dL/dr = 2/(B d) w r
    gradient = net.backward(grad) if out is None else net.backward(grad, out)
    return loss if get_array_module(loss) is not np else loss.item(), gradient


# ---------------------------------------------------------------- sampling

def trajectory(denoiser: Denoiser, s: Schedule, n: int, dim: int, rng: Any = None, *, x_T: Any = None,
               noise: Any = None, variance: str = "beta", steps: int | Sequence[int] | None = None,
               eta: float = 1.0, clip: tuple[Any, Any] | None = None) -> Iterator[tuple[int, Any]]:
    """The reverse process as a generator of (t, x_t), from x_T down to the samples x_0.

    By default Ho et al.'s Algorithm 2, from each t to r = t - 1; else DDIM (Song et al. 2021). Both are

        x_r = a x_t - b eps_hat(x_t, t) + sigma_t z_t,      z_t ~ N(0, I)

    with the a, b and sigma of `Schedule.reverse_coefficients`. No noise is added in the last step.

    Parameters
    ----------
    denoiser : callable
        ``denoiser(x_t, t)`` with x_t of shape (n, dim) and t an int. If it has attributes `dtype` and
        `device`, as `MLP` has, it is given such arrays; else float64 on the CPU.
    s : Schedule
    n, dim : int
        Number of samples, and their dimension.
    rng : None, int or Generator
        Draws x_T and the noise of each step, unless these are given.
    x_T : (n, dim) array, optional
    noise : (T+1, n, dim) array, optional
        Row t is z_t, so that a trajectory can be replayed exactly. Row 0 is not used, nor is that of the last step.
    variance : {"beta", "posterior"}
        sigma_t^2 of Algorithm 2: beta_t or rho_t. It has no effect on DDIM.
    steps : int or sequence of ints, optional
        DDIM over this many times, evenly spread over 1..T, or over these falling times.
    eta : float in [0, 1]
        DDIM's share of noise: 0 is deterministic, 1 has the posterior variance. Below 1 it asks for DDIM.
    clip : (low, high), optional
        Range for the predicted x_0, enforced at every step: numbers, or (dim,) arrays.

    Yields
    ------
    t : int
    x_t : (n, dim) array

    Raises
    ------
    ValueError
        At once if an argument is out of range; on the way if the denoiser returns another shape than it is given.
    TypeError
        If `denoiser` cannot be called, or `rng` is nothing that a generator is made from.
    RuntimeError
        If the denoiser's device is "gpu" and there is none.
    """
    n, dim = check_count("n", n), check_count("dim", dim)
    check_choice("variance", variance, "beta", "posterior")
    check_real("eta", eta, 0, 1, closed=True)
    times = subsequence(s.T, steps)
    xp, dtype = device_module(getattr(denoiser, "device", "cpu")), getattr(denoiser, "dtype", np.dtype(float))
    low, high = (None, None) if clip is None else (xp.asarray(v, dtype=dtype) for v in check_clip(clip, dim))
    z = None if noise is None else check_shape("noise", xp.asarray(noise), s.T + 1, n, dim)
    rng = generator(rng, xp)
    start = standard_normal(rng, (n, dim), dtype) if x_T is None else check_shape("x_T", xp.asarray(x_T, dtype=dtype), n, dim)

    def reverse(x: Any) -> Iterator[tuple[int, Any]]:
        yield times[0], x
        for t, r in zip(times, [*times[1:], 0]):
            a, b, c, sigma = s.reverse_coefficients(t, r, eta)
            if variance == "beta" and steps is None and eta == 1:
                sigma = math.sqrt(s.betas[t]) if r > 0 else 0.0
            eps_hat = predict(denoiser, x.copy(), t)
            if clip is None:
                x = axpby(a, x, -b, eps_hat)
            else:   # the x_0 it implies, kept in range, and noised again with the eps that belongs to it
                x0 = (axpby(1.0, x, -s.noise(t, x), eps_hat) / max(s.signal(t, x), 1e-30)).clip(low, high)
                x = axpby(s.signal(r, x), x0, c, s.predict_eps(x, t, x0))
            if sigma > 0:
                x = axpby(1.0, x, sigma, standard_normal(rng, (n, dim), dtype) if z is None else z[t])
            yield r, x
    return reverse(start)


def sample(denoiser: Denoiser, s: Schedule, n: int, dim: int, rng: Any = None, **options: Any) -> Any:
    """Draw n samples of x_0: the end of a `trajectory`, whose parameters, options and errors these are.

    Options are x_T, noise, variance="beta", steps=None, eta=1.0 and clip=None.

    Returns
    -------
    (n, dim) array

    Raises
    ------
    FloatingPointError
        If the denoiser makes NaN or infinity of it.
    """
    x = None
    for _, x in trajectory(denoiser, s, n, dim, rng, **options):
        pass
    return check_finite(x)


def subsequence(T: int, steps: int | Sequence[int] | None) -> list[int]:
    """Falling times that start at T and, followed by 0, are evenly spread; or `steps` itself, checked."""
    if steps is None or isinstance(steps, (int, np.integer)):
        n = T if steps is None else check_count("steps", steps, most=T)
        return [T - T * i // n for i in range(n)]
    return check_steps("steps", steps, T)


# ---------------------------------------------------------------- the variational bound

class Bound(NamedTuple):
    """An estimate of a lower bound of log p(x_0), in nats: `nats`, (B,), is the sum over rows of `terms`, (T+1, B)."""

    nats: Any
    terms: Any


def variational_bound(denoiser: Denoiser, s: Schedule, x0: Any, rng: Any = None, variance: str = "beta",
                      n: int = 1) -> Bound:
    """Estimate the lower bound of log p(x_0) of steps 2 to 6, constants and all.

    With p(x_T) = N(0, I) and p(x_{t-1} | x_t) = N( mu(x_t, t), sigma_t^2 I ), mu being `Schedule.reverse_mean`,

        log p(x_0) >= E_q[ log p(x_0 | x_1) ] - sum_{t>1} E_q[ KL( q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t) ) ]
                      - KL( q(x_T | x_0) || p(x_T) )

    Parameters
    ----------
    denoiser : callable
        As in `trajectory`.
    s : Schedule
    x0 : (B, d) array
    rng : None, int or Generator
        Draws the noise.
    variance : {"beta", "posterior"}
        sigma_t^2 = beta_t or rho_t; but rho_1 = 0 has no density, so sigma_1^2 = beta_1 in either case. rho_t is
        the exact variance of the reverse process for data that are a point, and too small for all others: with the
        best denoiser of data that have a density it costs 0.29 nats (Euler's constant over two) a dimension.
    n : int
        Draws of x_t at each t.

    Returns
    -------
    Bound
        `nats`, (B,): the bound of each example. `terms`, (T+1, B): row t is the term of
        p(x_{t-1} | x_t), row 0 that of p(x_T).

    Raises
    ------
    ValueError
        If x0 is not (B, d), `variance` is unknown, n is no int of at least 1, or the denoiser returns another shape.
    TypeError
        If x0 holds no numbers, `denoiser` cannot be called, or `rng` is nothing that a generator is made from.
    FloatingPointError
        If the denoiser returns NaN or infinity.

    Notes
    -----
    Each E_q is a mean over n draws of x_t: unbiased, but a draw. From each term is taken what the same eps does to
    a denoiser whose E_q is known, that of data N(0, I), sqrt(1 - abar_t) x_t: a control variate, which moves
    no mean, and leaves no spread where the denoiser is that one.
    """
    check_choice("variance", variance, "beta", "posterior")
    x0, = check_alike(x0=x0)
    xp, n = get_array_module(x0), check_count("n", n)
    x0 = check_shape("x0", xp.asarray(x0, dtype=np.float64), "B", "d")
    rng = generator(rng, xp)
    terms = xp.zeros((s.T + 1, len(x0)))
    terms[0] = -gaussian.kl(*s.q_mean_variance(x0, s.T), 0.0, 1.0)
    for t in [*range(1, s.T + 1)] * n:
        sigma2 = float(s.betas[t] if variance == "beta" or t == 1 else s.posterior_variances[t])
        eps = rng.standard_normal(x0.shape)
        xt = s.q_sample(x0, t, eps)
        mu = s.reverse_mean(xt, t, predict(denoiser, xt.copy(), t))
        if t == 1:
            term = gaussian.log_density(x0, mu, sigma2)
        else:
            term = -gaussian.kl(*s.q_posterior(x0, xt, t), mu, sigma2)
        terms[t] += (term + known_error(s, x0, t, eps) * float(s.reverse_eps_coefs[t])**2 / (2 * sigma2)) / n
    return Bound(check_finite(terms.sum(0)), terms)


def known_error(s: Schedule, x0: Any, t: int, eps: Any) -> Any:
    """|eps - e|^2 - E|eps - e|^2 for the prediction e = sqrt(1 - abar_t) x_t, (B,).

    eps - e = abar_t eps - sqrt(abar_t (1 - abar_t)) x_0, so that E|eps - e|^2 = abar_t^2 d + abar_t (1 - abar_t) |x_0|^2.
    """
    abar, rest = float(s.alpha_bars[t]), float(s.one_minus_alpha_bars[t])
    error = axpby(abar, eps, -math.sqrt(abar * rest), x0)
    return (error**2).sum(-1) - (abar**2 * x0.shape[1] + abar * rest * (x0**2).sum(-1))
