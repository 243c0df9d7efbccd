"""The loss, the samplers and the variational bound, for any noise prediction ``denoiser(x_t, t)``.

A denoiser is a callable that takes x_t of shape (B, d) with t, an int or (B,) ints, and returns its
prediction of eps, (B, d): an `MLP`, the exact `GaussianMixture.denoiser`, or a function of yours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from .backend import device_module, generator, get_array_module, standard_normal, to_host
from .schedule import Schedule, check_count

Denoiser = Callable[[Any, Any], Any]


def loss_and_gradient(net: Any, s: Schedule, x0: Any, t: Any, eps: Any, weighting: str = "simple",
                      out: Any = None) -> tuple[Any, Any]:
    """The training loss on a batch, and its gradient for all parameters of the network.

        L = 1/(B d) sum_b w_{t_b} |eps_b - eps_hat(x_{t_b}, t_b)|^2,   x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps

    Parameters
    ----------
    net : MLP
        Or any denoiser with a method ``backward(dL/d eps_hat, out)``.
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
        If shapes disagree, a time lies outside 0..T, or `weighting` is unknown.
    """
    check_weighting(weighting)
    xt = s.q_sample(x0, t, eps)
    residual = predict(net, xt, t) - eps
    weighted = residual if weighting == "simple" else s.at("loss_weights", t, xt) * residual
    loss = (residual.ravel() @ weighted.ravel()) / residual.size    # L = 1/(B d) sum w r^2
    grad = (2 / residual.size) * weighted                           # dL/dr = 2/(B d) w r,  r = eps_hat - eps
    gradient = net.backward(grad) if out is None else net.backward(grad, out)
    return loss if get_array_module(loss) is not np else loss.item(), gradient


def check_weighting(weighting: str) -> None:
    if weighting not in ("simple", "elbo"):
        raise ValueError(f"weighting must be 'simple' or 'elbo', got {weighting!r}")


def predict(denoiser: Denoiser, xt: Any, t: Any) -> Any:
    """``denoiser(xt, t)``, which must come back in the shape of xt."""
    if not callable(denoiser):
        raise TypeError(f"denoiser must be a callable denoiser(x_t, t), got {denoiser!r}")
    eps = denoiser(xt, t)
    if getattr(eps, "shape", None) != xt.shape:
        raise ValueError(f"denoiser must return an array of the shape of x_t, {xt.shape}, "
                         f"got {getattr(eps, 'shape', type(eps).__name__)}")
    return eps


# ---------------------------------------------------------------- sampling

def ancestral(denoiser: Denoiser, s: Schedule, x_T: Any, noise: Callable[[int], Any],
              variance: str = "beta", clip: tuple[float, float] | None = None) -> Iterator[tuple[int, Any]]:
    """Ho et al.'s Algorithm 2: yields (t, x_t) for t = T ... 0.

        x_{t-1} = mu(x_t, t) + sigma_t z_t,   mu = (x_t - beta_t / sqrt(1 - abar_t) eps_hat) / sqrt(alpha_t)

    with sigma_t^2 = beta_t ("beta") or rho_t ("posterior"). No noise is added in the last step, t = 1.
    The arguments are those of `sample`; ``noise(t)`` returns z_t.
    """
    variances = {"beta": s.betas, "posterior": s.posterior_variances}[variance]
    x = x_T
    yield s.T, x
    for t in range(s.T, 0, -1):
        x = s.reverse_mean(x, t, predict_clipped(denoiser, s, x, t, clip))
        if t > 1:
            x = x + math.sqrt(variances[t]) * noise(t)
        yield t - 1, x


def ddim(denoiser: Denoiser, s: Schedule, x_T: Any, noise: Callable[[int], Any], times: Sequence[int],
         eta: float = 1.0, clip: tuple[float, float] | None = None) -> Iterator[tuple[int, Any]]:
    """DDIM (Song et al. 2021) over falling `times`, and from the last of them to 0: yields (t, x_t).

    `Schedule.ddim_coefficients` has the equation. eta = 0 adds no noise; eta = 1 over all T steps is
    `ancestral` with the posterior variance.
    """
    x = x_T
    yield times[0], x
    for t, t_next in zip(times, [*times[1:], 0]):
        a, b, sigma = s.ddim_coefficients(t, t_next, eta)
        x = a * x - b * predict_clipped(denoiser, s, x, t, clip)
        if sigma > 0:
            x = x + sigma * noise(t)
        yield t_next, x


def predict_clipped(denoiser: Denoiser, s: Schedule, xt: Any, t: int, clip: tuple[float, float] | None) -> Any:
    """The predicted noise, changed so that the x_0 it implies lies within `clip`."""
    eps = predict(denoiser, xt, t)
    if clip is None:
        return eps
    return s.predict_eps(xt, t, s.predict_x0(xt, t, eps).clip(*clip))


def check_clip(clip: Any, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Return low and high as (dim,) arrays on the host, or raise ValueError if `clip` has not low < high."""
    try:
        low, high = (np.broadcast_to(to_host(v).astype(float), (dim,)) for v in clip)
        if (low < high).all():
            return low, high
    except (TypeError, ValueError):
        pass
    raise ValueError(f"clip must be (low, high), numbers or arrays of shape ({dim},), with low < high, "
                     f"got {clip!r:.80}")


def trajectory(denoiser: Denoiser, s: Schedule, n: int, dim: int, rng: Any = None, x_T: Any = None,
               noise: Any = None, variance: str = "beta", steps: int | Sequence[int] | None = None,
               eta: float = 1.0, clip: tuple[float, float] | None = None) -> Iterator[tuple[int, Any]]:
    """The reverse process as a generator of (t, x_t), from t = T down to 0; parameters as in `sample`.

    The arguments are checked when it is called; the first x_t is x_T.
    """
    n, dim = (check_count(name, value) for name, value in (("n", n), ("dim", dim)))
    if variance not in ("beta", "posterior"):
        raise ValueError(f"variance must be 'beta' or 'posterior', got {variance!r}")
    if not (isinstance(eta, Real) and 0 <= eta <= 1):
        raise ValueError(f"eta must lie in [0, 1], got {eta!r}")
    xp = device_module(getattr(denoiser, "device", "cpu"))
    if clip is not None:
        check_clip(clip, dim)
    dtype = getattr(denoiser, "dtype", np.dtype(float))
    rng = generator(rng, xp)

    def draw(t: int) -> Any:
        return standard_normal(rng, (n, dim), dtype) if noise is None else noise[t]

    x_T, noise = (None if array is None else xp.asarray(array) for array in (x_T, noise))
    for name, array, shape in (("x_T", x_T, (n, dim)), ("noise", noise, (s.T + 1, n, dim))):
        if array is not None and array.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    x_T = standard_normal(rng, (n, dim), dtype) if x_T is None else x_T
    if steps is None and eta == 1:
        return ancestral(denoiser, s, x_T, draw, variance, clip)
    return ddim(denoiser, s, x_T, draw, subsequence(s.T, steps), eta, clip)


def sample(denoiser: Denoiser, s: Schedule, n: int, dim: int, rng: Any = None, x_T: Any = None,
           noise: Any = None, variance: str = "beta", steps: int | Sequence[int] | None = None,
           eta: float = 1.0, clip: tuple[float, float] | None = None) -> Any:
    """Draw n samples of x_0 by running the reverse process.

    Parameters
    ----------
    denoiser : callable
        ``denoiser(x_t, t)`` with x_t of shape (n, dim) and t an int. If it has attributes `dtype` and
        `device`, as `MLP` has, it is given such arrays; else float64 on the CPU.
    rng : None, int or Generator
        Draws x_T and the noise of each step, unless these are given.
    x_T : (n, dim) array, optional
    noise : (T+1, n, dim) array, optional
        Row t is used in the step that starts from x_t, so that a trajectory can be replayed exactly.
        Row 0 is not used, nor is row 1 by the ancestral sampler.
    variance : {"beta", "posterior"}
        Of the ancestral steps: beta_t or rho_t.
    steps : int or sequence of ints, optional
        DDIM over this many times, evenly spread over 1..T, or over these falling times. Without it all
        T steps are taken: by the ancestral sampler, or by DDIM if eta < 1.
    eta : float in [0, 1]
        DDIM's share of noise: 0 is deterministic, 1 has the posterior variance.
    clip : (low, high), optional
        Range for the predicted x_0, enforced at every step: numbers, or (dim,) arrays.

    Returns
    -------
    (n, dim) array

    Raises
    ------
    ValueError
        If an argument is out of range, or the denoiser returns another shape than it is given.
    """
    x = None
    for _, x in trajectory(denoiser, s, n, dim, rng, x_T, noise, variance, steps, eta, clip):
        pass
    return x


def subsequence(T: int, steps: int | Sequence[int] | None) -> list[int]:
    """Falling times that start at T and, followed by 0, are evenly spread; or `steps` itself, checked."""
    if steps is None:
        steps = T
    if isinstance(steps, (int, np.integer)):
        if not 1 <= steps <= T:
            raise ValueError(f"steps must lie in 1..{T}, got {steps}")
        return [T - T * i // int(steps) for i in range(steps)]
    times = [int(t) for t in steps] if np.iterable(steps) else []
    if not times or not all(T >= a > b for a, b in zip(times, [*times[1:], 0])):
        raise ValueError(f"steps must be an int, or times that fall within 1..{T}, got {steps!r:.80}")
    return times


# ---------------------------------------------------------------- the variational bound

class Bound(NamedTuple):
    """A lower bound of log p(x_0), in nats: `nats`, (B,), is the sum over rows of `terms`, (T+1, B)."""

    nats: Any
    terms: Any


def variational_bound(denoiser: Denoiser, s: Schedule, x0: Any, rng: Any = None,
                      variance: str = "beta") -> Bound:
    """Estimate the lower bound of log p(x_0) of steps 2 and 3, constants and all.

    With p(x_T) = N(0, I) and p(x_{t-1} | x_t) = N( mu(x_t, t), sigma_t^2 I ),

        log p(x_0) >= E_q[ log p(x_0 | x_1) ] - sum_{t>1} E_q[ KL( q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t) ) ]
                      - KL( q(x_T | x_0) || p(x_T) )

    By steps 5 to 7 the term of t, with e = eps - eps_hat(x_t, t), is minus

        w_t beta_t / sigma_t^2 |e|^2 + d/2 (rho_t / sigma_t^2 - 1 - log(rho_t / sigma_t^2)),   t > 1
        w_1 beta_1 / sigma_1^2 |e|^2 + d/2 log(2 pi sigma_1^2),                                t = 1

    where w_t is `Schedule.loss_weights`. Each E_q takes one draw of x_t, so the estimate is unbiased.

    Parameters
    ----------
    x0 : (B, d) array
    variance : {"beta", "posterior"}
        sigma_t^2 = beta_t or rho_t; but rho_1 = 0 has no density, so sigma_1^2 = beta_1 in either case.

    Returns
    -------
    Bound
        `nats`, (B,): the bound of each example. `terms`, (T+1, B): row t is the term of
        p(x_{t-1} | x_t), row 0 that of p(x_T).

    Raises
    ------
    ValueError
        If x0 is not (B, d), `variance` is unknown, or the denoiser returns another shape.
    """
    if variance not in ("beta", "posterior"):
        raise ValueError(f"variance must be 'beta' or 'posterior', got {variance!r}")
    xp = get_array_module(x0)
    x0 = xp.asarray(x0)
    if x0.ndim != 2:
        raise ValueError(f"x0 must have shape (B, d), got {x0.shape}")
    rng, (batch, d) = generator(rng, xp), x0.shape
    terms = xp.empty((s.T + 1, batch))
    # KL( N(sqrt(abar_T) x_0, v I) || N(0, I) ),  v = 1 - abar_T
    abar, log_v = s.alpha_bars[-1], math.log(s.one_minus_alpha_bars[-1])
    terms[0] = -0.5 * (abar * (x0**2).sum(-1) + d * (-abar - log_v))
    for t in range(1, s.T + 1):
        eps = rng.standard_normal(x0.shape)
        error = ((eps - predict(denoiser, s.q_sample(x0, t, eps), t)) ** 2).sum(-1)
        if t == 1:
            weight, constant = s.loss_weights[1], 0.5 * d * math.log(2 * math.pi * s.betas[1])
        elif variance == "posterior":
            weight, constant = s.loss_weights[t] * s.betas[t] / s.posterior_variances[t], 0.0
        else:  # rho_t / beta_t = 1 - u
            u = s.alpha_bars[t - 1] * s.betas[t] / s.one_minus_alpha_bars[t]
            weight, constant = s.loss_weights[t], 0.5 * d * (-u - math.log1p(-u))
        terms[t] = -(float(weight) * error + constant)
    return Bound(terms.sum(0), terms)
