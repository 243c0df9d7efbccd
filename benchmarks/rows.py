"""Tables, planar sets and images by the rules of `npddpm train`; tables beside the generative models of scikit-learn."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from npddpm import DDPM, data
from npddpm.cli.evaluate import energy_distance, nearest, one_nearest_neighbour, precision_recall

from .quality import strays, told_apart
from .report import table

TABLES, SPLITS, DRAWN = ("iris", "wine", "diabetes", "breast_cancer", "digits"), 5, 2000
FITS, DRAWS = 9, 3      # for each split, and of each fit: one draw of 2,000 moves the U-statistic by 4 to 20, in the units of `tables`


def load(name: str) -> np.ndarray:
    if name == "digits":
        return data.load(name)
    from sklearn import datasets
    return np.asarray(getattr(datasets, f"load_{name}")().data, dtype=float)


def split(x: np.ndarray, fold: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on, and a fifth that is held out: no row is in two of the five."""
    folds = np.array_split(np.random.default_rng(0).permutation(len(x)), SPLITS)
    held = folds.pop(fold)
    return x[np.concatenate(folds)], x[held]


def units(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of the columns; images have one deviation."""
    deviation = rows.std(0)
    if rows.ndim > 2:
        deviation = np.full_like(deviation, np.sqrt(np.mean(deviation**2)))
    return rows.mean(0), np.where(deviation > 0, deviation, 1)


def npddpm_samples(rows: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    for fit in range(seed, SPLITS * FITS, SPLITS):
        model = DDPM().fit(rows, rng=fit)
        for draw in range(DRAWS):
            yield model.sample(DRAWN, rng=DRAWS * fit + draw)       # noise of its own: what it has by chance is not that of all fits


def peers(z: np.ndarray, seed: int) -> dict[str, Iterator[np.ndarray]]:
    """Draws of a kernel density, its bandwidth by cross-validation, and of mixtures, with 30 components and by BIC."""
    from sklearn.mixture import GaussianMixture
    from sklearn.model_selection import GridSearchCV
    from sklearn.neighbors import KernelDensity
    kernels = GridSearchCV(KernelDensity(), {"bandwidth": np.geomspace(0.03, 1, 20)}, cv=5).fit(z).best_estimator_
    fitted = [[GaussianMixture(k, random_state=fit, reg_covar=1e-4).fit(z) for k in (1, 2, 3, 5, 8, 12, 20, 30)]
              for fit in range(seed, SPLITS * FITS, SPLITS)]

    def draws(mixtures: list[Any]) -> Iterator[np.ndarray]:
        for fit, mixture in zip(range(seed, SPLITS * FITS, SPLITS), mixtures):
            for draw in range(DRAWS):
                mixture.random_state = DRAWS * fit + draw
                yield mixture.sample(DRAWN)[0]

    seeds = range(seed, SPLITS * FITS * DRAWS, SPLITS)
    return {"KernelDensity": (kernels.sample(DRAWN, random_state=draw) for draw in seeds),     # all fits are the same
            "30 Gaussians": draws([mixtures[-1] for mixtures in fitted]),
            "Gaussians by BIC": draws([min(mixtures, key=lambda mixture: mixture.bic(z)) for mixtures in fitted])}


def run(quick: bool) -> list[dict[str, Any]]:
    """A row for each table, fold and method: U-statistic to the held-out rows, and nearest-neighbour ratio, as means of all draws."""
    rows = []
    for name in TABLES[:1] if quick else TABLES:
        for fold in range(1 if quick else SPLITS):
            trained, held = split(load(name), fold)
            mean, scale = units(trained)
            z, h = (((rows_ - mean) / scale).reshape(len(rows_), -1) for rows_ in (trained, held))
            of_held = nearest(h, z)
            ours = (((y - mean) / scale).reshape(len(y), -1) for y in npddpm_samples(trained, fold))
            for who, drawn in {"npddpm": ours, **peers(z, fold)}.items():
                U, near = np.mean([(energy_distance(a, h), nearest(a, z) / of_held) for a in drawn], axis=0).tolist()
                rows.append({"data": name, "split": fold, "who": who, "U": U, "nearest": near})
                print(*rows[-1].values(), file=sys.stderr, flush=True)
    return rows


def mean_and_error(values: Any) -> str:
    """Mean and its standard error."""
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def tables(rows: list[dict[str, Any]]) -> str:
    """Means over the splits; the paired difference to the best of the peers."""
    whos, lines = list(dict.fromkeys(row["who"] for row in rows)), []
    for name in dict.fromkeys(row["data"] for row in rows):
        U, near = ({who: np.array([row[key] for row in rows if (row["data"], row["who"]) == (name, who)]) for who in whos}
                   for key in ("U", "nearest"))
        best = min(whos[1:], key=lambda who: U[who].mean())
        lines.append([name, *(f"{mean_and_error(1e3 * U[who])} ({near[who].mean():.2f})" for who in whos),
                      mean_and_error(1e3 * (U["npddpm"] - U[best]))])
    return ("Energy distance of 2,000 samples to held-out rows (U-statistic x 1000, data at unit scale), and in brackets the "
            f"nearest-neighbour ratio; each fold has {FITS} fits with {DRAWS} draws each; "
            f"means and standard errors over {len({row['split'] for row in rows})} folds\n\n"
            + table(["data", *whos, "npddpm less the best peer"], lines))


def planar(quick: bool) -> list[dict[str, Any]]:
    """A row for each planar set, trained by the rules on 8,000 points, and all the steps, 50 and 20."""
    rows = []
    for name in ["moons"] if quick else data.PLANAR:
        x = data.load(name, 8000, 0)
        model = DDPM().fit(x, rng=0)
        for steps in (None, 50, 20):
            y = (model.sample(10_000, rng=0, steps=steps) - x.mean(0)) / x.std(0)
            near, of_real = told_apart(y[:4000], name, 0, x)
            rows.append({"data": name, "steps": steps or model.schedule.T, "1-NN": near, "1-NN, real": of_real,
                         "strays": strays(y, name, 0, x)})
            print(*rows[-1].values(), file=sys.stderr, flush=True)
    return rows


def planar_table(rows: list[dict[str, Any]]) -> str:
    lines = [[row["data"], str(row["steps"]), f"{row['1-NN']:.3f}", f"{row['1-NN, real']:.3f}", f"{row['strays']:.2%}"] for row in rows]
    return ("Planar sets by the rules: how well the nearest other row tells 4,000 samples, and 4,000 real points, from real points; "
            "share of 10,000 samples farther than 0.1 deviations from all of 100,000 real points\n\n"
            + table(["data", "steps", "1-NN", "1-NN, real", "strays"], lines))


def images(path: Path) -> str:
    """One training on a file of images, by the rules."""
    x, image = data.load_rows(str(path))
    if not image:
        raise ValueError(f"{path} must hold images, an array (n, h, w) or (n, h, w, c), got a table of shape {x.shape}")
    rows, held = data.split(x, 0.2)
    start = time.perf_counter()
    model = DDPM().fit(data.as_images(rows, image), rng=0)
    seconds = time.perf_counter() - start
    h, z = model.axes.standardize(held), model.axes.standardize(rows)
    n, of_held = min(len(h), DRAWN), nearest(h, z)

    def line(name: str, drawing: float, drawn: Sequence[np.ndarray]) -> list[str]:
        U = [energy_distance(a, h) for a in drawn]
        ratio, near = np.mean([(nearest(a, z) / of_held, one_nearest_neighbour(a[:n], h[:n])) for a in drawn], axis=0)
        precision, recall = np.mean([precision_recall(a[:n], h[:n]) for a in drawn], axis=0)
        return [name, f"{drawing:.0f}", f"{np.mean(U):.4f} ({min(U):.4f} to {max(U):.4f})", f"{ratio:.3f}", f"{near:.3f}",
                f"{precision:.2f}", f"{recall:.2f}"]

    lines = [line("training rows", 0, [z[:DRAWN]])]
    for steps in (None, 50, 20):
        start = time.perf_counter()
        drawn = [model.axes.standardize(model.sample(DRAWN, rng=draw, steps=steps).reshape(DRAWN, -1)) for draw in range(DRAWS)]
        lines.append(line(f"{steps or model.schedule.T} steps", (time.perf_counter() - start) / DRAWS, drawn))
    return (f"{path.name}: {len(rows)} images of {rows.shape[1]} pixels, {seconds:.0f} s of training; means of {DRAWS} draws of 2,000 "
            f"samples, beside {len(held)} held-out images\n\n"
            + table(["samples", "seconds", "U-statistic", "nearest ratio", "1-NN", "precision", "recall"], lines))
