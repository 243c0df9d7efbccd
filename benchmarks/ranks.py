"""One training step by several ranks of one thread each, against one process with threads of its own.

Each contestant has processes of its own, which mpiexec starts and which sleep while it is another's turn.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import measure, ours, peers
from .ours import Run, Shape
from .report import milliseconds, table


def contestant(shape: Shape, size: int) -> tuple[Run, subprocess.Popen[str]]:
    """run(n) for `size` ranks, and mpiexec, which ends when its stdin is closed."""
    mpiexec = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if mpiexec is None:
        raise ImportError("ranks need mpi4py and mpiexec: pip install mpi4py mpich")
    command = [mpiexec, "-n", str(size), sys.executable, "-m", __name__, *map(str, shape)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                               env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    assert process.stdin is not None and process.stdout is not None
    orders, answers = process.stdin, process.stdout

    def run(n: int) -> None:
        print(n, file=orders, flush=True)
        if not answers.readline():
            raise ImportError(f"mpiexec ended with status {process.wait()}")
    return run, process


def work(shape: Shape) -> None:
    """A rank: as many steps as rank 0 reads from stdin, again and again."""
    from mpi4py import MPI
    comm = MPI.COMM_WORLD
    run = ours.training(shape, "cpu", comm)
    while True:
        line = sys.stdin.readline() if comm.rank == 0 else ""
        turn = comm.Ibarrier()
        while not turn.Test():      # MPI's own waiting would keep the core busy
            time.sleep(2e-4)
        n = comm.bcast(int(line or 0))
        if n == 0:
            return
        run(n)
        if comm.rank == 0:
            print(n, flush=True)


def run(shapes: Sequence[Shape], cores: int, with_peers: bool) -> list[dict[str, Any]]:
    """Times for each shape: one process, ranks in powers of two up to the number of cores, PyTorch."""
    rows = []
    for shape in shapes:
        runs, processes = {"npddpm": ours.training(shape, "cpu")}, []
        for size in (2**k for k in range(cores.bit_length())):
            runs[f"{size} rank{'s' * (size > 1)}"], process = contestant(shape, size)
            processes.append(process)
        if with_peers:
            runs["PyTorch, fused Adam"] = peers.torch_run(shape, "cpu")
        rows.append({"shape": shape, "times": measure.interleaved(runs, rounds=15, seconds=0.2)})
        for process in processes:
            process.communicate()
    return rows


def tables(rows: list[dict[str, Any]]) -> str:
    others = [name for name in rows[0]["times"] if name != "npddpm"]
    lines = [[", ".join(map(str, row["shape"])), milliseconds(row["times"]["npddpm"]),
              *(f"{row['times'][name]['ratio']:.2f}" for name in others)] for row in rows]
    return ("One training step: milliseconds of one process with all its threads, and the time of others over it; a rank "
            "has one thread\n\n" + table(["d, hidden, depth, batch", "npddpm, ms", *others], lines))


if __name__ == "__main__":
    work(Shape(*map(int, sys.argv[1:])))
