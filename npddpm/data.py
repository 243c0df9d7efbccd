"""Data sets: real digits, laws in the plane with NumPy generators, and files of numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .backend import generator
from .checks import Array, check_count, check_data, did_you_mean
from .files import load_numpy, open_to_read
from .oracle import GaussianMixture

SUFFIXES = (".npy", ".npz", ".csv")


def moons(n: int, rng: np.random.Generator) -> Array:
    """Two half circles, each around the end of the other, with noise 0.05."""
    angle, upper = rng.uniform(0, math.pi, n), rng.random(n) < 0.5
    x = np.where(upper, np.cos(angle), 1 - np.cos(angle))
    y = np.where(upper, np.sin(angle), 0.5 - np.sin(angle))
    return np.stack([x, y], 1) + 0.05 * rng.standard_normal((n, 2))


def circles(n: int, rng: np.random.Generator) -> Array:
    """Two circles, of radius 1 and 0.5, with noise 0.05."""
    angle, radius = rng.uniform(0, 2 * math.pi, n), rng.choice([0.5, 1.0], n)
    return _polar(radius, angle) + 0.05 * rng.standard_normal((n, 2))


def swiss_roll(n: int, rng: np.random.Generator) -> Array:
    """A spiral of one and a half turns, r = angle, with noise 0.3."""
    angle = 1.5 * math.pi * (1 + 2 * rng.random(n))
    return _polar(angle, angle) + 0.3 * rng.standard_normal((n, 2))


def checkerboard(n: int, rng: np.random.Generator) -> Array:
    """Uniform on the eight dark squares of a 4 x 4 board of side 4."""
    x, row = rng.uniform(-2, 2, n), rng.integers(0, 2, n)
    return np.stack([x, rng.random(n) + 2 * row - 2 + np.floor(x) % 2], 1)


def spirals(n: int, rng: np.random.Generator) -> Array:
    """Two interleaved spirals of one and a half turns, uniform in area, with noise 0.02."""
    radius, arm = np.sqrt(rng.random(n)), rng.integers(0, 2, n)
    return _polar(radius, math.pi * (3 * radius + arm)) + 0.02 * rng.standard_normal((n, 2))


def gaussians(n: int, rng: np.random.Generator) -> Array:
    """Eight Gaussians of deviation 0.2 on a circle of radius 2: `GAUSSIANS`, whose oracle is exact."""
    return GAUSSIANS.sample(n, rng)


def _polar(radius: Any, angle: Any) -> Array:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


GAUSSIANS = GaussianMixture(np.ones(8), _polar(2.0, np.arange(8) * math.pi / 4), np.full(8, 0.04))
PLANAR: dict[str, Callable[[int, np.random.Generator], Array]] = {
    f.__name__: f for f in (moons, circles, swiss_roll, checkerboard, spirals, gaussians)}


def load(source: str, n: int = 10_000, rng: Any = 0) -> Array:
    """Return the data set of a name, or of a file.

    Parameters
    ----------
    source : str
        "digits": 1797 grey images of 8 x 8 pixels, values 0 to 16, row-major (E. Alpaydin and C. Kaynak,
        1998, UCI machine learning repository, CC BY 4.0). "moons", "circles", "swiss_roll",
        "checkerboard", "spirals", "gaussians": `n` points drawn with `rng`. Else a file: .npy; .npz with
        one array, or one called x; .csv with commas, and a line of column names if it likes.

    Returns
    -------
    (n, d) float64

    Raises
    ------
    ValueError
        If the name is unknown, or the content is not (n, d) finite numbers with n >= 2, d >= 1.
    OSError
        If the file cannot be read.
    """
    if source == "digits":
        with resources.files("npddpm").joinpath("digits.npz").open("rb") as file:
            return check_data(np.load(file)["x"])
    if source in PLANAR:
        return PLANAR[source](check_count("n", n, least=2), generator(rng))
    path = Path(source)
    if path.suffix.lower() not in SUFFIXES:
        names = ["digits", *PLANAR]
        hint = did_you_mean(source, names) or f"; data sets are {', '.join(names)}"
        raise ValueError(f"data {source!r} is neither a data set nor a {', '.join(SUFFIXES)} file{hint}")
    with open_to_read(path) as file:
        raw = _read_csv(file) if path.suffix.lower() == ".csv" else _read_npy(file)
    return check_data(raw, source)


def _read_npy(file: BinaryIO) -> Any:
    content = load_numpy(file)
    if isinstance(content, np.ndarray):
        return content
    with content:
        if "x" in content.files or len(content.files) == 1:
            return content["x" if "x" in content.files else content.files[0]]
        raise ValueError(f"it must hold one array, or one called x, and holds {content.files}")


def _read_csv(file: BinaryIO) -> Any:
    lines = file.read().decode("utf-8-sig").splitlines()
    rows = [(number, line.split(",")) for number, line in enumerate(lines, 1) if line.strip()]
    if rows and not any(_is_number(cell) for cell in rows[0][1]):
        rows = rows[1:]  # names of columns
    for number, cells in rows:
        if len(cells) != len(rows[0][1]):
            raise ValueError(f"line {number} has {len(cells)} values, the first has {len(rows[0][1])}")
        for cell in cells:
            if not _is_number(cell):
                raise ValueError(f"line {number} holds {cell.strip()!r:.40}, which is no number")
    if not rows:
        raise ValueError("it holds no rows of numbers")
    return np.array([[float(cell) for cell in cells] for _, cells in rows])


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def split(x: Array, holdout: float = 0.2) -> tuple[Array, Array]:
    """Shuffle the rows, always in the same way, and hold out a share of them: (training, held out)."""
    order = np.random.default_rng(0).permutation(len(x))
    count = round(holdout * len(x))
    return x[order[count:]], x[order[:count]]


def image_side(x: Array) -> int:
    """Pixels along a side if rows look like square grey images, else 0.

    They do with a side of 4 or more, and values that lie in 0..1, or are whole numbers in 0..255.
    """
    side = math.isqrt(x.shape[1])
    if side < 4 or side**2 != x.shape[1] or x.min() < 0:
        return 0
    return side if x.max() <= 1 or (x.max() <= 255 and (x == np.round(x)).all()) else 0
