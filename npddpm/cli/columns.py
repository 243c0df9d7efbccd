"""What a checkpoint notes of the columns of its training rows, and samples that keep to it."""

from __future__ import annotations

import codecs
import contextlib
import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from .. import data
from ..arrays.checks import Array, check_points
from ..data.files import open_to_read
from ..data.text import column_names, printable
from ..model.ddpm import DDPM
from .terminal import say

MOST = 10_000       # columns that are noted


def noted(model: DDPM) -> dict[str, Any]:
    """What a checkpoint says of its training, if that is of all the steps that the model has had: it may have gone on elsewhere."""
    return model.about if model.about.get("step", model.step) == model.step else {}


def note(x: Any, source: str) -> dict[str, Any] | None:
    """What is noted of the columns of training rows x from `source`: None if there are too many."""
    d = x.shape[1]
    if d > MOST:
        return None
    low, high, whole = zip(*((block.min(0), block.max(0), (block == np.rint(block)).all(0)) for block in data.blocks(x)))
    notes = {"low": np.min(low, axis=0).tolist(), "high": np.max(high, axis=0).tolist(), "whole": np.all(whole, axis=0).tolist()}
    names = names_in(source)
    return notes | {"names": names} if len(names) == d else notes


def names_in(source: str) -> list[str]:
    """The names of the columns of a text file; none of another, or without a header."""
    if Path(source).suffix.lower() not in (".csv", ".tsv", ".txt"):
        return []
    with open_to_read(source) as file:
        return column_names(file)


def check_names(source: str, known: list[str]) -> None:
    """Say so if the columns of a file have other names than those of the training rows; ValueError if they are these in another order."""
    names = names_in(source)
    if not names or not known or names == known:
        return
    line = f"{source} has the columns {printable(', '.join(names)):.200}, and the model {printable(', '.join(known)):.200}"
    if sorted(names) == sorted(known):
        raise ValueError(f"DATA {line}: put them into the model's order")
    say(line)


class Columns(NamedTuple):
    """Of each column the least and the greatest value, and whether it holds whole numbers alone; their names, if they have any."""

    low: Array
    high: Array
    whole: np.ndarray
    names: list[str]

    @classmethod
    def of(cls, model: DDPM, path: Path, needed: Sequence[str] = ()) -> Columns:
        """What a checkpoint notes, or bounds and names of nothing. ValueError if there are options that need it.

        Whoever wrote the file may have noted anything: what `note` does not write counts as nothing.
        """
        d = len(model.axes.mean)
        notes: Any = noted(model).get("columns")
        with contextlib.suppress(AttributeError, TypeError, ValueError):
            low, high = (check_points(name, notes.get(name), np, np.float64, d) for name in ("low", "high"))
            whole, names = np.asarray(notes.get("whole")), notes.get("names", [])
            if ((low <= high).all() and whole.dtype == bool and whole.shape == (d,)
                    and isinstance(names, list) and len(names) in (0, d) and all(isinstance(name, str) for name in names)):
                return cls(low, high, whole, names)
        if needed:
            raise ValueError(f"{' and '.join(needed)}: {path} does not say what its training columns held, as npddpm train notes it for "
                             f"up to {MOST} columns: train the model with it, or clip and round in Python, with "
                             "DDPM.sample(clip=(low, high)) and np.rint")
        return cls(np.full(d, -math.inf), np.full(d, math.inf), np.full(d, False), [])

    def rounded(self, x: Array) -> Array:
        """Rows or images x as rows, with whole numbers where the training rows had nothing else."""
        x = x.reshape(len(x), -1)
        return np.where(self.whole, np.rint(x) + 0.0, x)    # 0.0 for -0.0


def npy_writer(file: BinaryIO, shape: tuple[int, ...]) -> Callable[[Array], Any]:
    """Begin a .npy file of this shape; return what writes a chunk."""
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return lambda chunk: file.write(chunk.astype("<f8").tobytes())


def csv_writer(file: BinaryIO, names: list[str], whole: np.ndarray) -> Callable[[Array], Any]:
    """Begin a text with the names, if there are any; return what writes a chunk, `whole` columns without a decimal point."""
    text = codecs.getwriter("utf-8")(file)
    if names:       # in quotes, since 0, 1 would be numbers, and one that begins with # a comment
        csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL).writerow(names)
    table, kinds = csv.writer(text, lineterminator="\n"), [int if w else float for w in whole]
    return lambda chunk: table.writerows([kind(value) for kind, value in zip(kinds, row)] for row in chunk.reshape(len(chunk), -1).tolist())
