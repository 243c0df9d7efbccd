"""Implementations that are right, in several styles; one with a slip in it; and what the checks say about them."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import small_ddpm

from npddpm import testing
from npddpm.testing.contract import Implementation

SMALL = Path(small_ddpm.__file__).read_text(encoding="utf-8")


def verdicts(implementation, *functions):
    """The results of these functions alone."""
    subject = Implementation(implementation)
    return [c.run(subject) for c in testing.CHECKS if c.function in functions]


def result_of(implementation, function, name):
    """The result of one check."""
    check, = (c for c in testing.CHECKS if (c.function, c.name) == (function, name))
    return check.run(Implementation(implementation))


def failures(implementation, *functions):
    return [r for r in verdicts(implementation, *functions) if r.verdict == "fail"]


def defined_by(text, **names):
    """What a file of this text would define."""
    scope = dict(names)
    exec(text, scope)  # noqa: S102
    return SimpleNamespace(**scope)


def small_with(old, new, **names):
    """small_ddpm with a slip in its text."""
    old, new = (text.replace(r"\n", "\n") for text in (old, new))
    assert SMALL.count(old) == 1, old
    return defined_by(SMALL.replace(old, new), **names)


def in_single_precision(module):
    """The same functions, all of whose arrays are float32."""
    def cast(a):
        return a.astype(np.float32) if isinstance(a, np.ndarray) and a.dtype == float else a

    def single(f):
        return lambda *args: f(*map(cast, args))
    functions = {name: single(getattr(module, name)) for name in testing.FUNCTIONS}
    return SimpleNamespace(**functions, TOLERANCE=1e-4)


class Loops:
    """Numbers and lists alone, one case of DDIM alone, times one by one."""

    def q_sample(self, betas, x0, t, eps):
        abar = math.prod(1 - float(b) for b in betas[:t])
        return [[abar**0.5 * x + (1 - abar) ** 0.5 * e for x, e in zip(*rows)] for rows in zip(x0, eps)]

    def q_posterior(self, betas, x0, xt, t):
        beta, before = float(betas[t - 1]), math.prod(1 - float(b) for b in betas[:t - 1])
        if t == 1:
            return x0, 0
        precision = (1 - beta) / beta + 1 / (1 - before)
        mean = [[((1 - beta) ** 0.5 / beta * b + before**0.5 / (1 - before) * a) / precision for a, b in zip(*rows)]
                for rows in zip(x0, xt)]
        return mean, 1 / precision

    def ddim_step(self, betas, denoiser, xt, t, s, eta, z):
        if eta != 0:
            raise NotImplementedError
        at, a_s = (math.prod(1 - float(b) for b in betas[:r]) for r in (t, s))
        eps = denoiser(xt, np.full((len(xt), 1), t))
        return a_s**0.5 * (xt - (1 - at) ** 0.5 * eps) / at**0.5 + (1 - a_s) ** 0.5 * eps

    def times(self, T, n):
        return (T - T * i // n for i in range(n))

    def parameters(self, rng):
        return {"W": rng.standard_normal((2, 2)), "layers": [np.zeros(2), rng.standard_normal((3, 2))]}

    def loss(self, parameters, betas, x0, t, eps):
        """The mean of |r|, of a network with relu: differences alone can tell its derivatives."""
        h = self.hidden(parameters, betas, x0, t, eps)[1]
        return float(sum(abs(h @ parameters["layers"][1] - eps).ravel())) / len(t)

    def hidden(self, parameters, betas, x0, t, eps):
        abar = np.array([math.prod(1 - betas[:i]) for i in t])[:, None]
        z = (np.sqrt(abar) * x0 + np.sqrt(1 - abar) * eps) @ parameters["W"] + parameters["layers"][0]
        return z, np.concatenate([np.maximum(z, 0), t[:, None] / 10], axis=1)

    def gradient(self, parameters, betas, x0, t, eps):
        z, h = self.hidden(parameters, betas, x0, t, eps)
        abar = np.array([math.prod(1 - betas[:i]) for i in t])[:, None]
        dr = np.sign(h @ parameters["layers"][1] - eps) / len(t)
        dz = (dr @ parameters["layers"][1].T)[:, :2] * (z > 0)
        return {"W": (np.sqrt(abar) * x0 + np.sqrt(1 - abar) * eps).T @ dz, "layers": [dz.sum(0), h.T @ dr]}


RIGHT = {"counted from 0": small_ddpm, "float32": in_single_precision(small_ddpm), "loops": Loops()}


def network(forward, start, gradient=None, dim=2, of_residual=lambda r: r**2):
    """Of a prediction of eps, forward(parameters, x_t, abar_t), its loss, the mean of (eps_hat - eps)^2, and gradient(parameters, x_t, abar_t, dr)."""
    def residual(p, betas, x0, t, eps):
        abar = np.cumprod(1 - betas)[t - 1][:, None]
        xt = np.sqrt(abar) * x0 + np.sqrt(1 - abar) * eps
        return xt, abar, forward(p, xt, abar) - eps

    def of_loss(p, *args):
        xt, abar, r = residual(p, *args)
        return gradient(p, xt, abar, 2 * r / r.size)
    return SimpleNamespace(DIM=dim, parameters=start, loss=lambda *args: of_residual(residual(*args)[2]).mean(),
                           **{"gradient": of_loss} if gradient else {})


def with_loss(expression):
    """small_ddpm with another loss of r = eps_hat - eps; abar, beta and w, the weights of step 8, are (B, 1)."""
    def loss(p, betas, x0, t, eps):
        beta, abar, w = (table[t - 1][:, None] for table in (betas, small_ddpm.alpha_bars(betas), small_ddpm.loss_weights(betas)))
        r = small_ddpm.forward(p, betas, x0, t, eps)[2]
        return eval(expression, {"np": np, "p": p, "betas": betas, "t": t, "beta": beta, "abar": abar, "w": w, "r": r})
    return SimpleNamespace(parameters=small_ddpm.parameters, loss=loss)


def named(change=lambda g: g, wrap=dict, **more):
    """A linear network whose parameters are a dict; its gradient lists them in an order of its own, and may be changed."""
    def forward(p, xt, abar):
        assert [*p] == ["W", "b", "c", *more]
        return xt @ p["W"] + p["b"] + abar * p["c"]
    return network(forward, lambda rng: wrap(W=rng.standard_normal((2, 2)), b=rng.standard_normal(2), c=rng.standard_normal(2), **more),
                   lambda p, xt, abar, dr: change({"c": (abar * dr).sum(0), "b": dr.sum(0), "W": xt.T @ dr}))
