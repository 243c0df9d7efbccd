"""What a checkpoint says of its training, and the real rows that a model is compared with."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator
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
Rounding = Callable[[Array], Array]


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
                if isinstance(rows, np.ndarray) and (twice := int(copies(held, rows).sum())):
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
        new = data.leave_out(x, np.flatnonzero(copied))
        say(f"{source} is not what {args.model} was trained on, {noted.data}; {copied.sum()} of its {len(x)} rows are training rows"
            + ("" if not copied.any() else ", which are left out" if len(new) >= 4 else
               ": the others are too few, and it is compared as a whole"))
        if len(new) >= 4:
            return cls(source, trained, data.split(new, 0.0)[0], trained, "rows of DATA", "training rows", True)
        half, other_half = data.split(x, 0.5)
        return cls(source, trained, half, other_half, "rows of DATA", "other rows of DATA", False)


def decimals(k: int) -> Rounding:
    return lambda x: np.round(x, k)


def digits(k: int) -> Rounding:
    def rounded(x: Array) -> Array:
        """To k significant ones."""
        scale = 10.0 ** (k - 1 - np.floor(np.log10(np.where(x == 0, 1, np.abs(x)))))
        return np.where(np.isfinite(scale), np.rint(x * scale) / scale, x)
    return rounded


def precision(dtype: str) -> Rounding:
    return lambda x: x.astype(dtype).astype(float)


# How numbers are rounded where they are written, of each kind the coarsest first; and to fewer digits than any file has to lose.
ROUNDINGS: list[list[Rounding]] = [[*map(decimals, range(12))], [*map(digits, range(1, 12))], [precision("float16"), precision("float32")]]
ALIKE = digits(12)


def copies(x: Any, rows: Any) -> np.ndarray:
    """Which rows of x are among `rows`, (n,), as far as the digits tell that the one or the other was written with.

    A rounding that makes more than a hundredth of the rows of a table equal to others of it tells nothing.
    """
    def written(table: Any, rounding: Rounding) -> bool:
        return all(np.allclose(rounding(block), block, rtol=1e-14, atol=0, equal_nan=False) for block in data.blocks(table))

    def coarsest(table: Any, other: Any) -> Rounding:
        """Of those that leave a table as it is the one that changes the other most."""
        kinds = (next((r for r in kind if written(table, r)), ALIKE) for kind in ROUNDINGS)
        some = other[:BLOCK]
        return max(kinds, key=lambda rounding: float(np.abs(rounding(some) - some).sum()))

    found, distinct = np.zeros(len(x), dtype=bool), [len({*keys(table)}) for table in (x, rows)]
    for rounding in {coarsest(x, rows), coarsest(rows, x), ALIKE}:
        of_x, of_rows = [*keys(x, rounding)], {*keys(rows, rounding)}
        if len({*of_x}) >= 0.99 * distinct[0] and len(of_rows) >= 0.99 * distinct[1]:
            found |= np.array([key in of_rows for key in of_x])
    return found


def keys(x: Any, rounding: Rounding = lambda x: x) -> Iterator[int]:
    """A number for each row, the same for rows that are equal once they are rounded."""
    with np.errstate(all="ignore"):
        for start in range(0, len(x), BLOCK):
            yield from (hash(bytes(row)) for row in rounding(x[start:start + BLOCK]) + 0.0)     # 0 for -0


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
