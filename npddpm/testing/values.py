"""Values held against the exact ones: examples are judged, a failure is shrunk, and the slip that explains it is named."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import product
from typing import Any, NamedTuple

import hypothesis
import numpy as np

from . import contract
from .contract import ARGUMENTS, ARRAYS, SINGLE, Args, Check, Implementation, Wrong, call, digits, plain, said, show
from .inputs import GaussianDenoiser, answer, beyond, examples, fixed_examples, larger_examples, reduced, show_args
from .slips import slips_of

ROUNDED = 1e-10     # a median deviation above this says that every result is rounded, not only some
MOST = sys.float_info.max       # what raises, or is no finite number of the right shape, deviates by more than any tolerance
MOST_TRIED = 150    # examples that a search may judge while it shrinks a failure,
SECONDS = 2         # and the processor's time after which it stops; the fixed examples are always tried,
MOST_SECONDS = 5    # and larger ones until these and those have taken so long


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
        return not self.deviation <= min(self.near, MOST)


def expected(check: Check, args: Args) -> Any:
    """The exact result; None for a linear schedule of other than 1000 steps, which is a convention."""
    if check.function == "linear_betas" and args["T"] != 1000:
        return None
    if check.name == "point mass":
        return np.full(args["x_T"].shape, args["denoiser"].m)
    return answer(check.function, args, part=check.part)


def judge(check: Check, subject: Implementation, args: Args, right: Any = None) -> Finding:
    """The largest deviation relative to the largest entry of the exact result, which may be given."""
    right, near, got = expected(check, args) if right is None else right, allowed(subject.tolerance, args), None
    try:
        value = call(subject.get(check.function), args)
        if check.part is not None:
            if not isinstance(value, (tuple, list)) or len(value) != 2:
                raise Wrong("returns no pair (mean, variance)")
            value = value[check.part]
        value = reduced(check.function, args, plain(value))
        if value.dtype.kind == "c":
            raise Wrong("returns complex numbers where real ones belong")
        got = value
        shapes = [(args["T"],) if right is None else right.shape]
        if check.name == "variance":        # is one number, which may be that of each row or entry
            B, d = args["xt"].shape
            shapes += [(1,), (B,), (d,), *product((1, B), (1, d))]
        if got.shape not in shapes:
            raise Wrong(f"shape {got.shape} where {shapes[0]} belongs")
        if right is None:
            on_a_line(got, near)
            return Finding(args, 0.0, near, got, None)
    except NotImplementedError:
        raise
    except Exception as error:  # noqa: BLE001
        return Finding(args, math.inf, near, got, right, said(error))
    with np.errstate(all="ignore"):
        off = np.where(np.isfinite(got), np.abs(got - right), math.inf)
    worst = np.unravel_index(int(off.argmax()), off.shape)
    return Finding(args, float(off[worst]) / size(check, args, right), near, got, right, tuple(map(int, worst)))


def on_a_line(betas: Any, near: float) -> None:
    """Raise `Wrong` unless betas lie within (0, 1) and rise on a line."""
    outside = betas[~((betas > 0) & (betas < 1))]
    if outside.size:
        raise Wrong(f"a beta of {show(outside[0])}, outside (0, 1)")
    T = len(betas)
    k = min(max(1, int(betas.argmax()) - 1), T - 1)      # the last on the line for certain: some are cut where they near 1
    line = np.minimum(betas[0] + np.arange(T) * (betas[k] - betas[0]) / max(k, 1), betas.max())
    if np.abs(betas - line).max() > near * betas.max() or T > 1 and betas[0] >= betas[-1]:
        raise Wrong("betas that do not rise on a line")


def size(check: Check, args: Args, value: Any) -> float:
    """The largest entry of an exact result; where terms cancel, a tenth of the largest of what went in."""
    given = [np.abs(args[name]).max() / 10 for name in ARRAYS if name in args and check.name != "variance"]
    return float(max([np.abs(value[np.isfinite(value)]).max(initial=0), *given])) or 1.0


def allowed(tolerance: float, args: Args) -> float:
    """The tolerance; in single precision as much larger as 1 - abar_t or 1 - alpha_t has lost digits, below 1/100.

    Likewise where x_0 is multiplied by 1/sqrt(abar_t) > 100. A schedule of T > 1000 steps has T/1000 times as much, since cos near
    pi/2 is that much less certain. Infinite where single precision knows nothing.
    """
    if tolerance < SINGLE or "betas" not in args:
        return tolerance if tolerance < SINGLE else tolerance * max(1, args.get("T", 1) / 1000)
    betas, t, s = args["betas"], args.get("t"), args.get("s")
    A = np.append(1, np.cumprod(1 - betas))
    if not isinstance(t, int):      # all times
        least, last = betas.min(), A[-1]
    else:
        least, last = min(betas[t - 1], 1 - A[t - 1] if t > 1 else 1, 1 - A[s] if s else 1), A[t]
    loosened = tolerance * max(1, 0.01 / least, 0.01 / math.sqrt(last))
    return loosened if loosened < 0.1 else math.inf


# ---------------------------------------------------------------- all examples of a check

@cache
def with_answers(check: Check, examples_of: Callable[[str, Args], Iterator[Args]]) -> list[tuple[Args, Callable[[], Any]]]:
    """Examples, each with a function for its exact answer, which is computed once: the next implementation is given the same."""
    return [(args, cache(partial(expected, check, args))) for args in examples_of(check.function, check.fixed)]


def check_values(check: Check, subject: Implementation) -> Args:
    """Fixed examples, a search, the smallest failure, and the slip that explains it."""
    seen: list[Finding] = []
    left: list[Args] = []

    def fails(args: Args, right: Any = None) -> bool:
        try:
            seen.append(judge(check, subject, args, right))
        except NotImplementedError:
            left.append(args)
            return False
        return seen[-1].wrong

    start, too_slow = time.process_time(), False
    for args, right in with_answers(check, fixed_examples):
        fails(args, right())
    fixed = len(seen)
    for args, right in with_answers(check, larger_examples):
        if too_slow := time.process_time() > start + MOST_SECONDS:
            break
        fails(args, right())
    seen[fixed:] = [finding for finding in seen[fixed:] if finding.wrong]       # rounding errors grow: no digits of these are reported
    if not seen:
        raise NotImplementedError
    smallest = None
    for wide in (False, True) if "betas" in ARGUMENTS[check.function] else ():
        smallest = smallest or search(examples(check.function, check.fixed, wide), fails)
    worst = max(seen, key=lambda finding: finding.deviation)
    failures = sorted((x for x in seen if x.wrong), key=lambda finding: finding.args is not smallest)
    note = [f"NotImplementedError in {len(left)} examples, which are left out"] * bool(left)
    note += ["larger examples left out, for time"] * too_slow
    if failures:
        raise Wrong(**shown(check, failures[0]), digits=digits(worst.deviation), note="; ".join(note),
                    looks_like=name_of_slip(check, subject, failures, seen))
    if not any(x.exact is not None and x.near < math.inf for x in seen):
        return {"verdict": "skipped", "note": "; ".join([*note, "not judged: no example could be compared"])}
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
        if wrong:
            failed.append(args)
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
    if all(x.got is None for x in seen):
        return None         # it never returns what could be compared
    cheap = sorted(failures, key=lambda x: x.args.get("T", len(x.args.get("betas", ()))))     # rule a slip out in a few steps
    for words, slip in sorted(slips_of(check.function), key=lambda slip: not slip[0].startswith(tuple(subject.named))):
        if reproduces(check, slip, [*cheap, *seen]):
            subject.named.append(words)
            return words
    usual = np.median([x.deviation for x in seen])
    if usual > ROUNDED and not any(x._replace(near=allowed(1e-5, x.args)).wrong for x in seen):
        return contract.SINGLE_PRECISION
    if limit := cut_at(check, failures, seen):
        return f"the result cut to [-{show(limit)}, {show(limit)}]"
    simpler: dict[str, tuple[Callable[[Any], Any], str]] = {
        "denoiser": (GaussianDenoiser.unmixed, "coordinates that are exchanged or mixed, which a denoiser that takes each alone does not show")}
    if check.function != "variational_bound":
        simpler |= {name: (np.zeros_like, f"the weight of {name} alone is wrong") for name in ARRAYS}
    parts = []
    for name in [name for name in simpler if name in failures[0].args]:
        simplify, words = simpler[name]
        without = ({**x.args, name: simplify(x.args[name])} for x in failures[:9])
        if not any(judge(check, subject, args).wrong for args in without):
            parts.append(words)
            break
    for end in ("t = 1", "t = T", "s = 0"):
        if all(end in ends(x.args) for x in failures) and not all(end in ends(x.args) for x in seen if not x.wrong):
            parts.append(f"at {end} alone")
    return ", ".join(parts) or None


def cut_at(check: Check, failures: list[Finding], seen: list[Finding]) -> float:
    """The size to which all wrong results are cut, if that explains them, else 0. One entry tells it only if that size is a whole number."""
    limit, beyond = max(float(np.abs(x.got).max(initial=0)) for x in seen if x.got is not None), set[float]()
    for x in failures:
        if x.got is None or x.exact is None or x.got.shape != x.exact.shape:
            return 0.0
        near, cut = x.near * size(check, x.args, x.exact), np.clip(x.exact, -limit, limit)
        if not (np.abs(x.got - cut) <= near).all():
            return 0.0
        beyond |= {*x.exact[np.abs(x.exact - cut) > near].tolist()}
    return limit if len(beyond) > 1 or limit.is_integer() else 0.0


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
