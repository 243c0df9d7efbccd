"""Check any implementation of a denoising diffusion model against the identities it rests on.

An implementation is a module, or any object, that defines some of the functions of `reference`, with these arguments,
and `parameters(rng)`, `loss(parameters, betas, x0, t, eps)` and `gradient(parameters, betas, x0, t, eps)`. betas is
(T,) float64, beta_1 to beta_T; t and s are ints, 0 <= s < t <= T (in `loss` and `gradient` t is (B,) ints); x0, xt,
x_T, eps and z are (B, d); noise is (T+1, B, d), row t for the step from x_t; `denoiser(xt, t)` predicts the noise.

    check(implementation)                      -> a list of `Result`
    @parametrize_with_checks(implementation)   the same as test cases of pytest

How a value is judged: examples from schedules in use, fixed ones and ones that hypothesis searches, are given to the
function and to `reference`, which answers exactly. The deviation, relative to the largest entry of the exact result,
is held against TOLERANCE of the implementation. A failure is shrunk to a small example with round numbers. Then the
SLIPS are made in the text of `reference`, one at a time: one that gives the same wrong values on all examples is named.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import math
import sys
import time
import traceback
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, DecimalException, localcontext
from fractions import Fraction
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import reference
from .derivatives import MOST_ENTRIES, Unusable, blocks, derivatives, entry, leaves, plain, rebuild, vector
from .reference import exact
from .slips import slips

try:
    import hypothesis
    from hypothesis import strategies as st
except ImportError:
    raise ImportError("npddpm.testing needs hypothesis: pip install 'npddpm[test]'") from None

TOLERANCE, GRADIENT_TOLERANCE = 1e-8, 1e-6
SINGLE = 1e-6       # a TOLERANCE from here on says that the implementation works in single precision
MOST_TRIED = 150    # examples that a search may judge while it shrinks a failure,
SECONDS = 5         # and the time after which it stops where the implementation is slow; the fixed ones are always tried
Args = dict[str, Any]


@dataclass(frozen=True)
class Result:
    """What one check found.

    `verdict` is "pass", "fail" or "skipped"; `digits` the decimal digits that are right in the worst of the examples
    that count; `example`, `got` and `exact` describe a failure, `looks_like` the slip that explains it; `note` what is
    reported and fails nobody.
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


# ---------------------------------------------------------------- examples: fixed ones, and strategies to search with

ROUND = [Fraction(1, n) for n in (2, 4, 5, 10, 50, 100, 1000)]


@lru_cache(256)
def standard_betas(kind: str, T: int) -> Any:
    """The linear (1e-4 to 0.02) or cosine schedule of T steps, from `reference`."""
    with localcontext(reference.CONTEXT):
        return getattr(reference, f"{kind}_betas")(T).astype(float)


def arbitrary_betas(T: int, seed: int) -> Any:
    """T numbers between 1e-4 and 0.5 in no order, whose abar_T does not fall below about 1e-9."""
    betas = 10 ** np.random.default_rng(seed).uniform(-4, math.log10(0.5), T)
    return np.maximum(betas * min(1, 15 / betas.sum()), 1e-4)


def schedules(most: int = 60) -> st.SearchStrategy[Any]:
    """Arrays beta_1 ... beta_T: a few round numbers, or up to `most` arbitrary ones, or linear or cosine ones."""
    arbitrary = st.builds(arbitrary_betas, st.integers(2, most), st.integers(0, 2**32))
    standard = st.builds(standard_betas, st.sampled_from(["linear", "cosine"]), st.integers(20, max(20, most)))
    return round_schedules() | arbitrary | standard


def round_schedules() -> st.SearchStrategy[Any]:
    """Up to six of a few round numbers."""
    return st.lists(st.sampled_from(ROUND), min_size=2, max_size=6).map(lambda betas: np.array(betas, dtype=float))


def times(T: int, least: int = 1) -> st.SearchStrategy[int]:
    """Whole numbers from `least` to T; the simplest is 2, where nothing is special, and 1 comes last."""
    return st.integers(0, T - least).map(lambda k: 2 + k if 2 + k <= T else least)


def points(*shape: int) -> st.SearchStrategy[Any]:
    """float64 arrays of small whole numbers and halves."""
    n = math.prod(shape)
    numbers = st.integers(-4, 4).map(float) | st.integers(-9, 9).map(lambda k: k / 2)
    return st.lists(numbers, min_size=n, max_size=n).map(lambda values: np.array(values).reshape(shape))


class GaussianDenoiser:
    """The best prediction of eps where the data are N(m, v I): it is linear in x_t. v = 0 is a point mass.

    Its coefficients are doubles, so that it is the same function in floating-point numbers and in Decimals.
    """

    def __init__(self, betas: Any, m: float, v: float) -> None:
        self.m = m
        self.text = "the exact one for " + (f"N({show(m)}, {show(v)})" if v else f"a point mass at {show(m)}")
        with localcontext(reference.CONTEXT):
            A = reference.tables(betas)[2]
            slope = [(1 - abar).sqrt() / (abar * Decimal(v) + 1 - abar) if abar < 1 else Decimal(0) for abar in A]
            shift = [-g * abar.sqrt() * Decimal(m) for g, abar in zip(slope, A)]
        self.slope, self.shift = np.array(slope, dtype=float), np.array(shift, dtype=float)

    def __call__(self, xt: Any, t: Any) -> Any:
        whole = np.asarray(t).ravel().astype(int)
        if (whole != np.asarray(t).ravel()).any() or whole.min() < 0 or whole.max() >= len(self.slope):
            raise ValueError(f"denoiser(xt, t) was called with t = {t}, wants whole times in 1..{len(self.slope) - 1}")
        if (whole == whole[0]).all():
            kind = Decimal if getattr(xt, "dtype", None) == object else float
            return kind(float(self.slope[whole[0]])) * xt + kind(float(self.shift[whole[0]]))
        return self.slope[whole][:, None] * np.asarray(xt) + self.shift[whole][:, None]


@lru_cache(256)
def gaussian_denoiser(betas: bytes, m: float, v: float) -> GaussianDenoiser:
    return GaussianDenoiser(np.frombuffer(betas), m, v)


def signature(function: str) -> list[str]:
    if function in SIGNATURES:
        return SIGNATURES[function]
    return list(inspect.signature(getattr(reference, function)).parameters)


SIGNATURES = {"times": ["T", "n"], "parameters": ["rng"], "loss": ["parameters", "betas", "x0", "t", "eps"],
              "gradient": ["parameters", "betas", "x0", "t", "eps"]}


def nodes(d: int, groups: Any, T: int) -> tuple[Any, Any]:
    """x0 and noise of the bound. Its mean over the 2^d rows of a group, with noise +-1 in each coordinate, is the exact
    expectation, since all terms are quadratic; so any unbiased estimate will do. Signs tell the rows of noise apart, and
    row 0, which nobody should use, is 0."""
    signs = np.array(list(product([1.0, -1.0], repeat=d)))
    flips = np.array([1.0, -1.0, -1.0])[(T - np.arange(T + 1)) % 3] * (np.arange(T + 1) > 0)
    return np.repeat(groups, len(signs), axis=0), flips[:, None, None] * np.tile(signs, (len(groups), 1))


def assemble(function: str, fixed: Args, betas: Any, t: int, s: int, array: Callable[..., Any], B: int, d: int,
             m: float, v: float) -> Args:
    """The arguments of one example."""
    names, T = signature(function), len(betas)
    denoiser = gaussian_denoiser(betas.tobytes(), m, fixed.get("v", v))
    values: Args = {"betas": betas, "t": t, "s": s, "denoiser": denoiser, **fixed}
    if function == "variational_bound":
        values["x0"], values["noise"] = nodes(d, array(B, d), T)
    for name in names:
        if name not in values:
            values[name] = array(T + 1, B, d) if name == "noise" else array(B, d)
    return {name: values[name] for name in names}


def normal(rng: np.random.Generator) -> Callable[..., Any]:
    return lambda *shape: rng.standard_normal(shape)


@st.composite
def examples(draw: st.DrawFn, function: str, fixed: Args, schedules: st.SearchStrategy[Any]) -> Args:
    """What hypothesis searches; it shrinks towards betas = [1/2, 1/2], t = 2 and B = d = 1."""
    betas = draw(schedules)
    t = draw(times(len(betas)))
    s = draw(st.integers(0, t - 1))
    B, d = draw(st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 2), (3, 2), (3, 3)]))
    if function == "variational_bound":
        B, d = min(B, 2), min(d, 2)
    m, v = draw(st.integers(-2, 2)), draw(st.sampled_from([1.0, 0.5, 2.0, 0.0]))
    if "noise" in signature(function):      # too many numbers to draw one by one
        rng = np.random.default_rng(draw(st.integers(0, 2**32)))
        return assemble(function, fixed, betas, t, s, lambda *shape: rng.integers(-4, 5, shape) / 2, B, d, m, v)
    return assemble(function, fixed, betas, t, s, lambda *shape: draw(points(*shape)), B, d, m, v)


def fixed_examples(function: str, fixed: Args) -> Iterator[Args]:
    """The schedules in use, each at t = 1, 2, T/2, T-1 and T, B = d among the shapes."""
    if "T" in signature(function):
        yield from ({"T": T} for T in (1000, 20, 21, 50, 100, 200, 500))
        return
    rng, shapes = np.random.default_rng(0), [(3, 2), (2, 2), (1, 1), (3, 3), (2, 5)]
    kinds = [standard_betas(kind, T) for T in (20, 1000) for kind in ("linear", "cosine")]
    kinds += [np.array([0.5, 0.25]), np.full(9, 0.5), *(arbitrary_betas(T, T) for T in (3, 7, 7, 200, 1000))]
    kinds[7] = kinds[8][::-1].copy()        # of equal length: nothing may be kept from one to the other
    i = 0
    for betas in kinds:
        T = len(betas)
        some = [0] if "t" not in signature(function) else sorted({1, 2, T // 2 + 1, T - 1, T})
        for t in some:
            for s in sorted({0, t // 2, t - 1}) if "s" in signature(function) else [0]:
                B, d = (2, i % 2 + 1) if function == "variational_bound" else shapes[i % len(shapes)]
                m, v = (1.0, -0.5)[i % 2], (0.5, 2.0, 0.0)[i % 3]
                yield assemble(function, fixed, betas, t, s, normal(rng), B, d, m, v)
                i += 1


def beyond(function: str, fixed: Args) -> Iterator[tuple[str, Args]]:
    """What is reported and fails nobody."""
    if "T" in signature(function):
        yield from ((f"T = {T}", {"T": T}) for T in (1, 2, 5))
        return
    cases = {"T = 1": np.array([0.02]), "T = 5": np.linspace(1e-4, 0.02, 5), "beta = 1e-12": np.full(20, 1e-12),
             "beta = 0.999": np.full(3, 0.999)}
    rng = np.random.default_rng(1)
    for text, betas in cases.items():
        args = assemble(function, fixed, betas, len(betas), 0, normal(rng), 2, 2, 0.5, 0.5)
        if function == "q_sample" and text == "beta = 1e-12":
            text, args["x0"] = "noise's share at beta = 1e-12", np.zeros((2, 2))
        yield text, args


# ---------------------------------------------------------------- calling, comparing, printing

def call(f: Callable[..., Any], args: Args) -> Any:
    """f with copies of the arguments; warnings are its own affair."""
    copies = copy.deepcopy(list(args.values()))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return f(*copies)


def last_line(error: BaseException) -> str:
    return traceback.format_exception_only(error)[-1].strip()


class Finding(NamedTuple):
    """One example judged: the deviation, the arrays compared or None, and the worst place or what is wrong instead."""

    deviation: float
    got: Any
    exact: Any
    place: str | tuple[int, ...] = ""


ARRAYS = ("x0", "xt", "x_T", "eps", "z", "noise")


def size(args: Args, value: Any, check: Check) -> float:
    """The largest entry of an exact result; where terms cancel, a tenth of the largest of what went in."""
    given = [np.abs(args[name]).max() / 10 for name in ARRAYS if name in args and check.name != "variance"]
    return float(max([np.abs(value[np.isfinite(value)]).max(initial=0), *given])) or 1.0


def compare(check: Check, args: Args, got: Any, right: Any) -> Finding:
    """The largest deviation relative to the largest entry of the exact result."""
    if right.ndim and got.shape != right.shape:
        return Finding(math.inf, got, right, f"shape {got.shape} where {right.shape} belongs")
    if not got.size:
        return Finding(math.inf, got, right, "an empty array")
    with np.errstate(all="ignore"):
        off = np.abs(got - right)
    off = np.where(np.isfinite(got), off, math.inf)
    worst = np.unravel_index(int(off.argmax()), off.shape)
    return Finding(float(off[worst]) / size(args, right, check), got, right, tuple(map(int, worst)))


@dataclass(frozen=True)
class Check:
    """A function, what is asked of it, and the arguments (and v) that are the same in all examples."""

    step: str
    function: str
    name: str
    run: Callable[..., Result]
    fixed: Any = None
    part: int | None = None     # of a result that has several

    @property
    def blank(self) -> Result:
        return Result(self.step, self.function, self.name)


def answer(check: Check, args: Args, source: Any = reference) -> Any:
    """The exact result, or that of a slip: an array of floats, or None where there is no such thing."""
    if check.function == "linear_betas" and args["T"] != 1000:
        return None
    if check.name == "point mass" and source is reference:
        return np.full(args["x_T"].shape, args["denoiser"].m)
    with localcontext(reference.CONTEXT):
        value = getattr(source, check.function)(*(a if name == "betas" else exact(a) for name, a in args.items()))
        return reduced(check, args, np.array(value if check.part is None else value[check.part]).astype(float))


def reduced(check: Check, args: Args, value: Any) -> Any:
    """The bound's mean over the rows of each group of `nodes`; everything else as it is."""
    if check.function == "variational_bound":
        if value.shape != args["x0"].shape[:1]:
            raise Unusable(f"shape {value.shape} where {args['x0'].shape[:1]} belongs")
        return value.reshape(-1, 2 ** args["x0"].shape[1]).mean(1)
    return value


def judge(check: Check, f: Callable[..., Any], args: Args) -> Finding:
    right = answer(check, args)
    try:
        value = call(f, args)
        if check.part is not None:
            if not isinstance(value, (tuple, list)) or len(value) != 2:
                raise Unusable("no pair (mean, variance)")
            value = value[check.part]
        got = reduced(check, args, plain(value))
    except NotImplementedError:
        raise
    except Unusable as error:
        return Finding(math.inf, None, right, f"returns {error}")
    except (Exception, SystemExit) as error:  # noqa: BLE001 - strangers' code raises anything
        return Finding(math.inf, None, right, last_line(error))
    if right is not None:
        return compare(check, args, got, right)
    if got.shape != (args["T"],):
        return Finding(math.inf, got, None, f"shape {got.shape} where ({args['T']},) belongs")
    outside = got[~((got > 0) & (got < 1))]
    if outside.size:
        return Finding(math.inf, got, None, f"a beta of {show(outside[0])}, outside (0, 1)")
    return Finding(0.0, got, None)


def allowed(tolerance: float, args: Args) -> float:
    """The tolerance; in single precision as much larger as 1 - abar_t or 1 - alpha_t has lost digits, below 1/100.

    Likewise where x_0 is multiplied by 1/sqrt(abar_t) > 100. An example on which single precision knows nothing passes.
    """
    if tolerance < SINGLE or "betas" not in args:
        return tolerance
    betas, t, s = args["betas"], args.get("t"), args.get("s")
    A = np.append(1, np.cumprod(1 - betas))
    if not isinstance(t, int):      # all times
        least, last = betas.min(), A[-1]
    else:
        least, last = min(betas[t - 1], 1 - A[t - 1] if t > 1 else 1, 1 - A[s] if s else 1), A[t]
    loosened = tolerance * max(1, 0.01 / least, 0.01 / math.sqrt(last))
    return loosened if loosened < 0.1 else math.inf


def digits(deviation: float) -> float:
    return 16.0 if deviation < 1e-16 else max(0.0, round(-math.log10(deviation), 1)) if deviation < math.inf else 0.0


def show(value: Any) -> str:
    """A number as a fraction, or the root of one, where it is one; arrays as nested lists."""
    if isinstance(value, np.ndarray):
        return show(value.item()) if value.ndim == 0 else f"[{', '.join(map(show, value))}]"
    if isinstance(value, (int, np.integer)):
        return str(value)
    if isinstance(value, GaussianDenoiser):
        return value.text
    if isinstance(value, str):
        return repr(value)
    value = float(value)
    if not math.isfinite(value):
        return str(value)
    for power, form in ((1, "{}"), (2, "sqrt({})")):
        fraction = Fraction(abs(value) ** power).limit_denominator(1000)
        if math.isclose(fraction, abs(value) ** power, rel_tol=2e-15) and fraction.numerator < 10_000:
            return ("-" if value < 0 else "") + form.format(fraction)
    return f"{value:.12g}"


def show_args(args: Args, names: Sequence[str], most: int = 19) -> str:
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


# ---------------------------------------------------------------- checks of values

def check_values(check: Check, implementation: Implementation) -> Result:
    """Fixed examples, a search, the smallest failure, and the slip that explains it."""
    f, fixed, start = implementation.get(check.function), check.fixed or {}, time.monotonic()
    seen: list[tuple[Args, Finding]] = []
    skipped: list[Args] = []

    def fails(args: Args) -> bool:
        if len(seen) > len(grid) and (len(seen) > len(grid) + MOST_TRIED or time.monotonic() > start + SECONDS):
            return False
        try:
            finding = judge(check, f, args)
        except NotImplementedError:
            skipped.append(args)
            return False
        seen.append((args, finding))
        return not finding.deviation <= allowed(implementation.tolerance, args)

    grid = list(fixed_examples(check.function, fixed))
    failures = [(args, finding) for args in grid if fails(args) for finding in [seen[-1][1]]]
    if not seen:
        return replace(check.blank, verdict="skipped", note="NotImplementedError")
    worst_args, worst = max(seen, key=lambda case: case[1].deviation)
    if "betas" in signature(check.function):
        wide = schedules(20 if "noise" in signature(check.function) else 60)
        smaller = (search(examples(check.function, fixed, round_schedules()), fails, 40)
                   or search(examples(check.function, fixed, wide), fails, 20))
        if smaller is not None:
            failures.insert(0, (smaller, next(finding for args, finding in reversed(seen) if args is smaller)))
    where = show_args(worst_args, [name for name in worst_args if name in ("betas", "t", "s", "T")], 6)
    note = [f"worst at {where}"] if worst.deviation else []
    result = replace(check.blank, digits=digits(worst.deviation))
    if skipped:
        note = [f"NotImplementedError in {len(skipped)} examples, which are left out"]
    if failures:
        return replace(explained(check, implementation, result, failures, seen), note="; ".join(note[:len(skipped)]))
    for text, args in beyond(check.function, fixed):
        try:
            finding = judge(check, f, args)
            what = finding.place if isinstance(finding.place, str) else f"{digits(finding.deviation):.0f}"
            note.append(f"{text}: {what or 'in (0, 1)'}")
        except (NotImplementedError, ZeroDivisionError, DecimalException):
            pass
    return replace(result, note="; ".join(note))


def search(strategy: st.SearchStrategy[Args], fails: Callable[[Args], bool], count: int) -> Args | None:
    """The smallest failing example that hypothesis finds, by the same path each time."""
    found: list[Args] = []

    def failing(args: Args) -> bool:
        if fails(args):
            found.append(args)
            return True
        return False

    phases = [hypothesis.Phase.generate, hypothesis.Phase.shrink]
    options = hypothesis.settings(max_examples=count, derandomize=True, database=None, deadline=None, phases=phases,
                                  verbosity=hypothesis.Verbosity.quiet)
    try:
        return hypothesis.find(strategy, failing, settings=options)
    except hypothesis.errors.HypothesisException:       # none found, or time was up while it shrank
        return found[-1] if found else None


def explained(check: Check, implementation: Implementation, result: Result, failures: list[tuple[Args, Finding]],
              seen: list[tuple[Args, Finding]]) -> Result:
    args, finding = failures[0]
    relevant = [name for name in args if check.name != "variance" or name in ("betas", "t")]
    example, got, right = show_args(args, relevant), str(finding.place), None
    if isinstance(finding.place, tuple):
        place = finding.place if finding.exact.ndim else ()
        example += f", entry {list(place)}" if finding.exact.size > 1 else ""
        got, right = show(finding.got[finding.place]), show(finding.exact[place])
    cases, tolerance = [*failures, *seen], implementation.tolerance
    name = next((words for words, slip in slips(check.function) if reproduces(check, slip, tolerance, cases)), None)
    if name is None and all(f.deviation <= allowed(1e-5, a) for a, f in seen):
        name = "single precision, which TOLERANCE = 1e-4 in the file allows for"
    return replace(result, verdict="fail", example=example, got=got, exact=right, looks_like=name)


def reproduces(check: Check, slip: Any, tolerance: float, cases: list[tuple[Args, Finding]]) -> bool:
    """Whether the slip gives what was got in all cases, but for t = 1 and T, where an index may leave an array."""
    matched = False
    for args, finding in cases:
        if finding.exact is None or "noise" in args and len(args["betas"]) > 60:
            continue        # nothing to compare with, or rounding errors may have grown
        try:
            value = answer(check, args, slip)
        except (ArithmeticError, IndexError, ValueError, Unusable):
            value = None
        near, got = allowed(tolerance, args), finding.got
        if got is None or value is None:
            same = value is got
        elif same := value.shape == got.shape or value.ndim == 0:
            with np.errstate(all="ignore"):
                close = np.abs(value - got) <= near * size(args, value, check)
            same = bool((close | ~(np.isfinite(value) | np.isfinite(got))).all())
        if not same and args.get("t") not in (1, len(args.get("betas", ()))):
            return False
        matched |= same and value is not None and not finding.deviation <= 2 * near
    return matched


# ---------------------------------------------------------------- checks of conduct and of times

def check_calls(check: Check, implementation: Implementation) -> Result:
    """Inputs are left unchanged, nothing is kept between calls, float32 does: f is compared with itself."""
    f = implementation.get(check.function)

    def run(args: Args, given: Args | None = None) -> Any:
        given = given or copy.deepcopy(args)
        value = f(*given.values())
        value = list(value) if hasattr(value, "__next__") else value
        for name, before in args.items():
            if name not in ("denoiser", "rng") and not np.array_equal(vector(given[name]), vector(before)):
                raise Unusable(f"{name} is written into")
        return value

    def same(x: Any, y: Any, tolerance: float = implementation.tolerance) -> bool:
        x, y = vector(x), vector(y)
        near = allowed(tolerance, a) * np.abs(y).max(initial=0)
        return x.shape == y.shape and bool(np.all((np.abs(x - y) <= near) | ~(np.isfinite(x) | np.isfinite(y))))

    try:
        a, b = two_examples(check.function, implementation)
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            first = run(a)
            kept = vector(first).copy()
            run(b)
            if not np.array_equal(vector(first), kept, equal_nan=True):
                raise Unusable("the result of one call is changed by the next")
            if not same(run(a), kept):
                raise Unusable("the same call a second time gives another result")
            if "betas" in a:
                given = copy.deepcopy(a)
                f(*given.values())
                given["betas"][...] = b["betas"]
                if not same(run({**a, "betas": b["betas"]}, given), run({**a, "betas": b["betas"]})):
                    raise Unusable("new values in the same array betas are not noticed")
            floats = [name for name in a if name in ARRAYS and "parameters" not in a]
            single = {name: value.astype(np.float32) if name in floats else value for name, value in a.items()}
            double = {name: value.astype(np.float64) if name in floats else value for name, value in single.items()}
            if floats and not same(run(single), run(double), max(implementation.tolerance, 1e-4)):
                raise Unusable("arrays in float32 give another result than the same numbers in float64")
    except NotImplementedError:
        return replace(check.blank, verdict="skipped", note="NotImplementedError")
    except Unusable as wrong:
        return replace(check.blank, verdict="fail", example="two calls", got=str(wrong))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - strangers' code raises anything
        return replace(check.blank, verdict="fail", example="two calls, and one in float32", got=last_line(error))
    return check.blank


def two_examples(function: str, implementation: Implementation) -> tuple[Args, Args]:
    """Arguments of the same shapes, with betas in another order; of a variance or eta that the implementation has."""
    if function == "times":
        return {"T": 50, "n": 7}, {"T": 20, "n": 20}
    if function == "parameters":
        return {"rng": np.random.default_rng(0)}, {"rng": np.random.default_rng(1)}
    if "T" in signature(function):
        return {"T": 50}, {"T": 20}
    betas = arbitrary_betas(7, 7)
    if function in ("loss", "gradient"):
        a, b = (training_example(implementation, betas, [5, 1, 7], seed) for seed in (0, 1))
        return a, {**b, "betas": betas[::-1].copy()}
    rng = np.random.default_rng(2)
    for fixed in ({"variance": "beta", "eta": 0.0}, {"variance": "posterior", "eta": 1.0}):
        a, b = (assemble(function, fixed, order.copy(), 5, 2, normal(rng), 2, 2, 1.0, 0.5)
                for order in (betas, betas[::-1]))
        try:
            call(implementation.get(function), a)
            break
        except NotImplementedError:
            pass
    return a, b


def check_times(check: Check, implementation: Implementation) -> Result:
    """n whole times in 1..T that begin at T and fall, for T from 20 on."""
    f = implementation.get("times")

    def fault(T: int, n: int) -> str | None:
        try:
            found = plain(list(call(f, {"T": T, "n": n})))
        except NotImplementedError:
            raise
        except Unusable as error:
            return f"returns {error}"
        except (Exception, SystemExit) as error:  # noqa: BLE001 - strangers' code raises anything
            return last_line(error)
        if found.shape != (n,):
            return f"{len(found)} times where {n} belong: {show(found[:8])}"
        if not (np.isfinite(found) & (found == np.round(found))).all():
            return f"not whole: {show(found[:8])}"
        if found[0] != T or (found < 1).any() or (np.diff(found) >= 0).any():
            return show(found) if n < 9 else f"[{show(found[0])}, {show(found[1])}, ..., {show(found[-1])}]"
        return None

    cases = [(T, n) for T in range(20, 61) for n in range(1, T + 1)]
    some = (1, 2, 3, 7, 10, 20, 25, 50, 61, 99, 100, 250, 333, 500, 999, 1000)
    cases += [(T, n) for T in (100, 500, 999, 1000) for n in some if n <= T]
    done, left = 0, 0
    for T, n in cases:
        try:
            wrong, done = fault(T, n), done + 1
        except NotImplementedError:
            left += 1
            continue
        if wrong is not None:
            looks = next((words for words, start in TIMES.items() if wrong.startswith(start(T))), None)
            return replace(check.blank, verdict="fail", example=f"T = {T}, n = {n}", got=wrong,
                           exact=f"{n} whole times that fall from {T} and stay above 0", looks_like=looks)
    if not done:
        return replace(check.blank, verdict="skipped", note="NotImplementedError")
    note = [f"NotImplementedError in {left} cases, which are left out"] * (left > 0)
    with contextlib.suppress(NotImplementedError):
        below = [(T, n, fault(T, n)) for T in range(1, 20) for n in range(1, T + 1)]
        note += [f"T = {T}, n = {n}: {wrong}" for T, n, wrong in below if wrong][:1] or ["T from 1 to 19: the same"]
    return replace(check.blank, note="; ".join(note))


TIMES: dict[str, Callable[[int], str]] = {
    "times counted from 0: T-1 down to 0 where T down to 1 belong": lambda T: f"[{T - 1}",
    "times that rise": lambda T: "[1, ", "times that rise from 0": lambda T: "[0, "}


# ---------------------------------------------------------------- checks of loss and gradient

def training_example(implementation: Implementation, betas: Any, t: Sequence[int], seed: int) -> Args:
    """Arguments of loss and gradient; the parameters are moved a little, so that none is at an initial zero."""
    if implementation.get("parameters") is None:
        raise Unusable("nothing without parameters(rng)")
    rng = np.random.default_rng(seed)
    parameters = implementation.get("parameters")(np.random.default_rng(seed))
    numbers = vector(parameters)
    parameters = rebuild(parameters, numbers + 0.1 * rng.standard_normal(numbers.shape))
    x0, eps = rng.standard_normal((2, len(t), implementation.dim))
    return {"parameters": parameters, "betas": betas, "x0": x0, "t": np.array(t), "eps": eps}


def number(value: Any) -> Any:
    """What loss returned, as one number."""
    array = plain(value)
    if array.size != 1:
        raise Unusable(f"a loss of shape {array.shape} where one number belongs")
    return array.ravel()[0]


def guarded(run: Callable[[Check, Implementation], Result]) -> Callable[[Check, Implementation], Result]:
    """What the implementation raises is the result of the check."""
    def guard(check: Check, implementation: Implementation) -> Result:
        try:
            return run(check, implementation)
        except NotImplementedError:
            return replace(check.blank, verdict="skipped", note="NotImplementedError")
        except Unusable as wrong:
            return replace(check.blank, verdict="fail", example="a call", got=f"returns {wrong}")
        except (Exception, SystemExit) as error:  # noqa: BLE001 - strangers' code raises anything
            return replace(check.blank, verdict="fail", example="a call", got=last_line(error))
    return guard


@guarded
def check_parameters(check: Check, implementation: Implementation) -> Result:
    found = vector(implementation.get("parameters")(np.random.default_rng(0)))
    if not found.size or not np.isfinite(found).all():
        raise Unusable("no finite numbers")
    return replace(check.blank, note=f"{found.size} numbers")


@guarded
def check_rows(check: Check, implementation: Implementation) -> Result:
    """The order of the rows does not matter, also where there are as many as dimensions."""
    f = implementation.get("loss")
    for B in sorted({2, 3, implementation.dim, implementation.dim + 1} - {1}):
        batch = training_example(implementation, arbitrary_betas(7, 7), [1 + 3 * i % 7 for i in range(B)], B)
        turned = {**batch, **{name: np.roll(batch[name], 1, axis=0) for name in ("x0", "t", "eps")}}
        first, second = (complex(number(call(f, args))).real for args in (batch, turned))
        if not abs(second - first) <= 10 * max(implementation.tolerance, 1e-8) * abs(first):
            mixed = "the time of row i used for coordinate i: abar_t of shape (B,) where (B, 1) belongs"
            return replace(check.blank, verdict="fail", got=show(second), exact=f"{show(first)}, that of the other order",
                           example=f"the same {B} rows in another order, d = {implementation.dim}",
                           looks_like=mixed if B == implementation.dim else None)
    return check.blank


@guarded
def check_line(check: Check, implementation: Implementation) -> Result:
    """Step 1 within the loss, whatever the network: where x_0 and eps change so that x_t does not, eps_hat does not
    change, and |eps - eps_hat|^2 is a quadratic function, of a curvature that is 1 or the weight of step 8."""
    f, T = implementation.get("loss"), 6
    betas = np.array([0.5, 0.2, 0.1, 0.25, 0.125, 0.4])
    tolerance = max(1e-7, implementation.tolerance)
    args = [training_example(implementation, betas, [t], t) for t in range(1, T + 1)]

    def differences(source: Any) -> tuple[Any, Any]:
        """Second differences for each t, and third and fourth ones over the size of L, along the lines of `source`."""
        second, third = [], []
        with localcontext(reference.CONTEXT):
            for t, a in enumerate(args, 1):
                try:
                    of_x0, of_eps = (float(source.q_sample(betas, x, t, 1 - x)) for x in (Decimal(1), Decimal(0)))
                except IndexError:
                    continue
                L = {}
                for k in (-2, -1, 0, 1, 2):
                    delta = k * np.cos(np.arange(implementation.dim))
                    moved = {**a, "x0": a["x0"] - of_eps / of_x0 * delta, "eps": a["eps"] + delta}
                    L[k] = float(number(call(f, moved)).real)
                size = max(map(abs, L.values()))
                second.append(L[1] - 2 * L[0] + L[-1])
                fourth = L[2] - 4 * L[1] + 6 * L[0] - 4 * L[-1] + L[-2]
                third.append(max(abs(L[2] - 2 * L[1] + 2 * L[-1] - L[-2]), abs(fourth)) / size)
        return np.array(second), np.array(third)

    curvature, third = differences(reference)
    if not (third < tolerance).all():
        for words, slip in slips("q_sample"):
            with np.errstate(all="ignore"):
                other = differences(slip)[1]
            if len(other) > 2 and (other < tolerance).all():
                return replace(check.blank, verdict="fail", got="another prediction", exact="the same", looks_like=words,
                               example="x_t within the loss: x_0 and eps move so that x_t stays")
        return replace(check.blank, note="not a square of eps - eps_hat(x_t, t), or of another x_t: not judged")

    def proportional(weights: Any) -> bool:
        with np.errstate(all="ignore"):
            ratio = curvature / np.array(weights, dtype=float) if len(weights) == T else np.array([0, math.inf])
        return bool(np.ptp(ratio) <= 100 * tolerance * abs(ratio).max())

    A = np.cumprod(1 - betas)
    if proportional(np.ones(T)) or proportional(answer(replace(check, function="loss_weights"), {"betas": betas})):
        return check.blank
    name = "the residual is that of x_0 where that of eps belongs" if proportional((1 - A) / A) else None
    for words, slip in slips("loss_weights") if name is None else ():
        try:
            if proportional(answer(replace(check, function="loss_weights"), {"betas": betas}, slip)):
                name = words
                break
        except IndexError:
            pass
    if name is None:
        return replace(check.blank, note="weights in t that are neither 1 nor those of step 8: not judged")
    return replace(check.blank, verdict="fail", example=f"weight of |eps - eps_hat|^2 in t, betas = {show(betas)}",
                   got=f"{show(curvature / curvature[0])} times that of t = 1", exact="1, or the weights of step 8",
                   looks_like=name)


FACTORS: list[tuple[str, Callable[[int, int, float], float | None]]] = [
    ("a sign", lambda B, d, w: -1), ("left out (zero)", lambda B, d, w: 0),
    ("the 2 of the derivative of a square left out", lambda B, d, w: 0.5),
    ("a factor of 2 too much", lambda B, d, w: 2),
    ("the sum over the B rows where the mean belongs", lambda B, d, w: B),
    ("divided by B once too often", lambda B, d, w: 1 / B), ("not divided by d", lambda B, d, w: d),
    ("divided by d once too often", lambda B, d, w: 1 / d), ("not divided by B d", lambda B, d, w: B * d),
    ("divided by B d once too often", lambda B, d, w: 1 / (B * d)),
    ("the weight of step 8 left out of the gradient", lambda B, d, w: 1 / w if B == 1 else None),
    ("the weight of step 8 squared", lambda B, d, w: w if B == 1 else None)]


@guarded
def check_gradient(check: Check, implementation: Implementation) -> Result:
    """Every entry against derivatives of the loss; of more than 1000, and on further examples, groups of entries."""
    f, L = implementation.get("gradient"), implementation.get("loss")
    if L is None:
        raise Unusable("nothing to compare with: no loss")
    few, d = np.array([0.5, 0.25, 0.2]), implementation.dim
    cases = [(few, [2], 40), (few, [3], 40), (few, [1 + i % 3 for i in range(d)], MOST_ENTRIES),
             (standard_betas("linear", 1000), [1, 1000, 500, 2, 700], 40),
             (standard_betas("cosine", 20), [20, 1, 7], 40)]
    worst, result, reasons, tried, where = 0.0, check.blank, dict(FACTORS), set(), ""
    for seed, (betas, t, most) in enumerate(cases):
        args = training_example(implementation, betas, t, seed)
        tree = args["parameters"]
        got_tree = call(f, args)
        got = vector(got_tree)
        numbers = vector(tree)
        shapes = [[leaf.shape for _, leaf in leaves(x)] for x in (got_tree, tree)]
        if got.shape != numbers.shape or (shapes[0] != shapes[1] and len(shapes[0]) == len(shapes[1])):
            raise Unusable(f"a gradient of shape {str(shapes[0])[1:-1]} where {str(shapes[1])[1:-1]} belongs")

        def value(v: Any, args: Args = args) -> Any:
            return number(call(L, {**args, "parameters": rebuild(args["parameters"], v)}))

        right, error, directions, how = derivatives(value, numbers, most)
        got = np.array([got @ direction for direction in directions])
        scale = np.abs(right).max() or 1.0
        off = np.where(np.isfinite(got), np.abs(got - right), math.inf)
        wrong = ~(off <= max(GRADIENT_TOLERANCE, implementation.tolerance) * scale + 3 * error)
        worst = max(worst, float(np.where(wrong | (error <= 10 * np.median(error)), off, 0).max() / scale))
        if wrong.any():
            weight = answer(replace(check, function="loss_weights", part=None), {"betas": betas})[t[0] - 1]
            factors = {words: k for words, factor in reasons.items() if (k := factor(len(t), d, weight)) is not None}
            tried |= set(factors)
            for words, k in factors.items():
                if not (np.abs(got - k * right)[wrong] <= 1e-4 * scale * max(1, abs(k))).all():
                    del reasons[words]
            if result.verdict == "pass":
                i = int(np.where(wrong, off, 0).argmax())
                where = blocks(leaves(tree), wrong, directions)
                example = f"{show_args(args, ['betas'])}, t = {t}, {entry(leaves(tree), directions[i])}"
                result = replace(result, verdict="fail", got=show(got[i]), exact=f"{right[i]:.9g}", example=example)
    if result.verdict == "fail":
        name = " or ".join(words for words in reasons if words in tried) or "a wrong derivative"
        return replace(result, digits=digits(worst), looks_like=f"{name}, in {where}")
    return replace(result, digits=digits(worst), note=how)


# ---------------------------------------------------------------- all of them

def checks_of(step: str, function: str, *values: tuple[str, Args] | str) -> list[Check]:
    of_values = [Check(step, function, value, check_values) if isinstance(value, str) else
                 Check(step, function, value[0], check_values, value[1]) for value in values]
    return [*of_values, Check(step, function, "calls", check_calls)]


BOTH = [("variance beta", {"variance": "beta"}), ("variance posterior", {"variance": "posterior"})]
CHECKS: list[Check] = [
    *checks_of("schedule", "linear_betas", "betas"),
    *checks_of("schedule", "cosine_betas", "betas"),
    *checks_of("step 1", "alpha_bars", "products"),
    *checks_of("step 1", "q_sample", "x_t"),
    Check("step 5", "q_posterior", "mean", check_values, part=0),
    Check("step 5", "q_posterior", "variance", check_values, part=1),
    *checks_of("step 5", "q_posterior"),
    *checks_of("step 7", "predict_x0", "x_0"),
    *checks_of("step 7", "reverse_mean", "mean"),
    *checks_of("sampler", "reverse_step", *BOTH),
    *checks_of("sampler", "ddim_step", *[(f"eta = {show(eta)}", {"eta": eta}) for eta in (0.0, 1.0, 0.5)]),
    Check("sampler", "times", "times", check_times),
    *checks_of("sampler", "times"),
    *checks_of("sampler", "sample", *BOTH, ("point mass", {"variance": "beta", "v": 0.0})),
    *checks_of("step 8", "loss_weights", "weights"),
    *checks_of("steps 2-6", "variational_bound", "bound"),
    Check("loss", "parameters", "finite", check_parameters),
    *checks_of("loss", "parameters"),
    Check("loss", "loss", "rows", check_rows),
    Check("loss", "loss", "x_t and weights", check_line),
    *checks_of("loss", "loss"),
    Check("loss", "gradient", "entries", check_gradient),
    *checks_of("loss", "gradient"),
]
FUNCTIONS = tuple(dict.fromkeys(check.function for check in CHECKS))


class Implementation:
    """What is checked: its functions, its TOLERANCE and its DIM."""

    def __init__(self, source: Any) -> None:
        self.source = source
        self.tolerance, self.dim = getattr(source, "TOLERANCE", TOLERANCE), getattr(source, "DIM", 2)
        if not isinstance(self.tolerance, float) or not 0 < self.tolerance < 1:
            raise ValueError(f"TOLERANCE must be a number between 0 and 1, got {self.tolerance!r}")
        if isinstance(self.dim, bool) or not isinstance(self.dim, int) or self.dim < 1:
            raise ValueError(f"DIM must be an int of at least 1, got {self.dim!r}")
        if not any(map(self.get, FUNCTIONS)):
            raise ValueError(f"nothing to check: none of {', '.join(FUNCTIONS)} is defined")

    def get(self, function: str) -> Any:
        f = getattr(self.source, function, None)
        if f is not None and not callable(f):
            raise ValueError(f"{function} must be a function, got {f!r:.80}")
        return f


@contextlib.contextmanager
def storage(folder: str) -> Iterator[None]:
    """Within the block hypothesis keeps its files there, not in the working directory."""
    hypothesis.configuration.set_hypothesis_home_dir(folder)
    try:
        yield
    finally:
        hypothesis.configuration.set_hypothesis_home_dir(None)


def load(path: Path) -> Any:
    """Run a file and return it as a module; ValueError if that fails. It is run, so only load code you trust."""
    if not path.is_file():
        raise ValueError(f"cannot check {path}: there is no such file")
    name, folder, found = path.stem, str(path.resolve().parent), types.ModuleType(path.stem)
    found.__file__ = str(path)
    sys.modules.setdefault(name, found)             # dataclasses look their module up
    sys.path.insert(0, folder)
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), vars(found))  # noqa: S102
    except (Exception, SystemExit) as error:  # noqa: BLE001 - strangers' code raises anything
        raise ValueError(f"cannot check {path}: {last_line(error) or 'it exits'}") from None
    finally:
        sys.path.remove(folder)
    return found


def check(implementation: Any) -> list[Result]:
    """Run all checks.

    Parameters
    ----------
    implementation : module or any object
        With some of the functions that are checked, and TOLERANCE and DIM if it likes.

    Returns
    -------
    list of Result
        One for each check, or one for a function that is not defined.

    Raises
    ------
    ValueError
        If there is nothing to check, or TOLERANCE or DIM make no sense.
    """
    return list(results(implementation))


def results(implementation: Any) -> Iterator[Result]:
    """The same one by one, as they come."""
    subject = Implementation(implementation)
    for function in FUNCTIONS:
        of_function = [c for c in CHECKS if c.function == function]
        if subject.get(function) is None:
            yield replace(of_function[0].blank, check="all", verdict="skipped", note="not defined")
        else:
            yield from (c.run(c, subject) for c in of_function)


def parametrize_with_checks(implementation: Any) -> Any:
    """A decorator that makes each check a test case of pytest.

        @parametrize_with_checks(my_module)
        def test_ddpm(implementation, check):
            check(implementation)

    A check that fails raises AssertionError with its report; one that is skipped is skipped.
    """
    import pytest

    def case(of: Check, implementation: Any) -> None:
        subject = Implementation(implementation)
        result = replace(of.blank, verdict="skipped", note="not defined")
        if subject.get(of.function) is not None:
            result = of.run(of, subject)
        if result.verdict == "skipped":
            pytest.skip(f"{of.function}: {result.note}")
        assert result.verdict == "pass", str(result)

    names = [f"{c.function}-{c.name}".replace(" ", "-") for c in CHECKS]
    cases = [pytest.param(implementation, partial(case, c), id=name) for c, name in zip(CHECKS, names)]
    return pytest.mark.parametrize(("implementation", "check"), cases)
