"""Rows of a table: in memory or in a file larger than that, their moments, and whether they look like images."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ..arrays.checks import Array, check_data, check_table, check_values
from .files import load_numpy

IN_MEMORY = 2**28   # bytes of a .npy file that is read whole; a longer one is mapped
BLOCK = 2**20       # numbers of a mapped file that are looked at together
LEAST_SIDE = 4      # of what may be an image


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

    def __init__(self, x: np.memmap, order: np.ndarray | None = None) -> None:
        self._file, self._x, self._order = x, x.view(np.ndarray), order
        self.shape = (len(x) if order is None else len(order), x.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Array:
        found = np.asarray(self._read(rows if self._order is None else self._order[rows]), dtype=np.float64)
        if not np.isfinite(found).all():        # which `check_rows_of` has not found
            raise self._changed()
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or np.float64, copy=bool(copy))

    def take(self, order: np.ndarray) -> Mapped:
        """x[order], not yet read."""
        return Mapped(self._file, order if self._order is None else self._order[order])

    def as_filed(self) -> Iterator[np.ndarray]:
        """All rows once, block by block, in the order and the dtype that they have in the file."""
        order, rows = None if self._order is None else np.sort(self._order), max(1, BLOCK // self.shape[1])
        for start in range(0, len(self), rows):
            part = slice(start, start + rows)
            yield self._read(part if order is None else order[part])

    def _read(self, rows: Any) -> np.ndarray:
        """Rows by their numbers in the file; where that has been cut, the system would end the process."""
        whole = getattr(self._file, "_mmap", None)
        if whole is not None and whole.size() < len(whole):
            raise self._changed()
        found: np.ndarray = self._x[rows]
        return found

    def _changed(self) -> ValueError:
        return ValueError(f"{self._file.filename or 'x'} has changed while it was in use: its rows are read when they are needed, and "
                          "must stay as they are")


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


def read_npy(file: BinaryIO, path: Path) -> tuple[Any, str]:
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
