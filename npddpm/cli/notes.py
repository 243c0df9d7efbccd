"""What a checkpoint says of its training, and the real rows that a model is compared with."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import data
from ..arrays.checks import LARGE, check_count, check_real
from ..mixture import GaussianMixture
from ..model.ddpm import DDPM
from .columns import Columns, check_names, noted
from .terminal import say

BLOCK = 1000    # rows that are read together
FEWEST = 4      # rows to compare a model with: two in each half


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
    name : str
        What `held` are.
    """

    source: str
    rows: np.ndarray | None
    held: np.ndarray
    others: np.ndarray
    name: str

    @property
    def apart(self) -> bool:
        """Whether `held` are no training rows, which then are the others."""
        return self.others is self.rows

    @property
    def name_of_others(self) -> str:
        return "training rows" if self.apart else f"other {self.name}"

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
        x = x if model.image else data.without_far(x, say, source)
        check_enough(x, source)
        if known:
            rows, held = data.split(x, noted.settings.get("holdout", 0.0))
            if len(held) < 2:
                say(f"no two rows of {source} were held out: the model is compared with what it was trained on")
                return cls.halves(source, rows, rows, "training rows")
            if isinstance(rows, np.ndarray) and (twice := np.isin(keys(held), keys(rows)).sum()):      # not of a file larger than memory
                say(f"{twice} of {len(held)} held-out rows are training rows too: {source} has rows more than once")
            return cls(source, rows, held, rows, "held-out rows")
        reach = np.max([np.abs(model.axes.standardize(block)).max() for block in data.blocks(x)])
        if not reach < LARGE:
            raise ValueError(f"DATA {source} lies too far from the training rows: it reaches {reach:.3g} of their deviations")
        if twice := len(x) - len(np.unique(keys(x))):
            say(f"{twice} of {len(x)} rows of {source} are equal to an earlier one: what compares nearest rows takes them for copies")
        trained = training_rows(model, noted)
        if trained is None:
            say(f"{args.model} does not say what it was trained on: rows of {source} may be its training rows" if noted.data is None else
                f"{source} is not, or no longer, what {args.model} was trained on, and its training rows are not known")
            return cls.halves(source, None, x, "rows of DATA")
        new, what = without_copies(x, trained)
        say(f"{source} is not what {args.model} was trained on, {noted.data}; {what}")
        if new is None:
            return cls.halves(source, trained, x, "rows of DATA")
        return cls(source, trained, data.split(new, 0.0)[0], trained, "rows of DATA")

    @classmethod
    def halves(cls, source: str, trained: Any, x: Any, name: str) -> Reference:
        """Rows that are compared with each other, where there are no others."""
        check_enough(x, source)
        return cls(source, trained, *data.split(x, 0.5), name)


def check_enough(x: Any, source: str) -> None:
    """Raise ValueError if there are too few rows to compare a model with."""
    if len(x) < FEWEST:
        raise ValueError(f"DATA {source} has {len(x)} rows, and {FEWEST} are needed to compare a model with")


def without_copies(x: Any, trained: Any) -> tuple[Any, str]:
    """The rows of x that are no training rows, None if they are too few, and what is said of that.

    They are compared in the fifteen digits that R and spreadsheets write. Chance makes rows equal too, of whole numbers say: a new
    row is equal to one of the training rows about as often as one of these is to another. If there are no more than that, all are
    kept, since what is left without them would be the rare ones.
    """
    known = keys(trained, fifteen_digits)
    copied = np.isin(keys(x, fifteen_digits), known)
    what = f"{copied.sum()} of its {len(x)} rows are training rows"
    counts = np.unique(known, return_counts=True)[1]
    share = float(counts[counts > 1].sum() / len(known))
    if 0 < copied.sum() <= len(x) * share + 3 * math.sqrt(len(x) * share * (1 - share)):
        return x, (f"{copied.sum()} of its {len(x)} rows equal a training row, as many as by chance ({share:.1%} of the training rows "
                   "have a double): all are kept, and if they are copies, what compares nearest rows tells nothing")
    if len(x) - copied.sum() < FEWEST:
        return None, what + ": the others are too few, and it is compared as a whole"
    return data.leave_out(x, np.flatnonzero(copied)), what + ", which are left out" * bool(copied.any())


def keys(x: Any, key: Callable[[np.ndarray], Any] = np.ndarray.tobytes) -> np.ndarray:
    """A number for each row, (n,), the same for equal rows."""
    rows = (row for start in range(0, len(x), BLOCK) for row in x[start:start + BLOCK] + 0.0)       # 0 for -0
    return np.fromiter((hash(key(row)) for row in rows), np.int64, len(x))


def fifteen_digits(row: np.ndarray) -> Any:
    return row.tobytes() if (row == np.rint(row)).all() else " ".join(map("{:.15g}".format, row))


def training_rows(model: DDPM, noted: Notes) -> np.ndarray | None:
    """The rows that a model was trained on, if they are still where they were."""
    if noted.data is not None:
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
