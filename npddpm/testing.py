"""Check any implementation of a denoising diffusion model against the identities it rests on.

An implementation is a module, or any object, that defines some of the functions of `reference`, with these arguments,
and `times(T, n)`, `parameters(rng)`, `loss(parameters, betas, x0, t, eps)` and `gradient`, likewise. betas is (T,)
float64, beta_1 to beta_T; t and s are ints, 0 <= s < t <= T (in `loss` and `gradient` t is (B,) ints); x0, xt, x_T, eps
and z are (B, d); noise is (T+1, B, d), row t for the step from x_t; `denoiser(xt, t)` predicts the noise.

    check(implementation)                      -> a list of `Result`
    @parametrize_with_checks(implementation)   the same as test cases of pytest

How a value is judged: examples, fixed ones and ones that hypothesis searches, are given to the function and to
`reference`, which answers exactly. The deviation, relative to the largest entry of the exact result, is held against
TOLERANCE of the implementation. A failure is shrunk to a small example with round numbers. Then `slips` are made in the
text of `reference`, one at a time: one that gives the same wrong values on all examples is named.
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
from functools import cache, lru_cache, partial
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
SECONDS = 2         # and the processor's time after which it stops; the fixed examples are always tried
ARRAYS = ("x0", "xt", "x_T", "eps", "z", "noise")
FAULTS = (Exception, SystemExit)    # what a stranger's code may raise
Args = dict[str, Any]


@dataclass(frozen=True)
class Result:
    """What one check found.

    `verdict` is "pass", "fail" or "skipped"; `digits` the decimal digits that are right in the worst of the examples
    that count; `example`, `got` and `exact` describe a failure, `looks_like` the slip that explains it, or else where to
    look; `note` what is reported and fails nobody.
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
        self.fields = {"got": got, "example": example, **fields}


def said(error: BaseException) -> str:
    """What a function returned that is no answer, or the last line of what it raised."""
    return f"returns {error}" if isinstance(error, Unusable) else traceback.format_exception_only(error)[-1].strip()


class Implementation:
    """What is checked: its functions, its TOLERANCE and its DIM."""

    def __init__(self, source: Any) -> None:
        self.source = source
        self.named: list[str] = []      # slips found so far: what calls a function shares its slip
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


@dataclass(frozen=True, eq=False)
class Check:
    """A function, what is asked of it, and the arguments (and v) that are the same in all examples.

    `body` returns fields of the result, or raises `Wrong`.
    """

    step: str
    function: str
    name: str
    body: Callable[[Check, Implementation], Args]
    fixed: Any = None
    part: int | None = None     # of a result that has several

    def run(self, subject: Implementation) -> Result:
        """What the implementation raises is the result of the check."""
        result = Result(self.step, self.function, self.name)
        if subject.get(self.function) is None:
            return replace(result, verdict="skipped", note="not defined")
        try:
            return replace(result, **self.body(self, subject))
        except NotImplementedError:
            return replace(result, verdict="skipped", note="NotImplementedError")
        except Wrong as wrong:
            return replace(result, verdict="fail", **wrong.fields)
        except FAULTS as error:
            return replace(result, verdict="fail", example="a call", got=said(error))


# ---------------------------------------------------------------- examples: fixed ones, and strategies to search with

ROUND = [Fraction(1, n) for n in (2, 4, 5, 10, 50, 100, 1000)]
NUMBERS = np.array([0, *(sign * k for k in (1, 2, 3, 4, 0.5, 1.5, 2.5, 3.5, 4.5) for sign in (1, -1))], dtype=float)


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
    """Whole numbers from `least` to T; the simplest is T, so that betas can be left out while t stays the last."""
    return st.integers(0, T - least).map(lambda k: T - k)


def points(*shape: int) -> st.SearchStrategy[Any]:
    """float64 arrays of small whole numbers and halves, one byte each; the simplest are 0 and 1."""
    n = math.prod(shape)
    return st.binary(min_size=n, max_size=n).map(
        lambda b: NUMBERS[np.frombuffer(b, np.uint8) % len(NUMBERS)].reshape(shape))


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
    training = ["parameters", "betas", "x0", "t", "eps"]
    others = {"times": ["T", "n"], "parameters": ["rng"], "loss": training, "gradient": training}
    return others.get(function) or list(inspect.signature(getattr(reference, function)).parameters)


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
    T = len(betas)
    denoiser = gaussian_denoiser(betas.tobytes(), m, fixed.get("v", v))
    values: Args = {"betas": betas, "t": t, "s": s, "denoiser": denoiser, **fixed}
    if function == "variational_bound":
        values["x0"], values["noise"] = nodes(d, array(B, d), T)
    for name in signature(function):
        if name not in values:
            values[name] = array(T + 1, B, d) if name == "noise" else array(B, d)
    return {name: values[name] for name in signature(function)}


def normal(seed: int) -> Callable[..., Any]:
    rng = np.random.default_rng(seed)
    return lambda *shape: rng.standard_normal(shape)


@st.composite
def examples(draw: st.DrawFn, function: str, fixed: Args, wide: bool) -> Args:
    """What hypothesis searches; it shrinks towards betas = [1/2, 1/2], t = 2 and B = d = 1."""
    most, small = (20, 2) if "noise" in signature(function) else (60, 3)
    betas = draw(schedules(most) if wide else round_schedules())
    t = draw(times(len(betas)))
    s = draw(st.integers(0, t - 1))
    B, d = draw(st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 2), (small, 2), (small, small)]))
    m, v = draw(st.integers(-2, 2)), draw(st.sampled_from([1.0, 0.5, 2.0, 0.0]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)) if "noise" in signature(function) else 0)   # for many numbers
    array = (lambda *shape: rng.integers(-4, 5, shape) / 2) if "noise" in signature(function) else (
        lambda *shape: draw(points(*shape)))
    return assemble(function, fixed, betas, t, s, array, B, d, m, v)


def fixed_examples(function: str, fixed: Args) -> Iterator[Args]:
    """The schedules in use, each at t = 1, 2, T/2, T-1 and T, B = d among the shapes."""
    if "T" in signature(function):
        yield from ({"T": T} for T in (20, 21, 50, 100, 200, 500, 1000))
        return
    array, shapes, i = normal(0), [(3, 2), (2, 2), (1, 1), (3, 3), (2, 5)], 0
    kinds = [standard_betas(kind, T) for T in (20, 1000) for kind in ("linear", "cosine")]
    kinds += [np.array([0.5, 0.25]), np.full(9, 0.5), *(arbitrary_betas(T, T) for T in (3, 7, 7, 200, 1000))]
    kinds[7] = kinds[8][::-1].copy()        # of equal length: nothing may be kept from one to the other
    for betas in kinds:
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


# ---------------------------------------------------------------- calling, comparing, printing

def call(f: Callable[..., Any], args: Args) -> Any:
    """f with copies of the arguments; warnings are its own affair."""
    copies = copy.deepcopy(list(args.values()))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return f(*copies)


def answer(check: Check, args: Args, source: Any = reference) -> Any:
    """The exact result, or that of a slip: an array of floats, or None where there is no such thing."""
    if check.function == "linear_betas" and args["T"] != 1000:
        return None
    if check.name == "point mass" and source is reference:
        return np.full(args["x_T"].shape, args["denoiser"].m)
    with localcontext(reference.CONTEXT):
        value = getattr(source, check.function)(*(a if name == "betas" else exact(a) for name, a in args.items()))
        return reduced(check, args, np.array(value if check.part is None else value[check.part]).astype(float))


@cache
def grid(check: Check) -> list[tuple[Args, Any]]:
    """The fixed examples and their exact answers, which all implementations share."""
    return [(args, answer(check, args)) for args in fixed_examples(check.function, check.fixed)]


def reduced(check: Check, args: Args, value: Any) -> Any:
    """The bound's mean over the rows of each group of `nodes`; everything else as it is."""
    if check.function == "variational_bound":
        if value.shape != args["x0"].shape[:1]:
            raise Unusable(f"shape {value.shape} where {args['x0'].shape[:1]} belongs")
        return value.reshape(-1, 2 ** args["x0"].shape[1]).mean(1)
    return value


class Finding(NamedTuple):
    """One example judged: the deviation, the arrays compared or None, and the worst place or what is wrong instead."""

    args: Args
    deviation: float
    got: Any
    exact: Any
    place: str | tuple[int, ...] = ""


def judge(check: Check, f: Callable[..., Any], args: Args, right: Any = None) -> Finding:
    """The largest deviation relative to the largest entry of the exact result, `right` if it is known already."""
    right, got = answer(check, args) if right is None else right, None
    try:
        value = call(f, args)
        if check.part is not None:
            if not isinstance(value, (tuple, list)) or len(value) != 2:
                raise Unusable("no pair (mean, variance)")
            value = value[check.part]
        got = reduced(check, args, plain(value))
    except NotImplementedError:
        raise
    except FAULTS as error:
        return Finding(args, math.inf, None, right, said(error))
    shape = (args["T"],) if right is None else right.shape or got.shape
    if got.shape != shape or not got.size:
        return Finding(args, math.inf, got, right, f"shape {got.shape} where {shape} belongs")
    if right is None:
        outside = got[~((got > 0) & (got < 1))]
        wrong = f"a beta of {show(outside[0])}, outside (0, 1)" if outside.size else ""
        return Finding(args, math.inf if wrong else 0.0, got, None, wrong)
    with np.errstate(all="ignore"):
        off = np.where(np.isfinite(got), np.abs(got - right), math.inf)
    worst = np.unravel_index(int(off.argmax()), off.shape)
    return Finding(args, float(off[worst]) / size(check, args, right), got, right, tuple(map(int, worst)))


def size(check: Check, args: Args, value: Any) -> float:
    """The largest entry of an exact result; where terms cancel, a tenth of the largest of what went in."""
    given = [np.abs(args[name]).max() / 10 for name in ARRAYS if name in args and check.name != "variance"]
    return float(max([np.abs(value[np.isfinite(value)]).max(initial=0), *given])) or 1.0


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
    return max(0.0, round(-math.log10(max(deviation, 1e-16)), 1))


def show(value: Any) -> str:
    """A number as a fraction, or the root of one, where it is one; arrays as nested lists."""
    if isinstance(value, np.ndarray):
        return show(value.item()) if value.ndim == 0 else f"[{', '.join(map(show, value))}]"
    if isinstance(value, (str, int, np.integer, GaussianDenoiser)):
        return value.text if isinstance(value, GaussianDenoiser) else repr(value) if isinstance(value, str) else str(value)
    value = float(value)
    for power, form in ((1, "{}"), (2, "sqrt({})")) if math.isfinite(value) else ():
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

def check_values(check: Check, subject: Implementation) -> Args:
    """Fixed examples, a search, the smallest failure, and the slip that explains it."""
    f, fixed = subject.get(check.function), check.fixed
    seen: list[Finding] = []
    failures: list[Finding] = []
    left = 0        # examples that are left out

    def fails(args: Args, right: Any = None) -> bool:
        nonlocal left
        try:
            seen.append(judge(check, f, args, right))
        except NotImplementedError:
            left += 1
            return False
        wrong = not seen[-1].deviation <= allowed(subject.tolerance, args)
        failures.extend(seen[-1:] * wrong)
        return wrong

    for args, right in grid(check):
        fails(args, right)
    if not seen:
        raise NotImplementedError
    if "betas" in signature(check.function):
        smallest = (search(examples(check.function, fixed, wide=False), fails)
                    or search(examples(check.function, fixed, wide=True), fails))
        failures.sort(key=lambda finding: finding.args is not smallest)
    reached = digits(max(finding.deviation for finding in seen))
    note = [f"NotImplementedError in {left} examples, which are left out"] * (left > 0)
    if failures:
        raise Wrong(**shown(check, failures[0]), digits=reached, note="; ".join(note),
                    looks_like=name_of_slip(check, subject, failures, seen))
    worst = max(seen, key=lambda finding: finding.deviation)
    if worst.deviation and not left:
        where = [name for name in worst.args if name in ("betas", "t", "s", "T")]
        note.append(f"worst at {show_args(worst.args, where, 6)}")
    for text, args in beyond(check.function, fixed):
        with contextlib.suppress(NotImplementedError, ZeroDivisionError, DecimalException):
            finding = judge(check, f, args)
            what = finding.place if isinstance(finding.place, str) else f"{digits(finding.deviation):.0f}"
            note.append(f"{text}: {what or 'in (0, 1)'}")
    return {"digits": reached, "note": "; ".join(note)}


def search(strategy: st.SearchStrategy[Args], fails: Callable[[Args], bool]) -> Args | None:
    """The smallest failing example that hypothesis finds, by the same path each time."""
    found: list[Args] = []
    tried, start = 0, time.process_time()

    def failing(args: Args) -> bool:
        nonlocal tried
        tried += 1
        if tried > MOST_TRIED or time.process_time() > start + SECONDS or not fails(args):
            return False
        found.append(args)
        return True

    phases = [hypothesis.Phase.generate, hypothesis.Phase.shrink]
    options = hypothesis.settings(max_examples=25, derandomize=True, database=None, deadline=None, phases=phases,
                                  verbosity=hypothesis.Verbosity.quiet)
    try:
        return hypothesis.find(strategy, failing, settings=options)
    except hypothesis.errors.HypothesisException:       # none found, or time was up while it shrank
        return found[-1] if found else None


def shown(check: Check, finding: Finding) -> Args:
    """An example, what was got and what is exact."""
    args, place = finding.args, finding.place
    example = show_args(args, [name for name in args if check.name != "variance" or name in ("betas", "t")])
    if isinstance(place, str):
        return {"example": example, "got": place}
    right = finding.exact[place] if finding.exact.ndim else finding.exact
    example += f", entry {list(place)}" if finding.exact.size > 1 else ""
    return {"example": example, "got": show(finding.got[place]), "exact": show(right)}


def name_of_slip(check: Check, subject: Implementation, failures: list[Finding], seen: list[Finding]) -> str | None:
    """The slip that explains all examples, one that was named before first; else where to look, if that can be told."""
    for words, slip in sorted(slips(check.function), key=lambda slip: not slip[0].startswith(tuple(subject.named))):
        if reproduces(check, slip, subject.tolerance, [*failures, *seen]):
            subject.named.append(words)
            return words
    if all(finding.deviation <= allowed(1e-5, finding.args) for finding in seen):
        return "single precision, which TOLERANCE = 1e-4 in the file allows for"

    def mended(finding: Finding, name: str) -> bool:
        args = {**finding.args, name: np.zeros_like(finding.args[name])}
        return judge(check, subject.get(check.function), args).deviation <= allowed(subject.tolerance, args)

    arrays = [name for name in ARRAYS if name in failures[0].args and check.function != "variational_bound"]
    parts = [f"the weight of {name} alone is wrong" for name in arrays if all(mended(x, name) for x in failures[:9])]
    ends: dict[str, Callable[[Args], bool]] = {
        "t = 1": lambda a: a["t"] == 1, "t = T": lambda a: a["t"] == len(a["betas"]),
        "s = 0": lambda a: a.get("s") == 0}
    right = [x for x in seen if x.deviation <= allowed(subject.tolerance, x.args)]
    for text, at_end in ends.items() if "t" in failures[0].args else ():
        if all(at_end(x.args) for x in failures) and not all(at_end(x.args) for x in right):
            parts.append(f"at {text} alone")
    return ", ".join(parts) or None


def reproduces(check: Check, slip: Any, tolerance: float, findings: list[Finding]) -> bool:
    """Whether the slip gives what was got in all examples, but for t = 1 and T, where an index may leave an array."""
    matched = inner = strayed = False
    for args, deviation, got, right, _ in findings:
        if right is None or "noise" in args and len(args["betas"]) > 60:
            continue        # nothing to compare with, or rounding errors may have grown
        try:
            value = answer(check, args, slip)
        except Exception:  # noqa: BLE001 - a slip may leave an array, or take the root of an int
            value = None
        near = allowed(tolerance, args)
        if got is None or value is None:
            same = value is got
        elif same := value.shape == got.shape or value.ndim == 0:
            with np.errstate(all="ignore"):
                close = np.abs(value - got) <= near * size(check, args, value)
            same = bool((close | ~(np.isfinite(value) | np.isfinite(got))).all())
        at_end = args.get("t") in (1, len(args.get("betas", ())))
        if not same and not at_end:
            return False
        strayed |= not same
        if same and value is not None and np.isfinite(value).any() and not deviation <= 2 * near:
            matched, inner = True, inner or not at_end
    return inner if strayed else matched


# ---------------------------------------------------------------- checks of conduct and of times

def check_calls(check: Check, subject: Implementation) -> Args:
    """Inputs are left unchanged, nothing is kept between calls, float32 does: f is compared with itself."""
    f = subject.get(check.function)
    a, b = two_examples(check.function, subject)

    def run(args: Args, given: Args | None = None) -> Any:
        given = given or copy.deepcopy(args)
        value = f(*given.values())
        value = list(value) if hasattr(value, "__next__") else value
        for name, before in args.items():
            if name not in ("denoiser", "rng") and not np.array_equal(vector(given[name]), vector(before)):
                raise Wrong(f"{name} is written into", "two calls")
        return value

    def same(x: Any, y: Any, tolerance: float = subject.tolerance) -> bool:
        x, y = vector(x), vector(y)
        near = allowed(tolerance, a) * np.abs(y).max(initial=0)
        return x.shape == y.shape and bool(np.all((np.abs(x - y) <= near) | ~(np.isfinite(x) | np.isfinite(y))))

    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = run(a)
        kept = vector(first).copy()
        run(b)
        if not np.array_equal(vector(first), kept, equal_nan=True):
            raise Wrong("the result of one call is changed by the next", "two calls")
        if not same(run(a), kept):
            raise Wrong("the same call a second time gives another result", "two calls")
        if "betas" in a:
            given = copy.deepcopy(a)
            f(*given.values())
            given["betas"][...] = b["betas"]
            if not same(run({**a, "betas": b["betas"]}, given), run({**a, "betas": b["betas"]})):
                raise Wrong("new values in the same array betas are not noticed", "two calls")
        floats = [name for name in a if name in ARRAYS and "parameters" not in a]
        single, double = ({**a, **{name: a[name].astype(np.float32).astype(kind) for name in floats}}
                          for kind in (np.float32, np.float64))
        if not same(run(single), run(double), max(subject.tolerance, 1e-4)):
            raise Wrong("arrays in float32 give another result than the same numbers in float64", "two calls")
    return {}


def two_examples(function: str, subject: Implementation) -> tuple[Args, Args]:
    """Arguments of the same shapes, with betas in another order; of a variance or eta that the implementation has."""
    if function == "parameters":
        return {"rng": np.random.default_rng(0)}, {"rng": np.random.default_rng(1)}
    if "T" in signature(function):
        names = signature(function)
        return dict(zip(names, (50, 7))), dict(zip(names, (20, 20)))
    betas = arbitrary_betas(7, 7)
    if function in ("loss", "gradient"):
        a, b = (training_example(subject, betas, [5, 1, 7], seed) for seed in (0, 1))
        return a, {**b, "betas": betas[::-1].copy()}
    array = normal(2)
    for fixed in ({"variance": "beta", "eta": 0.0}, {"variance": "posterior", "eta": 1.0}):
        a, b = (assemble(function, fixed, order.copy(), 5, 2, array, 2, 2, 1.0, 0.5) for order in (betas, betas[::-1]))
        with contextlib.suppress(NotImplementedError):
            call(subject.get(function), a)
            break
    return a, b


def check_times(check: Check, subject: Implementation) -> Args:
    """n whole times in 1..T that begin at T and fall, for T from 20 on."""
    def fault(T: int, n: int) -> str | None:
        try:
            found = plain(list(call(subject.get("times"), {"T": T, "n": n})))
        except NotImplementedError:
            left.append((T, n))
            return None
        except FAULTS as error:
            return said(error)
        if found.shape != (n,):
            return f"{len(found)} times where {n} belong: {show(found[:8])}"
        if not (np.isfinite(found) & (found == np.round(found))).all():
            return f"not whole: {show(found[:8])}"
        if found[0] != T or (found < 1).any() or (np.diff(found) >= 0).any():
            return show(found) if n < 9 else f"[{show(found[0])}, {show(found[1])}, ..., {show(found[-1])}]"
        return None

    left: list[tuple[int, int]] = []
    some = (1, 2, 3, 7, 10, 20, 25, 50, 61, 99, 100, 250, 333, 500, 999, 1000)
    cases = [(T, n) for T in (*range(20, 31), 37, 48, 60) for n in range(1, T + 1)]
    cases += [(T, n) for T in (100, 500, 999, 1000) for n in some if n <= T]
    for T, n in cases:
        if wrong := fault(T, n):
            starts = {f"[{T - 1}": "times counted from 0: T-1 down to 0 where T down to 1 belong",
                      "[1, ": "times that rise", "[0, ": "times that rise from 0"}
            raise Wrong(wrong, f"T = {T}, n = {n}", exact=f"{n} whole times that fall from {T} and stay above 0",
                        looks_like=next((words for start, words in starts.items() if wrong.startswith(start)), None))
    if len(left) == len(cases):
        raise NotImplementedError
    note = [f"NotImplementedError in {len(left)} cases, which are left out"] * (len(left) > 0)
    below = (f"T = {T}, n = {n}: {wrong}" for T in range(1, 20) for n in range(1, T + 1) if (wrong := fault(T, n)))
    return {"note": "; ".join([*note, next(below, "T from 1 to 19: the same")])}


# ---------------------------------------------------------------- checks of loss and gradient

def training_example(subject: Implementation, betas: Any, t: Sequence[int], seed: int) -> Args:
    """Arguments of loss and gradient; the parameters are moved a little, so that none is at an initial zero."""
    if subject.get("parameters") is None:
        raise Wrong("nothing to go on: no parameters(rng)")
    rng = np.random.default_rng(seed)
    parameters = subject.get("parameters")(np.random.default_rng(seed))
    numbers = vector(parameters)
    parameters = rebuild(parameters, numbers + 0.1 * rng.standard_normal(numbers.shape))
    x0, eps = rng.standard_normal((2, len(t), subject.dim))
    return {"parameters": parameters, "betas": betas, "x0": x0, "t": np.array(t), "eps": eps}


def loss_of(subject: Implementation, args: Args) -> Any:
    """What loss returns, as one number."""
    array = plain(call(subject.get("loss"), args))
    if array.size != 1:
        raise Unusable(f"a loss of shape {array.shape} where one number belongs")
    return array.ravel()[0]


def check_parameters(check: Check, subject: Implementation) -> Args:
    found = vector(subject.get("parameters")(np.random.default_rng(0)))
    if not found.size or not np.isfinite(found).all():
        raise Unusable("no finite numbers")
    return {"note": f"{found.size} numbers"}


def check_rows(check: Check, subject: Implementation) -> Args:
    """The order of the rows does not matter, also where there are as many as dimensions."""
    for B in sorted({2, 3, subject.dim, subject.dim + 1} - {1}):
        batch = training_example(subject, arbitrary_betas(7, 7), [1 + 3 * i % 7 for i in range(B)], B)
        turned = {**batch, **{name: np.roll(batch[name], 1, axis=0) for name in ("x0", "t", "eps")}}
        first, second = (complex(loss_of(subject, args)).real for args in (batch, turned))
        if not abs(second - first) <= 10 * max(subject.tolerance, 1e-8) * abs(first):
            mixed = "the time of row i used for coordinate i: abar_t of shape (B,) where (B, 1) belongs"
            raise Wrong(show(second), f"the same {B} rows in another order, d = {subject.dim}",
                        exact=f"{show(first)}, that of the other order", looks_like=mixed if B == subject.dim else None)
    return {}


def check_line(check: Check, subject: Implementation) -> Args:
    """Step 1 within the loss, whatever the network: where x_0 and eps change so that x_t does not, eps_hat does not
    change, and |eps - eps_hat|^2 is a quadratic function, of a curvature that is 1 or the weight of step 8."""
    betas = np.array([0.5, 0.2, 0.1, 0.25, 0.125, 0.4])
    A, tolerance, T = np.cumprod(1 - betas), max(1e-7, subject.tolerance), len(betas)
    batches = [training_example(subject, betas, [t], t) for t in range(1, T + 1)]
    delta = np.cos(np.arange(subject.dim))

    def along(source: Any) -> tuple[Any, bool]:
        """The second differences of L for each t, and whether there are no higher ones, where x_t is that of `source`."""
        L = np.zeros((T, 5))
        with localcontext(reference.CONTEXT), np.errstate(all="ignore"):
            for t, batch in enumerate(batches, 1):
                of_x0, of_eps = (float(source.q_sample(betas, x, t, 1 - x)) for x in (Decimal(1), Decimal(0)))
                for k in range(5):
                    moved = {"x0": batch["x0"] - of_eps / of_x0 * (k - 2) * delta, "eps": batch["eps"] + (k - 2) * delta}
                    L[t - 1, k] = loss_of(subject, {**batch, **moved}).real
            curvature, *higher = np.array([[0, 1, -2, 1, 0], [-1, 2, 0, -2, 1], [1, -4, 6, -4, 1]]) @ L.T
        return curvature, bool((np.abs(higher).max(0) < tolerance * np.abs(L).max(1)).all())

    curvature, square = along(reference)
    if not square:
        for words, slip in slips("q_sample"):
            with contextlib.suppress(IndexError, ArithmeticError, AttributeError, TypeError):
                if along(slip)[1]:
                    raise Wrong("another prediction", "x_t within the loss: x_0 and eps move so that x_t stays",
                                exact="the same", looks_like=words)
        return {"note": "not a square of eps - eps_hat(x_t, t), or of another x_t: not judged"}

    def proportional(source: Any) -> bool:
        with contextlib.suppress(IndexError, ArithmeticError, AttributeError, TypeError), np.errstate(all="ignore"):
            weights = answer(replace(check, function="loss_weights"), {"betas": betas}, source) if source else np.ones(T)
            ratio = curvature / weights if weights.shape == (T,) else np.array([0, math.inf])
            return bool(np.ptp(ratio) < 100 * tolerance * abs(ratio).max())     # false where all are 0, or some infinite
        return False

    if proportional(None) or proportional(reference):
        return {}
    of_x0 = types.SimpleNamespace(loss_weights=lambda betas: (1 - A) / A)
    others = [("the residual is that of x_0 where that of eps belongs", of_x0)]
    for words, source in (*others, *slips("loss_weights")):
        if proportional(source):
            raise Wrong(f"{show(curvature / curvature[0])} times that of t = 1",
                        f"weight of |eps - eps_hat|^2 in t, betas = {show(betas)}",
                        exact="1, or the weights of step 8", looks_like=words)
    return {"note": "weights in t that are neither 1 nor those of step 8: not judged"}


FACTORS: dict[str, Callable[[int, int, float], float | None]] = {
    "a sign": lambda B, d, w: -1, "left out (zero)": lambda B, d, w: 0,
    "the 2 of the derivative of a square left out": lambda B, d, w: 0.5, "a factor of 2 too much": lambda B, d, w: 2,
    "the sum over the B rows where the mean belongs": lambda B, d, w: B,
    "divided by B once too often": lambda B, d, w: 1 / B, "not divided by d": lambda B, d, w: d,
    "divided by d once too often": lambda B, d, w: 1 / d, "not divided by B d": lambda B, d, w: B * d,
    "divided by B d once too often": lambda B, d, w: 1 / (B * d),
    "the weight of step 8 left out of the gradient": lambda B, d, w: 1 / w if B == 1 else None,
    "the weight of step 8 squared": lambda B, d, w: w if B == 1 else None}


def check_gradient(check: Check, subject: Implementation) -> Args:
    """Every entry against derivatives of the loss; of more than 1000, and on further examples, groups of entries."""
    if subject.get("loss") is None:
        raise Wrong("nothing to compare with: no loss")
    few, d = np.array([0.5, 0.25, 0.2]), subject.dim
    cases = [(few, [2], 40), (few, [3], 40), (few, [1 + i % 3 for i in range(d)], MOST_ENTRIES),
             (standard_betas("linear", 1000), [1, 1000, 500, 2, 700], 40), (standard_betas("cosine", 20), [20, 1, 7], 40)]
    worst, fits, where = 0.0, dict.fromkeys(FACTORS, 0), ""
    failure: Args = {}
    for seed, (betas, t, most) in enumerate(cases):
        args = training_example(subject, betas, t, seed)
        tree, found = leaves(args["parameters"]), call(subject.get("gradient"), args)
        got, numbers, shapes = vector(found), vector(args["parameters"]), [leaf.shape for _, leaf in tree]
        found = [leaf.shape for _, leaf in leaves(found)]
        if got.shape != numbers.shape or found != shapes and len(found) == len(shapes):
            raise Unusable(f"a gradient of shape {str(found)[1:-1]} where {str(shapes)[1:-1]} belongs")

        def value(v: Any, args: Args = args) -> Any:
            return loss_of(subject, {**args, "parameters": rebuild(args["parameters"], v)})

        right, error, directions, how = derivatives(value, numbers, most)
        got = directions @ got
        scale = np.abs(right).max() or 1.0
        off = np.where(np.isfinite(got), np.abs(got - right), math.inf)
        wrong = ~(off <= max(GRADIENT_TOLERANCE, subject.tolerance) * scale + 3 * error)
        worst = max(worst, float(np.where(wrong | (error <= 10 * np.median(error)), off, 0).max() / scale))
        if not wrong.any():
            continue
        weight = answer(replace(check, function="loss_weights"), {"betas": betas})[t[0] - 1]
        for words, factor in FACTORS.items():
            if (k := factor(len(t), d, weight)) is not None:
                fit = (np.abs(got - k * right)[wrong] <= 1e-4 * scale * max(1, abs(k))).all()
                fits[words] = fits[words] + 1 if fit else -99
        if not failure:
            i, where = int(np.where(wrong, off, 0).argmax()), blocks(tree, wrong, directions)
            failure = {"got": show(got[i]), "exact": f"{right[i]:.9g}",
                       "example": f"{show_args(args, ['betas'])}, t = {t}, {entry(tree, directions[i])}"}
    if failure:
        name = " or ".join(words for words, count in fits.items() if count > 0) or "a wrong derivative"
        raise Wrong(**failure, digits=digits(worst), looks_like=f"{name}, in {where}")
    return {"digits": digits(worst), "note": how}


# ---------------------------------------------------------------- all of them

VARIANCES: Args = {f"variance {kind}": {"variance": kind} for kind in ("beta", "posterior")}
ETAS: Args = {f"eta = {show(eta)}": {"eta": eta} for eta in (0.0, 1.0, 0.5)}
TABLE: list[tuple[str, str, Args]] = [      # step, function, its checks: of values, with what their examples share, or others
    ("schedule", "linear_betas", {"betas": {}}),
    ("schedule", "cosine_betas", {"betas": {}}),
    ("step 1", "alpha_bars", {"products": {}}),
    ("step 1", "q_sample", {"x_t": {}}),
    ("step 5", "q_posterior", {"mean": {}, "variance": {}}),
    ("step 7", "predict_x0", {"x_0": {}}),
    ("step 7", "reverse_mean", {"mean": {}}),
    ("sampler", "reverse_step", VARIANCES),
    ("sampler", "ddim_step", ETAS),
    ("sampler", "times", {"times": check_times}),
    ("sampler", "sample", {**VARIANCES, "point mass": {"variance": "beta", "v": 0.0}}),
    ("step 8", "loss_weights", {"weights": {}}),
    ("steps 2-6", "variational_bound", {"bound": {}}),
    ("loss", "parameters", {"finite": check_parameters}),
    ("loss", "loss", {"rows": check_rows, "x_t and weights": check_line}),
    ("loss", "gradient", {"entries": check_gradient})]
FUNCTIONS = tuple(function for _, function, _ in TABLE)
CHECKS = [Check(step, function, name, check_values, what, i if function == "q_posterior" else None)
          if isinstance(what, dict) else Check(step, function, name, what)
          for step, function, kinds in TABLE for i, (name, what) in enumerate({**kinds, "calls": check_calls}.items())]


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
    except FAULTS as error:
        raise ValueError(f"cannot check {path}: {said(error) or 'it exits'}") from None
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
            yield replace(of_function[0].run(subject), check="all")
        else:
            yield from (c.run(subject) for c in of_function)


def parametrize_with_checks(implementation: Any) -> Any:
    """A decorator that makes each check a test case of pytest.

        @parametrize_with_checks(my_module)
        def test_ddpm(implementation, check):
            check(implementation)

    A check that fails raises AssertionError with its report; one that is skipped is skipped.
    """
    import pytest

    def case(of: Check, implementation: Any) -> None:
        result = of.run(Implementation(implementation))
        if result.verdict == "skipped":
            pytest.skip(f"{of.function}: {result.note}")
        assert result.verdict == "pass", str(result)

    names = [f"{c.function}-{c.name}".replace(" ", "-") for c in CHECKS]
    cases = [pytest.param(implementation, partial(case, c), id=name) for c, name in zip(CHECKS, names)]
    return pytest.mark.parametrize(("implementation", "check"), cases)
