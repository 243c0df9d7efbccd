"""Arguments that are declared above a function."""

import inspect
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import npddpm
from npddpm.arrays.declared import checked, choice, count, like, numbers, optional, points, real, steps_of, trusted


class Clock:
    T = 5

    @checked(n=count(2, most=steps_of), share=real(0, 1), name=optional(choice("a", "b")))
    def f(self, n, share=0.5, *, name=None):
        """What it does.

        Raises
        ------
        OSError
            Never.
        """
        return n, share, name


def test_values_are_handed_on_however_they_are_given():
    clock = Clock()
    assert clock.f(3) == clock.f(n=3) == clock.f(np.int64(3), name=None) == (3, 0.5, None)
    assert clock.f(2, 0.25, name="b") == clock.f(name="b", share=0.25, n=2) == (2, 0.25, "b") and type(clock.f(np.int64(3))[0]) is int


@pytest.mark.parametrize("args, options, kind, message", [
    ((1,), {}, ValueError, "n must be an int of at least 2, got 1"), ((6,), {}, ValueError, "n must be at most 5, got 6"),
    ((3, 1.0), {}, ValueError, "share must lie strictly between 0 and 1"), ((3,), {"name": "c"}, ValueError, "name must be 'a' or 'b', got 'c'"),
    ((), {}, TypeError, r"missing 1 required positional argument: 'n'"), ((), {"share": 2}, TypeError, "missing 1 required"),
    ((3, 0.5, "a"), {}, TypeError, "positional arguments but 4 were given"), ((3,), {"n": 3}, TypeError, "multiple values for argument 'n'"),
    ((3,), {"z": 1}, TypeError, "unexpected keyword argument 'z'")])
def test_what_is_refused(args, options, kind, message):
    with pytest.raises(kind, match=message):
        Clock().f(*args, **options)


def test_what_is_trusted_is_so_here_alone():
    with pytest.raises(KeyError), trusted():
        assert Clock().f(7, share=2) == (7, 2, None)
        with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="n must be at most 5, got 7"):
            pool.submit(Clock().f, 7).result()
        raise KeyError
    with pytest.raises(ValueError, match="n must be at most 5, got 7"):
        Clock().f(7)


def test_the_declaration_is_documentation():
    assert inspect.getdoc(Clock.f) == (
        "What it does.\n\nRaises\n------\nValueError, TypeError\n    Unless `n` is an int of at least 2; `share` is a number in (0, 1); "
        "`name` is None or 'a' or 'b'.\nOSError\n    Never.")
    assert list(inspect.signature(npddpm.sample).parameters)[:4] == ["denoiser", "s", "n", "dim"]
    assert "`x0` is finite numbers of shape (B, d)" in inspect.getdoc(npddpm.variational_bound)


def test_what_is_like_another_argument_is_checked_with_it():
    @checked(b=like("a"))
    def f(a, b):
        return a, b
    a, b = f([[1, 2]], [[3, 4.0]])
    assert a.dtype == b.dtype == float and a.tolist() == [[1, 2]] and b.tolist() == [[3, 4]]


def test_shapes_may_name_other_arguments():
    class Denoiser:
        device, dtype = "cpu", "float32"

    @checked(x=points("B", "dim"), y=numbers(2))
    def f(denoiser, dim, x, y=()):
        return x
    assert f(Denoiser(), 3, [[1, 2, 3]]).dtype == np.float32 and f(None, 1, [[1]]).dtype == np.float64
    for x, y, message in (([[1, 2]], [1, 2], r"x must have shape \(B, 3\), got \(1, 2\)"), ([[1, 2, np.inf]], [1, 2], "x must be finite"),
                          ([[1, 2, 3]], [1], r"y must have shape \(2,\), got \(1,\)")):
        with pytest.raises(ValueError, match=message):
            f(Denoiser(), 3, x, y)
