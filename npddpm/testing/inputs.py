"""The examples that are tried, and the exact answers to them.

Schedules in use are always tried; hypothesis searches for further examples with the strategies here.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from hypothesis import strategies as st

from . import exact
from .contract import ARGUMENTS, Args, Wrong, show

ROUND = [Fraction(1, n) for n in (2, 4, 5, 10, 50, 100, 1000)]
NUMBERS = np.array([0, *(sign * k for k in (1, 2, 3, 4, 0.5, 1.5, 2.5, 3.5, 4.5) for sign in (1, -1))], dtype=float)


# ---------------------------------------------------------------- betas, times, points

@lru_cache(256)
def standard_betas(kind: str, T: int) -> Any:
    """The linear (1e-4 to 0.02) or cosine schedule of T steps, in doubles."""
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

    Its coefficients are doubles, so that it is the same function in floating-point numbers and in Decimals. One that is `mixed` adds a
    quarter of the first coordinate of x_t to each: else those who exchange or mix coordinates would not be found out.
    """

    def __init__(self, betas: Any, m: float, v: float, d: int, mixed: bool = False) -> None:
        self.m, self.d, self.mixed = m, d, mixed and d > 1
        self.data = f"N({show(m)}, {show(v)})" if v else f"a point mass at {show(m)}"
        log_abar = np.cumsum(np.log1p(-betas))
        abar, noise = np.exp(log_abar), -np.expm1(log_abar)     # abar_t and 1 - abar_t for t = 1 ... T; t = 0 has no noise
        self.slope = np.append(0, np.sqrt(noise) / (abar * v + noise))
        self.shift = -self.slope * np.sqrt(np.append(1, abar)) * m

    def unmixed(self) -> GaussianDenoiser:
        other = copy.copy(self)
        other.mixed = False
        return other

    def __str__(self) -> str:
        return f"the exact one for {self.data}" + ", plus 1/4 of the first coordinate of x_t" * self.mixed

    def __call__(self, xt: Any, t: Any) -> Any:
        if np.shape(xt)[-1:] != (self.d,):
            raise ValueError(f"denoiser(xt, t) was called with xt of shape {np.shape(xt)}, wants (B, {self.d})")
        whole = [t] if isinstance(t, int) else np.asarray(t).ravel().tolist()
        if any(i != int(i) or not 0 <= i < len(self.slope) for i in whole):
            raise ValueError(f"denoiser(xt, t) was called with t = {t}, wants whole times in 1..{len(self.slope) - 1}")
        whole = [*map(int, whole)]
        kind = Decimal if getattr(xt, "dtype", None) == object else float
        if len({*whole}) == 1:
            found = kind(float(self.slope[whole[0]])) * xt + kind(float(self.shift[whole[0]]))
        else:
            found = self.slope[whole][:, None] * np.asarray(xt) + self.shift[whole][:, None]
        return found + kind(0.25) * xt[..., np.zeros(self.d, dtype=int)] if self.mixed else found


# ---------------------------------------------------------------- the arguments of a function

def assemble(function: str, fixed: Args, betas: Any, t: int, s: int, array: Callable[..., Any], B: int, d: int,
             m: float, v: float, mixed: bool = False) -> Args:
    """The arguments of one example; those in `fixed` (and v, if it is there) are given."""
    denoiser = GaussianDenoiser(betas, m, fixed.get("v", v), d, mixed and "v" not in fixed)
    values: Args = {"betas": betas, "t": t, "s": s, "denoiser": denoiser, **fixed}
    if function == "variational_bound":
        values["x0"], values["noise"] = nodes(d, array(B, d), len(betas))
    for name in ARGUMENTS[function]:
        if name not in values:
            values[name] = array(len(betas) + 1, B, d) if name == "noise" else array(B, d)
    return {name: values[name] for name in ARGUMENTS[function]}


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
    many = "noise" in ARGUMENTS[function]
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
    if "T" in ARGUMENTS[function]:
        yield from ({"T": T} for T in (20, 21, 50, 100, 200, 500, 1000))
        return
    array, shapes, i = normal(0), [(3, 2), (2, 2), (1, 1), (3, 3), (2, 5)], 0
    seven = arbitrary_betas(7, 7)       # and another of equal length: nothing may be kept from one to the other
    for betas in [*(standard_betas(kind, T) for T in (20, 1000) for kind in ("linear", "cosine")),
                  np.array([0.5, 0.25]), np.full(9, 0.5), seven, seven[::-1].copy(),
                  *(arbitrary_betas(T, T) for T in (3, 200, 1000))]:
        T = len(betas)
        for t, s in pairs(function, {1, 2, T // 2 + 1, T - 1, T}):
            B, d = (2, i % 2 + 1) if function == "variational_bound" else shapes[i % len(shapes)]
            yield assemble(function, fixed, betas, t, s, array, B, d, (1.0, -0.5)[i % 2], (0.5, 2.0, 0.0)[i % 3], i % 2 == 1)
            i += 1
    for t in (1, 4, 7) if "t" in ARGUMENTS[function] else [0]:          # points so large that a clip shows
        d = 1 if function == "variational_bound" else 2
        yield assemble(function, fixed, seven, t, t // 2, lambda *shape: 30 * array(*shape), 2, d, 1.0, 0.5)


def pairs(function: str, some: set[int]) -> Iterator[tuple[int, int]]:
    """The times t, and for each those s that are 0, near t/2 and next to t; 0 for those that the function does not take."""
    for t in sorted(some) if "t" in ARGUMENTS[function] else [0]:
        for s in sorted({0, t // 2, t - 1}) if "s" in ARGUMENTS[function] else [0]:
            yield t, s


def larger_examples(function: str, fixed: Args) -> Iterator[Args]:
    """More steps, rows and dimensions than any of the fixed ones, which are tried where there is time."""
    if "T" in ARGUMENTS[function]:
        yield from ({"T": T} for T in (1001, 2000, 4000))
        return
    array = normal(3)
    for betas, (B, d) in [(arbitrary_betas(7, 7), (4, 6)), (arbitrary_betas(9, 9), (100, 3)), (np.full(5, 0.25), (3, 100)),
                          (standard_betas("cosine", 20), (40, 40)), (standard_betas("linear", 2000), (5, 7)),
                          (standard_betas("cosine", 4000), (2, 2))]:
        T = len(betas)
        if function == "variational_bound":
            d = min(d, 7 if T < 1000 else 2)
            B = max(1, B >> d)      # groups of 2^d rows
        for t, s in pairs(function, {1, T // 2 + 1, T}):
            yield assemble(function, fixed, betas, t, s, array, B, d, 1.0, 0.5, mixed=True)


def beyond(function: str, fixed: Args) -> Iterator[tuple[str, Args]]:
    """What is reported and fails nobody."""
    if "T" in ARGUMENTS[function]:
        yield from ((f"T = {T}", {"T": T}) for T in (1, 2, 5))
        return
    for text, betas in {"T = 1": np.array([0.02]), "T = 5": np.linspace(1e-4, 0.02, 5),
                        "beta = 1e-12": np.full(20, 1e-12), "beta = 0.999": np.full(3, 0.999)}.items():
        yield text, assemble(function, fixed, betas, len(betas), 0, normal(1), 2, 2, 0.5, 0.5)


# ---------------------------------------------------------------- their answers, and how they are printed

def answer(function: str, args: Args, source: Any = exact, part: int | None = None) -> Any:
    """The exact result as floats; where `source` is `exact` with a slip, its result, or None if it has none."""
    try:
        with localcontext(exact.CONTEXT):
            value = getattr(source, function)(*(a if name == "betas" else exact.exact(a) for name, a in args.items()))
            return reduced(function, args, np.array(value if part is None else value[part]).astype(float))
    except Exception:       # a slip may leave an array, or take the root of an int
        if source is exact:
            raise
        return None


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
