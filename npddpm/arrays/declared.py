"""Arguments, declared above a function and checked before it runs: its body is the equations, and the declaration documents it.

    @checked(s=count(1), x0=points("B", "d"), variance=choice("beta", "posterior"))
    def f(s, x0, variance="beta"):
        ...

A declaration gives back what the function is to work with, such as a list as an array; what cannot be used is refused in one line,
see `checks`. The docstring gets the section "Raises" from it. Defaults are not checked.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

import numpy as np

from . import checks
from .backend import device_module, get_array_module

TRUSTED = ContextVar("TRUSTED", default=False)
F = TypeVar("F", bound=Callable[..., Any])
Args = dict[str, Any]


class Declared(NamedTuple):
    """What an argument has to be, in words, and the check (name, value, all arguments) -> value."""

    says: str
    check: Callable[[str, Any, Args], Any]


def checked(**declared: Declared) -> Callable[[F], F]:
    """Declare the arguments of a function, in the order in which they are checked."""
    def decorate(f: F) -> F:
        parameters = inspect.signature(f).parameters.values()
        names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        needed = {p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD}
        checks = [(name, check) for name, (_, check) in declared.items()]

        @functools.wraps(f)
        def call(*positional: Any, **named: Any) -> Any:
            if TRUSTED.get():
                return f(*positional, **named)
            args = {**dict(zip(names, positional)), **named}
            if len(args) < len(positional) + len(named) or not needed <= args.keys():
                return f(*positional, **named)          # which raises Python's own TypeError
            for name, check in checks:
                if name in args:
                    args[name] = check(name, args[name], args)
            return f(**args)

        if f.__doc__:
            call.__doc__ = with_raises(inspect.cleandoc(f.__doc__), declared)
        return call  # type: ignore[return-value]
    return decorate


@contextmanager
def trusted() -> Iterator[None]:
    """Here arguments are taken as they are. A training draws its own, in every step: looking at them would take a tenth of a small one."""
    token = TRUSTED.set(True)
    try:
        yield
    finally:
        TRUSTED.reset(token)


def with_raises(doc: str, declared: dict[str, Declared]) -> str:
    """A docstring with what `declared` refuses, first in its section "Raises"."""
    refused = "ValueError, TypeError\n    Unless " + "; ".join(f"`{name}` is {says}" for name, (says, _) in declared.items()) + "."
    head = "Raises\n------\n"
    return doc.replace(head, f"{head}{refused}\n", 1) if head in doc else f"{doc}\n\n{head}{refused}"


def steps_of(args: Args) -> int:
    """T of the function's schedule."""
    home: Any = args["s"] if "s" in args else args["self"]
    T: int = home.schedule.T if hasattr(home, "schedule") else home.T
    return T


def optional(declared: Declared) -> Declared:
    says, check = declared
    return Declared(f"None or {says}", lambda name, value, args: None if value is None else check(name, value, args))


def instance(wanted: type) -> Declared:
    return Declared(f"a {wanted.__name__}", lambda name, value, _: checks.check_type(name, value, wanted))


def schedule(wanted: type[Any]) -> Declared:
    """A schedule: where the denoiser or network has one of its own, that or its first steps."""
    def check(name: str, value: Any, args: Args) -> Any:
        checks.check_type(name, value, wanted)
        own: Any = getattr(args.get("denoiser", args.get("net")), "schedule", value)
        if own is not value and isinstance(own, wanted) and not np.array_equal(own.betas[:len(value.betas)], value.betas):
            raise ValueError(f"{name} must be the schedule of the denoiser, {own!r}, got {value!r}")
        return value
    return Declared(f"a {wanted.__name__}, that of the denoiser, or its first steps, if that has one", check)


def lambdas() -> Declared:
    return Declared("(d,) finite numbers of at least 0", lambda name, value, _: checks.check_variances(value))


def count(least: int = 1, most: int | Callable[[Args], int] = 2**63 - 1) -> Declared:
    return Declared(f"an int of at least {least}", lambda name, value, args:
                    checks.check_count(name, value, least, most(args) if callable(most) else most))


def real(low: float, high: float = math.inf, *, closed: bool = False) -> Declared:
    return Declared(f"a number in {'[' if closed else '('}{low}, {high}{']' if closed else ')'}", lambda name, value, _:
                    checks.check_real(name, value, low, high, closed=closed))


def choice(*choices: str) -> Declared:
    return Declared(" or ".join(map(repr, choices)), lambda name, value, _: checks.check_choice(name, value, *choices))


def sizes(shape: tuple[int | str, ...], args: Args) -> list[int | str]:
    """A shape in which the names of other arguments, or of attributes of self, stand for their values."""
    return [args.get(n, getattr(args.get("self"), n, n)) if isinstance(n, str) else n for n in shape]


def of_shape(shape: tuple[int | str, ...]) -> str:
    return f" of shape {checks.in_words(shape)}" if shape else ""


def numbers(*shape: int | str) -> Declared:
    """In the precision and on the device of a network whose method it is, else where and as they are."""
    def check(name: str, value: Any, args: Args) -> Any:
        net: Any = args.get("self")
        xp, dtype = (net.xp, net.dtype) if hasattr(net, "xp") else (get_array_module(value), None)
        array = checks.check_array(name, value, xp, dtype)
        return checks.check_shape(name, array, *sizes(shape, args)) if shape else array
    return Declared(f"an array of numbers{of_shape(shape)}", check)


def rows() -> Declared:
    return Declared("an array of numbers, with a row or more", lambda name, value, _:
                    checks.check_rows(name, checks.check_array(name, value, get_array_module(value))))


def like(other: str) -> Declared:
    """Numbers of the shape of another argument, which is checked with it."""
    def check(name: str, value: Any, args: Args) -> Any:
        if other in args:
            xp = get_array_module(args[other], value)
            first = args[other] = checks.check_array(other, args[other], xp)
            value = checks.check_array(name, value, xp)
            if value.shape != first.shape:
                raise ValueError(f"{name} must have the shape of {other}, {first.shape}, got {value.shape}")
        return value
    return Declared(f"an array of numbers, of the shape of `{other}`", check)


def times(of: str, least: int = 0) -> Declared:
    """An int t in least..T, or one for each row of another argument."""
    return Declared(f"an int in {least}..T, or one for each row of `{of}`", lambda name, value, args:
                    checks.check_times(value, args[of], steps_of(args), least))


def home_of(denoiser: Any, value: Any = None) -> tuple[Any, Any]:
    """Array module and dtype of what a denoiser works with: its own; float64 where it does not tell, and where `value` is."""
    device, dtype = getattr(denoiser, "device", None), getattr(denoiser, "dtype", float)
    checks.check_dtype(dtype, "float32", "float64", "complex128")
    return get_array_module(value) if device is None else device_module(device), np.dtype(dtype)


def points(*shape: int | str, dtype: Any = None) -> Declared:
    """In the precision, if no other is given, and on the device of the function's denoiser."""
    def check(name: str, value: Any, args: Args) -> Any:
        xp, own = home_of(args.get("denoiser"), value)
        return checks.check_points(name, value, xp, dtype or own, *sizes(shape, args))
    return Declared(f"finite numbers{of_shape(shape)}", check)


def limits() -> Declared:
    """A clip, made a function of x_0."""
    return Declared("(low, high), numbers or (dim,) arrays, or a function", lambda name, value, args:
                    checks.check_clip(value, *home_of(args["denoiser"]), args["dim"]))


def weights() -> Declared:
    def check(name: str, value: Any, args: Args) -> Any:
        if isinstance(value, str):
            return checks.check_choice(name, value, "simple", "elbo")
        xp, T = get_array_module(value), steps_of(args)
        if (not isinstance(value, xp.ndarray) or value.shape != (T + 1,) or value.dtype.kind != "f"
                or xp is np and not (np.isfinite(value) & (value >= 0)).all() or np.ma.isMaskedArray(value)):
            raise ValueError(f"{name} must be 'simple', 'elbo' or an array of {T + 1} floats of at least 0, "
                             f"got {checks.shown(value)}")
        return value
    return Declared("'simple', 'elbo' or a (T+1,) array of floats of at least 0", check)


def network() -> Declared:
    def check(name: str, value: Any, _: Args) -> Any:
        if not callable(getattr(value, "backward", None)):
            raise TypeError(f"{name} must have a method backward(dL/d eps_hat, out), as MLP has, got {checks.shown(value)}")
        return value
    return Declared("a denoiser with a method `backward`", check)
