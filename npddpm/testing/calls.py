"""Conduct, where a function is held against itself: its inputs, np.random and random are left unchanged, nothing is kept from one
call to the next, and neither float32 nor Fortran's order of memory changes a result."""

from __future__ import annotations

import contextlib
import math
import pickle
import random
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from .contract import ARGUMENTS, ARRAYS, Args, Check, Implementation, Wrong, call, copied, plain, quietly, said, vector
from .inputs import arbitrary_betas, assemble, fixed_examples, normal, show_args
from .losses import MANY, training_example
from .values import MOST_SECONDS, allowed

MOST_ITEMS = 10**6      # that are taken from a generator
KINDS: tuple[Args, ...] = {"variance": "beta", "eta": 0.0}, {"variance": "posterior", "eta": 1.0}


def check_calls(check: Check, subject: Implementation) -> Args:
    """A first call, another, the first again, other betas in the same array, arrays in float32 or in Fortran's order; and inputs left alone on all examples."""
    a, b = two_examples(check.function, subject)
    f = subject.get(check.function)

    def run(args: Args) -> Any:
        return unchanged(f, copied(args))

    def agree(x: Any, y: Any, words: str, least: float = 0.0) -> None:
        same(a, x, y, max(subject.tolerance, least), words)

    first = run(a)
    kept = vector(first).copy()
    run(b)
    if not np.array_equal(vector(first), kept, equal_nan=True):
        raise Wrong("the result of one call is changed by the next", "two calls")
    agree(run(a), kept, "the same call a second time gives another result")
    for array in arrays_of(first):
        array[...] = 0
    agree(run(a), kept, "what is written into a result changes the next")
    if check.function == "variational_bound":
        alone = run({**a, "x0": a["x0"][:1], "noise": a["noise"][:, :1]})
        if (shape := plain(alone).shape) != (1,):
            raise Wrong(f"of a row alone it returns shape {shape} where (1,) belongs")
        agree(alone, kept[:1], "a row alone has another bound than among others")
    if "parameters" in a and np.array_equal(vector(run({**a, "parameters": b["parameters"]})), kept):
        raise Wrong("other parameters give the same result", "two calls with the same rows")
    for name in ("betas", "parameters"):
        if name in a:
            given = copied(a)
            for before in {check.function, "loss", "gradient"} if "parameters" in a else {check.function}:
                if subject.get(before):
                    unchanged(subject.get(before), given)
            for array, other in zip(arrays_of(given[name]), arrays_of(b[name])):
                array[...] = other
            agree(unchanged(f, given), run(given), f"new values in the same arrays of {name} are not noticed")
    floats = [name for name in a if name in ARRAYS]
    if "parameters" not in a:
        single = {**a, **{name: a[name].astype(np.float32) for name in floats}}
        double = {**a, **{name: single[name].astype(float) for name in floats}}
        agree(run(single), run(double), "arrays in float32 give another result than the same numbers in float64", least=1e-4)
    try:
        agree(run({**a, **{name: np.asfortranarray(a[name]) for name in floats}}), kept, "arrays in Fortran's order give another result")
    except (NotImplementedError, MemoryError):
        pass        # which leaves them out
    except Exception as error:  # noqa: BLE001
        raise Wrong(said(error), "arrays in Fortran's order") from None
    start = time.process_time()
    for args in branches(check.function, subject):
        if time.process_time() > start + MOST_SECONDS:
            break
        try:
            run(args)
        except Wrong:
            raise
        except Exception:  # noqa: BLE001, S112, other checks report it
            continue
    if allowed(subject.tolerance, a) == math.inf:
        return {"verdict": "skipped", "note": "not judged: at this TOLERANCE all results agree"}
    return {}


def state() -> bytes:
    """Where the generators of np.random and of random are."""
    return pickle.dumps((np.random.get_state(), random.getstate()))


def unchanged(f: Any, given: Args) -> Any:
    """What f returns for the very arguments, if it leaves them as they were."""
    before, others, of_python = copied(given), np.random.get_state(), random.getstate()
    np.random.seed(0x9E3779B9)      # which no function asks for
    random.seed(0x9E3779B9)
    drawn = state()
    try:
        value = quietly(lambda *args: drained(f(*args)), given)
        touched = state() != drawn
    finally:
        np.random.set_state(others)
        random.setstate(of_python)
    changed = [f"{name} is written into" for name in given if name not in ("denoiser", "rng", "variance")
               and not np.array_equal(vector(given[name]), vector(before[name]))]
    changed += ["the generator of np.random, or of random, is drawn from, or seeded"] * touched
    if changed:
        raise Wrong(changed[0], show_args(before, [name for name in ("betas", "t", "s") if name in before]) or "a call")
    return value


def drained(value: Any) -> Any:
    """What a generator yields, as a list; anything else as it is."""
    return [*islice(value, MOST_ITEMS)] if isinstance(value, Iterator) else value


def arrays_of(value: Any) -> list[Any]:
    """The arrays of a result, or of parameters, that can be written into."""
    if isinstance(value, (list, tuple, dict)):
        return [array for item in (value.values() if isinstance(value, dict) else value) for array in arrays_of(item)]
    return [value] if isinstance(value, np.ndarray) and value.flags.writeable else []


def same(args: Args, x: Any, y: Any, tolerance: float, words: str) -> None:
    """Raise `Wrong` unless x and y agree; what is NaN or infinite in one must be so in the other."""
    x, y = vector(x), vector(y)
    with np.errstate(all="ignore"):
        near = np.nan_to_num(allowed(tolerance, args) * np.abs(y[np.isfinite(y)]).max(initial=0), posinf=math.inf)   # inf times 0 is 0
        agree = x.shape == y.shape and np.all((np.abs(x - y) <= near) | ~(np.isfinite(x) | np.isfinite(y)))
    if not agree:
        raise Wrong(words, "two calls")


def two_examples(function: str, subject: Implementation) -> tuple[Args, Args]:
    """Arguments of the same shapes, with betas in another order; of a variance or eta that the implementation has."""
    if function == "parameters":
        return {"rng": np.random.default_rng(0)}, {"rng": np.random.default_rng(1)}
    if "T" in ARGUMENTS[function]:
        return dict(zip(ARGUMENTS[function], (50, 7))), dict(zip(ARGUMENTS[function], (20, 20)))
    betas = arbitrary_betas(7, 7)
    if function in ("loss", "gradient"):
        a, b = (training_example(subject, betas, [5, 1, 7], seed) for seed in (0, 1))
        return a, {**b, "betas": betas[::-1].copy()}
    array = normal(2)
    for fixed in KINDS:
        a, b = (assemble(function, fixed, order.copy(), 5, 2, array, 2, 2, 1.0, 0.5) for order in (betas, betas[::-1]))
        with contextlib.suppress(NotImplementedError):
            call(subject.get(function), a)
            break
    return a, b


def branches(function: str, subject: Implementation) -> Iterator[Args]:
    """Further examples: the first and the last t, each variance, eta = 0 and 1, many rows."""
    if function in ("loss", "gradient"):
        yield from (training_example(subject, arbitrary_betas(7, 7), t, 2) for t in ([1], [7], [3] * subject.dim, [1, 4] * MANY))
    elif "betas" in ARGUMENTS[function]:
        for fixed in KINDS if {"variance", "eta"} & {*ARGUMENTS[function]} else KINDS[:1]:
            yield from fixed_examples(function, fixed)
