"""Derivatives of any loss of a vector, or of nested lists and dicts of arrays: by complex steps or by differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

MOST_ENTRIES = 1000     # whose derivatives are taken one by one

class Unusable(Exception):
    """What an implementation returned cannot be compared; the message says why."""


def plain(value: Any) -> Any:
    """As a float64 array on the host (complex, if it is complex)."""
    for method in ("detach", "cpu", "get"):                                      # tensors, and arrays of a GPU
        value = getattr(value, method)() if hasattr(value, method) and hasattr(value, "shape") else value
    if value is None:
        raise Unusable("None where an array of numbers belongs")
    try:
        array = np.asarray(value)
        return array if array.dtype.kind == "c" else array.astype(float)
    except (TypeError, ValueError):
        raise Unusable(f"{type(value).__name__} where an array of numbers belongs") from None


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
    return np.concatenate([np.ravel(leaf) for _, leaf in leaves(tree)] or [np.zeros(0)])


def rebuild(tree: Any, numbers: Any) -> Any:
    """A structure like `tree` with other numbers in its arrays."""
    left = numbers

    def build(node: Any) -> Any:
        nonlocal left
        if isinstance(node, dict):
            return {key: build(value) for key, value in node.items()}
        if isinstance(node, (list, tuple)):
            items = [build(value) for value in node]
            return type(node)(*items) if hasattr(node, "_fields") else type(node)(items)
        size = math.prod(np.shape(node))
        here, left = left[:size], left[size:]
        return here.reshape(np.shape(node)).copy()

    return build(tree)


def derivatives(value: Callable[[Any], Any], at: Any, most: int) -> tuple[Any, Any, Any, str]:
    """Derivatives of value along directions (unit vectors if P <= most), error bounds, the directions, and how."""
    P, rng = len(at), np.random.default_rng(0)
    groups = np.array_split(np.arange(P), min(P, most))
    directions = np.zeros((len(groups), P))
    for row, group in zip(directions, groups):
        row[group] = rng.choice([-1.0, 1.0], len(group)) / math.sqrt(len(group)) if len(group) > 1 else 1.0

    def complex_step(direction: Any) -> float | None:
        try:
            result = value(at + 1e-30j * direction)
        except NotImplementedError:
            raise
        except Exception:  # noqa: BLE001 - code that takes no complex numbers fails as it likes
            return None
        return float(result.imag / 1e-30) if np.iscomplexobj(result) else None

    def jitter() -> float:
        step = 1e-6 * rng.standard_normal(P) / math.sqrt(P)
        return abs(float((value(at + step) - 2 * value(at) + value(at - step)).real))

    noise = float(np.median([jitter() for _ in range(5)]))
    for _ in range(3):      # does the code take complex numbers, or use abs(), float() and the like?
        direction = rng.standard_normal(P) / math.sqrt(P)
        slope, (centred, error) = complex_step(direction), central(value, at, direction, noise)
        if slope is None or not abs(slope - centred) <= 1e-6 * abs(centred) + 3 * error:
            found = np.array([central(value, at, row, noise, 1e-10 * abs(centred)) for row in directions])
            return found[:, 0], found[:, 1], directions, "by central differences"
    slopes = [complex_step(row) for row in directions]
    return np.array(slopes, dtype=float), np.zeros(len(slopes)), directions, "by complex steps"


def central(value: Callable[[Any], Any], at: Any, direction: Any, noise: float,
            enough: float = 0.0) -> tuple[float, float]:
    """A central difference extrapolated twice, and a bound of its error, for the step that makes the bound least.

    The slopes ahead and behind, extrapolated too, differ by no more than errors, unless there is a kink of |x| or relu
    within the step. Large steps serve single precision, where the loss itself is uncertain by `noise`.
    """
    best, least, here = math.nan, math.inf, float(value(at).real)
    for h in (2e-3, 0.02, 0.2, 2e-5):
        ahead, behind = (np.array([float(value(at + k * direction).real - here) / k for k in (s, s / 2, s / 4)])
                         for s in (h, -h))
        D = (ahead + behind) / 2
        twice = (D[0] - 20 * D[1] + 64 * D[2]) / 45
        error = abs(twice - (4 * D[2] - D[1]) / 3) + abs((ahead - behind) @ [1, -6, 8]) / 3 + 10 * noise / h
        if error < least:
            best, least = float(twice), float(error)
        if least <= max(1e-8 * abs(best), enough):
            break
    return best, least


def entry(named: list[tuple[str, Any]], direction: Any) -> str:
    """Where in the parameters a direction points."""
    i = int(np.flatnonzero(direction)[0])
    more = " and those after it" if np.count_nonzero(direction) > 1 else ""
    for name, leaf in named:
        if i < leaf.size:
            return f"entry {name or ''}{list(map(int, np.unravel_index(i, leaf.shape)))}{more}"
        i -= leaf.size
    return ""


def blocks(named: list[tuple[str, Any]], wrong: Any, directions: Any) -> str:
    """The arrays, or the runs of entries of a flat vector, that are wrong."""
    touched = (directions[wrong] != 0).any(0)
    if len(named) > 1:
        ends = np.cumsum([leaf.size for _, leaf in named])
        counts = [int(part.sum()) for part in np.split(touched, ends[:-1])]
        return ", ".join(f"{name} ({n} of {leaf.size} entries)" for (name, leaf), n in zip(named, counts) if n)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], touched, [0]])))
    runs = [f"{a} to {b - 1}" if b - a > 1 else str(a) for a, b in zip(edges[::2], edges[1::2])]
    return f"entries {', '.join(runs[:6])}{', ...' * (len(runs) > 6)} of 0 to {len(touched) - 1}"
