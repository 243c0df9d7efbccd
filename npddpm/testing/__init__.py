"""Check any implementation of a denoising diffusion model against the identities it rests on.

An implementation is a module, or any object, that defines some of the functions of CONTRACT, with these arguments.
betas is (T,) float64, beta_1 to beta_T; t and s are ints, 0 <= s < t <= T (in `loss` and `gradient` t is (B,) ints);
x0, xt, x_T, eps and z are (B, d); noise is (T+1, B, d), row t for the step from x_t; `denoiser(xt, t)` predicts the noise.

    check(implementation)                      -> a list of `Result`
    @parametrize_with_checks(implementation)   the same as test cases of pytest

How a value is judged: `examples`, fixed ones and ones that hypothesis searches, are given to the function and to `exact`,
which answers in 60 digits. The deviation, relative to the largest entry of the exact result, is held against TOLERANCE of
the implementation. A failure is shrunk to a small example with round numbers. Then `slips` are made in `exact`, one at a
time: one that gives the same wrong values on all examples is named.

The modules, each of which knows those before it alone: `exact` and `contract`, `inputs`, `slips`, `values`, `losses`, then
`calls`, `gradients` and `timesteps`.
"""

from __future__ import annotations

import builtins
import contextlib
import os
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

try:
    import hypothesis
except ImportError:
    raise ImportError("npddpm.testing needs hypothesis: pip install 'npddpm[test]'") from None

from .calls import check_calls
from .contract import CONTRACT, FUNCTIONS, TOLERANCE, Args, Check, Implementation, Result, guarded, said, show
from .gradients import check_gradient
from .inputs import points, schedules, times
from .losses import check_line, check_parameters, check_rows
from .timesteps import check_times
from .values import check_values

__all__ = ["CONTRACT", "FUNCTIONS", "TOLERANCE", "Result", "check", "lent", "loaded", "parametrize_with_checks", "points", "results",
           "schedules", "storage", "times"]

VARIANCES: Args = {f"variance {kind}": {"variance": kind} for kind in ("beta", "posterior")}
ETAS: Args = {f"eta = {show(eta)}": {"eta": eta} for eta in (0.0, 1.0, 0.5)}
TABLE: dict[str, Args] = {      # function: its checks, of values with what their examples share, or others
    "linear_betas": {"betas": {}},
    "cosine_betas": {"betas": {}},
    "alpha_bars": {"products": {}},
    "q_sample": {"x_t": {}},
    "q_posterior": {"mean": {}, "variance": {}},
    "predict_x0": {"x_0": {}},
    "reverse_mean": {"mean": {}},
    "reverse_step": VARIANCES,
    "ddim_step": ETAS,
    "times": {"times": check_times},
    "sample": {**VARIANCES, "point mass": {"variance": "beta", "v": 0.0}},
    "loss_weights": {"weights": {}},
    "variational_bound": {"bound": {}},
    "parameters": {"finite": check_parameters},
    "loss": {"rows": check_rows, "x_t and weights": check_line},
    "gradient": {"entries": check_gradient}}
CHECKS = [Check(function, name, check_values, what, i if function == "q_posterior" else None)
          if isinstance(what, dict) else Check(function, name, what)
          for function in FUNCTIONS for i, (name, what) in enumerate({**TABLE[function], "calls": check_calls}.items())]


@contextlib.contextmanager
def storage(folder: str) -> Iterator[None]:
    """Within the block hypothesis keeps its files there, not in the working directory."""
    hypothesis.configuration.set_hypothesis_home_dir(folder)
    try:
        yield
    finally:
        hypothesis.configuration.set_hypothesis_home_dir(None)


class Unclosed:
    """A stream that is not closed by those it is lent to, nor is what lies below it; what it cannot take is lost, and fails nobody."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.stream, name)
        return Unclosed(value) if name in ("buffer", "raw") else value

    def write(self, text: Any) -> int:
        with contextlib.suppress(OSError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self.stream.flush()

    def close(self) -> None:
        pass

    def detach(self) -> Any:
        return self.buffer


@contextlib.contextmanager
def redirected(one: int, other: int) -> Iterator[None]:
    """Within the block one file descriptor of the process is another, where both are open."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            saved = os.dup(one)
            stack.callback(os.close, saved)
            stack.callback(os.dup2, saved, one)
            os.dup2(other, one)
        yield


@contextlib.contextmanager
def lent() -> Iterator[None]:
    """Within the block a stranger's code has `sys`: what it, or a command that it runs, prints goes to stderr, and what it changes is as before.

    But sys.path and sys.argv stay as it left them, for its functions; what it took from sys.path comes last. Of the builtins it may
    have replaced print, say.
    """
    own = dict(vars(builtins))
    before = {name: value for name, value in vars(sys).items() if name not in ("path", "argv")}
    modules, places = dict(sys.modules), list(sys.path)
    sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = Unclosed(sys.stderr)    # type: ignore[assignment,misc]
    try:
        with redirected(1, 2):
            yield
    finally:
        vars(builtins).update(own)
        vars(sys).update(before)
        sys.modules.update(modules)
        left = list(getattr(sys, "path", None) or [])
        sys.path = [*left, *(place for place in places if place not in left)]


@contextlib.contextmanager
def loaded(path: Path) -> Iterator[Any]:
    """Run a file, and hold what it defines; ValueError if that fails. It is run, so only load code you trust.

    Within the block its folder is on sys.path, it alone is the command line, and it is a module of its name, for what its
    functions import or pickle.
    """
    if not path.is_file():
        raise ValueError(f"cannot check {path}: {'it is no file' if path.exists() else 'there is no such file'}")
    folder, module = str(path.resolve().parent), types.ModuleType(path.stem)
    module.__file__ = str(path)
    path_before, argv_before = sys.path, sys.argv
    sys.path, sys.argv = [folder, *sys.path], [str(path)]
    own = sys.modules.setdefault(path.stem, module) is module      # a file called random.py must not take random's place
    try:
        try:
            with lent():
                guarded(exec)(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), vars(module))
        except Exception as error:  # noqa: BLE001
            raise ValueError(f"cannot check {path}: {said(error)}") from None
        yield module
    finally:
        sys.path, sys.argv = path_before, argv_before
        if own:
            sys.modules.pop(path.stem, None)


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
