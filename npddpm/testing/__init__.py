"""Check any implementation of a denoising diffusion model against the identities it rests on.

An implementation is a module, or any object, that defines some of the functions of `reference`, with these arguments,
and `times(T, n)`, `parameters(rng)`, `loss(parameters, betas, x0, t, eps)` and `gradient`, likewise. betas is (T,)
float64, beta_1 to beta_T; t and s are ints, 0 <= s < t <= T (in `loss` and `gradient` t is (B,) ints); x0, xt, x_T, eps
and z are (B, d); noise is (T+1, B, d), row t for the step from x_t; `denoiser(xt, t)` predicts the noise.

    check(implementation)                      -> a list of `Result`
    @parametrize_with_checks(implementation)   the same as test cases of pytest

How a value is judged: `examples`, fixed ones and ones that hypothesis searches, are given to the function and to
`reference`, which answers exactly. The deviation, relative to the largest entry of the exact result, is held against
TOLERANCE of the implementation. A failure is shrunk to a small example with round numbers. Then `slips` are made in the
text of `reference`, one at a time: one that gives the same wrong values on all examples is named. What is asked of a
network is in `losses`.
"""

from __future__ import annotations

import contextlib
import copy
import math
import sys
import time
import traceback
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

try:
    import hypothesis
except ImportError:
    raise ImportError("npddpm.testing needs hypothesis: pip install 'npddpm[test]'") from None

from ..arrays.checks import check_count, check_real
from .gradients import check_gradient, check_line, check_parameters, check_rows, training_example
from .inputs import (
    Args,
    Wrong,
    answer,
    arbitrary_betas,
    assemble,
    beyond,
    call,
    digits,
    examples,
    fixed_examples,
    normal,
    plain,
    points,
    reduced,
    schedules,
    show,
    show_args,
    signature,
    times,
    vector,
)
from .slips import slips_of

__all__ = ["Result", "check", "parametrize_with_checks", "points", "schedules", "times"]
TOLERANCE = 1e-8
SINGLE = 1e-6       # a TOLERANCE from here on says that the implementation works in single precision
MOST_TRIED = 150    # examples that a search may judge while it shrinks a failure,
SECONDS = 2         # and the processor's time after which it stops; the fixed examples are always tried
FAULTS = Exception  # what a stranger's code may raise, once it is `guarded`
ARRAYS = ("x0", "xt", "x_T", "eps", "z", "noise")


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


def said(error: BaseException) -> str:
    """The last line of what a function raised, or what is wrong with what it returned."""
    return str(error) if isinstance(error, Wrong) else traceback.format_exception_only(error)[-1].strip()


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
        self.source = source
        self.named: list[str] = []      # slips found so far: what calls a function shares its slip
        self.tolerance = check_real("TOLERANCE", getattr(source, "TOLERANCE", TOLERANCE), 0, 1)
        self.dim = check_count("DIM", getattr(source, "DIM", 2))
        if not any(map(self.get, FUNCTIONS)):
            raise ValueError(f"nothing to check: none of {', '.join(FUNCTIONS)} is defined")

    def get(self, function: str) -> Any:
        f = getattr(self.source, function, None)
        if f is not None and not callable(f):
            raise ValueError(f"{function} must be a function, got {f!r:.80}")
        return f and guarded(f)


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
            return replace(result, **guarded(self.body)(self, subject))
        except NotImplementedError:
            return replace(result, verdict="skipped", note="NotImplementedError")
        except Wrong as wrong:
            return replace(result, verdict="fail", **wrong.fields)
        except FAULTS as error:
            return replace(result, verdict="fail", example="a call", got=said(error))


# ---------------------------------------------------------------- one example judged

class Finding(NamedTuple):
    """The deviation of one example and the one allowed, the arrays compared, and where, or what, is wrong."""

    args: Args
    deviation: float
    near: float
    got: Any        # None if there is no array
    exact: Any
    place: str | tuple[int, ...] = ""

    @property
    def wrong(self) -> bool:
        return not self.deviation <= self.near


def expected(check: Check, args: Args) -> Any:
    """The exact result; None for a linear schedule of other than 1000 steps, which is a convention."""
    if check.function == "linear_betas" and args["T"] != 1000:
        return None
    if check.name == "point mass":
        return np.full(args["x_T"].shape, args["denoiser"].m)
    return answer(check.function, args, part=check.part)


def judge(check: Check, subject: Implementation, args: Args) -> Finding:
    """The largest deviation relative to the largest entry of the exact result."""
    right, near, got = expected(check, args), allowed(subject.tolerance, args), None
    try:
        value = call(subject.get(check.function), args)
        if check.part is not None:
            if not isinstance(value, (tuple, list)) or len(value) != 2:
                raise Wrong("returns no pair (mean, variance)")
            value = value[check.part]
        got = reduced(check.function, args, plain(value))
        if got.dtype.kind == "c":
            raise Wrong("returns complex numbers where real ones belong")
    except NotImplementedError:
        raise
    except FAULTS as error:
        return Finding(args, math.inf, near, None, right, said(error))
    shape = (args["T"],) if right is None else right.shape or got.shape
    if got.shape != shape or not got.size:
        return Finding(args, math.inf, near, got, right, f"shape {got.shape} where {shape} belongs")
    if right is None:
        outside = got[~((got > 0) & (got < 1))]
        wrong = f"a beta of {show(outside[0])}, outside (0, 1)" if outside.size else ""
        return Finding(args, math.inf if wrong else 0.0, near, got, None, wrong)
    with np.errstate(all="ignore"):
        off = np.where(np.isfinite(got), np.abs(got - right), math.inf)
    worst = np.unravel_index(int(off.argmax()), off.shape)
    return Finding(args, float(off[worst]) / size(check, args, right), near, got, right, tuple(map(int, worst)))


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


# ---------------------------------------------------------------- checks of values

def check_values(check: Check, subject: Implementation) -> Args:
    """Fixed examples, a search, the smallest failure, and the slip that explains it."""
    seen: list[Finding] = []
    left: list[Args] = []

    def fails(args: Args) -> bool:
        try:
            seen.append(judge(check, subject, args))
        except NotImplementedError:
            left.append(args)
            return False
        return seen[-1].wrong

    for args in fixed_examples(check.function, check.fixed):
        fails(args)
    if not seen:
        raise NotImplementedError
    smallest = None
    for wide in (False, True) if "betas" in signature(check.function) else ():
        smallest = smallest or search(examples(check.function, check.fixed, wide), fails)
    worst = max(seen, key=lambda finding: finding.deviation)
    failures = sorted((x for x in seen if x.wrong), key=lambda finding: finding.args is not smallest)
    note = [f"NotImplementedError in {len(left)} examples, which are left out"] * bool(left)
    if failures:
        raise Wrong(**shown(check, failures[0]), digits=digits(worst.deviation), note="; ".join(note),
                    looks_like=name_of_slip(check, subject, failures, seen))
    if worst.deviation and not left:
        where = [name for name in worst.args if name in ("betas", "t", "s", "T")]
        note.append(f"worst at {show_args(worst.args, where, 6)}")
    for text, args in beyond(check.function, check.fixed):
        with contextlib.suppress(NotImplementedError):
            finding = judge(check, subject, args)
            what = finding.place if isinstance(finding.place, str) else f"{digits(finding.deviation):.0f}"
            note.append(f"{text}: {what or 'in (0, 1)'}")
    return {"digits": digits(worst.deviation), "note": "; ".join(note)}


def search(strategy: Any, fails: Callable[[Args], bool]) -> Args | None:
    """The smallest failing example that hypothesis finds, by the same path each time."""
    failed: list[Args] = []
    tried, start = 0, time.process_time()

    def failing(args: Args) -> bool:
        nonlocal tried
        tried += 1
        wrong = tried <= MOST_TRIED and time.process_time() <= start + SECONDS and fails(args)
        failed.extend([args] * wrong)
        return wrong

    phases = [hypothesis.Phase.generate, hypothesis.Phase.shrink]
    options = hypothesis.settings(max_examples=25, derandomize=True, database=None, deadline=None, phases=phases,
                                  verbosity=hypothesis.Verbosity.quiet)
    with contextlib.suppress(hypothesis.errors.HypothesisException):        # none found, or time was up while it shrank
        hypothesis.find(strategy, failing, settings=options)
    return failed[-1] if failed else None


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
    for words, slip in sorted(slips_of(check.function), key=lambda slip: not slip[0].startswith(tuple(subject.named))):
        if reproduces(check, slip, [*failures, *seen]):
            subject.named.append(words)
            return words
    if all(x.deviation <= allowed(1e-5, x.args) for x in seen):
        return "single precision, which TOLERANCE = 1e-4 in the file allows for"
    parts = []
    for name in ARRAYS if check.function != "variational_bound" else ():
        if name in failures[0].args:
            without = ({**x.args, name: np.zeros_like(x.args[name])} for x in failures[:9])
            if not any(judge(check, subject, args).wrong for args in without):
                parts.append(f"the weight of {name} alone is wrong")
    for end in ("t = 1", "t = T", "s = 0"):
        if all(end in ends(x.args) for x in failures) and not all(end in ends(x.args) for x in seen if not x.wrong):
            parts.append(f"at {end} alone")
    return ", ".join(parts) or None


def ends(args: Args) -> list[str]:
    """Which of its times are the first or the last."""
    known = (("t", "1", 1), ("t", "T", len(args.get("betas", ()))), ("s", "0", 0))
    return [f"{name} = {text}" for name, text, value in known if args.get(name) == value]


def reproduces(check: Check, slip: Any, findings: list[Finding]) -> bool:
    """Whether the slip gives what was got in all examples, but for t = 1 and T, where an index may leave an array."""
    matched = inner = strayed = False
    for args, deviation, near, got, right, _ in findings:
        if right is None or "noise" in args and len(args["betas"]) > 60:
            continue        # nothing to compare with, or rounding errors may have grown
        value = answer(check.function, args, slip, check.part)
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

    def run(given: Args) -> Any:
        before = copy.deepcopy(given)
        value = f(*given.values())
        value = list(value) if hasattr(value, "__next__") else value
        for name in given:
            if name not in ("denoiser", "rng") and not np.array_equal(vector(given[name]), vector(before[name])):
                raise Wrong(f"{name} is written into", "two calls")
        return value

    def agree(x: Any, y: Any, words: str, tolerance: float = subject.tolerance) -> None:
        x, y = vector(x), vector(y)
        near = allowed(tolerance, a) * np.abs(y).max(initial=0)
        if x.shape != y.shape or not np.all((np.abs(x - y) <= near) | ~(np.isfinite(x) | np.isfinite(y))):
            raise Wrong(words, "two calls")

    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = run(copy.deepcopy(a))
        kept = vector(first).copy()
        run(copy.deepcopy(b))
        if not np.array_equal(vector(first), kept, equal_nan=True):
            raise Wrong("the result of one call is changed by the next", "two calls")
        agree(run(copy.deepcopy(a)), kept, "the same call a second time gives another result")
        if "betas" in a:
            given = copy.deepcopy(a)
            run(given)
            given["betas"][...] = b["betas"]
            agree(run(given), run(copy.deepcopy(given)), "new values in the same array betas are not noticed")
        floats = [name for name in a if name in ARRAYS and "parameters" not in a]
        single, double = ({**copy.deepcopy(a), **{name: a[name].astype(np.float32).astype(kind) for name in floats}}
                          for kind in (np.float32, np.float64))
        agree(run(single), run(double), "arrays in float32 give another result than the same numbers in float64",
              max(subject.tolerance, 1e-4))
    return {}


def two_examples(function: str, subject: Implementation) -> tuple[Args, Args]:
    """Arguments of the same shapes, with betas in another order; of a variance or eta that the implementation has."""
    if function == "parameters":
        return {"rng": np.random.default_rng(0)}, {"rng": np.random.default_rng(1)}
    if "T" in signature(function):
        return dict(zip(signature(function), (50, 7))), dict(zip(signature(function), (20, 20)))
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
    left: list[tuple[int, int]] = []

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
    note = [f"NotImplementedError in {len(left)} cases, which are left out"] * bool(left)
    below = (f"T = {T}, n = {n}: {wrong}" for T in range(1, 20) for n in range(1, T + 1) if (wrong := fault(T, n)))
    return {"note": "; ".join([*note, next(below, "T from 1 to 19: the same")])}


# ---------------------------------------------------------------- all of them

VARIANCES: Args = {f"variance {kind}": {"variance": kind} for kind in ("beta", "posterior")}
ETAS: Args = {f"eta = {show(eta)}": {"eta": eta} for eta in (0.0, 1.0, 0.5)}
TABLE: list[tuple[str, str, Args]] = [  # step, function, its checks: of values, with what their examples share, or others
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


@contextlib.contextmanager
def loaded(path: Path) -> Iterator[Any]:
    """Run a file, and hold what it defines; ValueError if that fails. It is run, so only load code you trust.

    Within the block its folder is on sys.path, and it is a module of its name, for what its functions import or pickle.
    """
    if not path.is_file():
        raise ValueError(f"cannot check {path}: {'it is no file' if path.exists() else 'there is no such file'}")
    folder, module = str(path.resolve().parent), types.ModuleType(path.stem)
    module.__file__ = str(path)
    sys.path.insert(0, folder)
    own = sys.modules.setdefault(path.stem, module) is module      # a file called random.py must not take random's place
    try:
        try:
            guarded(exec)(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), vars(module))
        except FAULTS as error:
            raise ValueError(f"cannot check {path}: {said(error)}") from None
        yield module
    finally:
        sys.path.remove(folder)
        if own:
            del sys.modules[path.stem]


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
    for function, checks in groupby(CHECKS, lambda check: check.function):
        if subject.get(function) is None:
            yield replace(next(checks).run(subject), check="all")
        else:
            yield from (check.run(subject) for check in checks)


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
