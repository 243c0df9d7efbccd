"""Memory that is counted."""

import tracemalloc
from contextlib import contextmanager


@contextmanager
def memory(most):
    """In the block no more than `most` bytes are ever taken beyond those before it."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()
