"""What goes wrong when people write these formulas: a table, and `reference` with one slip made in it.

A row is: function of `reference` | what | mistaken for | in words. The replacement is made in the text of the function.
"""

from __future__ import annotations

import inspect
import re
from functools import cache
from types import SimpleNamespace
from typing import Any

from . import reference

SLIPS = [tuple(line.split(" | ", 3)) for line in r"""
linear_betas | / (T - 1) | / T | T where T-1 belongs: the last beta is missed
linear_betas | "0.0001" | "0.001" | 1e-3 where 1e-4 belongs
linear_betas | "0.02" | "0.2" | 0.2 where 0.02 belongs
linear_betas | first + (last - first) * i / (T - 1) | (first.sqrt() + (last.sqrt() - first.sqrt()) * i / (T - 1)) ** 2 | linear in sqrt(beta), not in beta
cosine_betas | ** 2 for t | for t | cos where cos^2 belongs
cosine_betas | (Decimal(t) / T + Decimal("0.008")) / Decimal("1.008") | Decimal(t) / T | the offset 0.008 left out
cosine_betas | / Decimal("1.008") | / 1 | t/T + 0.008 not divided by 1.008
cosine_betas | * PI / 2 | * PI | pi where pi/2 belongs
cosine_betas | "0.999" | "1" | beta not cut at 0.999
cosine_betas | f[t] / f[t - 1] | f[t] / f[0] | abar_t where the quotient abar_t / abar_{t-1} belongs
cosine_betas | 1 - f[t] / f[t - 1] | f[t - 1] / f[t] - 1 | t where t-1 belongs, in the denominator
cosine_betas | range(1, T + 1) | range(T) | t-1 where t belongs
_tables | [1 - beta | [1 + beta | a sign in alpha = 1 - beta
_tables | A.append(A[-1] * alpha) | A.append(alpha) | alpha_t where the product abar_t belongs
_tables | return b, a, A | return b, a, [A[0], *A[:-1]] | t-1 where t belongs, in abar_t
_tables | return b, a, A | return b, a, [A[0], A[-1], *A[1:-1]] | t-1 where t belongs, in abar_t (index -1 at t = 1)
_tables | return b, a, A | return b, a, A[1:] | t+1 where t belongs, in abar_t
_tables | return b, a, A | return b, a, [x.sqrt() for x in A] | sqrt(abar) where abar belongs
alpha_bars | A[1:] | A | abar_0 = 1 in front, T+1 entries
alpha_bars | A[1:] | [1 - x for x in A[1:]] | 1 - abar where abar belongs
alpha_bars | np.array(A[1:]) | np.cumprod(b[1:]) | products of beta where those of alpha = 1 - beta belong
q_sample | A[t].sqrt() * x0 | A[t] * x0 | abar_t where sqrt(abar_t) belongs
q_sample | (1 - A[t]).sqrt() | (1 - A[t]) | 1 - abar_t where its root belongs
q_sample | (1 - A[t]).sqrt() | (1 - A[t].sqrt()) | 1 - sqrt(abar_t) where sqrt(1 - abar_t) belongs
q_sample | (1 - A[t]).sqrt() | b[t].sqrt() | beta_t where 1 - abar_t belongs, the noise of one step
q_sample | + (1 - A[t]) | - (1 - A[t]) | a sign, in front of eps
q_sample | A[t].sqrt() * x0 + (1 - A[t]).sqrt() * eps | (1 - A[t]).sqrt() * x0 + A[t].sqrt() * eps | signal and noise exchanged
q_posterior | A[t - 1].sqrt() * b[t] | A[t].sqrt() * b[t] | t where t-1 belongs, in sqrt(abar_{t-1})
q_posterior | A[t - 1].sqrt() * b[t] | A[t - 1] * b[t] | abar_{t-1} where its root belongs
q_posterior | a[t].sqrt() * | a[t] * | alpha_t where sqrt(alpha_t) belongs
q_posterior | a[t].sqrt() * | A[t].sqrt() * | abar_t where alpha_t belongs, in the weight of x_t
q_posterior | * (1 - A[t - 1]) / (1 - A[t]) * xt | * xt | t where t-1 belongs, in 1 - abar_{t-1}
q_posterior | * b[t] / | * a[t] / | alpha_t where beta_t belongs, in the weight of x_0
q_posterior | / (1 - A[t]) * x0 | / (1 - A[t - 1]) * x0 | t-1 where t belongs, in 1 - abar_t
q_posterior | (1 - A[t]) * xt | (1 - A[t]).sqrt() * xt | sqrt(1 - abar_t) where 1 - abar_t belongs
q_posterior | x0 + a[t].sqrt() * (1 - A[t - 1]) / (1 - A[t]) * xt | xt + a[t].sqrt() * (1 - A[t - 1]) / (1 - A[t]) * x0 | x_0 and x_t exchanged
q_posterior | A[t - 1] | A[t - 1 or -1] | the last entry where abar_0 = 1 belongs (index -1 at t = 1)
posterior_variance | (1 - A[t - 1]) / (1 - A[t]) | 1 | t where t-1 belongs, in 1 - abar_{t-1} (beta_t where rho_t belongs)
posterior_variance | b[t] * | a[t] * | alpha_t where beta_t belongs, in rho_t
posterior_variance | (1 - A[t - 1]) / (1 - A[t]) | (1 - A[t]) / (1 - A[t - 1]) | the quotient upside down, in rho_t
posterior_variance | (1 - A[t - 1]) / (1 - A[t]) | ((1 - A[t - 1]) / (1 - A[t])).sqrt() | a root too many, in rho_t
posterior_variance | b[t] * (1 - A[t - 1]) / (1 - A[t]) | (b[t] * (1 - A[t - 1]) / (1 - A[t])).sqrt() | a deviation where the variance belongs
posterior_variance | (1 - A[t - 1]) / (1 - A[t]) | (1 - A[t - 1]) | 1 - abar_t left out, in rho_t
posterior_variance | b[t] * | b[t - 1] * | t-1 where t belongs, in beta_t of rho_t
posterior_variance | A[t - 1] | A[t - 1 or -1] | the last entry where abar_0 = 1 belongs (index -1 at t = 1)
predict_x0 | / A[t].sqrt() | / A[t] | abar_t where sqrt(abar_t) belongs
predict_x0 | / A[t].sqrt() | / a[t].sqrt() | alpha_t where abar_t belongs
q_posterior | a[t].sqrt() * | b[t].sqrt() * | sqrt(beta_t) where sqrt(alpha_t) belongs
q_posterior | mean, posterior_variance(betas, t) | posterior_variance(betas, t), mean | mean and variance exchanged
posterior_variance | b[t] * (1 - A[t - 1]) / (1 - A[t]) | (b[t] * (1 - A[t - 1]) / (1 - A[t])).ln() | the logarithm where the variance belongs
posterior_variance | b[t] * (1 - A[t - 1]) / (1 - A[t]) | b[max(t, 2)] * (1 - A[max(t, 2) - 1]) / (1 - A[max(t, 2)]) | rho_2 where rho_1 = 0 belongs
predict_x0 | (xt - (1 - A[t]).sqrt() * eps) / A[t].sqrt() | xt - (1 - A[t]).sqrt() * eps / A[t].sqrt() | only eps divided by sqrt(abar_t)
predict_x0 | (xt - (1 - A[t]).sqrt() * eps) / A[t].sqrt() | np.clip((xt - (1 - A[t]).sqrt() * eps) / A[t].sqrt(), -1, 1) | cut to [-1, 1]
predict_x0 | / A[t].sqrt() | / b[t].sqrt() | beta_t where abar_t belongs
predict_x0 | / A[t].sqrt() | / 1 | not divided by sqrt(abar_t)
predict_x0 | (1 - A[t]).sqrt() | (1 - A[t]) | 1 - abar_t where its root belongs
predict_x0 | xt - (1 | xt + (1 | a sign, in front of eps
reverse_mean | / a[t].sqrt() | / A[t].sqrt() | 1/sqrt(abar_t) where 1/sqrt(alpha_t) belongs
reverse_mean | (xt - b[t] / (1 - A[t]).sqrt() * eps) / a[t].sqrt() | xt / A[t].sqrt() - b[t] / (a[t] * (1 - A[t])).sqrt() * eps | 1/sqrt(abar_t) where 1/sqrt(alpha_t) belongs, in front of x_t
reverse_mean | (xt - b[t] / (1 - A[t]).sqrt() * eps) / a[t].sqrt() | xt / a[t].sqrt() - b[t] / (A[t] * (1 - A[t])).sqrt() * eps | 1/sqrt(abar_t) where 1/sqrt(alpha_t) belongs, in front of eps
reverse_mean | / a[t].sqrt() | / a[t] | 1/alpha_t where 1/sqrt(alpha_t) belongs
reverse_mean | / a[t].sqrt() | * a[t].sqrt() | multiplied by sqrt(alpha_t) where it is to be divided
reverse_mean | / a[t].sqrt() | / 1 | not divided by sqrt(alpha_t)
reverse_mean | (1 - A[t]).sqrt() | (1 - A[t]) | 1 - abar_t where its root belongs
reverse_mean | (1 - A[t]).sqrt() | A[t].sqrt() | abar_t where 1 - abar_t belongs
reverse_mean | b[t] / (1 - A[t]).sqrt() | b[t].sqrt() | alpha_t where abar_t belongs, in sqrt(1 - abar_t)
reverse_mean | b[t] / (1 - A[t]).sqrt() | (1 - A[t]).sqrt() | sqrt(1 - abar_t) where beta_t / sqrt(1 - abar_t) belongs
reverse_mean | b[t] / (1 | a[t] / (1 | alpha_t where beta_t belongs
reverse_mean | b[t] / (1 | b[t].sqrt() / (1 | sqrt(beta_t) where beta_t belongs
reverse_mean | (1 - A[t]) | (A[t] * (1 - A[t])) | abar_t where 1 belongs, under the root with 1 - abar_t
reverse_mean | (1 - A[t]) | (1 - A[t - 1]) | t-1 where t belongs, in 1 - abar_t
reverse_mean | xt - b[t] | xt + b[t] | a sign, in front of eps
reverse_mean | (xt - b[t] / (1 - A[t]).sqrt() * eps) / a[t].sqrt() | xt / a[t].sqrt() - b[t] / (1 - A[t]).sqrt() * eps | only x_t divided by sqrt(alpha_t)
reverse_step | if t > 1 | if t > 0 | noise added in the last step, to x_0
reverse_step | if t > 1 | if t > 2 | no noise in the step before the last
reverse_step | sigma2.sqrt() * z | sigma2 * z | a variance where its root belongs, in front of z
reverse_step | sigma2.sqrt() * z | z | z not multiplied by sigma_t
reverse_step | sigma2.sqrt() * z | 0 * z | no noise at all
reverse_step | if variance == "beta" | if variance != "beta" | "beta" and "posterior" exchanged
reverse_step | if variance == "beta" | if True | beta_t whatever the variance asked for
reverse_step | if variance == "beta" | if False | rho_t whatever the variance asked for
reverse_step | b[t] if | a[t] if | alpha_t where beta_t belongs, in sigma_t^2
reverse_step | else posterior_variance(betas, t) | else posterior_variance(betas, t - 1) | t-1 where t belongs, in sigma_t
reverse_step | b[t] if | b[t - 1] if | t-1 where t belongs, in sigma_t
reverse_step | denoiser(xt, t) | denoiser(xt, t - 1) | the denoiser asked at t-1 (times counted from 0)
reverse_step | reverse_mean(betas, xt, t, eps) | predict_x0(betas, xt, t, eps) | the predicted x_0 where the mean of x_{t-1} belongs
reverse_step | eps = denoiser(xt, t) | eps = (xt - A[t].sqrt() * np.clip(predict_x0(betas, xt, t, denoiser(xt, t)), -1, 1)) / (1 - A[t]).sqrt() | the predicted x_0 cut to [-1, 1]
ddim_step | Decimal(eta) ** 2 | Decimal(eta) | eta where eta^2 belongs
ddim_step | Decimal(eta) ** 2 | Decimal(eta) ** 4 | eta^2 where eta belongs, in sigma
ddim_step | (1 - A[t] / A[s]) * (1 - A[s]) / (1 - A[t]) | ((1 - A[t] / A[s]) * (1 - A[s]) / (1 - A[t])) ** 2 | a root left out, in sigma
ddim_step | A[s] | A[s or 1] | abar_1 where abar_0 = 1 belongs, at s = 0
ddim_step | return | s2 = sigma2 / eta2 * Decimal(eta) if eta else sigma2; return (A[s] / A[t]).sqrt() * xt - (s2 + A[s] / A[t] - 1) / ((A[s] / A[t] - A[s]).sqrt() + (1 - A[s] - sigma2).sqrt()) * eps + s2.sqrt() * z # | eta where eta^2 belongs, in sigma^2 but not under the root
ddim_step | (1 - A[s] - sigma2) | (1 - A[s]) | sigma^2 not taken off 1 - abar_s
ddim_step | (1 - A[s] - sigma2) | (1 - A[s] - sigma2.sqrt()) | sigma where sigma^2 belongs, taken off 1 - abar_s
ddim_step | (1 - A[s] - sigma2).sqrt() | (1 - A[s] - sigma2) | a root left out, in front of eps
ddim_step | sigma2.sqrt() * z | sigma2 * z | sigma^2 where sigma belongs, in front of z
ddim_step | (1 - A[t] / A[s]) | b[t] | beta_t where 1 - abar_t / abar_s belongs, which is right for s = t-1 alone
ddim_step | (1 - A[s]) / (1 - A[t]) | (1 - A[t]) / (1 - A[s]) | the quotient upside down, in sigma^2
ddim_step | * (1 - A[s]) / (1 - A[t]) | * 1 | beta_t where rho_t belongs, in sigma^2
ddim_step | A[s].sqrt() * x0 | A[s] * x0 | abar_s where sqrt(abar_s) belongs
ddim_step | A[s].sqrt() * x0 | A[t].sqrt() * x0 | t where s belongs, in front of x_0
ddim_step | + (1 - A[s] | - (1 - A[s] | a sign, in front of eps
ddim_step | A[s] | A[t - 1] | t-1 where s belongs
ddim_step | denoiser(xt, t) | denoiser(xt, t - 1) | the denoiser asked at t-1 (times counted from 0)
ddim_step | eps = denoiser(xt, t) | eps = (xt - A[t].sqrt() * np.clip(predict_x0(betas, xt, t, denoiser(xt, t)), -1, 1)) / (1 - A[t]).sqrt() | the predicted x_0 cut to [-1, 1]
ddim_step | return | return (A[s] / A[t]).sqrt() * xt - (sigma2 + (A[s] / A[t]).sqrt() * (1 - A[t] / A[s])) / ((A[s] / A[t] - A[s]).sqrt() + (1 - A[s] - sigma2).sqrt()) * eps + sigma2.sqrt() * z # | a where a^2 belongs, a = sqrt(abar_s / abar_t), in the weight of eps
ddim_step | return | return (A[s] / A[t]).sqrt() * xt + ((A[s] / A[t] - A[s]).sqrt() - (1 - A[s] - sigma2).sqrt()) * eps + sigma2.sqrt() * z # | a sign, in front of eps
sample | noise[t] | noise[t - 1] | row t-1 of noise where row t belongs
sample | noise[t] | noise[T - t] | the rows of noise used from the front
sample | range(T, 0, -1) | range(T, 1, -1) | the last step, from x_1 to x_0, left out
sample | range(T, 0, -1) | range(T - 1, 0, -1) | the first step, from x_T, left out
sample | range(T, 0, -1) | range(1, T + 1) | the times rise where they should fall
loss_weights | np.array([ | np.array([Decimal(0)] + [ | w_0 = 0 in front, T+1 entries
loss_weight | 2 * a[t] | a[t] | the 2 left out
loss_weight | a[t] * | A[t] * | abar_t where alpha_t belongs
loss_weight | 2 * a[t] * | 2 * | alpha_t left out
loss_weight | b[t] / | b[t] ** 2 / | beta_t^2 where beta_t belongs: not divided by sigma_t^2 = beta_t
loss_weight | (1 - A[t]) | (1 - A[t - 1]) | t-1 where t belongs, in 1 - abar_t
loss_weight | (1 - A[t]) | (1 - A[t]).sqrt() | sqrt(1 - abar_t) where 1 - abar_t belongs
loss_weight | * (1 - A[t]) | * 1 | 1 - abar_t left out
loss_weight | b[t] / (2 * a[t] * (1 - A[t])) | Decimal(1) | the weight 1 of the simple loss
loss_weight | b[t] / (2 * a[t] * (1 - A[t])) | b[t] ** 2 / (2 * posterior_variance(betas, t) * a[t] * (1 - A[t])) | sigma_t^2 = rho_t where beta_t belongs
variational_bound | bound = -(A | bound = (A | a sign, of KL( q(x_T | x_0) || p(x_T) )
variational_bound | d * (-A[T] | (-A[T] | d forgotten in the term of p(x_T)
variational_bound | d * (-A[T] - (1 - A[T]).ln()) | 0 | the constants of the term of p(x_T) left out
variational_bound | (A[T] * (x0**2).sum(1) + d * (-A[T] | (A[T - 1] * (x0**2).sum(1) + d * (-A[T - 1] | T-1 where T belongs, in abar_T of the term of p(x_T)
variational_bound | A[T] | A[T - 1] | T-1 where T belongs, in the term of p(x_T)
variational_bound | bound = -( | bound = 0 * ( | the term of p(x_T) left out
variational_bound | - (1 - A[T]).ln() | + (1 - A[T]).ln() | the sign of the logarithm in the term of p(x_T)
variational_bound | d * (ratio | (ratio | d forgotten in the terms of rho_t / beta_t, the slip of step 6
variational_bound | constant = d * (ratio - 1 - ratio.ln()) / 2 | constant = 0 | the terms of rho_t / beta_t left out
variational_bound | ratio - 1 - ratio.ln() | ratio - 1 + ratio.ln() | a sign in KL
variational_bound | d * (2 | (2 | d forgotten in the normaliser, the slip of step 6
variational_bound | (2 * PI * b[1]) | b[1] | 2 pi left out of the normaliser
variational_bound | d * (2 * PI * b[1]).ln() / 2 | 0 | the normaliser of p(x_0 | x_1) left out
variational_bound | * (2 * PI * b[1]).ln() / 2 | * (2 * PI * b[1]).ln() | log(2 pi beta_1) where half of it belongs
variational_bound | return bound | return -bound | an upper bound (the negative of the lower one), the slip of step 2
variational_bound | return bound | return bound / Decimal(2).ln() | bits where nats belong
variational_bound | return bound | return bound / d | a mean over the d dimensions where the sum belongs
variational_bound | loss_weight(betas, t) * error | error | the weight 1 of the simple loss
variational_bound | loss_weight(betas, t) * error | loss_weight(betas, t) * error / d | a mean over the d dimensions where the sum belongs, in |eps - eps_hat|^2
variational_bound | noise[t] | noise[t - 1] | row t-1 of noise where row t belongs
variational_bound | , noise[t]), t) | , noise[t]), t - 1) | the denoiser asked at t-1 (times counted from 0)
variational_bound | for t in range(1, | for t in range(2, | the term of p(x_0 | x_1) left out
variational_bound | range(1, T + 1) | range(1, T) | the term of t = T left out
""".strip().splitlines()]


@cache
def slips(of: str) -> list[tuple[str, Any]]:
    """The words of each slip in what the function `of` calls, and `reference` with the slip made in it."""
    called = {of}
    while more := {name for f in called for name in re.findall(r"\w+(?=\()", inspect.getsource(getattr(reference, f)))
                   if inspect.isfunction(inspect.unwrap(getattr(reference, name, name)))} - called:
        called |= more
    return [(slip[3], module) for slip in SLIPS if slip[0] in called for module in made(*slip[:3])]


@cache
def made(function: str, old: str, new: str) -> list[Any]:
    """`reference` with a slip in a function; where t-1 is taken for an index, also as it is where arrays are counted from 0."""
    source, modules = inspect.getsource(reference), []
    body = inspect.getsource(getattr(reference, function)).split("\n", 1)[1]
    for form in dict.fromkeys([new, new.replace("[t - 1]", "[t - 1 or -1]")]):
        namespace: dict[str, Any] = {"__name__": "npddpm.reference"}
        exec(source.replace(body, body.replace(old, form)), namespace)  # noqa: S102
        modules.append(SimpleNamespace(**namespace))
    return modules
