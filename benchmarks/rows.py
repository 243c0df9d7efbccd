"""Tables and images by the rules of `npddpm train`, beside the generative models of scikit-learn."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from npddpm import DDPM, data
from npddpm.evaluate import energy_distance, nearest, one_nearest_neighbour, precision_recall

from .report import table

TABLES, SPLITS, DRAWN = ("iris", "wine", "diabetes", "breast_cancer", "digits"), 5, 2000
FITS, DRAWS = 3, 3      # for each split: one draw of 2,000 alone moves the U-statistic by 4 to 14, in the units of `tables`


def load(name: str) -> np.ndarray:
    if name == "digits":
        return data.load(name)
    from sklearn import datasets
    return np.asarray(getattr(datasets, f"load_{name}")().data, dtype=float)


def split(x: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Four fifths to train on, and the rest."""
    order = np.random.default_rng(seed).permutation(len(x))
    return x[order[len(x) // 5:]], x[order[:len(x) // 5]]


def units(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of the columns; images have one deviation."""
    deviation = rows.std(0)
    if data.image_side(rows):
        deviation = np.full_like(deviation, np.sqrt(np.mean(deviation**2)))
    return rows.mean(0), np.where(deviation > 0, deviation, 1)


def npddpm_samples(rows: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    for fit in range(FITS):
        model = DDPM().fit(rows, rng=SPLITS * fit + seed)
        for draw in range(DRAWS):
            yield model.sample(DRAWN, rng=draw)


def kernel_density(z: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Its bandwidth by cross-validation. Every fit is the same."""
    from sklearn.model_selection import GridSearchCV
    from sklearn.neighbors import KernelDensity
    kernels = GridSearchCV(KernelDensity(), {"bandwidth": np.geomspace(0.03, 1, 20)}, cv=5).fit(z).best_estimator_
    for draw in range(FITS * DRAWS):
        yield kernels.sample(DRAWN, random_state=draw)


def mixture(counts: Sequence[int], z: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Gaussians, as many of these counts as BIC finds best."""
    from sklearn.mixture import GaussianMixture
    for fit in range(FITS):
        fitted = [GaussianMixture(k, random_state=SPLITS * fit + seed, reg_covar=1e-4).fit(z) for k in counts]
        best = min(fitted, key=lambda mixture: mixture.bic(z))
        for draw in range(DRAWS):
            best.random_state = draw
            yield best.sample(DRAWN)[0]


PEERS: dict[str, Callable[[np.ndarray, int], Iterator[np.ndarray]]] = {
    "KernelDensity": kernel_density, "30 Gaussians": partial(mixture, [30]),
    "Gaussians by BIC": partial(mixture, [1, 2, 3, 5, 8, 12, 20, 30])}


def run(quick: bool, names: Sequence[str] = TABLES) -> list[dict[str, Any]]:
    """A row for each table, split and method: U-statistic to the held-out rows, and nearest-neighbour ratio, as means of all draws."""
    rows = []
    for name in names[:1] if quick else names:
        for seed in range(1 if quick else SPLITS):
            trained, held = split(load(name), seed)
            mean, scale = units(trained)
            z, h = (trained - mean) / scale, (held - mean) / scale
            of_held = nearest(h, z)
            ours = ((y - mean) / scale for y in npddpm_samples(trained, seed))
            for who, drawn in {"npddpm": ours, **{name: peer(z, seed) for name, peer in PEERS.items()}}.items():
                U, near = np.mean([(energy_distance(a, h), nearest(a, z) / of_held) for a in drawn], axis=0).tolist()
                rows.append({"data": name, "split": seed, "who": who, "U": U, "nearest": near})
                print(*rows[-1].values(), file=sys.stderr, flush=True)
    return rows


def spread(values: Any) -> str:
    """Mean and its standard error."""
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def tables(rows: list[dict[str, Any]]) -> str:
    """Means over the splits; the paired difference to the best of the peers."""
    whos, lines = list(dict.fromkeys(row["who"] for row in rows)), []
    for name in dict.fromkeys(row["data"] for row in rows):
        U, near = ({who: np.array([row[key] for row in rows if (row["data"], row["who"]) == (name, who)]) for who in whos}
                   for key in ("U", "nearest"))
        best = min(whos[1:], key=lambda who: U[who].mean())
        lines.append([name, *(f"{spread(1e3 * U[who])} ({near[who].mean():.2f})" for who in whos),
                      spread(1e3 * (U["npddpm"] - U[best]))])
    return ("Energy distance of 2,000 samples to held-out rows (U-statistic x 1000, data at unit scale), and in brackets the "
            f"nearest-neighbour ratio; each split has {FITS} fits with {DRAWS} draws each; means and standard errors over five splits\n\n"
            + table(["data", *whos, "npddpm less the best peer"], lines))


def images(path: Path) -> str:
    """One training on a file of images, by the rules."""
    rows, held = data.split(data.load(str(path)), 0.2)
    start = time.perf_counter()
    model = DDPM().fit(rows, rng=0)
    seconds = time.perf_counter() - start
    lines = []
    for steps in (None, 50, 20):
        start = time.perf_counter()
        y = model.sample(DRAWN, rng=0, steps=steps)
        drawing = time.perf_counter() - start
        a, h, z = (model.axes.standardize(v) for v in (y, held, rows))
        n = min(len(h), DRAWN)
        precision, recall = precision_recall(a[:n], h[:n])
        lines.append([f"{steps or model.schedule.T} steps", f"{drawing:.0f}", f"{energy_distance(a, h):.4f}",
                      f"{nearest(a, z) / nearest(h, z):.3f}", f"{one_nearest_neighbour(a[:n], h[:n]):.3f}",
                      f"{precision:.2f}", f"{recall:.2f}"])
    return (f"{path.name}: {len(rows)} images of {rows.shape[1]} pixels, {seconds:.0f} s of training; 2,000 samples beside "
            f"{len(held)} held-out images\n\n"
            + table(["samples", "seconds", "U-statistic", "nearest ratio", "1-NN", "precision", "recall"], lines))
