"""Where the network's arrays lie in memory, and why. All of it is for speed, and changes no result but by rounding.

- **The longer side comes first in memory.** dZ W^T with few rows and many columns takes longer than its transpose, by a quarter
  for 64 rows. So a batch smaller than a layer lies transposed.
- **Elementwise passes run over memory from end to end**, since gaps slow them down: over padding and
  ones too where an example is a row, and over all but the row of ones where it is a column.
- **Buffers are used again**: A_l takes the place of Z_l, dZ_l that of dA_l, two buffers serve all dA_l by turns, and a
  batch of the same size, in the same thread, finds them as the last one left them.
- **Buffers start on a cache line**, and rows of examples in the layers end on a multiple of 8 numbers.
- **On the GPU an example is a column**: arrays with gaps would be copied before each product.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .backend import get_array_module


class Workspace:
    """The arrays of one forward and one backward pass, which look like the mathematics.

    Attributes
    ----------
    A : list of arrays, l = 0 ... D
        The features and the layers' outputs: a row for each example, the last column all ones.
    Z, dA, dZ : lists of arrays, l = 1 ... D
        A row for each example, with no column of ones.
    cos, m : arrays
        cos(theta) and E[x_0 | x_t] of the forward pass, for the backward pass and for gates, which add mU.
    """

    def __init__(self, xp: Any, dtype: Any, batch: int, shapes: Sequence[tuple[int, int]]) -> None:
        (features, h), D = shapes[0], len(shapes) - 1
        self.batch = batch
        self.cos: Any = None
        self.m: Any = None
        self.mU: Any = None
        self.examples_are_rows = xp is np and batch >= h
        shape = (batch, h + 8 - h % 8) if self.examples_are_rows else (h, batch)
        with_ones = shape if self.examples_are_rows else (h + 1, batch)

        def by_layer(memory: Sequence[Any], width: int) -> list[Any]:
            return [None, *((m if self.examples_are_rows else m.T)[:, :width] for m in memory)]

        whole = [zeros(xp, with_ones, dtype) for _ in range(D)]
        self._a = [None, *(m[:shape[0]] for m in whole)]                    # the memory of Z_l, then of A_l
        self._u = [None, *(zeros(xp, shape, dtype) for _ in range(D))]      # what g leaves for its derivative
        by_turns = ([zeros(xp, shape, dtype), zeros(xp, shape, dtype)] * D)[:D]
        self._da = [None, *by_turns]                                        # the memory of dA_l, then of dZ_l
        self.A, self.Z = by_layer(whole, h + 1), by_layer(whole, h)
        self.dA = self.dZ = by_layer(by_turns, h)
        self.A[0] = zeros(xp, (batch, features), dtype)
        for A in self.A:
            A[:, -1] = 1

    def apply(self, g: Callable[..., None], l: int) -> None:
        """A_l = g(Z_l), in the place of Z_l."""
        g(self._a[l], self._u[l])
        if self.examples_are_rows:
            self.A[l][:, -1] = 1                                            # the pass went over the ones too

    def apply_backward(self, g_backward: Callable[..., None], l: int) -> None:
        """dZ_l = dA_l * g'(Z_l), in the place of dA_l."""
        g_backward(self._da[l], self._a[l], self._u[l])


class Workspaces(threading.local):
    """In each thread the arrays of its last forward pass."""

    def __init__(self, xp: Any, dtype: Any, shapes: Sequence[tuple[int, int]]) -> None:
        self._given = xp, dtype, shapes
        self._arrays: Workspace | None = None

    def of(self, batch: int) -> Workspace:
        """Those of the last pass, if it had as many rows, or new ones."""
        if self._arrays is None or self._arrays.batch != batch:
            xp, dtype, shapes = self._given
            self._arrays = Workspace(xp, dtype, batch, shapes)
        return self._arrays

    @property
    def arrays(self) -> Workspace:
        """Those of the last pass; ValueError if there was none in this thread."""
        if self._arrays is None:
            raise ValueError("backward needs a forward pass before it, in the same thread")
        return self._arrays


def split(vector: Any, shapes: Sequence[tuple[int, int]]) -> list[Any]:
    """The views of a (P,) vector, of the parameters or their gradient, that have these shapes."""
    views, start = [], 0
    for m, n in shapes:
        views.append(vector[start:start + m * n].reshape(m, n))
        start += m * n
    return views


def zeros(xp: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """``xp.zeros``, on the CPU from the start of a cache line.

    There a register of 64 bytes is loaded from one line; NumPy's own large arrays begin 16 bytes into a line, and
    every load takes two. Elementwise passes gain 5 to 15%.
    """
    if xp is not np:
        return xp.zeros(shape, dtype=dtype)
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.zeros(size + 64, dtype=np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start:start + size].view(dtype).reshape(shape)


def matmul(a: Any, b: Any, out: Any) -> None:
    """out = a b, for an `out` that may be the transpose of an array in C order.

    On the GPU it would be multiplied into another array and copied, so there the product is taken as out^T = b^T a^T.
    """
    xp = get_array_module(out)
    if xp is not np and not out.flags.c_contiguous:
        a, b, out = b.T, a.T, out.T
    xp.matmul(a, b, out=out)
