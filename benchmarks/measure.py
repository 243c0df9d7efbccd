"""Times of several contestants in one run, and what the machine itself can do."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from npddpm.arrays.backend import device_module, synchronize

Run = Callable[[int], None]


def interleaved(runs: dict[str, Run], rounds: int = 9, seconds: float = 0.15) -> dict[str, dict[str, float]]:
    """Seconds for one call of each, median and quartiles over rounds in which all take their turn.

    Machines slow down and speed up by the minute; contestants that take turns do so together, and "ratio",
    the median over rounds of a time over that of the first contestant in the same round, does not see it.
    Each turn begins with a pause, in which the threads of the one before stop spinning, and a few calls that
    bring its own data into the caches; the order of the turns changes. A run(n) does its work n times and
    waits for the device, which n amortizes.
    """
    blocks, times = {}, {name: [] for name in runs}
    for name, run in runs.items():
        run(3)                                              # allocate, compile
        start = time.perf_counter()
        run(1)
        blocks[name] = max(1, min(1000, round(seconds / (time.perf_counter() - start))))
    order = list(runs.items())
    for _ in range(rounds):
        random.shuffle(order)
        for name, run in order:
            time.sleep(0.05)
            run(1 + blocks[name] // 5)
            start = time.perf_counter()
            run(blocks[name])
            times[name].append((time.perf_counter() - start) / blocks[name])
    first = next(iter(times.values()))
    return {name: dict(zip(("low", "median", "high"), statistics.quantiles(values, n=4)))
            | {"ratio": statistics.median(a / b for a, b in zip(values, first))}
            for name, values in times.items()}


def alone(call: Callable[[], Any], device: str, rounds: int = 5) -> dict[str, float]:
    """`interleaved` for one kernel; on the GPU timed by events on the device, without the time of its launch."""
    if device == "cpu":
        def run(n: int) -> None:
            for _ in range(n):
                call()
        return interleaved({"npddpm": run}, rounds)["npddpm"]
    from cupyx.profiler import benchmark
    times = benchmark(call, n_repeat=20 * rounds, n_warmup=10).gpu_times.ravel().tolist()
    return dict(zip(("low", "median", "high"), statistics.quantiles(times, n=4)))


def rates(device: str) -> dict[str, float]:
    """The best of a few large float32 matrix products, FLOP/s, and of a few copies, bytes/s read and written."""
    xp = device_module(device)
    best = {"sgemm": 0.0, "copy": 0.0}
    for n in (2048, 4096) if xp is np else (4096, 8192):
        a, b, c = (xp.ones((n, n), dtype="float32") for _ in range(3))
        best["sgemm"] = max(best["sgemm"], 2 * n**3 / shortest(xp, partial(xp.matmul, a, b, out=c)))
    source = xp.ones(2**26, dtype="float32")
    target = xp.zeros_like(source)
    best["copy"] = 2 * source.nbytes / shortest(xp, partial(xp.copyto, target, source))
    return best


def shortest(xp: Any, call: Callable[[], Any], repeats: int = 8) -> float:
    best = float("inf")
    for _ in range(repeats):
        synchronize(xp)
        start = time.perf_counter()
        call()
        synchronize(xp)
        best = min(best, time.perf_counter() - start)
    return best
