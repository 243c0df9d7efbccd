"""Data sets: real digits, laws in the plane with NumPy generators, and files of numbers."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays.backend import generator
from ..arrays.checks import Array, check_count, check_data, check_path, did_you_mean
from ..mixture import GaussianMixture
from .files import open_to_read
from .table import as_images, as_rows, blocks, leave_out, moments, read_npy, split, without_far
from .text import read_text

__all__ = ["GAUSSIANS", "PLANAR", "as_images", "as_rows", "blocks", "leave_out", "load", "load_rows", "moments", "sizes", "split", "without_far"]
SUFFIXES = (".npy", ".npz", ".csv", ".tsv", ".txt")


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


def load(source: str, n: int = 10_000, rng: Any = 0, tell: Callable[[str], None] = lambda line: None) -> Any:
    """Return the data set of a name, or of a file.

    Parameters
    ----------
    source : str
        "digits": 1797 grey images of 8 x 8 pixels, values 0 to 16, row-major (E. Alpaydin and C. Kaynak,
        1998, UCI machine learning repository, CC BY 4.0). "moons", "circles", "swiss_roll",
        "checkerboard", "spirals", "gaussians": `n` points drawn with `rng`. Else a file: .npy; .npz with
        one array, or one called x; or text (.csv, .tsv, .txt), which is a table, see `read_text`.
    tell : callable
        Is given a line that says what was taken from a file.

    Returns
    -------
    array of float64
        A table, (n, d), or images, (n, h, w) or (n, h, w, c). Of a .npy file beyond 256 MiB `Mapped`, (n, d).

    Raises
    ------
    ValueError
        If the name is unknown, or the content is not finite numbers of such a shape, with n >= 2, d >= 1.
    TypeError
        If `source` is no str or Path.
    OSError
        If the file cannot be read.
    """
    return as_images(*load_rows(source, n, rng, tell))


def load_rows(source: str, n: int = 10_000, rng: Any = 0, tell: Callable[[str], None] = lambda line: None) -> tuple[Any, tuple[int, ...]]:
    """What `load` returns, as rows (n, d), and the shape of an image, () for a table, see `as_rows`."""
    check_path(source, "source")
    source = os.fspath(source)
    if source == "digits":
        with resources.files(__name__).joinpath("digits.npz").open("rb") as file:
            return check_data(np.load(file)["x"]), (8, 8)
    if source in PLANAR:
        return PLANAR[source](check_count("n", n, least=2), generator(rng)), ()
    path = Path(source)
    if path.suffix.lower() not in SUFFIXES:
        names = ["digits", *PLANAR]
        hint = did_you_mean(source, names) or f"; data sets are {', '.join(names)}"
        raise ValueError(f"data {source!r} is neither a data set nor a {', '.join(SUFFIXES)} file{hint}")
    with open_to_read(path) as file:
        try:
            raw, how = read_npy(file, path) if path.suffix.lower() in (".npy", ".npz") else read_text(file)
        except UnicodeDecodeError as error:
            raise ValueError(f"it is no text in UTF-8 (byte {error.start}): save it as such") from None
    x, image = as_rows(raw, source)
    tell(f"{source}: {len(x)} {f'images of {sizes(image)}' if image else f'rows of {x.shape[1]}'}{how}")
    return x, image


def sizes(image: tuple[int, ...]) -> str:
    """The shape of an image in words."""
    return " x ".join(map(str, image))


