"""The check of times(T, n), which has no exact answer: n whole times in 1..T that begin at T and fall."""

from __future__ import annotations

import operator
from itertools import islice
from typing import Any

import numpy as np

from .contract import Args, Check, Implementation, Wrong, call, plain, said, show

SOME = (1, 2, 3, 7, 10, 20, 25, 50, 61, 99, 100, 250, 333, 500, 600, 999, 1000)
CASES = [*((T, n) for T in (*range(20, 31), 37, 48, 60) for n in range(1, T + 1)),
         *((T, n) for T in (100, 500, 999, 1000, 1001, 4000) for n in SOME if n <= T)]
MOST_LONGER = 5     # times T/n: quadratic ones begin with twice as much
BELOW = [(T, n) for T in range(1, 20) for n in range(1, T + 1)]     # reported, and fails nobody


def check_times(check: Check, subject: Implementation) -> Args:
    """The first of the CASES that is wrong fails."""
    faults = {case: fault(subject, *case) for case in CASES}
    left = [*faults.values()].count(None)
    if left == len(CASES):
        raise NotImplementedError
    for (T, n), wrong in faults.items():
        if wrong:
            starts = {f"[{T - 1}": "times counted from 0: T-1 down to 0 where T down to 1 belong",
                      "[1, ": "times that rise", "[0, ": "times that rise from 0"}
            raise Wrong(wrong, f"T = {T}, n = {n}", exact=f"{n} whole times that fall from {T} and stay above 0",
                        looks_like=next((words for start, words in starts.items() if wrong.startswith(start)), None))
    note = [f"NotImplementedError in {left} cases, which are left out"] * bool(left)
    try:
        [*map(operator.index, found_by(subject, *next(case for case in faults if faults[case] is not None)))]
    except TypeError:
        note.append("floats, which cannot index an array")
    for T, n in ((1000, 50), (1000, 600)):
        step = max(-np.diff([*found_by(subject, T, n), 0])) if faults[T, n] == "" else 0
        if step > MOST_LONGER * T / n:
            note.append(f"T = {T}, n = {n}: one step goes over {int(step)} times, where T/n is {T / n:.3g}")
    below = (f"T = {T}, n = {n}: {wrong}" for T, n in BELOW if (wrong := fault(subject, T, n)))
    return {"note": "; ".join([*note, next(below, "T from 1 to 19: the same")])}


def found_by(subject: Implementation, T: int, n: int) -> list[Any]:
    """The times, or the first n + 1 if there are more."""
    return [*islice(call(subject.get("times"), {"T": T, "n": n}), n + 1)]


def fault(subject: Implementation, T: int, n: int) -> str | None:
    """What is wrong with the times, "" if nothing is; None for NotImplementedError."""
    try:
        found = plain(found_by(subject, T, n))
    except NotImplementedError:
        return None
    except Exception as error:  # noqa: BLE001
        return said(error)
    if found.shape != (n,):
        return f"{len(found)} times where {n} belong: {show(found[:8])}"
    if not (np.isfinite(found) & (found == np.round(found))).all():
        return f"not whole: {show(found[:8])}"
    if found[0] != T or (found < 1).any() or (np.diff(found) >= 0).any():
        return show(found) if n < 9 else f"[{show(found[0])}, {show(found[1])}, ..., {show(found[-1])}]"
    return ""
