"""Pictures of a model: samples beside data, both processes, the vector field, the losses; and a film."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.animation import ArtistAnimation
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..arrays.backend import generator
from ..model.ddpm import DDPM, LOSS_EVERY
from ..samplers import trajectory

GRID = 8, 12     # rows and columns of a mosaic of images
POINTS = 2000    # points of a scatter
MOMENTS = (1, 0.7, 0.5, 0.35, 0.2, 0.1, 0.05, 0)  # of a process, as shares of T
FIELDS = (0.7, 0.35, 0.1, 0.02)                   # of the vector field
WIDTH = 12.0     # of the page, inches
FRAMES = 60      # of the film


def overview(model: DDPM, x: np.ndarray, by_time: np.ndarray, rng: Any = 0) -> Figure:
    """One page: samples beside data, the forward and the reverse process, the vector field, the losses.

    Parameters
    ----------
    model : DDPM
    x : (n, d) array
        Real rows to show.
    by_time : (k, 3) array
        Columns t, loss at t, and the least possible loss at t, NaN where nobody knows it.
    """
    image, planar = model.image, x.shape[1] == 2
    net, s = model.denoiser(), model.schedule
    rng = generator(rng, net.xp)
    n = how_many(image)
    moments = [round(share * s.T) for share in MOMENTS]
    reverse = {t: model.axes.restore(xt) for t, xt in trajectory(net, s, n, net.dim, rng) if t in moments}
    x0 = model.to_network(x[:n])
    eps = rng.standard_normal(x0.shape, dtype=net.dtype)
    forward = {t: model.axes.restore(s.q_sample(x0, t, eps)) for t in moments}

    shape = panel_shape(x, image)
    small = WIDTH / len(moments) * (1 if image else shape) + 0.6
    heights = [WIDTH / 2 * shape + 0.4, small, small, *[WIDTH / len(FIELDS) * shape + 0.6] * planar, 3.4]
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    pages: Any = figure.subfigures(len(heights), 1, height_ratios=heights)
    top, noising, denoising, *field, bottom = pages

    for axes, rows, title in zip(top.subplots(1, 2), (reverse[0], x[:n]), ("Samples", "Data")):
        axes.set_title(title)
        draw(axes, rows, x, image)
    for page, films, title in ((noising, forward, "The forward process $q(x_t | x_0)$: data become noise"),
                               (denoising, reverse, "The reverse process: noise becomes samples")):
        page.suptitle(title)
        for axes, t in zip(page.subplots(1, len(moments)), sorted(moments, reverse=page is denoising)):
            axes.set_title(f"$t = {t}$", fontsize="medium")
            draw(axes, films[t][:16] if image else films[t], x, image, (4, 4))
            axes.set(xticks=[], yticks=[], xlabel="", ylabel="")
    for page in field:
        page.suptitle(r"Where the network sends a point: $-\hat\epsilon(x_t, t)$ over points of $x_t$")
        for axes, share in zip(page.subplots(1, len(FIELDS)), FIELDS):
            draw_field(axes, model, net, max(1, round(share * s.T)), x0, eps, aspect(x))
    draw_losses(bottom.subplots(1, 2), model, by_time)
    FigureCanvasAgg(figure)
    return figure


def film(model: DDPM, x: np.ndarray, rng: Any = 0) -> bytes:
    """The reverse process as an animated GIF; it lingers on small t, where the shapes appear."""
    net, s = model.denoiser(), model.schedule
    moments = {round(s.T * (1 - i / FRAMES) ** 2) for i in range(FRAMES + 1)}
    n = how_many(model.image)
    figure = Figure(figsize=(5, 5 * panel_shape(x, model.image) + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes, frames = figure.subplots(), []
    for t, xt in trajectory(net, s, n, net.dim, rng):
        if t in moments:
            label = axes.text(0.5, 1.02, f"$t = {t}$", transform=axes.transAxes, ha="center")
            frames.append([label, *draw(axes, model.axes.restore(xt), x, model.image)])
    frames += frames[-1:] * (FRAMES // 3)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.gif"
        ArtistAnimation(figure, frames).save(path, writer="pillow", fps=15, dpi=90)
        return path.read_bytes()


def how_many(image: tuple[int, ...]) -> int:
    """Rows in a panel of `draw`."""
    return math.prod(GRID) if image else POINTS


def panel_shape(x: np.ndarray, image: tuple[int, ...]) -> float:
    """Height over width of a panel of `draw`."""
    if image:
        h, w, _ = pixels(x[:1], image).shape[1:]
        return float(GRID[0] * (h + 1) / (GRID[1] * (w + 1)))
    return float(np.clip(np.divide(*np.ptp(x, axis=0)[::-1]), 0.4, 1.5)) if aspect(x) == "equal" else 0.7


def aspect(x: np.ndarray) -> str:
    """Two columns of one unit are drawn on one scale; those whose ranges differ tenfold are taken for two units."""
    if x.shape[1] != 2:
        return "auto"
    low, high = sorted(np.ptp(x, axis=0))
    return "equal" if 0 < high < 10 * low else "auto"


def pixels(rows: np.ndarray, image: tuple[int, ...]) -> np.ndarray:
    """Rows as images (n, h, w, 1 or 3): grey, or red, green and blue, first or last; of other channels the first one."""
    tiles = rows.reshape(len(rows), *image, *[1] * (3 - len(image)))
    if image[-1] not in (1, 3, 4) and len(image) == 3 and image[0] in (1, 3, 4):
        tiles = np.moveaxis(tiles, 1, -1)
    return tiles[..., :3] if tiles.shape[-1] in (3, 4) else tiles[..., :1]


def draw(axes: Any, rows: np.ndarray, x: np.ndarray, image: tuple[int, ...] = (), grid: tuple[int, int] = GRID) -> Any:
    """Draw rows as images in a grid, as points of the plane, or as a histogram, on the scale of x."""
    if image:
        low, high = x.min(), x.max()
        shown = pixels(rows[:math.prod(grid)], image)
        h, w, c = shown.shape[1:]
        missing, line = (0, math.prod(grid) - len(shown)), (1, 0)
        tiles = np.pad(((shown - low) / (high - low or 1)).clip(0, 1), (missing, line, line, (0, 0)), constant_values=np.nan if c == 1 else 1.0)
        mosaic = tiles.reshape(*grid, h + 1, w + 1, c).swapaxes(1, 2).reshape(grid[0] * (h + 1), grid[1] * (w + 1), c)
        axes.axis("off")
        return [axes.imshow(mosaic.squeeze(2) if c == 1 else mosaic, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")]
    margin = np.where(np.ptp(x, 0) > 0, 0.15 * np.ptp(x, 0), 1)
    ends = np.stack([x.min(0) - margin, x.max(0) + margin], 1)
    axes.set_xlim(ends[0])
    if x.shape[1] == 1:
        axes.set(xlabel="$x$", ylabel="density")
        return axes.hist(rows[:, 0], bins=np.linspace(ends[0, 0], ends[0, 1], 60), density=True, color="C0")[2]
    first, second = ("$x_1$", "$x_2$") if x.shape[1] == 2 else ("first column", "second column")
    axes.set(ylim=ends[1], xlabel=first, ylabel=second, aspect=aspect(x))
    return [axes.scatter(rows[:, 0], rows[:, 1], s=3, linewidths=0, alpha=0.6, color="C0")]


def draw_field(axes: Any, model: DDPM, net: Any, t: int, x0: Any, eps: Any, aspect: str) -> None:
    """Arrows -eps_hat(x_t, t) on a lattice, over points of x_t, in the units of the data."""
    line = np.linspace(-2.5, 2.5, 18)
    scale = np.where(model.axes.scale > 0, model.axes.scale, 1)
    lattice = model.axes.mean + scale * np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    arrows = model.axes.mean - model.axes.restore(net(model.to_network(lattice), t))
    points = model.axes.restore(model.schedule.q_sample(x0, t, eps))
    axes.scatter(*points.T, s=2, linewidths=0, color="0.8")
    axes.quiver(*lattice.T, *arrows.T, np.hypot(*arrows.T), angles="xy", width=0.005, cmap="viridis")
    axes.set(title=f"$t = {t}$", xticks=[], yticks=[], aspect=aspect,
             xlim=lattice[[0, -1], 0], ylim=lattice[[0, -1], 1])


def draw_losses(axes: Any, model: DDPM, by_time: np.ndarray) -> None:
    """The training loss against the step, and the loss against t, per dimension and in units of noise variance."""
    (training, by_t), losses = axes, np.array(model.losses)
    training.plot(LOSS_EVERY * np.arange(1, len(losses) + 1), losses, linewidth=1)
    training.set(title="Training", xlabel="step", ylabel=f"loss, mean of {LOSS_EVERY} steps", yscale="log")
    t, loss, least = by_time.T
    by_t.plot(t, loss, "o-", markersize=3, linewidth=1, label="model")
    if np.isfinite(least).all():
        by_t.plot(t, least, "k--", linewidth=1, label="least possible")
    by_t.set(title="By time", xlabel="$t$", ylabel=r"$E\,|\epsilon - \hat\epsilon|^2 / d$",
             xscale="log", yscale="log")
    by_t.legend(frameon=False)
