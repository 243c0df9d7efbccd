"""Calls that must be refused, each with the kind of error and what its message says."""

import numpy as np
import pytest

from npddpm import data

CLIPS = [
    (lambda x: x[:2], r"what clip returns must have shape \(3, 2\), got \(2, 2\)", ValueError),
    (lambda x: x.mean(), r"what clip returns must have shape \(3, 2\), got \(\)", ValueError),
    (lambda x: 1j * x, "what clip returns must hold real numbers, got dtype complex", TypeError),
    (lambda x: None, "what clip returns must be an array of numbers, got dtype object", TypeError),
    (lambda x: np.ma.masked_less(x, 99), "what clip returns must have no masked entries", ValueError),
    (lambda x: x * np.nan, "NaN or infinity in 6 of 6 results: .* or a clip, is wrong", FloatingPointError),
]


def refused(call, message, kind=ValueError):
    with np.errstate(all="ignore"), pytest.raises(kind, match=message) as caught:
        call()
    assert type(caught.value) is kind or isinstance(caught.value, OSError)


def read_or_refuse(path, content):
    """A file with this content gives an array, or the documented error."""
    path.write_bytes(content)
    try:
        x = data.load(str(path))
    except ValueError as error:
        assert str(path) in str(error)
    else:
        assert x.ndim == 2 and x.dtype == np.float64 and np.isfinite(x).all()
