"""The loss and the variational bound, for any noise prediction ``denoiser(x_t, t)``.

A denoiser is a callable that takes x_t of shape (B, d) with t, an int or (B,) ints, and returns its
prediction of eps, (B, d): an `MLP`, the exact `GaussianMixture.denoiser`, or a function of yours.
"""

from typing import Any, NamedTuple

import numpy as np

from . import gaussian
from .arrays.backend import generator, get_array_module
from .arrays.checks import Denoiser, check_finite, predict, variances_of
from .arrays.declared import checked, choice, count, network, points, rows, schedule, weights
from .schedule import Schedule


@checked(s=schedule(Schedule), net=network(), x0=rows(), weighting=weights())
def loss_and_gradient(net: Any, s: Schedule, x0: Any, t: Any, eps: Any, weighting: Any = "simple",
                      out: Any = None) -> tuple[Any, Any]:
    """The training loss on a batch, and its gradient for all parameters of the network.

        L = 1/(B d) sum_b w_{t_b} |eps_b - eps_hat(x_{t_b}, t_b)|^2,   x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps

    Parameters
    ----------
    net : MLP
        Or any denoiser with a method ``backward(dL/d eps_hat, out)``, where `out` may be None.
    s : Schedule
    x0, eps : (B, d) arrays
        Data, and the noise to add to it.
    t : int or (B,) ints in 0..T
        Training draws from 1..T; at t = 0 there is no noise to predict.
    weighting : {"simple", "elbo"} or (T+1,) array
        w_t = 1, or `Schedule.loss_weights`, or the numbers given, on the device of x0. With "elbo" and t uniform
        on 1..T, T d L is an unbiased estimate of step 8's sum, in nats.
    out : (P,) array, optional
        Where to write the gradient.

    Returns
    -------
    loss : float
        On the GPU a 0-d array, so that nothing waits for it; ``float(loss)`` does.
    gradient : (P,) array

    Raises
    ------
    ValueError, TypeError
        If t or eps does not fit x0; or if `net` returns no prediction for them.
    """
    xt = s.q_sample(x0, t, eps)
    residual = predict(net, xt, t) - eps                            # eps_hat - eps
    if isinstance(weighting, str):
        weighted = residual if weighting == "simple" else s.weight(t, xt) * residual
    else:
        weighted = weighting.take(t).reshape(-1, 1) * residual
    loss = (residual.ravel() @ weighted.ravel()) / residual.size    # L = 1/(B d) sum w residual^2
    d_eps_hat = (2 / residual.size) * weighted                      # dL/d eps_hat = 2/(B d) w residual
    gradient = net.backward(d_eps_hat, out)
    return loss if get_array_module(loss) is not np else loss.item(), gradient


class Bound(NamedTuple):
    """An estimate of a lower bound of log p(x_0), as `variational_bound` returns it."""

    nats: Any
    terms: Any


@checked(s=schedule(Schedule), variance=choice("beta", "posterior", "gaussian"), n=count(), x0=points("B", "d", dtype=float))
def variational_bound(denoiser: Denoiser, s: Schedule, x0: Any, rng: Any = None, variance: str = "beta",
                      n: int = 1) -> Bound:
    """Estimate the lower bound of log p(x_0) of steps 2 to 6, constants and all.

    With p(x_T) = N(0, I) and p(x_{t-1} | x_t) = N( mu(x_t, t), diag sigma_t^2 ), mu being `Schedule.reverse_mean`,

        log p(x_0) >= E_q[ log p(x_0 | x_1) ] - sum_{t>1} E_q[ KL( q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t) ) ]
                      - KL( q(x_T | x_0) || p(x_T) )

    Parameters
    ----------
    denoiser : callable
        ``denoiser(x_t, t)`` with x_t of shape (B, d), float64, and t an int. Its `variances`, (d,), are lambda, 1 if it has none.
    s : Schedule
    x0 : (B, d) array
    rng : None, int or Generator
        Draws the noise.
    variance : {"beta", "posterior", "gaussian"}
        sigma_t^2 = beta_t, rho_t, or that of `Schedule.gaussian_variances`, with which the expectation of the bound over
        N(0, diag lambda), with its exact denoiser, is that of log N(x_0; 0, diag lambda) less KL( q(x_T) || p(x_T) ), for every
        T. At t = 1 rho_1 = 0 would give no density, so beta_1 is used.
    n : int
        Draws of x_t at each t.

    Returns
    -------
    Bound
        `nats`, (B,), the sums of `terms`, (T+1, B): row t is the term of p(x_{t-1} | x_t), row 0 that of p(x_T).

    Raises
    ------
    ValueError, TypeError
        If the denoiser returns no prediction, or `rng` makes no generator.
    FloatingPointError
        If the denoiser returns NaN or infinity, or x0 is too large.

    Notes
    -----
    Each E_q is a mean over n draws of x_t: the result is unbiased, and a single one may exceed log p(x_0). To each term, which
    is -sum_i b^2 / (2 sigma_t,i^2) (eps - eps_hat)_i^2 + const, the same square for e = sin(theta) u in place of eps_hat is
    added, less its mean given x_0: that has mean 0, and cancels the noise which the two share (a control variate).
    """
    xp, lam = get_array_module(x0), variances_of(denoiser, x0.shape[1])
    betas = s.betas[:, None]
    sigma2 = {"beta": betas, "posterior": s.posterior_variances[:, None], "gaussian": s.gaussian_variances(lam)}[variance]
    sigma2 = np.where(sigma2 > 0, sigma2, betas)
    rotation, rng = s.rotation(lam), generator(rng, xp)
    terms = xp.zeros((s.T + 1, len(x0)))
    terms[0] = -gaussian.kl(*s.q_mean_variance(x0, s.T), 0.0, 1.0)
    for t in [*range(1, s.T + 1)] * n:
        b, rho = float(s.reverse_eps_coefs[t]), float(s.posterior_variances[t])
        sin, cos, sd, sigma2_t = (xp.asarray(table[t]) for table in (*rotation, sigma2))
        eps = rng.standard_normal(x0.shape)
        # By step 7 mu - mu~ = b (eps - eps_hat), with mu~_1 = x_0. For small beta they nearly agree: a difference would lose digits.
        apart = b * (eps - predict(denoiser, s.q_sample(x0, t, eps), t))
        term = gaussian.log_density(apart, 0.0, sigma2_t) if t == 1 else -gaussian.kl(apart, rho, 0.0, sigma2_t)
        # eps - e = cos(theta) (cos(theta) eps - sin(theta) x_0 / sqrt(lambda)); given x_0, E eps_i = 0 and E eps_i^2 = 1.
        of_x0 = sin / sd * s.signal(t, x0) * x0                             # cos(theta) / sqrt(lambda) = sqrt(abar_t / v_t)
        control = (cos**2 * eps - of_x0) ** 2 - (cos**4 + of_x0**2)
        terms[t] += (term + (b**2 / (2 * sigma2_t) * control).sum(-1)) / n
    return Bound(check_finite(terms.sum(0), x0=x0), terms)
