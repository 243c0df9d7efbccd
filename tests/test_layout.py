"""Where arrays lie in memory: what the rest of the code may rely on."""

import numpy as np
import pytest

from npddpm.layout import Workspace, zeros


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_zeros_start_a_cache_line(dtype):
    for _ in range(20):
        array = zeros(np, (3, 5), np.dtype(dtype))
        assert array.ctypes.data % 64 == 0 and array.flags.c_contiguous and array.flags.writeable
        assert array.shape == (3, 5) and array.dtype == dtype and (array == 0).all()


@pytest.mark.parametrize("batch, hidden", [(5, 8), (8, 8), (12, 8), (7, 13)])
def test_arrays_look_like_the_mathematics(batch, hidden):
    """A row for each example, ones at the end of every A, A_l in the place of Z_l; and they survive a pass over memory."""
    work = Workspace(np, np.dtype("float64"), batch, [(4, hidden), (hidden + 1, hidden), (hidden + 1, 2)])
    assert [A[work.rows].shape for A in work.A] == [(batch, 4), (batch, hidden + 1), (batch, hidden + 1)]
    assert work.dF[work.rows].shape == (batch, 2)
    z = np.random.default_rng(0).standard_normal((batch, hidden))
    for l in (1, 2):
        work.Z[l][work.rows], work.dA[l][work.rows] = z, 2 * z

        def square(a, u):
            u[:] = 3
            a *= a

        def product(d, a, u):
            d *= a * u

        work.apply(square, l)
        work.apply_backward(product, l)
        assert (work.A[l][work.rows] == np.column_stack([z * z, np.ones(batch)])).all()
        assert (work.dZ[l][work.rows] == 2 * z * (z * z * 3)).all()
    assert all((A[:, -1] == 1).all() for A in work.A)
