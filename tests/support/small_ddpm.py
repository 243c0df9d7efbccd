"""A whole DDPM as a stranger would write it, with arrays counted from 0: `tests/testing` makes slips in it."""

import math

import numpy as np


def linear_betas(T):
    return np.linspace(1e-4, 0.02, T)


def cosine_betas(T):
    t = np.arange(T + 1) / T
    f = np.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.clip(1 - f[1:] / f[:-1], 0, 0.999)


def alpha_bars(betas):
    return np.cumprod(1 - betas)


def previous(betas, t):
    return alpha_bars(betas)[t - 2] if t > 1 else 1.0


def q_sample(betas, x0, t, eps):
    abar = alpha_bars(betas)[t - 1]
    return math.sqrt(abar) * x0 + math.sqrt(1 - abar) * eps


def posterior_variance(betas, t):
    return betas[t - 1] * (1 - previous(betas, t)) / (1 - alpha_bars(betas)[t - 1])


def q_posterior(betas, x0, xt, t):
    beta, abar, before = betas[t - 1], alpha_bars(betas)[t - 1], previous(betas, t)
    mean = math.sqrt(before) * beta / (1 - abar) * x0 + math.sqrt(1 - beta) * (1 - before) / (1 - abar) * xt
    return mean, posterior_variance(betas, t)


def predict_x0(betas, xt, t, eps):
    abar = alpha_bars(betas)[t - 1]
    return (xt - math.sqrt(1 - abar) * eps) / math.sqrt(abar)


def reverse_mean(betas, xt, t, eps):
    beta, abar = betas[t - 1], alpha_bars(betas)[t - 1]
    return (xt - beta / math.sqrt(1 - abar) * eps) / math.sqrt(1 - beta)


def reverse_step(betas, denoiser, xt, t, z, variance):
    mean = reverse_mean(betas, xt, t, denoiser(xt, t))
    sigma2 = betas[t - 1] if variance == "beta" else posterior_variance(betas, t)
    return mean + math.sqrt(sigma2) * z if t > 1 else mean


def ddim_step(betas, denoiser, xt, t, s, eta, z):
    abars = np.concatenate([[1.0], alpha_bars(betas)])
    eps = denoiser(xt, t)
    x0 = (xt - np.sqrt(1 - abars[t]) * eps) / np.sqrt(abars[t])
    sigma = eta * np.sqrt((1 - abars[s]) / (1 - abars[t]) * (1 - abars[t] / abars[s]))
    return np.sqrt(abars[s]) * x0 + np.sqrt(1 - abars[s] - sigma**2) * eps + sigma * z


def times(T, n):
    return [T - i * T // n for i in range(n)]


def sample(betas, denoiser, x_T, noise, variance):
    x = x_T
    for t in reversed(range(1, len(betas) + 1)):
        x = reverse_step(betas, denoiser, x, t, noise[t], variance)
    return x


def loss_weights(betas):
    return betas / (2 * (1 - betas) * (1 - alpha_bars(betas)))


def variational_bound(betas, denoiser, x0, noise):
    T, d, abar_T = len(betas), x0.shape[1], alpha_bars(betas)[-1]
    total = 0.5 * (abar_T * (x0**2).sum(axis=1) - d * abar_T - d * math.log(1 - abar_T))
    for t in range(1, T + 1):
        error = ((noise[t] - denoiser(q_sample(betas, x0, t, noise[t]), t)) ** 2).sum(axis=1)
        total = total + loss_weights(betas)[t - 1] * error
        if t == 1:
            total = total + d / 2 * math.log(2 * math.pi * betas[0])
        else:
            ratio = posterior_variance(betas, t) / betas[t - 1]
            total = total + d / 2 * (ratio - 1 - math.log(ratio))
    return -total


H = 5


def unpack(parameters):
    W1, b1, W2, b2 = np.split(parameters, np.cumsum([3 * H, H, 2 * H]))
    return W1.reshape(3, H), b1, W2.reshape(H, 2), b2


def parameters(rng):
    return rng.standard_normal(3 * H + H + 2 * H + 2) / 2


def forward(parameters, betas, x0, t, eps):
    W1, b1, W2, b2 = unpack(parameters)
    abar = alpha_bars(betas)[t - 1][:, None]
    xt = np.sqrt(abar) * x0 + np.sqrt(1 - abar) * eps
    inputs = np.concatenate([xt, t[:, None] / len(betas)], axis=1)
    hidden = np.tanh(inputs @ W1 + b1)
    return inputs, hidden, hidden @ W2 + b2 - eps


def loss(parameters, betas, x0, t, eps):
    return (forward(parameters, betas, x0, t, eps)[2] ** 2).mean()


def gradient(parameters, betas, x0, t, eps):
    W2 = unpack(parameters)[2]
    inputs, hidden, r = forward(parameters, betas, x0, t, eps)
    dr = 2 * r / r.size
    dz = (dr @ W2.T) * (1 - hidden**2)
    return np.concatenate([(inputs.T @ dz).ravel(), dz.sum(axis=0), (hidden.T @ dr).ravel(), dr.sum(axis=0)])
