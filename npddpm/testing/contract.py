"""The contract: the functions that can be checked and their arguments; an implementation, a check and its result.

Nothing here knows what is right. What a stranger's code raises or returns is taken in here, and numbers are printed here.
"""

from __future__ import annotations

import copy
import math
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from numbers import Real
from typing import Any

import numpy as np

Args = dict[str, Any]
TOLERANCE = 1e-8
SINGLE_PRECISION = "single precision, which TOLERANCE = 1e-4 in the file allows for; or a small number added, or a constant rounded"
SINGLE = 1e-6       # a TOLERANCE from here on says that the implementation works in single precision
CONTRACT = """
schedule: linear_betas(T), cosine_betas(T)
step 1: alpha_bars(betas), q_sample(betas, x0, t, eps)
step 5: q_posterior(betas, x0, xt, t)
step 7: predict_x0(betas, xt, t, eps), reverse_mean(betas, xt, t, eps)
sampler: reverse_step(betas, denoiser, xt, t, z, variance), ddim_step(betas, denoiser, xt, t, s, eta, z)
sampler: times(T, n), sample(betas, denoiser, x_T, noise, variance)
step 8: loss_weights(betas)
steps 2-6: variational_bound(betas, denoiser, x0, noise)
loss: parameters(rng), loss(parameters, betas, x0, t, eps), gradient(parameters, betas, x0, t, eps)
"""
ARGUMENTS = {function: names.split(", ") for function, names in re.findall(r"(\w+)\((.*?)\)", CONTRACT)}
STEPS = {function: line.split(":")[0] for line in CONTRACT.splitlines() for function in re.findall(r"\w+(?=\()", line)}
FUNCTIONS = tuple(ARGUMENTS)
LIBRARIES = ("numpy", "numpy.random", "random", "os", "scipy", "torch", "jax.numpy", "sympy")     # whose names may be in a file by a star import
ARRAYS = ("x0", "xt", "x_T", "eps", "z", "noise")


# ---------------------------------------------------------------- an implementation, a check, its result

@dataclass(frozen=True)
class Result:
    """What one check found.

    `verdict` is "pass", "fail" or "skipped", also where nothing could be judged; `digits` the decimal digits that are right in the
    worst of the examples that count; `example`, `got` and `exact` describe a failure, `looks_like` the slip that explains it, or else
    where to look; `note` what is reported and fails nobody.
    """

    step: str
    function: str
    check: str
    verdict: str = "pass"
    digits: float | None = None
    example: str | None = None
    got: str | None = None
    exact: str | None = None
    looks_like: str | None = None
    note: str = ""

    def __str__(self) -> str:
        verdict = "FAIL" if self.verdict == "fail" else self.verdict
        line = f"{self.step:10}{self.function:19}{verdict:9}{self.check}"
        if self.verdict == "fail":
            line += f": {self.example}: got {self.got}" + f", exact {self.exact}" * (self.exact is not None)
        if self.digits is not None and self.verdict == "pass":
            line += f": {self.digits:.0f} digits"
        if self.note:
            line += f"; {self.note}" if self.verdict == "pass" else f" ({self.note})"
        return line + (f"\n{'':38}looks like: {self.looks_like}" if self.looks_like else "")


class Wrong(Exception):
    """A check fails; the arguments are fields of its `Result`."""

    def __init__(self, got: str, example: str = "a call", **fields: Any) -> None:
        super().__init__(got)
        self.fields = {"got": got, "example": example, **fields}


def said(error: BaseException) -> str:
    """What a function raised, in one line, or what is wrong with what it returned."""
    if isinstance(error, Wrong):
        return str(error)
    try:
        words = f"{type(error).__name__}: {error}".rstrip(": ")
    except Exception:  # noqa: BLE001, a stranger's __str__
        words = type(error).__name__
    return " ".join(words.split())


def guarded(f: Callable[..., Any]) -> Callable[..., Any]:
    """A stranger's f, of which what is no Exception, such as SystemExit or what pytest.skip raises, is `Wrong` as well."""
    def call_it(*args: Any) -> Any:
        try:
            return f(*args)
        except (Exception, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001
            raise Wrong(said(error)) from None
    return call_it


class Implementation:
    """What is checked: its functions, its TOLERANCE and its DIM."""

    def __init__(self, source: Any) -> None:
        tolerance, dim = getattr(source, "TOLERANCE", TOLERANCE), getattr(source, "DIM", 2)
        is_real = isinstance(tolerance, Real)
        if not is_real or not 0 < tolerance < 1:
            raise ValueError(f"TOLERANCE must lie strictly between 0 and 1, got {tolerance!r:.80}")
        if isinstance(dim, bool) or not isinstance(dim, (int, np.integer)) or dim < 1:
            raise ValueError(f"DIM must be an int of at least 1, got {dim!r:.80}")
        self.source, self.tolerance, self.dim = source, float(tolerance), int(dim)
        self.named: list[str] = []      # slips found so far: what calls a function shares its slip
        if not any(map(self.get, FUNCTIONS)):
            raise ValueError(f"nothing to check: none of {', '.join(FUNCTIONS)} is defined")

    def get(self, function: str) -> Any:
        """The function, guarded; None if there is none of this name, or only a library's, as after ``from numpy import *``."""
        f = getattr(self.source, function, None)
        if not callable(f) or any(getattr(sys.modules.get(library), function, None) is f for library in LIBRARIES):
            return None
        return guarded(f)


@dataclass(frozen=True, eq=False)
class Check:
    """A function, what is asked of it, and the arguments (and v) that are the same in all examples.

    `body` returns fields of the result, or raises `Wrong`.
    """

    function: str
    name: str
    body: Callable[[Check, Implementation], Args]
    fixed: Any = None
    part: int | None = None     # of a result that has several

    def run(self, subject: Implementation) -> Result:
        """What the implementation raises is the result of the check."""
        result = Result(STEPS[self.function], self.function, self.name)
        if subject.get(self.function) is None:
            return replace(result, verdict="skipped", note="not defined")
        try:
            return replace(result, **guarded(self.body)(self, subject))
        except NotImplementedError:
            return replace(result, verdict="skipped", note="NotImplementedError")
        except MemoryError as error:        # which may be the checker's own
            return replace(result, verdict="skipped", note=f"not judged: {said(error)}")
        except Wrong as wrong:
            return replace(result, verdict="fail", **wrong.fields)
        except Exception as error:  # noqa: BLE001
            return replace(result, verdict="fail", example="a call", got=said(error))


# ---------------------------------------------------------------- what goes in and what comes back

def call(f: Callable[..., Any], args: Args) -> Any:
    """f with copies of the arguments."""
    return quietly(f, copied(args))


def copied(tree: Any) -> Any:
    """A deep copy; `copy.deepcopy` would leave some dicts with two sets of values."""
    if type(tree) is np.ndarray and tree.dtype != object:       # a tenth of all time without this line
        return tree.copy("K")
    if isinstance(tree, dict):
        return with_items(tree, {key: copied(value) for key, value in tree.items()})
    return type(tree)(map(copied, tree)) if type(tree) in (list, tuple) else copy.deepcopy(tree)


def with_items(tree: dict[Any, Any], items: dict[Any, Any]) -> Any:
    """A dict of the same class with these items, also where it keeps them as attributes too."""
    made = copy.copy(tree)
    made.update(items)
    if attributes := getattr(made, "__dict__", None):
        attributes.update((key, value) for key, value in items.items() if key in attributes)
    return made


def quietly(f: Callable[..., Any], args: Args) -> Any:
    """f with these very arguments; warnings are its own affair."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return f(*args.values())


def plain(value: Any) -> Any:
    """As a float64 array on the host (complex, if it is complex)."""
    for method in ("detach", "cpu", "get"):                                      # tensors, and arrays of a GPU
        value = getattr(value, method)() if hasattr(value, method) and hasattr(value, "device") else value
    if np.ma.is_masked(value):
        raise Wrong("returns masked entries")
    try:
        array = np.asarray(value)
        if value is not None and array.dtype.kind not in "SUmM":        # text that reads as a number is none
            return array if array.dtype.kind == "c" else array.astype(float)
    except (TypeError, ValueError):
        pass
    raise Wrong(f"returns {'None' if value is None else type(value).__name__} where an array of numbers belongs")


def leaves(tree: Any, name: str = "") -> list[tuple[str, Any]]:
    """The arrays of a nested list, tuple or dict, with names; an array alone is one, without a name; a None inside is left out."""
    if tree is None and name:
        return []
    if isinstance(tree, dict):
        return [leaf for key, value in in_order(tree) for leaf in leaves(value, f"{name}[{key!r}]" if name else str(key))]
    if isinstance(tree, (list, tuple)) and any(item is None or isinstance(item, (dict, list, tuple)) or np.ndim(item) for item in tree):
        return [leaf for i, value in enumerate(tree) for leaf in leaves(value, f"{name}[{i}]")]
    return [(name, plain(tree))]


def in_order(tree: dict[Any, Any]) -> list[tuple[Any, Any]]:
    """By their keys: a gradient may have been made in another order than the parameters."""
    return sorted(tree.items(), key=lambda item: str(item[0]))


def vector(tree: Any) -> Any:
    """All numbers of a nested structure of arrays, one after another."""
    return np.concatenate([np.zeros(0), *(np.ravel(leaf) for _, leaf in leaves(tree))])


# ---------------------------------------------------------------- numbers as they are printed

def digits(deviation: float) -> float:
    """Decimal digits that are right, 16 at most."""
    return max(0.0, round(-math.log10(max(deviation, 1e-16)), 1))


def show(value: Any) -> str:
    """A number as a fraction, or the root of one, where it is one; arrays as nested lists."""
    if isinstance(value, np.ndarray):
        return show(value.item()) if value.ndim == 0 else f"[{', '.join(map(show, value))}]"
    if isinstance(value, str):
        return repr(value)
    if isinstance(value, (int, np.integer)) or callable(value):
        return str(value)
    value = float(value)
    for power, form in ((1, "{}"), (2, "sqrt({})")) if math.isfinite(value) else ():
        fraction = Fraction(abs(value) ** power).limit_denominator(1000)
        if math.isclose(fraction, abs(value) ** power, rel_tol=2e-15) and fraction.numerator < 10_000:
            return ("-" if value < 0 else "") + form.format(fraction)
    return f"{value:.12g}"
