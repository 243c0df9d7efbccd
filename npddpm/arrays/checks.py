"""The refusals that modules share, each once: one line that names the argument, what it got and what would do."""

from __future__ import annotations

import difflib
import json
import operator
import os
from collections.abc import Callable, Iterable
from itertools import pairwise
from numbers import Integral, Real
from typing import Any

import numpy as np

from .backend import get_array_module, to_host

Array = np.ndarray[Any, np.dtype[np.float64]]
Denoiser = Callable[[Any, Any], Any]
LEAST_BETA = 1e-300     # 1 - abar_t and 2 rho_t are at least as large, and below 1e-308 numbers lose their digits
MOST_WIDTH, MOST_LAYERS = 2**16, 1000       # a slip of the finger, or a file that means harm, is refused before it takes any memory
MOST_STEPS = 100_000    # T
MOST_ENTRIES = 2**27    # of all arrays that `check_sizes` counts
LARGE = 1e18            # the square of more is infinite in float32
MOST_OCTAVES = 64       # of Fourier features: beyond, 2^k x is nothing but rounding, and at k = 128 infinite in float32


# ---------------------------------------------------------------- single values

def shown(value: Any) -> str:
    """What an argument was, in one line: an array's repr has several."""
    return " ".join(f"{value!r:.400}".split())[:80]


def check_count(name: str, value: Any, least: int = 1, most: int = 2**63 - 1) -> int:
    """Return `value` as an int, or raise ValueError if it is no whole number, below `least` or above `most`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name} must be an int of at least {least}, got {shown(value)}")
    if value > most:
        raise ValueError(f"{name} must be at most {most}, got {value}")
    return int(value)


def check_real(name: str, value: Any, low: float, high: float, *, closed: bool = False) -> float:
    """Return `value` as a float, or raise ValueError if it is no number in (low, high), or [low, high] if `closed`."""
    try:
        number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else np.nan
    except OverflowError:       # an int beyond all floats
        number = np.nan
    if low < number < high or closed and low <= number <= high:
        return number
    where = f"lie in [{low}, {high}]" if closed else "be a positive number" if high == np.inf \
        else f"lie strictly between {low} and {high}"
    raise ValueError(f"{name} must {where}, got {shown(value)}")


def check_choice(name: str, value: Any, *choices: str) -> Any:
    """Return `value`, or raise ValueError if it is none of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be {' or '.join(map(repr, choices))}, got {shown(value)}")
    return value


def check_type(name: str, value: Any, wanted: type) -> Any:
    """Return `value`, or raise TypeError if it is no instance of the class."""
    if not isinstance(value, wanted):
        raise TypeError(f"{name} must be a {wanted.__name__}, got {shown(value)}")
    return value


def check_path(path: Any, name: str = "path") -> None:
    """Raise TypeError if `path` names no file; the number of an open one, say, would be closed."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"{name} must be a str or a Path, got {shown(path)}")


def check_json(name: str, value: Any) -> dict[str, Any]:
    """Return a dict that JSON gives back as it was, or raise TypeError."""
    try:
        if isinstance(value, dict) and json.loads(json.dumps(value, allow_nan=False)) == value:
            return value
    except (TypeError, ValueError, RecursionError):
        pass
    raise TypeError(f"{name} must be a dict of what JSON can hold (str, int, finite float, bool, None, lists, and dicts "
                    f"with str as keys), got {shown(value)}")


def check_dtype(dtype: Any, *names: str) -> np.dtype[Any]:
    """Return the dtype if it has one of the names, else raise ValueError."""
    try:
        found: np.dtype[Any] = np.dtype(dtype)
        if found.name in names:
            return found
    except TypeError:
        pass
    raise ValueError(f"dtype must be {', '.join(names[:-1])} or {names[-1]}, got {shown(dtype)}")


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The name that is nearest to a wrong one, as a question; nothing if none is near."""
    near = difflib.get_close_matches(name, list(names), 1)
    return f"; did you mean {near[0]!r}?" if near else ""


# ---------------------------------------------------------------- schedules and times

def check_betas(betas: Any) -> Array:
    """Return beta_1 ... beta_T as (T,) float64, or raise ValueError unless each lies in [1e-300, 1)."""
    try:
        out: Array = check_array("betas", betas, np, np.float64)
    except TypeError:
        raise ValueError(f"betas must be numbers in (0, 1), got {shown(betas)}") from None
    if out.size > MOST_STEPS:
        raise ValueError(f"betas must be at most {MOST_STEPS} numbers, got {out.size}")
    if out.ndim != 1 or out.size == 0:
        raise ValueError(f"betas must have shape (T,) with T >= 1, got shape {out.shape}")
    bad = np.flatnonzero(~((out > 0) & (out < 1)))
    if bad.size:
        raise ValueError(f"betas must lie strictly between 0 and 1, got {out[bad[0]]} "
                         f"at index {bad[0]} (pass beta_1 to beta_T, without beta_0)")
    if out.min() < LEAST_BETA:
        raise ValueError(f"betas must be at least {LEAST_BETA}, got {out.min()} at index {out.argmin()}")
    return out


def check_times(t: Any, x: Any, T: int, first: int) -> Any:
    """Return t as an int, or as an int array with one entry for each row of x, all in `first` ... T.

    An array on the GPU is not looked into: the GPU would have to be waited for.

    Raises
    ------
    TypeError
        If t is not made of ints.
    ValueError
        If its shape does not match the rows of x, or a time is out of range.
    """
    xp = get_array_module(x)
    if not isinstance(t, int) or isinstance(t, bool):
        check_unmasked("t", t)
        try:
            t = xp.asarray(t)
        except ValueError:
            raise ValueError(f"t must be an int or a row of ints, got {shown(t)}") from None
        if t.dtype.kind not in "iu":
            raise TypeError(f"t must be an int or an array of ints, got dtype {t.dtype}")
        if t.ndim == 0:
            t = int(t)
        elif t.shape != x.shape[:1]:
            raise ValueError(f"t must be an int or have shape {x.shape[:1]}, one time for each row of x, "
                             f"got shape {t.shape}")
    if isinstance(t, int):
        low = high = t
    elif xp is np and t.size:
        low, high = np.minimum.reduce(t), np.maximum.reduce(t)
    else:
        return t
    if low < first or high > T:
        raise ValueError(f"t must lie in {first}..{T}, got {low if low < first else high}")
    return t


def check_steps(steps: Any, T: int) -> int | list[int]:
    """Return a number of steps, or their times, as ints; or raise ValueError if they are no ints that fall within 1 ... T."""
    if isinstance(steps, (int, np.integer)):
        return check_count("steps", steps, most=T)
    if np.iterable(steps) and not isinstance(steps, (str, bytes)):
        times = list(steps)
        whole = all(isinstance(t, (int, np.integer)) and not isinstance(t, bool) for t in times)
        if times and whole and all(a > b for a, b in pairwise([T + 1, *times, 0])):
            return [int(t) for t in times]
    raise ValueError(f"steps must be an int, or times that fall within 1..{T}, got {shown(steps)}")


# ---------------------------------------------------------------- denoisers

def predict(denoiser: Denoiser, xt: Any, t: Any) -> Any:
    """``denoiser(xt, t)``; TypeError if it cannot be called or returns no real numbers, ValueError for another shape than xt's."""
    if not callable(denoiser):
        raise TypeError(f"denoiser must be a callable denoiser(x_t, t), got {shown(denoiser)}")
    eps = denoiser(xt, t)
    if hasattr(eps, "shape") and not isinstance(eps, type(xt)) and get_array_module(xt) is np:     # a tensor, a data frame
        try:
            eps = np.asarray(eps)
        except Exception as error:  # noqa: BLE001, of a stranger's class
            raise TypeError(f"denoiser must return an array, got {type(eps).__name__}: {error}") from None
    if getattr(eps, "shape", None) != xt.shape:
        raise ValueError(f"denoiser must return an array of the shape of x_t, {xt.shape}, "
                         f"got {getattr(eps, 'shape', type(eps).__name__)}")
    complex_step = "c" in (xt.dtype.kind, np.dtype(getattr(denoiser, "dtype", float)).kind)
    if eps.dtype.kind not in ("c" if complex_step else "fiub"):
        raise TypeError(f"denoiser must return {'complex' if complex_step else 'real'} numbers, got dtype {eps.dtype}")
    return eps


def check_finite(values: Any, **given: Any) -> Any:
    """Return what was computed with a denoiser from what was given, or raise FloatingPointError if it is NaN or infinite."""
    bad = values.size - int(get_array_module(values).isfinite(values).sum())
    if bad:
        why = "the training diverged (lower lr), or the denoiser, or a clip, is wrong"
        for name, array in given.items():
            if array is not None and (top := float(np.abs(to_host(array)).max())) > LARGE:
                why = f"{name} is too large, it reaches {top:.3g}"
        raise FloatingPointError(f"denoiser must give finite numbers, got NaN or infinity in {bad} of {values.size} results: {why}")
    return values


# ---------------------------------------------------------------- arrays

def check_unmasked(name: str, x: Any) -> None:
    """Raise ValueError if entries are masked: the arithmetic would not see that."""
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise ValueError(f"{name} must have no masked entries")


def check_array(name: str, x: Any, xp: Any, dtype: Any = None) -> Any:
    """Return x as an array of floating-point numbers, of this dtype if there is one.

    Raises
    ------
    TypeError
        If x does not hold numbers, or holds complex ones where the dtype is real.
    ValueError
        If entries are masked.
    """
    array = x
    if type(x) is not xp.ndarray:
        check_unmasked(name, x)
        try:
            array = xp.asarray(x)
        except ValueError:      # rows of several lengths
            raise TypeError(f"{name} must be an array of numbers, got {shown(x)}") from None
    kind = array.dtype.kind
    if kind not in "fciu":
        raise TypeError(f"{name} must be an array of numbers, got dtype {array.dtype}")
    if array.dtype == dtype or dtype is None and kind in "fc":
        return array
    dtype = np.float64 if dtype is None else dtype
    if kind == "c" and dtype != np.complex128:
        raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
    with np.errstate(over="ignore"):    # to infinity
        return array.astype(dtype)


def check_entries(name: str, array: Any, first: int = 0) -> Any:
    """Return the array, or raise ValueError for its first entry that is NaN or infinite; its rows count from `first`."""
    if int(get_array_module(array).isfinite(array).sum()) < array.size:
        host = to_host(array)
        place = np.argwhere(~np.isfinite(host))[0].tolist()
        entry, place[0] = host[tuple(place)], place[0] + first
        raise ValueError(f"{name} must be finite, got {entry} in "
                         + ", ".join(map("{} {}".format, ("row", "column"), place)))
    return array


def check_shaped(name: str, x: Any, xp: Any, dtype: Any, *shape: int | str) -> Any:
    """Return x as an array of numbers, of this shape, and of this dtype if there is one, or raise an error."""
    return check_shape(name, check_array(name, x, xp, dtype), *shape)


def check_points(name: str, x: Any, xp: Any, dtype: Any, *shape: int | str) -> Any:
    """Return x as an array of finite numbers, of this dtype and shape, or raise an error."""
    return check_entries(name, check_shaped(name, x, xp, dtype, *shape))


def check_rows(name: str, array: Any) -> Any:
    """Return the array, or raise ValueError if it is empty."""
    if array.size == 0:
        raise ValueError(f"{name} must have a row or more, got shape {array.shape}")
    return array


def check_shape(name: str, array: Any, *shape: int | str) -> Any:
    """Return the array, or raise ValueError if it has another shape; a letter in place of a number stands for any."""
    if len(shape) != array.ndim or [m if isinstance(n, str) else n for n, m in zip(shape, array.shape)] != [*array.shape]:
        raise ValueError(f"{name} must have shape {in_words(shape)}, got {array.shape}")
    return array


def in_words(shape: Iterable[int | str]) -> str:
    """A shape as Python prints one, with letters in it."""
    return str(tuple(shape)).replace("'", "")


def check_out(out: Any, like: Any) -> Any:
    """Return `out`, or raise an error unless it is an array of the shape and dtype of `like`."""
    if not isinstance(out, type(like)) or check_shape("out", out, *like.shape).dtype != like.dtype:
        raise TypeError(f"out must be an array of {like.dtype}, got {getattr(out, 'dtype', type(out).__name__)}")
    return out


def check_sizes(dim: Any, hidden: Any, depth: Any, fourier: Any, T: int) -> list[int]:
    """The sizes of a network as ints; ValueError if they are none, or if its tables and one batch need more than a GiB."""
    sizes = [check_count("dim", dim), check_count("hidden", hidden, most=MOST_WIDTH), check_count("depth", depth, most=MOST_LAYERS),
             check_count("fourier", fourier, least=0, most=MOST_OCTAVES)]
    dim, fourier = sizes[0], sizes[3]
    tables = 6 * dim * (T + 1)                  # of `Rotation` and for m: four in float64, then four in float32
    batch = 256 * dim * (2 + 2 * fourier)       # what goes in and comes out; a small file can ask for it all
    check_count("the numbers in the network's tables and a batch's features (fewer with a smaller T, fewer dimensions or octaves)",
                tables + batch, most=MOST_ENTRIES)
    return sizes


def check_directions(directions: Any, dim: int) -> Array:
    """Return a copy, (dim, m) float64 of finite numbers, or raise an error."""
    return np.array(check_points("directions", directions, np, np.float64, dim, "m"), order="C")


def check_variances(variances: Any, dim: int | None = None) -> Array:
    """Return (dim,) float64, or raise ValueError if the variances are no such numbers, or one is negative."""
    try:
        out: Array = check_array("variances", variances, np, np.float64)
        if out.size and out.shape == (dim or out.size,) and np.isfinite(out).all() and (out >= 0).all():
            return out
    except (TypeError, ValueError):
        pass
    raise ValueError(f"variances must be {dim or 'some'} finite numbers of at least 0, got {shown(variances)}")


def variances_of(denoiser: Denoiser, dim: int) -> Array:
    """lambda of the data, as far as a denoiser knows it: its `variances`, (dim,), or (1,) ones; ValueError if they are none."""
    given = getattr(denoiser, "variances", None)
    return np.ones(1) if given is None else check_variances(to_host(given), dim)


def check_clip(clip: Any, xp: Any, dtype: Any, dim: int) -> Callable[[Any], Any]:
    """Return a clip of x_0 as a function, whose results are checked; or raise ValueError if it is none, and has not low <= high."""
    if callable(clip):
        return lambda x0: check_shaped("what clip returns", clip(x0), xp, dtype, *x0.shape).copy()
    try:
        ends = (check_array("clip", to_host(v), np, np.float64) for v in clip)
        low, high = (np.broadcast_to(end.ravel() if end.size == dim else end, (dim,)) for end in ends)      # of images too
        if (low <= high).all():
            return operator.methodcaller("clip", xp.asarray(low, dtype=dtype), xp.asarray(high, dtype=dtype))
    except (TypeError, ValueError):
        pass
    raise ValueError(f"clip must be (low, high), numbers or arrays of shape ({dim},), with low <= high, "
                     f"got {shown(clip)}")


def check_data(x: Any, name: str = "x", least: int = 2) -> Array:
    """Return x as an (n, d) float64 array of `least` rows or more, or raise ValueError saying what is wrong with it."""
    check_unmasked(name, x)
    names = list(map(str, getattr(x, "columns", [])))       # of a data frame
    try:
        if names and hasattr(x, "iloc") and any(kind in ("int64", "uint64") and (np.abs(x.iloc[:, i].to_numpy(float)) > 2**53).any()
                                                for i, kind in enumerate(map(str, x.dtypes))):
            x = x.astype(object)        # else pandas rounds them, if there are floats beside them
        x = np.asarray(x.toarray() if hasattr(x, "toarray") else x)     # of SciPy's sparse matrices
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a table of numbers, with rows of one length, got {shown(x)}") from None
    if x.dtype == object and x.ndim == 2:       # cells of several kinds, numbers and truth values say
        for (row, column), cell in np.ndenumerate(x):
            large = isinstance(cell, Integral) and abs(int(cell)) > 2**53
            if large or not isinstance(cell, (Real, np.bool_)):
                wanted = "integers of at most 2^53, which float64 does not round" if large else "real numbers"
                raise ValueError(f"{name} must hold {wanted}, got {cell!r:.40} in row {row}, column {column}"
                                 + (f", {names[column]}" if names else "") + ": give it numbers, or leave the column out")
        x = x.astype(float)
    check_table(x, name, least)
    return check_values(x, name)


def check_table(x: np.ndarray, name: str = "x", least: int = 2) -> None:
    """`check_data` without a look at the numbers."""
    if x.dtype.kind not in "fiub":
        raise ValueError(f"{name} must hold real numbers, got dtype {x.dtype}"
                         + "; numpy.lib.recfunctions.structured_to_unstructured(x) has them" * (x.dtype.names is not None))
    if x.ndim != 2 or x.shape[0] < least or x.shape[1] < 1:
        raise ValueError(f"{name} must have shape (n, d) with n >= {least} rows and d >= 1 columns, got {x.shape}"
                         + "; np.reshape(x, (-1, 1)) makes one column of it" * (x.ndim == 1))


def check_values(x: np.ndarray, name: str = "x", first: int = 0) -> Array:
    """`check_data` of the rows of a table from number `first` on."""
    if x.dtype.kind in "iu" and x.size and max(int(x.max()), -int(x.min())) > 2**53:
        raise ValueError(f"{name} must hold integers of at most 2^53, which float64 does not round, "
                         f"got {max(x.max(), x.min(), key=lambda i: abs(int(i)))}")
    with np.errstate(over="ignore"):        # a long double becomes infinite
        out: Array = x.astype(np.float64)
    checked: Array = check_entries(name, out, first)
    return checked
