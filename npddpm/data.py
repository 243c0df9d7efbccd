"""Data sets: real digits, laws in the plane with NumPy generators, and files of numbers."""

from __future__ import annotations

import csv
import functools
import io
import itertools
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO

import numpy as np

from .backend import generator
from .checks import Array, check_count, check_data, check_table, check_values, did_you_mean
from .files import load_numpy, open_to_read
from .oracle import GaussianMixture

SUFFIXES = (".npy", ".npz", ".csv", ".tsv", ".txt")
IN_MEMORY = 2**28   # bytes of a .npy file that is read whole; a longer one is mapped
BLOCK = 2**20       # numbers of a mapped file that are looked at together
LEAST_SIDE = 4      # of what may be an image
SEPARATORS = {"\t": "tabs", ";": "semicolons", ",": "commas", None: "spaces"}
MISSING = {"", "-", "?", ".", "na", "n/a", "#n/a", "nan", "null", "none"}


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
        one array, or one called x, where (n, h, h) is taken for n images; or text (.csv, .tsv, .txt), see `read_text`.
    tell : callable
        Is given a line that says what was taken from a file.

    Returns
    -------
    (n, d) float64
        Of a .npy file beyond 256 MiB `Mapped`.

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
        try:
            raw, how = _read_npy(file, path) if path.suffix.lower() in (".npy", ".npz") else read_text(file)
        except UnicodeDecodeError as error:
            raise ValueError(f"it is no text in UTF-8 (byte {error.start}): save it as such") from None
    x = check_rows_of(raw, source)
    tell(f"{source}: {len(x)} rows of {x.shape[1]}{how}")
    return x


class Mapped:
    """Rows of a file in place of an array: they are read, and made float64, when they are asked for.

    Parameters
    ----------
    x : (n, d) memory map
        As from ``np.load(path, mmap_mode="r")``.
    order : (m,) ints, optional
        Which rows, and in which order; all by default.

    Attributes
    ----------
    shape : (int, int)

    Notes
    -----
    ``x[rows]`` takes a slice, an int or an array of ints. ``np.asarray(x)`` reads all of it.
    """

    def __init__(self, x: np.ndarray, order: np.ndarray | None = None) -> None:
        self._x, self._order = x.view(np.ndarray), order
        self.shape = (len(x) if order is None else len(order), x.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Array:
        return np.asarray(self._x[rows if self._order is None else self._order[rows]], dtype=np.float64)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or np.float64, copy=bool(copy))

    def take(self, order: np.ndarray) -> Mapped:
        """x[order], not yet read."""
        return Mapped(self._x, order if self._order is None else self._order[order])

    def as_filed(self) -> Iterator[np.ndarray]:
        """All rows once, block by block, in the order and the dtype that they have in the file."""
        order, rows = None if self._order is None else np.sort(self._order), max(1, BLOCK // self.shape[1])
        for start in range(0, len(self), rows):
            part = slice(start, start + rows)
            yield self._x[part if order is None else order[part]]


def check_rows_of(x: Any, name: str = "x") -> Array | Mapped:
    """`check_data`, but a memory map stays one, and is looked through block by block; ValueError if it cannot be used."""
    if isinstance(x, Mapped):
        return x
    if not isinstance(x, np.memmap):
        return check_data(x, name)
    check_table(x, name)
    mapped, row = Mapped(x), 0
    for block in mapped.as_filed():
        check_values(block, name, row)
        row += len(block)
    return mapped


def blocks(x: Array | Mapped) -> Iterator[Array]:
    """The rows in float64, an array in one block."""
    return (np.asarray(block, dtype=np.float64) for block in x.as_filed()) if isinstance(x, Mapped) else iter([x])


class Moments(NamedTuple):
    """The number of rows, and of each column mean, variance, least and greatest value."""

    n: int
    mean: Array
    variance: Array
    low: Array
    high: Array

    @classmethod
    def of(cls, x: Array) -> Moments:
        mean = x.mean(0)
        return cls(len(x), mean, (x - mean).var(0), x.min(0), x.max(0))

    def join(self, other: Moments) -> Moments:
        """Those of all rows together (Chan, Golub and LeVeque 1983)."""
        n = self.n + other.n
        share, apart = other.n / n, other.mean - self.mean
        return Moments(n, self.mean + share * apart,
                       (1 - share) * self.variance + share * other.variance + share * (1 - share) * apart**2,
                       np.minimum(self.low, other.low), np.maximum(self.high, other.high))


def moments(x: Array | Mapped) -> Moments:
    return functools.reduce(Moments.join, map(Moments.of, blocks(x)))


def _read_npy(file: BinaryIO, path: Path) -> tuple[Any, str]:
    long = path.suffix.lower() == ".npy" and os.fstat(file.fileno()).st_size > IN_MEMORY
    content, how = load_numpy(file, path if long else None), ""
    if isinstance(content, np.ndarray) and not long and file.read(1):
        raise ValueError("something follows its array: save one array in a file")
    if not isinstance(content, np.ndarray):
        with content:
            names = content.files
            if "x" not in names and len(names) != 1:
                raise ValueError(f"it must hold one array, or one called x, and holds {', '.join(names) or 'none':.200}; "
                                 "np.savez('new.npz', x=...) writes one")
            name = "x" if "x" in names else names[0]
            content = content[name]
            if not hasattr(content, "ndim"):        # np.load gives what is no .npy file as bytes
                raise ValueError(f"its {name} is no array; np.savez('new.npz', x=...) writes one")
            how = f", array {name} of {', '.join(names):.80}"
    if content.ndim == 4 and 1 in (content.shape[1], content.shape[3]):
        content = content.squeeze(1 if content.shape[1] == 1 else 3)
    if content.ndim == 3 and content.shape[1] == content.shape[2] >= LEAST_SIDE:
        how += f", images of {content.shape[1]} x {content.shape[2]}"
        content = content.reshape(len(content), -1)
    return content, how


def read_text(file: BinaryIO) -> tuple[Array, str]:
    """Numbers in rows, with tabs, semicolons, commas or spaces between them; lines that begin with # are comments.

    The first line is a header if it holds no number, and none of the marks for a missing one; or years, or the numbers
    0, 1, 2 ... that pandas gives to columns without names. A first column without a name is pandas' index, and left out.
    So are Excel's line sep=... and a separator at the end of every line.

    Returns
    -------
    x : (n, d) float64
    how : str
        What was taken: the separator, and the header or none.

    Raises
    ------
    ValueError
        Naming the line, where rows differ in length, a header does not fit them, or a value is no number.
    """
    lines = io.TextIOWrapper(file, encoding="utf-8-sig")
    start = list(_rows(lines, 0, 2))
    if not start:
        raise ValueError("it holds no rows of numbers")
    separator = next((mark for _, line in reversed(start) for mark in SEPARATORS if mark and mark in line), None)
    last = separator or ""
    if all(line.endswith(last) for _, line in start):
        start = [(number, line.removesuffix(last)) for number, line in start]
    else:
        last = ""
    cells = [_cells(line, separator) for _, line in start]
    header = _header(*cells)
    if header and len(start) == 1:
        raise ValueError("it holds no rows of numbers")
    if header and len(header) != len(cells[1]):
        _explain(iter(start[1:]), separator, [])
        raise ValueError(f"its header has {len(header)} names, line {start[1][0]} has {len(cells[1])} values")

    def rows(most: int | None = None) -> Iterator[tuple[int, str]]:
        lines.seek(0)
        return _rows(lines, len(header) > 0, most, last)

    try:
        x: Array = np.loadtxt((line for _, line in rows()), delimiter=separator, comments=None, quotechar='"', ndmin=2)
    except ValueError:
        _explain(rows(), separator, header)
        raise
    if not (np.abs(x) < 2**53).all():
        _explain(rows(), separator, header)
    pairs = separator == "," and not header and x.shape[1] % 2 == 0
    if pairs:
        _explain(rows(1000), separator, header)
        pairs = all(re.fullmatch(r"-?\d+,\d+(,-?\d+,\d+)*", line) for _, line in rows(1000))
    lines.detach()
    how = f", separated by {SEPARATORS[separator]}" if x.shape[1] > 1 else ""
    how += " (if 1,5 is one number here, write 1.5)" if pairs else ""
    how += f", header {', '.join(header):.80}" if header else ", no header"
    if header and header[0].lower() in ("", "unnamed: 0") and len(header) > 1:
        return x[:, 1:], f"{how}; its first column, which has no name, is an index and left out"
    if x.shape[1] > 1 and (x[:, 0] == np.arange(len(x))).all():
        how += "; its first column counts the rows: leave it out if it is an index"
    return x, how


def _rows(lines: TextIO, first: int, most: int | None, last: str = "") -> Iterator[tuple[int, str]]:
    """Numbered lines without the separator `last` at their ends, but for empty ones, comments and Excel's sep=."""
    rows = ((number, line.rstrip("\r\n ").removesuffix(last)) for number, line in enumerate(lines, 1)
            if line.strip() and not line.startswith(("#", "sep=", '"sep=')))
    return itertools.islice(rows, first, most)


def _cells(line: str, separator: str | None) -> list[str]:
    if separator is None:
        return line.split()
    return [cell.strip() for cell in next(csv.reader([line], delimiter=separator))]


def _header(first: list[str], second: Sequence[str] = ()) -> list[str]:
    """The cells of the first line if they are names of columns, else none."""
    like_numbers = re.compile(r"[-+.,_\s]*\d[-+.,_\d\seE%]*|inf|infinity|nan", re.IGNORECASE)
    if not any(map(like_numbers.fullmatch, first)) and not {cell.lower() for cell in first[1:] or first} & MISSING:
        return first
    names = first[1:] if first[0] == "" else first
    if len(names) > 1 and all(re.fullmatch("[0-9]{1,4}", name) for name in names):
        start = int(names[0])
        years = 1900 <= start < 2100 and not all(re.fullmatch("(19|20)[0-9]{2}", cell) for cell in second)
        if names == [str(start + i) for i in range(len(names))] and (
                first[0] == "" or years or start == 0 and (len(names) > 2 or all("." in cell for cell in second))):
            return first
    return []


def _explain(rows: Iterator[tuple[int, str]], separator: str | None, header: list[str]) -> None:
    """Raise ValueError for the first line that is not what it should be, if there is one."""
    width = len(header)
    for i, (number, line) in enumerate(rows):
        cells = _cells(line, separator)
        width = width or len(cells)
        whole = separator == "," and not header and re.fullmatch(r"[-+\d,\s]*", line)
        if len(cells) != width:
            raise ValueError(f"line {number} has {len(cells)} values, the first has {width}")
        for column, cell in enumerate(cells, 1):
            where = f"column {column}" + (f", {header[column - 1]:.40}" if header else "")
            if not _is_number(cell):
                advice = "write decimal points" if re.fullmatch(r"[-+]?\d*,\d+", cell) else \
                    "fill it in, or leave the row out" if cell.lower() in MISSING else \
                    "put commas, semicolons, tabs or spaces between the numbers" if len(cells) == 1 else \
                    "leave the column out, or give it numbers" + (
                        "; in a header every column has a name that is no number" if i == 0 and not header else "")
                raise ValueError(f"line {number} holds {cell!r:.40}, which is no number ({where}): {advice}")
            if re.fullmatch(r"[-+]?\d+", cell) and abs(int(cell[:400])) > 2**53:
                raise ValueError(f"line {number} holds {cell:.40}, an integer beyond 2^53, which float64 rounds ({where}): "
                                 "leave the column out, or scale it down")
            if whole and (cell == "-0" or column % 2 == 0 and re.fullmatch(r"0\d+", cell)):
                raise ValueError(f"line {number}, {line.strip():.40}, seems to have decimal commas: write decimal points")


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?|[-+]?(inf|infinity|nan)", cell, re.IGNORECASE | re.ASCII) is not None


def split(x: Any, holdout: float = 0.2) -> tuple[Any, Any]:
    """Shuffle the rows, always in the same way, and hold out a share of them: (training, held out)."""
    order = np.random.default_rng(0).permutation(len(x))
    count = round(holdout * len(x))
    take = x.take if isinstance(x, Mapped) else x.__getitem__
    return take(order[count:]), take(order[:count])


def image_side(x: Array | Mapped) -> int:
    """Pixels along a side if rows look like square grey images, else 0.

    They do with a side of 4 or more, and values that lie in 0..1, or are whole numbers in 0..255.
    """
    side = math.isqrt(x.shape[1])
    if side < LEAST_SIDE or side**2 != x.shape[1]:
        return 0
    return side if any(all(map(fits, blocks(x))) for fits in (_is_grey, _is_bytes)) else 0


def _is_grey(x: Array) -> bool:
    return bool(x.min() >= 0 and x.max() <= 1)


def _is_bytes(x: Array) -> bool:
    return bool(x.min() >= 0 and x.max() <= 255 and (x == np.round(x)).all())
