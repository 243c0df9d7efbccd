"""Rows of a table or of images: in memory or in a file larger than that, and their moments."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import os
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ..arrays.checks import Array, check_data, check_real, check_table, check_values, shown
from .files import magic

IN_MEMORY = 2**28   # bytes of a .npy file that is read whole; a longer one is mapped
BLOCK = 2**20       # numbers of a mapped file that are looked at together


class View(NamedTuple):
    """A choice and an order of the rows beneath, as functions of their numbers, since a list of these could be larger than the file."""

    n: int
    of: Callable[[np.ndarray], np.ndarray]          # the row beneath for each i in 0 ... n - 1
    position: Callable[[np.ndarray], np.ndarray]    # its inverse, -1 for a row that is left out


class Mapped:
    """Rows of a file in place of an array: they are read, and made float64, when they are asked for.

    Parameters
    ----------
    x : (n, d) memory map
        As from ``np.load(path, mmap_mode="r")``.
    image : tuple of ints
        The shape of one image, see `as_rows`.

    Attributes
    ----------
    shape : (int, int)

    Notes
    -----
    ``x[rows]`` takes a slice, an int, an array of ints or a mask. ``np.asarray(x)`` reads all of it.
    """

    def __init__(self, x: np.memmap, image: tuple[int, ...] = ()) -> None:
        self._file, self._x, self.image = x, x.view(np.ndarray), image
        self.shape: tuple[int, int] = (len(x), x.shape[1])
        self._views: tuple[View, ...] = ()
        self._stamp = self._stat()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Array:
        if isinstance(rows, tuple):
            raise IndexError(f"rows must be one index: x[rows][:, columns], got {shown(rows)}")
        rows = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else np.asarray(rows)
        if rows.dtype == bool and rows.shape == (len(self),):
            rows = np.flatnonzero(rows)
        if rows.size == 0:
            rows = rows.astype(int)
        if rows.dtype.kind not in "iu" or ((rows < -len(self)) | (rows >= len(self))).any():
            raise IndexError(f"rows must be a slice, ints in 0..{len(self) - 1}, or a mask of them all, got {shown(rows)}")
        rows = np.where(rows < 0, rows + len(self), rows)
        for view in reversed(self._views):
            rows = view.of(rows)
        found = np.asarray(self._read(rows), dtype=np.float64)
        if not np.isfinite(found).all():        # which `as_rows` has not found
            raise self._changed()
        return found

    def __iter__(self) -> Iterator[Array]:
        rows = max(1, BLOCK // self.shape[1])
        return chain.from_iterable(self[start:start + rows] for start in range(0, len(self), rows))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or np.float64, copy=bool(copy))

    def seen(self, view: View) -> Mapped:
        """The rows of a view, not yet read."""
        return self._but(_views=(*self._views, view), shape=(view.n, self.shape[1]))

    def reshaped(self, image: tuple[int, ...]) -> Mapped:
        return self._but(image=image)

    def _but(self, **changed: Any) -> Mapped:
        """A copy of which this is changed; the file is the same."""
        out = copy.copy(self)
        vars(out).update(changed)
        return out

    def as_filed(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All rows once, block by block, in the order and the dtype that they have in the file, after their numbers here."""
        rows = max(1, BLOCK // self.shape[1])
        for start in range(0, len(self._x), rows):
            here = position = np.arange(start, min(start + rows, len(self._x)))
            for view in self._views:
                position = view.position(position)
                here, position = here[position >= 0], position[position >= 0]
            if len(here):
                yield position, self._read(here if self._views else slice(start, start + rows))

    def _read(self, rows: Any) -> np.ndarray:
        """Rows by their numbers in the file; if it was shortened meanwhile, reading would end the process (SIGBUS)."""
        whole, now = getattr(self._file, "_mmap", None), self._stat()
        if whole is not None and whole.size() < len(whole) or now[:1] == self._stamp[:1] and now != self._stamp:
            raise self._changed()
        found: np.ndarray = self._x[rows]
        return found

    def _stat(self) -> tuple[int, ...]:
        """Which file it is, and when it was written; () if it has no name any more, or was opened to write, when the time is not told yet."""
        try:
            found = os.stat(self._file.filename if self._file.mode == "r" else "")      # type: ignore[arg-type]
        except (OSError, TypeError):
            return ()
        return found.st_ino, found.st_mtime_ns

    def _changed(self) -> ValueError:
        return ValueError(f"{self._file.filename or 'x'} has changed while it was in use: its rows are read when they are needed, and "
                          "must stay as they are")


def as_rows(x: Any, name: str = "x", least: int = 2) -> tuple[Array | Mapped, tuple[int, ...]]:
    """Rows (n, d), checked, and the shape of an image, () for a table. A memory map stays one, and is looked through in blocks.

    The shape of x decides, nothing else: (n, d) is a table, (n, h, w) and (n, h, w, c) are images, each a row of its numbers.

    Raises
    ------
    ValueError
        If x cannot be used.
    """
    if isinstance(x, Mapped):
        return x, x.image
    with contextlib.suppress(ValueError):       # rows of several lengths are refused below
        x = x if isinstance(x, np.ndarray) or np.ndim(x) not in (3, 4) else np.asarray(x)
    image: tuple[int, ...] = x.shape[1:] if isinstance(x, np.ndarray) and x.ndim in (3, 4) else ()
    if image:
        x = x.reshape(len(x), math.prod(image))
    if not isinstance(x, np.memmap):
        return check_data(x, name, least), image
    check_table(x, name, least)
    mapped, row = Mapped(x, image), 0
    for _, block in mapped.as_filed():
        check_values(block, name, row)
        row += len(block)
    return mapped, image


def as_images(x: Array | Mapped, image: tuple[int, ...]) -> Any:
    """Rows (n, d) as images of this shape, or, for (), as a table: what `as_rows` takes apart."""
    if isinstance(x, Mapped):
        return x.reshaped(image)
    return x.reshape(len(x), *image) if image else x


def numbered_blocks(x: Array | Mapped) -> Iterator[tuple[np.ndarray, Array]]:
    """Rows' numbers and the rows in float64, an array in one block."""
    return ((i, np.asarray(block, dtype=np.float64)) for i, block in x.as_filed()) if isinstance(x, Mapped) else iter([(np.arange(len(x)), x)])


def blocks(x: Array | Mapped) -> Iterator[Array]:
    return (block for _, block in numbered_blocks(x))


class Far(NamedTuple):
    """A cell that stands apart: where, what it holds, and how many deviations that is from its column's median."""

    row: int
    column: int
    value: float
    deviations: float


def spread_over(x: Array | Mapped) -> Array:
    """All rows of an array, or rows spread over a mapped file, from which to take a median."""
    n = len(x)
    return x if isinstance(x, np.ndarray) else x[np.linspace(0, n - 1, min(n, max(1, BLOCK // x.shape[1]))).astype(int)]


def far_cells(x: Array | Mapped) -> list[Far]:
    """The cells that stand apart: a mistyped number, a code for a missing one.

    They are at most one in a hundred of a column of 20 rows or more, and each is more than a hundred times as far from the median as
    the next one, or holds the same value. Columns of which more than half of the rows are equal are not judged. Of a mapped file the
    median is that of rows spread over it.
    """
    if len(x) < 20:
        return []
    some, most = spread_over(x), max(len(x) // 100, 1)
    middle = np.median(some, axis=0)
    typical = np.median(np.abs(some - middle), axis=0)

    def off(block: Array) -> Array:
        with np.errstate(over="ignore"):
            return np.abs(block - middle)

    top = np.zeros((0, x.shape[1]))         # the largest of each column, one more than may stand apart
    for block in blocks(x):
        top = np.concatenate([top, off(block)])
        top = np.partition(top, -min(len(top), most + 1), axis=0)[-most - 1:]
    top = np.sort(top, axis=0)[::-1]
    alone = (top[:-1] > 100 * top[1:]) & (top[1:] > 0) & (typical > 0)
    alone &= np.logical_and.accumulate(alone | (top[:-1] == top[1:]), axis=0)
    least = np.where(alone.any(0), np.where(alone, top[:-1], np.inf).min(0), np.nan)
    found = []
    for numbers, block in numbered_blocks(x) if alone.any() else []:
        far = off(block)
        found += [Far(int(numbers[i]), int(j), float(block[i, j]), float(far[i, j] / (typical[j] / 0.6745)))
                  for i, j in np.argwhere(far >= least)]
    return sorted(found)


def without_far(x: Array | Mapped, tell: Callable[[str], None], name: str = "x") -> Any:
    """The rows of x in which no cell stands apart, see `far_cells`; of those that are left out it is told."""
    cells = far_cells(x)
    for cell in cells[:5]:
        tell(f"{name}: row {cell.row}, column {cell.column} (from 0) holds {cell.value:.9g}, {cell.deviations:.2g} deviations from the "
             "column's median, and nothing lies between: the row is left out")
    if len(cells) > 5:
        tell(f"{name}: so do {len(cells) - 5} other cells")
    gone = np.unique([cell.row for cell in cells])
    return leave_out(x, gone) if cells else x


def leave_out(x: Array | Mapped, gone: np.ndarray) -> Any:
    """The rows of x but `gone`, which rises."""
    return x.seen(without(len(x), gone)) if isinstance(x, Mapped) else np.delete(x, gone, axis=0)


def without(n: int, gone: np.ndarray) -> View:
    """All of n rows but `gone`, which rises."""
    before = gone - np.arange(len(gone))        # rows that are kept before each

    def position(rows: np.ndarray) -> np.ndarray:
        return np.where(np.isin(rows, gone), -1, rows - np.searchsorted(gone, rows))
    return View(n - len(gone), lambda i: i + np.searchsorted(before, i, side="right"), position)


def shuffled(n: int, start: int, stop: int) -> View:
    """Places start ... stop - 1 of n shuffled rows, always in the same way.

    The permutation is four rounds of a Feistel network on the pairs of numbers of b bits, 4^b >= n, (l, r) -> (r, l ^ h(r)), which
    has an inverse for any h; a result of n or more is permuted again, until it is below n (Black and Rogaway 2002, doi:10.1007/3-540-45760-7_9).
    """
    b = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    low = (np.uint64(1) << b) - np.uint64(1)
    keys = [*np.random.default_rng(0).integers(2**64, size=4, dtype=np.uint64)]

    def rounds(i: np.ndarray, keys: list[np.uint64]) -> np.ndarray:
        l, r = i >> b, i & low
        for key in keys:
            h = (r + key) * np.uint64(0x9E3779B97F4A7C15)
            l, r = r, l ^ ((h ^ (h >> np.uint64(32))) & low)
        return r << b | l           # so that the rounds in reverse are the inverse

    def permuted(i: np.ndarray, keys: list[np.uint64]) -> np.ndarray:
        with np.errstate(over="ignore"):
            out = np.atleast_1d(rounds(np.asarray(i, dtype=np.uint64), keys))
            while (beyond := out >= n).any():
                out[beyond] = rounds(out[beyond], keys)
        return out.astype(np.int64).reshape(np.shape(i))

    def position(rows: np.ndarray) -> np.ndarray:
        place = permuted(rows, keys[::-1])
        return np.where((place >= start) & (place < stop), place - start, -1)
    return View(stop - start, lambda i: permuted(i + start, keys), position)


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


def split(x: Any, holdout: float = 0.2) -> tuple[Any, Any]:
    """Shuffle the rows, always in the same way, and hold out a share of them: (training, held out), as arrays or `Mapped`."""
    x = x if isinstance(x, (np.ndarray, Mapped)) else as_images(*as_rows(x, least=0))
    n, count = len(x), round(check_real("holdout", holdout, 0, 1, closed=True) * len(x))
    views = shuffled(n, count, n), shuffled(n, 0, count)
    training, held = (x.seen(view) if isinstance(x, Mapped) else x[view.of(np.arange(view.n))] for view in views)
    return training, held


def read_npy(file: BinaryIO, path: Path) -> tuple[Any, str]:
    """The array of a .npy or .npz file, and which of several it is; a long one is mapped."""
    magic(file)
    long = path.suffix.lower() == ".npy" and os.fstat(file.fileno()).st_size > IN_MEMORY
    content = np.load(path if long else file, mmap_mode="r" if long else None, allow_pickle=False)
    if isinstance(content, np.ndarray):
        if isinstance(content, np.memmap):
            file.seek(content.offset + content.nbytes)
        if file.read(1):
            raise ValueError("something follows its array: save one array in a file")
        return content, ""
    with content:
        names = content.files
        if "x" not in names and len(names) != 1:
            raise ValueError(f"it must hold one array, or one called x, and holds {', '.join(names) or 'none':.200}; "
                             "np.savez('new.npz', x=...) writes one")
        name = "x" if "x" in names else names[0]
        x = content[name]
        if not hasattr(x, "ndim"):       # np.load gives what is no .npy file as bytes
            raise ValueError(f"its {name} is no array; np.savez('new.npz', x=...) writes one")
        return x, f", array {name} of {', '.join(names):.80}"
