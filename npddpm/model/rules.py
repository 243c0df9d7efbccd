"""Sizes and steps that fit the data: what `DDPM` takes where none is given, each by a rule of one sentence."""

from __future__ import annotations

from typing import Any

from ..arrays.backend import fused

MANY = 128      # more axes (in `steps`, columns) than this count as an image, and the network gets gates


def network(r: int) -> dict[str, Any]:
    """Sizes of the network for r principal axes.

    Three layers of width 128 for up to 32, five of 256 for up to 128, else three of 512, and a gate for each column. Four octaves of
    Fourier features for up to three, else none.
    """
    hidden, depth = (128, 3) if r <= 32 else (256, 5) if r <= MANY else (512, 3)
    return {"hidden": hidden, "depth": depth, "fourier": 4 if r <= 3 else 0, "gated": r > MANY}


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
    if cos.shape[1] <= MANY:
        return "simple"
    w = (cos**2).mean(1).clip(0.01) ** -0.5
    return w / w[1:].mean()


def time_power(r: int) -> int:
    """Power p of the times t = 1 + floor(T u^p) in training, u uniform, for r principal axes: 2 for up to eight, else 1, t uniform.

    The fine shapes of a few columns are settled at small t, of which a uniform t has too few.
    """
    return 2 if r <= 8 else 1


@fused
def draw_times(u: Any, T: int, power: int) -> Any:
    """Times of training in 1..T from u uniform on [0, 1), uniform too for the power 1, more of the small ones for 2."""
    return 1 + (T * u**power).astype(int)


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
