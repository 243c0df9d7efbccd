"""Training and sampling by 1, 2, 4 ... threads, beside ranks and other frameworks, on a quiet machine and on one whose core is taken.

A loop that does nothing takes a core, as a browser or another training would.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from npddpm import DDPM

from . import measure, ours, peers, ranks
from .ours import Run, Shape
from .report import milliseconds, table

SAMPLES, STEPS = 4000, 20
PEERS = ("PyTorch, fused Adam", "JAX")      # of `peers.PEERS`, the fastest


@contextmanager
def taken() -> Iterator[None]:
    """A core is taken by another program."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        other.kill()
        other.wait()


def sampling(d: int, threads: int) -> Run:
    """Samples of a model with the sizes that the rules give d columns; its weights do not matter."""
    x = np.random.default_rng(0).standard_normal((1000, d))
    model = DDPM(gated=False).fit(x, 1, rng=0)
    model.sample(1, steps=1)        # measures the drift once

    def run(n: int) -> None:
        for _ in range(n):
            model.sample(SAMPLES, rng=0, steps=STEPS, threads=threads)
    return run


def counts(cores: int) -> list[int]:
    """All cores first, then 1, 2, 4 ..."""
    return [cores, *(2**k for k in range(cores.bit_length()) if 2**k < cores)]


def run(shapes: Sequence[Shape], cores: int, with_peers: bool) -> list[dict[str, Any]]:
    """Times for each shape, quiet and busy."""
    rows = []
    for shape in shapes:
        runs = {named(n): ours.training(shape, "cpu", threads=n) for n in counts(cores)}
        processes = []
        if with_peers:
            runs |= {name: peers.PEERS[name](shape, "cpu") for name in PEERS}
            runs[f"{cores} ranks"], process = ranks.contestant(shape, cores)
            processes.append(process)
        rows += both("training step", ", ".join(map(str, shape)), runs)
        for process in processes:
            process.communicate()
    for d in dict.fromkeys(shape.d for shape in shapes):
        runs = {named(n): sampling(d, n) for n in counts(cores)}
        rows += both(f"{SAMPLES} samples in {STEPS} steps", str(d), runs)
    return rows


def both(what: str, size: str, runs: dict[str, Run]) -> list[dict[str, Any]]:
    quiet = {"what": what, "size": size, "busy": False, "times": measure.interleaved(runs, rounds=11)}
    with taken():
        return [quiet, quiet | {"busy": True, "times": measure.interleaved(runs, rounds=11)}]


def named(n: int) -> str:
    return f"{n} thread{'s' * (n > 1)}"


def tables(rows: list[dict[str, Any]]) -> str:
    parts = []
    for busy in (False, True):
        for what in dict.fromkeys(row["what"] for row in rows):
            found = [row for row in rows if row["what"] == what and row["busy"] == busy]
            first, *others = found[0]["times"]
            lines = [[row["size"], milliseconds(row["times"][first]), *(f"{row['times'][name]['ratio']:.2f}" for name in others)]
                     for row in found]
            parts.append(f"{what[0].upper()}{what[1:]}, {'a core taken by another program' if busy else 'a quiet machine'}: milliseconds of npddpm with "
                         f"{first}, and the time of others over it\n\n" + table(["size", f"{first}, ms", *others], lines))
    return "\n\n".join(parts)
