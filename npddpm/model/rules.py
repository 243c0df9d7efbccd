"""Sizes and steps that fit the data: what `DDPM` takes where none is given, each by a rule of one sentence."""

from __future__ import annotations

from typing import Any

MANY = 128      # more axes (in `steps`, columns) than this count as an image, and the network gets gates


def hidden(r: int) -> int:
    """Width of the layers for r principal axes: 128 for up to 32, 256 for up to 128, else 512."""
    return 128 if r <= 32 else 256 if r <= MANY else 512


def depth(r: int) -> int:
    """Number of layers for r principal axes: three, but five for 33 to 128."""
    return 5 if 32 < r <= MANY else 3


def fourier(r: int) -> int:
    """Octaves of Fourier features for r principal axes: four for up to three, else none."""
    return 4 if r <= 3 else 0


def gated(r: int) -> bool:
    """Whether there is a gate for each column, for r principal axes: for more than 128."""
    return r > MANY


def kept_wide(r: int) -> bool:
    """Whether samples are kept from losing variance, `npddpm.model.gates.measure_drift`, for r principal axes: for more than 32.

    Many columns are memorised sooner; with few the loss is small, and what a network misses of heavy tails would count as one.
    """
    return r > 32


def weighting(cos: Any) -> Any:
    """Weights of the loss, given cos(theta) = sd[eps | x_t], (T+1, r): 1, or for more than 128 axes one over its root mean square.

    The coarse shape of an image is settled at large t, where the Gaussian leaves so little open that the simple loss
    hardly sees it. The weight stops at 10, where the mean of Var[eps | x_t] is 0.01, and is scaled to the mean 1 over t.
    """
    if not gated(cos.shape[1]):
        return "simple"
    w = (cos**2).mean(1).clip(0.01) ** -0.5
    return w / w[1:].mean()


def time_power(r: int) -> int:
    """Power p of the times t = 1 + floor(T u^p) in training, u uniform, for r principal axes: 2 for up to eight, else 1, t uniform.

    The fine shapes of a few columns are settled at small t, of which a uniform t has too few.
    """
    return 2 if r <= 8 else 1


def few(n: int) -> bool:
    """Whether it is measured on n rows how long to train, `npddpm.model.stopping`: for 7 to 999."""
    return 6 < n < 1000


def steps(n: int, d: int) -> int:
    """Training steps for n rows of d columns: four a row, at least 1,000; beyond 128 columns one a row, at least 500.

    At most 10,000. With more the network would memorise a small table; many columns are memorised sooner.
    """
    return min(10_000, max(500, n) if d > MANY else max(1000, 4 * n))


def lr(n: int) -> float:
    """Learning rate for n rows: 1e-3, but half of it for fewer than 250, which would be memorised."""
    return 1e-3 if n >= 250 else 5e-4
