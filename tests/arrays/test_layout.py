"""Where arrays lie in memory: what the rest of the code may rely on."""

import numpy as np
import pytest

from npddpm.arrays.layout import Workspace, zeros


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_zeros_start_a_cache_line(dtype):
    for _ in range(20):
        array = zeros(np, (3, 5), np.dtype(dtype))
        assert array.ctypes.data % 64 == 0 and array.flags.c_contiguous and array.flags.writeable
        assert array.shape == (3, 5) and array.dtype == dtype and (array == 0).all()


SIZES = [(1, 1), (1, 2), (7, 7), (7, 8), (8, 8), (9, 8), (20, 8), (15, 16), (16, 16), (7, 13), (30, 13)]


@pytest.fixture(params=SIZES, ids=str)
def work(request):
    batch, hidden = request.param
    return Workspace(np, np.dtype("float64"), batch, [(4, hidden), *[(hidden + 1, hidden)] * 3, (hidden + 1, 2)])


def test_arrays_look_like_the_mathematics(work):
    """A row for each example, ones at the end of every A, A_l in the place of Z_l; and they survive a pass over memory."""
    batch, hidden = work.Z[1].shape
    assert work.batch == batch and [A.shape for A in work.A] == [(batch, 4), *[(batch, hidden + 1)] * 4]
    z = np.random.default_rng(0).standard_normal((batch, hidden))
    for l in (1, 2, 3, 4):
        work.Z[l][:], work.dA[l][:] = z, 2 * z

        def one_more(a, u):
            u[:] = 3
            a += 1

        def product(d, a, u):
            d *= a * u

        work.apply(one_more, l)
        work.apply_backward(product, l)
        assert (work.A[l] == np.column_stack([z + 1, np.ones(batch)])).all()
        assert (work.dZ[l] == 2 * z * ((z + 1) * 3)).all()
    assert all((A[:, -1] == 1).all() for A in work.A)


def test_the_longer_side_comes_first_in_memory(work):
    """Rows of examples hold a number for the ones and end on a multiple of 8."""
    batch, hidden = work.Z[1].shape
    for array in (*work.A[1:], *work.Z[1:], *work.dA[1:], *work.dZ[1:]):
        strides = (8 * (hidden // 8 + 1), 1) if batch >= hidden else (1, batch)
        assert batch == 1 < hidden or array.strides == (8 * strides[0], 8 * strides[1])


def test_buffers_are_used_again(work):
    """A_l takes the place of Z_l and dZ_l that of dA_l; two buffers serve all dA_l by turns, as a step needs two of them."""
    for l in (1, 2, 3, 4):
        assert np.shares_memory(work.A[l], work.Z[l]) and np.shares_memory(work.dA[l], work.dZ[l])
        for k in range(1, l):
            assert not np.shares_memory(work.A[k], work.A[l]) and not np.shares_memory(work.A[k], work.dA[l])
            assert np.shares_memory(work.dA[k], work.dA[l]) == ((l - k) % 2 == 0)
