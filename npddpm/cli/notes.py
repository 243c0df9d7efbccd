"""What a checkpoint says of its training, and the real rows that a model is compared with."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import data
from ..arrays.checks import LARGE, Array, check_count, check_real
from ..mixture import GaussianMixture
from ..model.ddpm import DDPM
from .columns import Columns, check_names, noted
from .terminal import say

BLOCK = 1000        # rows that are rounded together


class Notes(NamedTuple):
    """What `npddpm train` notes in a checkpoint: the data, their digest, the settings."""

    data: str | None
    sha256: str | None
    settings: dict[str, Any]

    @classmethod
    def of(cls, model: DDPM, path: Path) -> Notes:
        """Whoever wrote the file may have noted anything, so nothing is taken as it stands."""
        about = noted(model)
        source, sha256, settings = (about.get(name) for name in ("data", "sha256", "settings"))
        if isinstance(settings, dict):
            try:
                check_count("steps", settings.get("steps"))
                check_count("batch_size", settings.get("batch_size"))
                check_real("lr", settings.get("lr"), 0, math.inf)
                check_real("holdout", settings.get("holdout"), 0, 1, closed=True)
            except ValueError as error:
                raise ValueError(f"{path} has settings that npddpm train does not write: {error}") from None
        return cls(source if isinstance(source, str) else None, sha256 if isinstance(sha256, str) else None,
                   settings if isinstance(settings, dict) else {})

    def is_of(self, source: str, x: Any) -> bool:
        """Whether x are the data; one's own sets may differ in the last bit from one processor to another."""
        own = source in data.PLANAR or source == "digits"
        return own and source == self.data or self.sha256 == digest(x)


def check_settings(out: Path, model: DDPM, settings: dict[str, Any], given: dict[str, Any]) -> None:
    """Raise ValueError if a run that goes on is given other settings than it began with."""
    known = {"hidden": model.shape["hidden"], "depth": model.shape["depth"], "T": model.schedule.T,
             "image": "x".join(map(str, model.image)) or "none"} | settings
    for name, value in given.items():
        if name != "steps" and known.get(name) != value:
            option = "--" + name.replace("_", "-")
            raise ValueError(f"--resume goes on with the settings of {out}: {option} is {known.get(name, 'not known')}, "
                             f"and cannot become {value}; leave {option} out, or train anew without --resume")


class Reference(NamedTuple):
    """The real rows that a model is compared with, and what they are to it.

    Attributes
    ----------
    source : str
    rows : (n, d) array or None
        The rows that the model was trained on, where they are known.
    held, others : (m, d) and (k, d) arrays
        Real rows to compare samples with, and other real rows, whose distance is the measure.
    name, name_of_others : str
    apart : bool
        Whether `held` are no training rows.
    """

    source: str
    rows: np.ndarray | None
    held: np.ndarray
    others: np.ndarray
    name: str
    name_of_others: str
    apart: bool

    @classmethod
    def of(cls, model: DDPM, args: argparse.Namespace) -> Reference:
        noted = Notes.of(model, args.model)
        source = args.data or noted.data
        if source is None:
            raise ValueError(f"{args.model} does not say what it was trained on: name DATA")
        try:
            x, image = data.load_rows(source, tell=say)
        except (OSError, ValueError) as error:
            raise error if args.data else ValueError(f"{args.model} was trained on {source}, but {error}: name DATA") from None
        known = noted.is_of(source, x)
        if image not in ((), model.image) and not known:        # train --image may have overruled the file
            raise ValueError(f"DATA {source} holds images of {data.sizes(image)}, the training rows were "
                             + (f"images of {data.sizes(model.image)}" if model.image else "a table"))
        if x.shape[1] != len(model.axes.mean):
            raise ValueError(f"DATA {source} has {x.shape[1]} columns, the model {len(model.axes.mean)}")
        check_names(source, Columns.of(model, args.model).names)
        if len(x) < 4:
            raise ValueError(f"DATA {source} has {len(x)} rows, and 4 are needed to compare a model with")
        x = x if model.image else data.without_far(x, say, source)
        if known:
            rows, held = data.split(x, noted.settings.get("holdout", 0.0))
            if len(held) >= 2:
                seen = {*keys(rows)} if isinstance(rows, np.ndarray) else set()
                if twice := sum(key in seen for key in keys(held)):
                    say(f"{twice} of {len(held)} held-out rows are training rows too: {source} has rows more than once")
                return cls(source, rows, held, rows, "held-out rows", "training rows", True)
            if len(rows) < 4:
                raise ValueError(f"{args.model} was trained on {len(rows)} rows, and 4 are needed to compare a model with")
            say(f"no two rows of {source} were held out: the model is compared with what it was trained on")
            half, other_half = data.split(rows, 0.5)
            return cls(source, rows, half, other_half, "training rows", "other training rows", False)
        with np.errstate(over="ignore", invalid="ignore"):
            _, _, _, low, high = data.moments(x)
            ends = np.abs(model.axes.standardize(np.stack([low, high])))
        if not ends.max() < LARGE:
            raise ValueError(f"DATA {source} lies too far from the training rows: it reaches {max(-low.min(), high.max()):.3g}")
        if twice := repeated(x):
            say(f"{twice} of {len(x)} rows of {source} are equal to an earlier one: what compares nearest rows takes them for copies")
        trained = training_rows(model, noted)
        if trained is None:
            half, other_half = data.split(x, 0.5)
            say(f"{args.model} does not say what it was trained on: rows of {source} may be its training rows" if noted.data is None else
                f"{source} is not, or no longer, what {args.model} was trained on, and its training rows are not known")
            return cls(source, None, half, other_half, "rows of DATA", "other rows of DATA", False)
        copied = copies(x, trained)
        share, most = equal_by_chance(trained, len(x))
        new = data.leave_out(x, np.flatnonzero(copied))
        if not copied.any():
            what = "are training rows"
        elif copied.sum() <= most:
            new, what = x, (f"equal a training row, as many as by chance ({share:.1%} of the training rows have a double): all are kept, and if "
                            "they are copies, what compares nearest rows tells nothing")
        elif len(new) >= 4:
            what = "are training rows, which are left out"
        else:
            what = "are training rows: the others are too few, and it is compared as a whole"
        say(f"{source} is not what {args.model} was trained on, {noted.data}; {copied.sum()} of its {len(x)} rows {what}")
        if len(new) >= 4:
            return cls(source, trained, data.split(new, 0.0)[0], trained, "rows of DATA", "training rows", True)
        half, other_half = data.split(x, 0.5)
        return cls(source, trained, half, other_half, "rows of DATA", "other rows of DATA", False)


def copies(x: Any, rows: Any) -> np.ndarray:
    """Which rows of x are among `rows`, (n,): with all digits, with the fifteen of R and spreadsheets, or in single precision, if one of
    the two was written in it.

    Fewer digits tell nothing where they make more than a hundredth of a table's rows equal that were not.
    """
    def to(digits: int, block: Array) -> Array:
        whole = (block == np.rint(block)).all()
        return block if whole else np.reshape([float(f"{value:.{digits}g}") for value in block.ravel().tolist()], block.shape)

    def mostly(rounding: Callable[[Array], Any], table: Any) -> bool:
        some = np.asarray(table[:BLOCK])
        with np.errstate(over="ignore"):
            return bool((rounding(some) == some).mean() > 0.9)

    single = any(mostly(rounding, table) for table in (x, rows) for rounding in (np.float32, partial(to, 9)))
    roundings: list[Callable[[Array], Any]] = [np.float64, partial(to, 15), *[np.float32] * single]
    found, distinct = np.zeros(len(x), dtype=bool), None
    for rounding in roundings:
        own, others = [*keys(x, rounding)], {*keys(rows, rounding)}
        counts = np.array([len({*own}), len(others)])
        distinct = counts if distinct is None else distinct
        if (counts >= 0.99 * distinct).all():
            found |= np.array([key in others for key in own])
    return found


def keys(x: Any, rounding: Callable[[Array], Any] = np.float64) -> Iterator[int]:
    """A number for each row, the same for rows that are equal once they are rounded."""
    with np.errstate(all="ignore"):
        for start in range(0, len(x), BLOCK):
            yield from (hash(bytes(row)) for row in rounding(x[start:start + BLOCK]) + np.float32(0))     # 0 for -0


def equal_by_chance(rows: Any, n: int) -> tuple[float, float]:
    """The share of rows that are not alone, an estimate of that of new rows equal to one of them, and how many of n new ones at most."""
    counts = Counter(keys(rows))
    share = sum(count for count in counts.values() if count > 1) / max(1, len(rows))
    return share, n * share + 3 * math.sqrt(n * share * (1 - share))


def repeated(x: Any) -> int:
    """How many rows are equal to an earlier one."""
    return len(x) - len({*keys(x)})


def training_rows(model: DDPM, noted: Notes) -> np.ndarray | None:
    """The rows that a model was trained on, if they are still where they were."""
    if noted.data is None:
        return None
    with contextlib.suppress(ValueError, OSError):
        x, _ = data.load_rows(noted.data)
        if noted.is_of(noted.data, x):
            x = x if model.image else data.without_far(x, lambda line: None)
            rows: np.ndarray = data.split(x, noted.settings.get("holdout", 0.0))[0]
            return rows
    return None


def known_law(model: DDPM, real: Reference) -> GaussianMixture | None:
    """The law of the real rows in the axes of the model, where it is known."""
    known = real.source == "gaussians" and model.net.dim == 2
    return data.GAUSSIANS.standardized(model.axes.mean, model.axes.scale, model.axes.V) if known else None


def digest(x: Any) -> str:
    sha256 = hashlib.sha256()
    for block in data.blocks(x):
        sha256.update(np.ascontiguousarray(block).data)
    return sha256.hexdigest()
