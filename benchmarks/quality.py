"""Seconds until samples are as good as real data, and what fewer sampling steps cost in quality."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from npddpm import DDPM, data
from npddpm.cli.evaluate import apart, energy_distance, neighbours, one_nearest_neighbour
from npddpm.model import rules
from npddpm.optim import learning_rate
from npddpm.samplers import few_times, reverse_coefficients

from . import peers
from .ours import SCHEDULE, Shape
from .report import table

SHAPE, STEPS, NEAR, FOURIER = Shape(2, 128, 3, 256), 10_000, 0.002, rules.network(2)["fourier"]
LOOKS = {*range(250, 2000, 250), *range(2000, STEPS + 1, 1000)}    # steps after which samples are drawn
COLUMNS = {"excess": "+.4f", "1-NN": ".3f", "1-NN, real": ".3f", "strays": ".2%"}       # at the end
Sampler = Callable[[int, int | None], np.ndarray]    # n, steps or None for all


def npddpm_learner(x: np.ndarray, device: str, seed: int) -> Iterator[Sampler]:
    """Train, and yield a sampler after each of LOOKS."""
    model = DDPM(SCHEDULE, SHAPE.hidden, SHAPE.depth, fourier=FOURIER)
    for step in model.training(x, STEPS, SHAPE.batch, rng=seed, device=device):
        if step in LOOKS:
            float(model.net.parameters[0])      # wait for the GPU
            yield lambda n, steps: (model.sample(n, seed, steps=steps) - x.mean(0)) / x.std(0)


def torch_learner(x: np.ndarray, device: str, seed: int) -> Iterator[Sampler]:
    """The same layers, loss, times, schedule, clipping and average in PyTorch, which starts from N(0, I)."""
    net = peers.Torch(SHAPE, device, FOURIER, seed)
    torch, s = net.torch, SCHEDULE
    rows = net.tensor(((x - x.mean(0)) / x.std(0)).astype("float32"))
    average = [p.detach().clone() for p in net.parameters]
    adam = torch.optim.Adam(net.parameters, fused=True)

    def draw(n: int, steps: int | None) -> np.ndarray:
        trained, net.parameters = net.parameters, average
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(seed)             # the same noise at each look, as above
            y = torch.randn(n, SHAPE.d, device=net.device)
            times = few_times(s.T, steps)
            for t, after in pairwise([*times, 0]):
                if steps is None:
                    a, b, sigma = float(s.rsqrt_alphas[t]), float(s.reverse_eps_coefs[t]), float(s.betas[t]) ** 0.5
                else:
                    a, b, _, sigma = reverse_coefficients(s, t, after, eta=0.0)
                y = a * y - b * net(y, torch.full((n,), t, device=net.device))
                if sigma > 0 and t > 1:
                    y += sigma * torch.randn_like(y)
        net.parameters = trained
        return y.cpu().numpy()

    for step in range(STEPS):
        for group in adam.param_groups:
            group["lr"] = learning_rate(step, STEPS, 2 * rules.lr(len(rows)))   # twice npddpm's: with silu(2z) its W are half as large
        adam.zero_grad(set_to_none=True)
        net.loss(rows[torch.randint(0, len(rows), (SHAPE.batch,), device=net.device)], rules.time_power(SHAPE.d)).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters, 1.0)
        adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, net.parameters, max(1e-3, 9 / (step + 10)))
        if step + 1 in LOOKS:
            if net.device == "cuda":
                torch.cuda.synchronize()
            yield draw


def excess(drawn: np.ndarray, x: np.ndarray, fresh: np.ndarray) -> float:
    """Energy distance of samples to fresh points less that of as many real points, data at unit scale."""
    mean, scale = x.mean(0), x.std(0)
    real, fresh = fresh[:len(drawn)], (fresh[len(drawn):] - mean) / scale
    return energy_distance(drawn, fresh) - energy_distance((real - mean) / scale, fresh)


def told_apart(drawn: np.ndarray, name: str, seed: int, x: np.ndarray) -> tuple[float, float]:
    """1-nearest-neighbour accuracy of samples, and of real points."""
    real, other = ((data.load(name, len(drawn), rng + seed) - x.mean(0)) / x.std(0) for rng in (200, 300))
    return one_nearest_neighbour(drawn, real), one_nearest_neighbour(other, real)


def strays(drawn: np.ndarray, name: str, seed: int, x: np.ndarray) -> float:
    """The share of samples that are farther than 0.1 from all of 100,000 real points."""
    many = (data.load(name, 100_000, 400 + seed) - x.mean(0)) / x.std(0)
    alone = [apart(drawn, part, np.arange(len(drawn)), neighbours(drawn, part, 1)) for part in np.array_split(many, 100)]
    return float((np.min(alone, axis=0) > 0.1).mean())


def run(device: str, with_peers: bool, quick: bool) -> list[dict[str, Any]]:
    """A row for each data set, seed and learner."""
    learners = {"npddpm": npddpm_learner}
    if with_peers:
        learners["PyTorch"] = torch_learner
    rows = []
    for name in ["moons"] if quick else data.PLANAR:
        for seed in range(1 if quick else 3):
            samplers: dict[str, Sampler] = {}
            x, fresh = (data.load(name, n, rng) for n, rng in ((8000, seed), (6000, 100 + seed)))
            for who, learner in learners.items():
                row: dict[str, Any] = {"data": name, "seed": seed, "who": who, "seconds": None, "training": 0.0}
                start = time.perf_counter()
                for draw in learner(x, device, seed):
                    row["training"] += time.perf_counter() - start
                    if row["seconds"] is None:
                        drawn = draw(2000, None)
                        if excess(drawn, x, fresh) < NEAR:
                            row["seconds"] = row["training"]
                    start = time.perf_counter()
                drawn = draw(2000, None)
                row["excess"] = excess(drawn, x, fresh)
                row["1-NN"], row["1-NN, real"] = told_apart(drawn, name, seed, x)
                row["strays"] = strays(drawn, name, seed, x)
                samplers[who] = draw
                print(device, name, seed, who, f"{row['training']:.1f} s", f"{row['excess']:+.4f}", file=sys.stderr, flush=True)
                rows.append(row)
            if (name, seed) == ("moons", 0):
                cells = sampling(samplers, x, fresh)
                for row in rows:
                    row["sampling"] = cells[row["who"]]
    return rows


def sampling(samplers: dict[str, Sampler], x: np.ndarray, fresh: np.ndarray) -> dict[str, dict[str, dict[str, float]]]:
    """10,000 samples with fewer and fewer steps: median seconds of three turns, taken by turns, and the excess."""
    cells: dict[str, dict[str, dict[str, float]]] = {who: {} for who in samplers}
    for steps in (None, 50, 20):
        seconds: dict[str, list[float]] = {who: [] for who in samplers}
        drawn: dict[str, np.ndarray] = {}
        for who in [*samplers] * 3:
            time.sleep(0.05)                    # as in measure.interleaved
            start = time.perf_counter()
            drawn[who] = samplers[who](10_000, steps)
            seconds[who].append(time.perf_counter() - start)
        for who in samplers:
            cells[who][str(steps or SCHEDULE.T)] = {"seconds": statistics.median(seconds[who]),
                                                    "excess": excess(drawn[who][:2000], x, fresh)}
    return cells


def tables(rows: list[dict[str, Any]]) -> str:
    """Means over seeds; seconds over the seeds that got there."""
    learning, sampling = [], []
    for name, who in dict.fromkeys((row["data"], row["who"]) for row in rows):
        mine = [row for row in rows if (row["data"], row["who"]) == (name, who)]
        reached = [row["seconds"] for row in mine if row["seconds"]]
        seconds = f"{np.mean(reached):.2f}" if reached else "not reached"
        if 0 < len(reached) < len(mine):
            seconds += f" ({len(reached)} of {len(mine)} seeds)"
        learning.append([f"{name}, {who}", seconds,
                         f"{np.mean([row['training'] for row in mine]):.1f}",
                         *(f"{np.mean([row[key] for row in mine]):{form}}" for key, form in COLUMNS.items())])
        if "sampling" in mine[0]:
            sampling.append([f"{name}, {who}", *(f"{cell['seconds']:.2f} ({cell['excess']:+.4f})"
                                                 for cell in mine[0]["sampling"].values())])
    return (table(["data", f"seconds to within {NEAR}", f"seconds of {STEPS} steps", *COLUMNS], learning)
            + "\n\n10,000 samples: seconds (energy distance over that of real points)\n\n"
            + table(["data", "T = 1000", "50 steps", "20 steps"], sampling))
