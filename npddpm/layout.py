"""Where the network's arrays lie in memory, and why. Nothing here changes a result; all of it is for speed.

- **The longer side comes first in memory.** OpenBLAS divides a product between threads by rows if it has more rows than
  columns, else by columns, for which they exchange more: up to half as long again where two cores share no cache.
  So a batch smaller than a layer lies transposed.
- **A batch as large as a layer gets one row more**, an example of zeros, so that rows outnumber columns.
  Its gradient dF stays 0, and with it its share in every sum over the batch.
- **Elementwise passes run over memory from end to end**, since around gaps they take twice as long: over all of a
  buffer, padding and ones included, or, on the GPU and where a row is a unit, over all but the row of ones.
- **Buffers are kept** from one batch to the next of the same size, A_l takes the place of Z_l and dZ_l that of dA_l, and
  two buffers serve all dA_l by turns: what is not touched needs no room in the cache.
- **Buffers start on a cache line**, and rows of examples are padded to a multiple of 8 numbers beyond the ones.
- **On the GPU a row is a unit**: arrays with gaps would be copied before each product.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .backend import get_array_module


class Workspace:
    """The arrays of one forward and one backward pass, which look like the mathematics.

    Attributes
    ----------
    A : list of arrays, l = 0 ... depth
        The features and the layers' outputs: a row for each example, the last column all ones.
    Z, dA, dZ : lists of arrays, l = 1 ... depth
        The layers' sums and the gradients, with no column of ones.
    dF : array
        The gradient of the output.
    a, u, da : lists of arrays, l = 1 ... depth
        Memory, for what is done element by element: a[l] holds Z_l and then A_l, da[l] holds dA_l and then dZ_l,
        and u[l] has room for an intermediate result.
    rows : slice
        The rows that are examples of the batch.
    """

    def __init__(self, xp: Any, dtype: Any, batch: int, shapes: Sequence[tuple[int, int]]) -> None:
        (features, h), (_, dim), depth = shapes[0], shapes[-1], len(shapes) - 1
        self.batch, self.rows = batch, slice(batch)
        self.rows_are_examples = xp is np and batch >= h
        examples = max(batch, h + 1) if self.rows_are_examples else batch
        shape = (examples, h + 8 - h % 8) if self.rows_are_examples else (h, examples)
        with_ones = shape if self.rows_are_examples else (h + 1, examples)

        def buffers(count: int, shape: tuple[int, int]) -> list[Any]:
            return [None, *(zeros(xp, shape, dtype) for _ in range(count))]

        def by_example(memory: Any, width: int) -> Any:
            return (memory if self.rows_are_examples else memory.T)[:, :width]

        whole = buffers(depth, with_ones)
        self.a = [None, *(memory[:shape[0]] for memory in whole[1:])]
        self.A = [zeros(xp, (examples, features), dtype), *(by_example(memory, h + 1) for memory in whole[1:])]
        self.Z = [None, *(A[:, :-1] for A in self.A[1:])]
        for A in self.A:
            A[:, -1] = 1
        self.u = buffers(depth, shape)
        self.da = [None, *(buffers(2, shape)[1:] * depth)[:depth]]
        self.dA = self.dZ = [None, *(by_example(memory, h) for memory in self.da[1:])]
        self.dF = zeros(xp, (examples, dim), dtype)

    def restore_ones(self, l: int) -> None:
        """Set the ones of A_l again, where the pass over its memory went over them too."""
        if self.rows_are_examples:
            self.A[l][:, -1] = 1


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
