"""Pictures of a model: its samples beside the data, the reverse process, and the losses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from . import diffusion
from .backend import generator
from .data import is_image
from .train import LOSS_EVERY, DDPM

GRID = 8, 12     # rows and columns of a mosaic of images
POINTS = 2000    # points of a scatter
MOMENTS = (1, 0.7, 0.5, 0.35, 0.2, 0.1, 0.05, 0)  # of the reverse process, as shares of T


def overview(model: DDPM, x: np.ndarray, by_time: np.ndarray, rng: Any = 0) -> Figure:
    """One page: samples beside data, the reverse process at eight times t, both loss curves.

    Parameters
    ----------
    model : DDPM
    x : (n, d) array
        Real rows to show.
    by_time : (k, 3) array
        Columns t, loss at t, and the least possible loss at t, NaN where nobody knows it.
    """
    images = is_image(x)
    net, s = model.denoiser, model.schedule
    n = math.prod(GRID) if images else POINTS
    moments = [round(share * s.T) for share in MOMENTS]
    films = {t: model.restore(xt) for t, xt in
             diffusion.trajectory(net, s, n, net.dim, generator(rng, net.xp)) if t in moments}

    figure = Figure(figsize=(12, 11), layout="constrained")
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=[2.2, 1, 1.5] if images else [2, 0.9, 1.3])
    for axes, rows, title in zip(top.subplots(1, 2), (films[0], x[:n]), ("Samples", "Data")):
        axes.set_title(title)
        draw(axes, rows, x)
    middle.suptitle("The reverse process, from noise to samples")
    for axes, t in zip(middle.subplots(1, len(moments)), moments):
        axes.set_title(f"t = {t}", fontsize="medium")
        draw(axes, films[t][:16], x, (4, 4)) if images else draw(axes, films[t], x)
        axes.set(xticks=[], yticks=[], xlabel="", ylabel="")
    draw_losses(*bottom.subplots(1, 2), model, by_time)
    return figure


def draw(axes: Any, rows: np.ndarray, x: np.ndarray, grid: tuple[int, int] = GRID) -> None:
    """Draw rows as images in a grid, as points of the plane, or as a histogram, on the scale of x."""
    if is_image(x):
        side = math.isqrt(x.shape[1])
        tiles = np.full((grid[0] * grid[1], side + 1, side + 1), np.nan)
        tiles[:len(rows), 1:, 1:] = rows.reshape(-1, side, side)[:len(tiles)]
        mosaic = tiles.reshape(*grid, side + 1, side + 1).swapaxes(1, 2).reshape(grid[0] * (side + 1), -1)
        axes.imshow(mosaic, cmap="gray_r", vmin=x.min(), vmax=x.max(), interpolation="nearest")
        axes.axis("off")
        return
    low, high = x.min(0), x.max(0)
    margin = 0.15 * (high - low) + 1e-300
    axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
    if x.shape[1] == 1:
        axes.hist(rows[:, 0], bins=np.linspace(*axes.get_xlim(), 60), density=True)
        axes.set(xlabel="$x$", ylabel="density")
        return
    axes.scatter(rows[:, 0], rows[:, 1], s=3, linewidths=0, alpha=0.6)
    axes.set_ylim(low[1] - margin[1], high[1] + margin[1])
    axes.set(xlabel="first column", ylabel="second column")
    if x.shape[1] == 2:
        axes.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal")


def draw_losses(training: Any, by_t: Any, model: DDPM, by_time: np.ndarray) -> None:
    """The training loss against the step, and the loss against t, per dimension and in units of noise variance."""
    losses = np.array(model.losses)
    training.plot(LOSS_EVERY * np.arange(1, len(losses) + 1), losses, linewidth=1)
    training.set(title="Training", xlabel="step", ylabel=f"loss, mean of {LOSS_EVERY} steps", yscale="log")
    t, loss, least = by_time.T
    by_t.plot(t, loss, "o-", markersize=3, linewidth=1, label="model, held-out data")
    if np.isfinite(least).all():
        by_t.plot(t, least, "k--", linewidth=1, label="least possible")
    by_t.set(title="By time", xlabel="$t$", ylabel=r"$E\,|\epsilon - \hat\epsilon|^2 / d$",
             xscale="log", yscale="log")
    by_t.legend(frameon=False)
