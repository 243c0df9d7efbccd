"""What `npddpm.testing` asks of an implementation, the exact answers of `reference`, and how both are printed.

The examples are those in use, which are always tried, and strategies with which hypothesis searches for others.
"""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from hypothesis import strategies as st

from . import exact as reference
from .exact import exact

Args = dict[str, Any]
ROUND = [Fraction(1, n) for n in (2, 4, 5, 10, 50, 100, 1000)]
NUMBERS = np.array([0, *(sign * k for k in (1, 2, 3, 4, 0.5, 1.5, 2.5, 3.5, 4.5) for sign in (1, -1))], dtype=float)


# ---------------------------------------------------------------- betas, times, points

@lru_cache(256)
def standard_betas(kind: str, T: int) -> Any:
    """The linear (1e-4 to 0.02) or cosine schedule of T steps, from `reference`."""
    return answer(f"{kind}_betas", {"T": T})


def arbitrary_betas(T: int, seed: int) -> Any:
    """T numbers between 1e-4 and 0.5 in no order, whose abar_T does not fall below about 1e-9."""
    betas = 10 ** np.random.default_rng(seed).uniform(-4, math.log10(0.5), T)
    return np.maximum(betas * min(1, 15 / betas.sum()), 1e-4)


def schedules(most: int = 60) -> st.SearchStrategy[Any]:
    """Arrays beta_1 ... beta_T: two to six round numbers, or up to `most` arbitrary ones, or linear or cosine ones.

    Where `most` is 0, round numbers alone.
    """
    few = st.lists(st.sampled_from(ROUND), min_size=2, max_size=6).map(lambda betas: np.array(betas, dtype=float))
    if not most:
        return few
    arbitrary = st.builds(arbitrary_betas, st.integers(2, most), st.integers(0, 2**32))
    standard = st.builds(standard_betas, st.sampled_from(["linear", "cosine"]), st.integers(20, max(20, most)))
    return few | arbitrary | standard


def times(T: int, least: int = 1) -> st.SearchStrategy[int]:
    """Whole numbers from `least` to T; the simplest is T, so that betas can be left out while t stays the last."""
    return st.integers(0, T - least).map(lambda k: T - k)


def points(*shape: int) -> st.SearchStrategy[Any]:
    """float64 arrays of small whole numbers and halves, one byte each; the simplest are 0 and 1."""
    n = math.prod(shape)
    return st.binary(min_size=n, max_size=n).map(
        lambda b: NUMBERS[np.frombuffer(b, np.uint8) % len(NUMBERS)].reshape(shape))


def normal(seed: int) -> Callable[..., Any]:
    rng = np.random.default_rng(seed)
    return lambda *shape: rng.standard_normal(shape)


class GaussianDenoiser:
    """The best prediction of eps where the data are N(m, v I): it is linear in x_t. v = 0 is a point mass.

    Its coefficients are doubles, so that it is the same function in floating-point numbers and in Decimals.
    """

    def __init__(self, betas: Any, m: float, v: float) -> None:
        self.m = m
        self.text = "the exact one for " + (f"N({show(m)}, {show(v)})" if v else f"a point mass at {show(m)}")
        log_abar = np.cumsum(np.log1p(-betas))
        abar, noise = np.exp(log_abar), -np.expm1(log_abar)     # abar_t and 1 - abar_t for t = 1 ... T; t = 0 has no noise
        self.slope = np.append(0, np.sqrt(noise) / (abar * v + noise))
        self.shift = -self.slope * np.sqrt(np.append(1, abar)) * m

    def __call__(self, xt: Any, t: Any) -> Any:
        whole = np.asarray(t).ravel().astype(int)
        if (whole != np.asarray(t).ravel()).any() or whole.min() < 0 or whole.max() >= len(self.slope):
            raise ValueError(f"denoiser(xt, t) was called with t = {t}, wants whole times in 1..{len(self.slope) - 1}")
        if (whole == whole[0]).all():
            kind = Decimal if getattr(xt, "dtype", None) == object else float
            return kind(float(self.slope[whole[0]])) * xt + kind(float(self.shift[whole[0]]))
        return self.slope[whole][:, None] * np.asarray(xt) + self.shift[whole][:, None]


# ---------------------------------------------------------------- the arguments of a function

def signature(function: str) -> list[str]:
    training = ["parameters", "betas", "x0", "t", "eps"]
    others = {"times": ["T", "n"], "parameters": ["rng"], "loss": training, "gradient": training}
    return others.get(function) or list(inspect.signature(getattr(reference, function)).parameters)


def assemble(function: str, fixed: Args, betas: Any, t: int, s: int, array: Callable[..., Any], B: int, d: int,
             m: float, v: float) -> Args:
    """The arguments of one example; those in `fixed` (and v, if it is there) are given."""
    denoiser = GaussianDenoiser(betas, m, fixed.get("v", v))
    values: Args = {"betas": betas, "t": t, "s": s, "denoiser": denoiser, **fixed}
    if function == "variational_bound":
        values["x0"], values["noise"] = nodes(d, array(B, d), len(betas))
    for name in signature(function):
        if name not in values:
            values[name] = array(len(betas) + 1, B, d) if name == "noise" else array(B, d)
    return {name: values[name] for name in signature(function)}


def nodes(d: int, groups: Any, T: int) -> tuple[Any, Any]:
    """x0 and noise of the bound. Its mean over the 2^d rows of a group, with noise +-1 in each coordinate, is the exact
    expectation, since all terms are quadratic; so any unbiased estimate will do. Signs tell the rows of noise apart, and
    row 0, which nobody should use, is 0."""
    signs = np.array(list(product([1.0, -1.0], repeat=d)))
    flips = np.array([1.0, -1.0, -1.0])[(T - np.arange(T + 1)) % 3] * (np.arange(T + 1) > 0)
    return np.repeat(groups, len(signs), axis=0), flips[:, None, None] * np.tile(signs, (len(groups), 1))


def reduced(function: str, args: Args, value: Any) -> Any:
    """The bound's mean over the rows of each group of `nodes`; everything else as it is."""
    if function != "variational_bound":
        return value
    if value.shape != args["x0"].shape[:1]:
        raise Wrong(f"returns shape {value.shape} where {args['x0'].shape[:1]} belongs")
    return value.reshape(-1, 2 ** args["x0"].shape[1]).mean(1)


@st.composite
def examples(draw: st.DrawFn, function: str, fixed: Args, wide: bool) -> Args:
    """What hypothesis searches; it shrinks towards betas = [1/2, 1/2], t = 2 and B = d = 1."""
    many = "noise" in signature(function)
    most, small = (20, 2) if many else (60, 3)
    betas = draw(schedules(most * wide))
    t = draw(times(len(betas)))
    s = draw(st.integers(0, t - 1))
    B, d = draw(st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 2), (small, 2), (small, small)]))
    m, v = draw(st.integers(-2, 2)), draw(st.sampled_from([1.0, 0.5, 2.0, 0.0]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)) if many else 0)
    array = (lambda *shape: rng.integers(-4, 5, shape) / 2) if many else (lambda *shape: draw(points(*shape)))
    return assemble(function, fixed, betas, t, s, array, B, d, m, v)


def fixed_examples(function: str, fixed: Args) -> Iterator[Args]:
    """The schedules in use, each at t = 1, 2, T/2, T-1 and T, B = d among the shapes."""
    if "T" in signature(function):
        yield from ({"T": T} for T in (20, 21, 50, 100, 200, 500, 1000))
        return
    array, shapes, i = normal(0), [(3, 2), (2, 2), (1, 1), (3, 3), (2, 5)], 0
    seven = arbitrary_betas(7, 7)       # and another of equal length: nothing may be kept from one to the other
    for betas in [*(standard_betas(kind, T) for T in (20, 1000) for kind in ("linear", "cosine")),
                  np.array([0.5, 0.25]), np.full(9, 0.5), seven, seven[::-1].copy(),
                  *(arbitrary_betas(T, T) for T in (3, 200, 1000))]:
        T = len(betas)
        for t in sorted({1, 2, T // 2 + 1, T - 1, T}) if "t" in signature(function) else [0]:
            for s in sorted({0, t // 2, t - 1}) if "s" in signature(function) else [0]:
                B, d = (2, i % 2 + 1) if function == "variational_bound" else shapes[i % len(shapes)]
                yield assemble(function, fixed, betas, t, s, array, B, d, (1.0, -0.5)[i % 2], (0.5, 2.0, 0.0)[i % 3])
                i += 1


def beyond(function: str, fixed: Args) -> Iterator[tuple[str, Args]]:
    """What is reported and fails nobody."""
    if "T" in signature(function):
        yield from ((f"T = {T}", {"T": T}) for T in (1, 2, 5))
        return
    for text, betas in {"T = 1": np.array([0.02]), "T = 5": np.linspace(1e-4, 0.02, 5),
                        "beta = 1e-12": np.full(20, 1e-12), "beta = 0.999": np.full(3, 0.999)}.items():
        args = assemble(function, fixed, betas, len(betas), 0, normal(1), 2, 2, 0.5, 0.5)
        if function == "q_sample" and text == "beta = 1e-12":
            text, args["x0"] = "noise's share at beta = 1e-12", np.zeros((2, 2))
        yield text, args


# ---------------------------------------------------------------- calling, answering, printing

class Wrong(Exception):
    """A check fails; the arguments are fields of its `Result`."""

    def __init__(self, got: str, example: str = "a call", **fields: Any) -> None:
        super().__init__(got)
        self.fields = {"got": got, "example": example, **fields}


def plain(value: Any) -> Any:
    """As a float64 array on the host (complex, if it is complex)."""
    for method in ("detach", "cpu", "get"):                                      # tensors, and arrays of a GPU
        value = getattr(value, method)() if hasattr(value, method) and hasattr(value, "shape") else value
    if np.ma.is_masked(value):
        raise Wrong("returns masked entries")
    try:
        array = np.asarray(value)
        if value is not None and array.dtype.kind not in "SUmM":        # text that reads as a number is none
            return array if array.dtype.kind == "c" else array.astype(float)
    except (TypeError, ValueError):
        pass
    raise Wrong(f"returns {'None' if value is None else type(value).__name__} where an array of numbers belongs")


def call(f: Callable[..., Any], args: Args) -> Any:
    """f with copies of the arguments; warnings are its own affair."""
    copies = copy.deepcopy(list(args.values()))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return f(*copies)


def leaves(tree: Any, name: str = "") -> list[tuple[str, Any]]:
    """The arrays of a nested list, tuple or dict, with names; an array is its own only one."""
    if isinstance(tree, dict):
        return [leaf for key, value in tree.items() for leaf in leaves(value, f"{name}[{key!r}]" if name else str(key))]
    if isinstance(tree, (list, tuple)) and any(isinstance(item, (dict, list, tuple)) or np.ndim(item) for item in tree):
        return [leaf for i, value in enumerate(tree) for leaf in leaves(value, f"{name}[{i}]")]
    return [(name, plain(tree))]


def vector(tree: Any) -> Any:
    """All numbers of a nested structure of arrays, one after another."""
    if isinstance(tree, str):
        return np.zeros(0)
    return np.concatenate([np.zeros(0), *(np.ravel(leaf) for _, leaf in leaves(tree))])


def answer(function: str, args: Args, source: Any = reference, part: int | None = None) -> Any:
    """The exact result as floats; where `source` is `reference` with a slip, its result, or None if it has none."""
    try:
        with localcontext(reference.CONTEXT):
            value = getattr(source, function)(*(a if name == "betas" else exact(a) for name, a in args.items()))
            return reduced(function, args, np.array(value if part is None else value[part]).astype(float))
    except Exception:       # a slip may leave an array, or take the root of an int
        if source is reference:
            raise
        return None


def digits(deviation: float) -> float:
    return max(0.0, round(-math.log10(max(deviation, 1e-16)), 1))


def show(value: Any) -> str:
    """A number as a fraction, or the root of one, where it is one; arrays as nested lists."""
    if isinstance(value, np.ndarray):
        return show(value.item()) if value.ndim == 0 else f"[{', '.join(map(show, value))}]"
    if isinstance(value, GaussianDenoiser):
        return value.text
    if isinstance(value, (str, int, np.integer)):
        return repr(value) if isinstance(value, str) else str(value)
    value = float(value)
    for power, form in ((1, "{}"), (2, "sqrt({})")) if math.isfinite(value) else ():
        fraction = Fraction(abs(value) ** power).limit_denominator(1000)
        if math.isclose(fraction, abs(value) ** power, rel_tol=2e-15) and fraction.numerator < 10_000:
            return ("-" if value < 0 else "") + form.format(fraction)
    return f"{value:.12g}"


def show_args(args: Args, names: Sequence[str], most: int = 19) -> str:
    """Names and values; up to `most` betas one by one."""
    parts = []
    for name in names:
        value, text = args[name], ""
        if name == "betas" and len(value) > most:
            kinds = [kind for kind in ("linear", "cosine") if (standard_betas(kind, len(value)) == value).all()]
            text = (kinds or [f"[{value[0]:.4g}, ..., {value[-1]:.4g}]"])[0] + f" (T = {len(value)})"
        elif isinstance(value, np.ndarray) and value.size > 24:
            text = f"an array of shape {value.shape}"
        parts.append(f"{name} = {text or show(value)}")
    return ", ".join(parts)
