"""The checks of a network's parameters and of its loss. Parameters are an array, or nested lists and dicts of arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import chain
from types import SimpleNamespace
from typing import Any

import numpy as np

from . import contract, exact
from .contract import SINGLE, Args, Check, Implementation, Wrong, call, in_order, plain, said, show, vector, with_items
from .inputs import answer, arbitrary_betas, show_args, standard_betas
from .slips import slips_of

BETAS = np.array([0.5, 0.2, 0.1, 0.25, 0.125, 0.4])     # for x_t and the weights
TIMES = np.arange(1, len(BETAS) + 1)
OF_BETAS = SimpleNamespace(q_sample=lambda betas, *args: exact.q_sample(BETAS, *args))       # whatever the betas are
HIGH = np.array([0.01, 0.02, 0.5, 0.95, 0.9, 0.3])      # weights of step 8 from 0.2 to 9.6, signal to noise from 100 to 0.001
MANY = 131          # rows, a prime: the last chunk of any size is a shorter one
DISTINCT = 5        # rows in a batch
MOST_ALONE = 4096   # dimensions, of which one is more than what single precision rounds in a loss
OTHER_WEIGHTS = "weights in t that are neither 1 nor those of step 8"
PUBLISHED: dict[str, Callable[[Any], Any]] = {       # weights of |eps - eps_hat|^2 that are neither
    "the score's loss, |score + eps / sqrt(1 - abar_t)|^2": lambda betas: 1 / (1 - np.cumprod(1 - betas)),
    "the loss of v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0 (Salimans and Ho 2022)": lambda betas: 1 / np.cumprod(1 - betas),
    "likelihood weighting, beta_t / (1 - abar_t) (Song et al. 2021)": lambda betas: betas / (1 - np.cumprod(1 - betas)),
    "|mu~ - mu|^2, not divided by sigma_t^2": lambda betas: betas**2 / ((1 - betas) * (1 - np.cumprod(1 - betas)))}
OF_X0 = "the residual is that of x_0 where that of eps belongs", SimpleNamespace(loss_weights=lambda betas: 1 / np.cumprod(1 - betas) - 1)
KEPT = "a table that is kept from one call to the next, for as many betas"
WIDEST = 5e-3       # a TOLERANCE from here on tells nothing about a loss


# ---------------------------------------------------------------- a network's arguments

def rebuild(tree: Any, numbers: Any, used: list[int] | None = None) -> Any:
    """A structure like `tree` with other numbers in its arrays; `used` is how many have their place so far.

    No inner function counts them: it would hold the numbers, and be held by itself, till garbage is collected.
    """
    used = [0] if used is None else used
    if tree is None:
        return None
    if isinstance(tree, dict):
        made = {key: rebuild(value, numbers, used) for key, value in in_order(tree)}
        return with_items(tree, {key: made[key] for key in tree})
    if isinstance(tree, (list, tuple)):
        items = [rebuild(value, numbers, used) for value in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    start = used[0]
    used[0] += math.prod(np.shape(tree))
    return numbers[start:used[0]].reshape(np.shape(tree)).copy()


def training_example(subject: Implementation, betas: Any, t: Iterable[int], seed: int, size: float = 1) -> Args:
    """Arguments of loss and gradient; the parameters are moved a little, so that none is at an initial zero. All may be `size` times as large."""
    if subject.get("parameters") is None:
        raise Wrong("nothing to go on: no parameters(rng)")
    rng = np.random.default_rng(seed)
    parameters = subject.get("parameters")(np.random.default_rng(seed))
    numbers = vector(parameters)
    parameters = rebuild(parameters, size * (numbers + 0.1 * rng.standard_normal(numbers.shape)))
    times = np.array([*t])
    x0, eps = size * rng.standard_normal((2, len(times), subject.dim))
    return {"parameters": parameters, "betas": betas, "x0": x0, "t": times, "eps": eps}


def long_betas(subject: Implementation) -> tuple[dict[int, Any], str]:
    """1000 and 2000 betas, but for those that the loss does not take: a network may be made for fewer times; and a note of these.

    Raises `Wrong` if the last time alone is refused.
    """
    found, left = {}, []
    for T in (1000, 2000):
        betas = standard_betas("linear", T)
        if (error := refusal(subject, betas, T)) is None:
            found[T] = betas
        elif isinstance(error, NotImplementedError) or refusal(subject, betas, T - 1):
            left.append(f"T = {T} left out: {said(error)}")
        else:
            raise Wrong(said(error), f"t = T = {T}", exact=f"a loss, as at t = {T - 1}", looks_like="t where t-1 belongs, in a table of T rows")
    return found, "; ".join(left)


def refusal(subject: Implementation, betas: Any, t: int) -> Exception | None:
    """What the loss raises at one time, if anything."""
    try:
        loss_of(subject, training_example(subject, betas, [t], 0))
    except Exception as error:  # noqa: BLE001
        return error
    return None


def loss_of(subject: Implementation, args: Args) -> Any:
    """What loss returns, as one number."""
    array = plain(call(subject.get("loss"), args))
    if array.size != 1:
        raise Wrong(f"returns a loss of shape {array.shape} where one number belongs")
    if not np.isfinite(array).all():
        raise Wrong(f"returns a loss of {array.ravel()[0]}")
    return array.ravel()[0]


def real_loss(subject: Implementation, args: Args) -> float:
    return float(loss_of(subject, args).real)


def rows_of(batch: Args, rows: Any) -> Args:
    """A batch of some of the rows."""
    return {**batch, **{name: batch[name][rows] for name in ("x0", "t", "eps")}}


def one_by_one(batch: Args) -> list[Args]:
    """The rows of a batch as batches of one."""
    return [rows_of(batch, [i]) for i in range(len(batch["t"]))]


def check_parameters(check: Check, subject: Implementation) -> Args:
    """Finite numbers."""
    found = vector(subject.get("parameters")(np.random.default_rng(0)))
    if not found.size or not np.isfinite(found).all():
        raise Wrong("returns no finite numbers")
    return {"note": f"{found.size} numbers"}


def too_wide(subject: Implementation) -> Args:
    """What to return where nothing was found: skipped if TOLERANCE is too large to find anything, since 100 times as much is allowed."""
    return {"verdict": "skipped", "note": "not judged: TOLERANCE is too large"} if subject.tolerance >= WIDEST else {}


# ---------------------------------------------------------------- rows

def check_rows(check: Check, subject: Implementation) -> Args:
    """The order of the rows does not matter, not even where B = d; the loss of a batch is the mean or the sum over its rows."""
    differ, refused, left, close = {}, [], [], 10 * max(subject.tolerance, 1e-8)
    sizes = sorted({2, 3, 5, 7, subject.dim, subject.dim + 1, MANY} - {1})
    for B in sizes:
        batch = training_example(subject, arbitrary_betas(7, 7), [1 + (i + 1) // 2 * 3 % 7 for i in range(B)], B)     # t = 1, 4, 4, 7, 7, ...
        repeats = np.arange(B) % DISTINCT       # so that few have to be looked at alone
        batch = rows_of(batch, repeats)
        try:
            first, second = (real_loss(subject, args) for args in (batch, rows_of(batch, np.arange(B) - 1)))
        except NotImplementedError as error:
            left.append(error)
            continue
        except Exception as error:  # noqa: BLE001, an array of shape (B,) does not go with (B, d)
            refused.append(error)
            continue
        if not abs(second - first) <= close * abs(first):
            differ[B] = first, second
        if not differ:
            check_sum(subject, batch, repeats, first, close)
    if differ:
        B, (one, turned_one) = next(iter(differ.items()))
        mixed = "the time of row i used for coordinate i: abar_t of shape (B,) where (B, 1) belongs"
        rounded = subject.tolerance < SINGLE and all(abs(one - other) <= 1e-5 * abs(one) for one, other in differ.values())
        raise Wrong(show(turned_one), f"the same {B} rows in another order, d = {subject.dim}", exact=f"{show(one)}, that of the other order",
                    looks_like=contract.SINGLE_PRECISION if rounded else mixed if [*differ] == [subject.dim] else None)
    if refused or len(left) == len(sizes):
        raise [*refused, *left][0]
    return too_wide(subject)


def check_sum(subject: Implementation, batch: Args, repeats: Any, first: float, close: float) -> None:
    """Raise `Wrong` unless the loss changes from a batch to another as the mean or the sum over the rows does.

    In the difference what depends on the parameters alone falls out.
    """
    B, other = len(repeats), {**batch, "x0": batch["eps"], "eps": -batch["x0"]}
    try:
        alone = [[real_loss(subject, row) for row in one_by_one(args)[:DISTINCT]] for args in (batch, other)]
    except (Wrong, ZeroDivisionError) as error:
        raise Wrong(said(error), "a row alone", exact="a finite number, as for two", looks_like="B - 1 where B belongs, or a deviation over the rows, 0 for one") from None
    rows = np.array(alone)[:, repeats]
    change, total = first - real_loss(subject, other), np.subtract(*rows.sum(1))
    if min(abs(change - total), abs(change - total / B)) <= close * np.abs(rows).sum():
        return
    times = f"t = {batch['t'].tolist()}" if B < MANY else f"{B} times"
    slips = {"B - 1 where B belongs": total / (B - 1), "B + 1 where B belongs": total / (B + 1) * 2,     # each of them 2 for a row alone
             "the root of the mean where the mean belongs": np.subtract(*np.sqrt(np.square(rows).mean(1)))}
    usual = ("arrays of shape (B,) and (B, 1), which make one of (B, B)" if subject.dim == 1 else
             "rows that influence each other, by batch normalisation or weights of the batch, or a function of their mean" if B < MANY else
             "rows that do not count alike: the last chunk of a batch, or a mean of means")
    raise Wrong(show(change), f"the change of the loss from one batch of {B} rows with {times} to another",
                exact=f"{show(total / B)}, the mean over the rows, or {show(total)}, the sum",
                looks_like=next((words for words, value in slips.items() if abs(change - value) <= close * abs(total)), usual))


# ---------------------------------------------------------------- x_t and the weights of t

def check_line(check: Check, subject: Implementation) -> Args:
    """Step 1 within the loss, whatever the network: where x_0 and eps change so that x_t does not, eps_hat does not
    change, and |eps - eps_hat|^2 is a quadratic function, of a curvature that is 1 or the weight of step 8. Where the network
    is linear it is quadratic for any x_t, and the curvature alone tells."""
    tolerance = max(1e-7, subject.tolerance)
    batches = one_by_one(training_example(subject, BETAS, TIMES, 1))
    found = curvature_of(subject, batches, exact, tolerance)
    if kind := kinds(found, tolerance):
        check_coordinates(subject, batches, found, tolerance)
        return check_other_betas(subject, kind, tolerance)
    for words, weights in PUBLISHED.items():
        if proportional(found, weights(BETAS), tolerance):
            return {"verdict": "skipped", "note": f"not judged: {OTHER_WEIGHTS}, but those of {words}"}
    of_high = [{**batch, "betas": HIGH} for batch in batches]
    for words, slip in chain([OF_X0], slips_of("loss_weights")):
        if not proportional(found, weights_of(slip, BETAS), tolerance):
            continue
        high = curvature_of(subject, of_high, exact, tolerance)
        if high is None or proportional(high, weights_of(slip, HIGH), tolerance):
            raise Wrong(f"{show(found / found.max())} of the largest",
                        f"weight of |eps - eps_hat|^2 in t, betas = {show(BETAS)}",
                        exact="1, or the weights of step 8", looks_like=words)
    check_slips_of_x_t(subject, batches, found, tolerance)
    return {"verdict": "skipped", "note": "not judged: " + (
        "not a square of eps - eps_hat(x_t, t), or of another x_t" if found is None else OTHER_WEIGHTS)}


def check_slips_of_x_t(subject: Implementation, batches: list[Args], found: Any, tolerance: float, alone: Any = None) -> None:
    """Raise `Wrong` if with a slip in x_t the curvature is as it should be, also along some coordinates `alone`, or there is one at all."""
    for words, slip in slips_of("q_sample"):
        of_slip = curvature_of(subject, batches, slip, tolerance)
        right = kinds(of_slip, tolerance) or found is None and of_slip is not None
        if right and alone is not None:
            along = curvature_of(subject, batches, slip, tolerance, alone)
            right = along is not None and (np.abs(along - of_slip) <= tolerance * np.abs(of_slip)).all()
        if right:
            raise Wrong("another prediction", "x_t within the loss: x_0 and eps move so that x_t stays", exact="the same", looks_like=words)


def check_other_betas(subject: Implementation, kind: set[str], tolerance: float) -> Args:
    """The same for many rows and other betas: x_t is that of step 1, and the weights are of the same kind."""
    longer, left_out = long_betas(subject)
    for betas, B in [(BETAS, MANY), *((betas, 1) for betas in (HIGH, arbitrary_betas(20, 20), *longer.values()))]:
        T = len(betas)
        times = np.unique([1, 2, T // 2, T - 1, T])
        one = training_example(subject, betas, [1] * B, 2)
        batches, where = [{**one, "t": np.full(B, t)} for t in times], show_args(one, ["betas"], 9)
        try:
            found = curvature_of(subject, batches, exact, tolerance)
        except NotImplementedError:
            continue
        if found is None:
            kept = T == len(BETAS) and curvature_of(subject, batches, OF_BETAS, tolerance) is not None
            raise Wrong("another prediction", f"x_t within the loss: {B} rows, {where}, t = {times.tolist()}",
                        exact=f"as with one row and betas = {show(BETAS)}", looks_like=KEPT if kept else None)
        if not kind & kinds(found, tolerance, betas, times):
            if T == len(BETAS) and kind & kinds(found, tolerance, BETAS, times):
                raise Wrong("those of the betas before", f"weight of |eps - eps_hat|^2 in t, other betas of the same length, {show(betas)}",
                            exact="those of step 8 for these", looks_like=KEPT)
            return {"verdict": "skipped", "note": f"not judged: {OTHER_WEIGHTS}, for {B} rows and {where}"}
    return too_wide(subject) or {"note": left_out}


def kinds(curvature: Any, tolerance: float, betas: Any = BETAS, times: Any = TIMES) -> set[str]:
    """Which of the weights that are right these are, at some times."""
    right = {"1": np.ones(len(times)), "step 8": weights_of(exact, betas)[times - 1]}
    return {kind for kind, weights in right.items() if proportional(curvature, weights, tolerance)}


def check_coordinates(subject: Implementation, batches: list[Args], found: Any, tolerance: float) -> None:
    """|eps - eps_hat|^2 is the sum over all coordinates: its curvature is the same along each, or along groups of them, and as `found`."""
    d = subject.dim
    ends = [np.array([0]), np.array([d - 1])] if 8 < d <= MOST_ALONE else []      # of a group of many one is little
    groups = [*np.array_split(np.arange(d), min(d, 8)), *ends]
    along = [curvature_of(subject, batches, exact, tolerance, group) for group in groups]
    if all(one is not None and (np.abs(one - found) <= 100 * tolerance * found).all() for one in along):
        return
    usual = np.median([found if one is None else one for one in along], axis=0)     # `found` is that of all, the wrong ones too
    strays = [math.inf if one is None else float(np.abs(one / usual - 1).max()) for one in along]
    if max(strays) < 0.01:      # a little along all of them
        check_slips_of_x_t(subject, batches, found, tolerance, groups[0])
    if max(strays) <= 100 * tolerance:
        raise Wrong(f"{show(found / usual)} of it", "weight of the coordinates together", exact="that of each alone",
                    looks_like="a variance over the coordinates, or the square of a sum, where the sum of squares belongs")
    i = int(np.argmax(strays))
    which = f"coordinate {groups[i][0]}" + f" to {groups[i][-1]}" * (len(groups[i]) > 1)
    raise Wrong("no square" if along[i] is None else f"{show(along[i] / usual)} of it",
                f"weight of (eps - eps_hat)^2 in {which}, betas = {show(BETAS)}", exact="that of the other coordinates")


def curvature_of(subject: Implementation, batches: list[Args], source: Any, tolerance: float, moved: Any = slice(None)) -> Any:
    """The second difference of the loss for each t, where x_t is that of `source` and some coordinates are moved, by a step of
    length 1; None if there are higher ones. NaN at t = T where a slip leaves its table there."""
    L, delta = np.zeros((len(batches), 5)), np.zeros(subject.dim)
    delta[moved] = np.cos(np.arange(subject.dim))[moved]
    delta /= np.linalg.norm(delta)
    for row, batch in zip(L, batches):
        t = int(batch["t"][0])
        weights = answer("q_sample", {"betas": batch["betas"], "x0": np.array([1.0, 0]), "t": t, "eps": np.array([0, 1.0])}, source)
        if weights is None and t == len(batch["betas"]):
            row[:] = math.nan
            continue
        if weights is None or not np.isfinite(weights).all() or not weights[0]:
            return None
        for k in range(-2, 3):
            shifted = {"x0": batch["x0"] - weights[1] / weights[0] * k * delta, "eps": batch["eps"] + k * delta}
            row[k + 2] = real_loss(subject, {**batch, **shifted})
    second, *higher = np.array([[0, 1, -2, 1, 0], [-1, 2, 0, -2, 1], [1, -4, 6, -4, 1]]) @ L.T
    return None if (np.abs(higher).max(0) > tolerance * np.abs(L).max(1)).any() else second     # both are 0 for a weight of 0


def weights_of(source: Any, betas: Any) -> Any:
    """The weights of step 8 with the slip of `source`."""
    return answer("loss_weights", {"betas": betas}, source)


def proportional(curvature: Any, weights: Any, tolerance: float) -> bool:
    """Whether one is a positive multiple of the other, and both are 0 at the same times."""
    if curvature is None or weights is None or weights.shape != curvature.shape:
        return False
    inside = ~np.isnan(curvature)
    curvature, weights = curvature[inside], weights[inside]
    with np.errstate(all="ignore"):
        no = (weights == 0) | np.isnan(weights)     # of a slip, NaN is 0/0
        ratio = curvature[~no] / weights[~no]
        return bool(not no.all() and (curvature[no] == 0).all() and (ratio > 0).all()
                    and np.ptp(ratio) < 100 * tolerance * ratio.max())    # false where some are infinite
