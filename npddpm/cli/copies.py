"""Which rows are copies: rows of one table that are in another, also if one of the two was written with fewer digits."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..arrays.checks import Array

BLOCK = 1000        # rows that are rounded together
NEARLY_ALL = 0.99   # of a column's values keep to the digits that it was written with, and of its rows rounding leaves apart, if it tells copies
Rounding = Callable[[Array], Array]


def each(f: Callable[[float], float]) -> Rounding:
    return lambda x: np.array([f(value) for value in x.tolist()], dtype=float)


def decimals(k: int) -> Rounding:
    """As C's printf rounds, and Python's round: all binary digits decide."""
    return each(lambda value: round(value, k))


def half_up(k: int) -> Rounding:
    """As spreadsheets round: the fifteen digits that they show decide, and a half away from 0."""
    return each(lambda value: math.copysign(math.floor(float(f"{abs(value) * 10**k:.15g}") + 0.5) / 10**k, value))


def digits(k: int) -> Rounding:
    return each(lambda value: float(f"{value:.{k}g}"))


def precision(dtype: str) -> Rounding:
    return lambda x: x.astype(dtype).astype(float)


def exact(x: Array) -> Array:
    return x


DECIMALS, HALF_UP, DIGITS = ([kind(k) for k in ks] for kind, ks in ((decimals, range(12)), (half_up, range(12)), (digits, range(1, 16))))
PRECISIONS = [precision("float16"), precision("float32")]       # of each kind the coarsest first


def copies(x: Any, rows: Any) -> tuple[np.ndarray, bool]:
    """Which rows of x are among `rows`, (n,), as far as their digits tell; and whether they tell it.

    The columns of one table are rounded as those of the other were written. They tell it unless that makes rows of a table equal
    that were not.
    """
    of_x, of_rows = (table[np.linspace(0, len(table) - 1, min(len(table), BLOCK)).astype(int)].T for table in (x, rows))

    def changed(rounding: Rounding, *columns: Array) -> float:
        return float(sum(np.abs(rounding(column) - column).sum() for column in columns))

    def written(a: Array, b: Array, ties: list[Rounding]) -> Rounding:
        """The rounding that fits column a and changes b most."""
        fitting = (next((r for r in kind if np.mean(r(a) == a) >= NEARLY_ALL), exact) for kind in (ties, DIGITS, PRECISIONS))
        found = max(fitting, key=lambda rounding: changed(rounding, b))
        return found if changed(found, b) > 0 else exact

    with np.errstate(all="ignore"):
        tried = {tuple(written(a, b, ties) for a, b in zip(*pair)) for ties in (DECIMALS, HALF_UP) for pair in ((of_x, of_rows), (of_rows, of_x))}
        always = {tuple(r if changed(r, a, b) > 0 else exact for a, b in zip(of_x, of_rows)) for r in (exact, DIGITS[11], PRECISIONS[1])}
        found, tells, apart = np.zeros(len(x), dtype=bool), True, [len({*keys(table)}) for table in (x, rows)]
        for roundings in tried | always:
            own, others = [*keys(x, roundings)], {*keys(rows, roundings)}
            if len({*own}) >= NEARLY_ALL * apart[0] and len(others) >= NEARLY_ALL * apart[1]:
                found |= np.array([key in others for key in own])
            elif roundings in tried:
                tells = False
    return found, tells


def keys(x: Any, roundings: Sequence[Rounding] = ()) -> Iterator[int]:
    """A number for each row, the same for rows whose columns are equal once they are rounded."""
    for start in range(0, len(x), BLOCK):
        block = x[start:start + BLOCK]
        if any(rounding is not exact for rounding in roundings):
            block = np.stack([rounding(column) for rounding, column in zip(roundings, block.T)], axis=1)
        yield from (hash(bytes(row)) for row in block + 0.0)     # 0 for -0


def by_chance(rows: Any, n: int) -> tuple[float, float]:
    """The share of rows that have an equal among the others: so many new ones may be equal to one. And how many of n at most."""
    counts = Counter(keys(rows))
    share = sum(count for count in counts.values() if count > 1) / len(rows)
    return share, n * share + 3 * math.sqrt(n * share * (1 - share))


def repeated(x: Any) -> int:
    """How many rows are equal to an earlier one."""
    return len(x) - len({*keys(x)})
