"""The check of a network's gradient: derivatives of its loss, by complex steps, or by differences where the code takes no
complex numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import dropwhile
from typing import Any, NamedTuple

import numpy as np

from .contract import SINGLE, Args, Check, Implementation, Wrong, call, digits, in_order, leaves, show, vector
from .inputs import answer, show_args, standard_betas
from .losses import KEPT, MANY, long_betas, loss_of, rebuild, training_example

GRADIENT_TOLERANCE = 1e-6
EPS_32 = 2.0**-23
STEPS = 2e-5, 2e-3, 0.02, 0.2
MOST_ENTRIES = 1000     # whose derivatives are taken one by one,
MOST_NUMBERS = 10**8    # and numbers in all the parameters for which the loss is taken, of one batch; but 10 groups at least


# ---------------------------------------------------------------- a gradient and what explains it

def factors(B: int, d: int, weight: float) -> dict[str, float]:
    """What a gradient may be multiplied by, by mistake; `weight` is that of step 8, if B = 1."""
    found = {"a sign": -1, "left out (zero)": 0, "the 2 of the derivative of a square left out": 0.5,
             "a factor of 2 too much": 2, "the sum over the B rows where the mean belongs": B,
             "divided by B once too often": 1 / B, "not divided by d": d, "divided by d once too often": 1 / d,
             "not divided by B d": B * d, "divided by B d once too often": 1 / (B * d)}
    weights = {"the weight of step 8 left out of the gradient": 1 / weight, "the weight of step 8 squared": weight}
    return found | weights if B == 1 else found


def check_gradient(check: Check, subject: Implementation) -> Args:
    """Every entry against derivatives of the loss; of more than 1000, and on further examples, groups of entries."""
    if subject.get("loss") is None:
        raise Wrong("nothing to compare with: no loss")
    few, d = np.array([0.5, 0.25, 0.2]), subject.dim
    longer, left_out = long_betas(subject)
    cases = [(few, [2], 40), (few, [3], 40), (few, [1 + i % 3 for i in range(d)], MOST_ENTRIES), (standard_betas("cosine", 20), [20, 1, 7], 40),
             (few, [1 + i % 3 for i in range(MANY)], 40), (few, [1], 40), (few, [3, 1, 2, 3], 40),
             *((betas, [T, T // 2 + 1, 1, T // 2, 2], 40) for T, betas in longer.items()), (few[::-1].copy(), [2], 40)]
    worst, judged, left = 0.0, False, 0
    names: list[str] = []
    hows: set[str] = set()
    failure: Args = {}
    for seed, (betas, t, most) in enumerate(cases):
        args = training_example(subject, betas, t, seed, size=3 if len(t) == 4 else 1)      # where large numbers are cut, say
        try:
            got, (right, error, groups, _, how) = both_slopes(subject, args, most)
        except NotImplementedError:
            left += 1
            continue
        hows |= {how}
        scale = np.abs(right).max() or 1.0
        off = np.where(np.isfinite(got), np.abs(got - right), np.inf)
        near = max(GRADIENT_TOLERANCE, subject.tolerance) * scale + 3 * error
        wrong = ~(off <= near)
        judged = judged or bool((near < 0.1 * scale).any())
        worst = max(worst, float(np.where(wrong | (error <= 10 * np.median(error)), off, 0).max() / scale))
        if not wrong.any():
            continue
        possible = factors(len(t), d, answer("loss_weights", {"betas": betas})[t[0] - 1])
        fit = [words for words, k in possible.items()
               if (np.abs(got - k * right) <= 1e-3 * np.abs(k * right) + (3 * error + 1e-9 * scale) * max(1, abs(k)))[wrong].all()]
        if failure:
            names = [words for words in names if words in fit or words not in possible]
            continue
        names = fit or [KEPT] * (seed == len(cases) - 1)        # whose betas are those of the first in another order
        named, i = leaves(args["parameters"]), int(np.where(wrong, off, 0).argmax())
        failure = {"got": show(got[i]), "exact": f"{right[i]:.9g}",
                   "example": f"{show_args(args, ['betas'])}, t = {t if len(t) < MANY else f'{MANY} times'}, {entry(named, groups[i])}"}
        where = "groups of entries in " * any(len(g) > 1 for g, bad in zip(groups, wrong) if bad) + blocks(named, groups, wrong)
    if failure:
        raise Wrong(**failure, digits=digits(worst), looks_like=f"{' or '.join(names) or 'a wrong derivative'}, in {where}")
    if left == len(cases):
        raise NotImplementedError
    if not judged:
        return {"verdict": "skipped", "note": "not judged: the derivatives of this loss, or TOLERANCE, are too uncertain"}
    note = [" and ".join(sorted(hows)), f"NotImplementedError in {left} examples, which are left out" * bool(left), left_out]
    return {"digits": digits(worst), "note": "; ".join(filter(None, note))}


def both_slopes(subject: Implementation, args: Args, most: int) -> tuple[Any, Derivatives]:
    """The slopes of the loss that the gradient gives and those of `derivatives`."""
    parameters = args["parameters"]
    numbers = vector(parameters)
    loss_of(subject, {**args, "parameters": rebuild(parameters, 2 * numbers)})      # which must leave nothing behind
    got = matched(call(subject.get("gradient"), args), parameters)

    def value(v: Any) -> Any:
        return loss_of(subject, {**args, "parameters": rebuild(parameters, v)})

    right = derivatives(value, numbers, most, [leaf.size for _, leaf in leaves(parameters)], subject.tolerance >= SINGLE)
    return np.array([weights @ got[group] for group, weights in zip(right.groups, right.weights)]), right


def matched(found: Any, parameters: Any) -> Any:
    """The numbers of a gradient in the order of the parameters: a list may stand for an array, and an array for a list of its rows."""
    if isinstance(parameters, dict):
        names, of_found = ([str(key) for key, value in in_order(tree) if value is not None]
                           for tree in (parameters, found if isinstance(found, dict) else {}))
        if of_found != names:
            raise Wrong(f"returns a gradient of {', '.join(of_found)[:60] or type(found).__name__} where that of {', '.join(names)[:60]} belongs")
        pairs = [(found.get(key), value) for key, value in in_order(parameters)]
    elif isinstance(parameters, (list, tuple)) and hasattr(found, "__len__") and not isinstance(found, dict) and len(found) == len(parameters):
        pairs = [*zip(found, parameters)]
    else:
        numbers, right = vector([found]), vector([parameters])
        shape, wanted = (getattr(tree, "shape", None) for tree in (found, parameters))
        if len(numbers) != len(right) or shape and wanted and without_ones(shape) != without_ones(wanted):
            raise Wrong(f"returns a gradient of shape {shape or numbers.shape} where {wanted or right.shape} belongs")
        return numbers
    return np.concatenate([np.zeros(0), *(matched(*pair) for pair in pairs)])


def without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the leading ones, which broadcasting adds: of a bias (1, h) the gradient may be (h,)."""
    return tuple(dropwhile(lambda n: n == 1, shape))


def entry(named: list[tuple[str, Any]], group: Any) -> str:
    """Where in the parameters a group of entries begins."""
    first = int(group[0])
    for name, leaf in named:
        if first < leaf.size:
            break
        first -= leaf.size
    return f"entry {name}{list(map(int, np.unravel_index(first, leaf.shape)))}" + ", and those after it, along a random direction" * (len(group) > 1)


def blocks(named: list[tuple[str, Any]], groups: list[Any], wrong: Any) -> str:
    """The arrays, or the runs of entries of a flat vector, in which groups of entries are wrong."""
    touched = np.concatenate([np.full(len(group), bad) for group, bad in zip(groups, wrong)])
    if len(named) > 1:
        counts = [int(part.sum()) for part in np.split(touched, np.cumsum([leaf.size for _, leaf in named])[:-1])]
        return ", ".join(f"{name} ({n} of {leaf.size} entries)" for (name, leaf), n in zip(named, counts) if n)
    edges = np.flatnonzero(np.diff(touched, prepend=False, append=False))
    runs = [f"{a} to {b - 1}" if b - a > 1 else str(a) for a, b in zip(edges[:12:2], edges[1:12:2])]
    return f"entries {', '.join(runs)}{', ...' * (len(edges) > 12)} of 0 to {len(touched) - 1}"


# ---------------------------------------------------------------- derivatives of any loss

class Derivatives(NamedTuple):
    """Along directions, each of which is a group of entries, of one of the arrays, and their weights."""

    slopes: Any
    errors: Any         # bounds
    groups: list[Any]
    weights: list[Any]
    how: str


def derivatives(value: Callable[[Any], Any], at: Any, most: int, sizes: Sequence[int], single: bool) -> Derivatives:
    """Derivatives of value, in single precision or not, along directions (unit vectors if P <= most) within arrays of the given `sizes`.

    No more than one direction has its P numbers in memory at a time.
    """
    P, rng = len(at), np.random.default_rng(0)
    n, arrays = min(P, most, max(10, MOST_NUMBERS // P)), np.split(np.arange(P), np.cumsum(sizes)[:-1])
    groups = [group for array in arrays if len(array) for group in np.array_split(array, max(1, n * len(array) // P))]
    weights = [rng.standard_normal(len(group)) / math.sqrt(len(group)) if len(group) > 1 else np.ones(1)
               for group in groups]     # no mere signs, with which equal errors may cancel

    def directions() -> Iterator[Any]:
        for group, of_group in zip(groups, weights):
            direction = np.zeros(P)
            direction[group] = of_group
            yield direction

    def random_step() -> Any:
        return rng.standard_normal(P) / math.sqrt(P)

    def real(v: Any) -> float:
        return float(value(v).real)

    noise = float(np.median([abs(real(at + h) - 2 * real(at) + real(at - h)) for h in (1e-6 * random_step() for _ in range(5))]))
    losses = np.array([real(at + 1e-3 * random_step()) for _ in range(5)])
    single = single or bool((losses == losses.astype(np.float32)).all())
    if single:
        noise = max(noise, EPS_32 * float(np.abs(losses).max()))    # smaller steps are lost in the parameters
    for _ in range(3):
        direction = random_step()
        slope, (centred, error) = complex_step(value, at, direction), best_of(central(real, at, direction, noise))
        if slope is None or not abs(slope - centred) <= 1e-6 * abs(centred) + 3 * error:    # it uses abs(), float(), ...
            found = np.array([central(real, at, row, noise) for row in directions()])
            if single:      # kinks escape the bound where they cancel, so that it is no less than is usual for a step
                found[..., 1] = np.maximum(found[..., 1], 2 * np.median(found[..., 1], axis=0))
            slopes, errors = np.array([best_of(one) for one in found]).T
            return Derivatives(slopes, errors, groups, weights, "by central differences")
    slopes = np.array([complex_step(value, at, row) for row in directions()], dtype=float)
    return Derivatives(slopes, np.zeros(len(slopes)), groups, weights, "by complex steps")


def complex_step(value: Callable[[Any], Any], at: Any, direction: Any) -> float | None:
    """The imaginary part of value(at + ih) / h; None where the code takes no complex numbers, and fails as it likes."""
    try:
        result = value(at + 1e-30j * direction)
    except NotImplementedError:
        raise
    except Exception:  # noqa: BLE001
        return None
    return float(result.imag / 1e-30) if np.iscomplexobj(result) else None


def best_of(found: Any) -> tuple[float, float]:
    """The slope with the least error bound, of the steps whose slopes agree with those of all smaller steps."""
    slopes, errors = found.T
    agree = [all(abs(slopes[:i] - slopes[i]) <= errors[:i] + errors[i]) for i in range(len(found))]
    i = np.argmin(np.where(agree, errors, math.inf))
    return float(slopes[i]), float(errors[i])


def central(value: Callable[[Any], float], at: Any, direction: Any, noise: float) -> Any:
    """Central differences extrapolated twice, and a bound of the error of each, for two or four steps, (2 or 4, 2).

    The slopes ahead and behind, extrapolated too, differ by no more than errors, unless there is a kink of |x| or relu
    at the point. Where many lie within the step the slopes for its halves scatter, as what extrapolation changes shows. Large steps
    serve single precision, where the loss itself is uncertain by `noise`.
    """
    found, here = [], value(at)
    for h in STEPS if noise > 1e-12 * abs(here) else STEPS[:2]:
        ahead, behind = (np.array([(value(at + k * direction) - here) / k for k in (s, s / 2, s / 4)]) for s in (h, -h))
        D = (ahead + behind) / 2
        twice = (D[0] - 20 * D[1] + 64 * D[2]) / 45
        found.append((twice, 2 * abs(twice - D[2]) + abs((ahead - behind) @ [1, -6, 8]) / 3 + 10 * noise / h))
    return np.array(found)
