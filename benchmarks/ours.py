"""What this project does, as functions run(n) that do it n times."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from npddpm import MLP, Schedule, sample
from npddpm.arrays.backend import device_module, generator, shared, standard_normal, synchronize
from npddpm.arrays.layout import zeros
from npddpm.arrays.threads import Team
from npddpm.mlp import g, g_backward, layer_shapes
from npddpm.model.ranks import Ranks
from npddpm.model.rules import draw_times
from npddpm.optim import Adam, adam_step

ROWS, READ_EVERY, LR = 8192, 100, 1e-3   # of the data; steps between two looks at the loss
SCHEDULE = Schedule.linear(1000)
Run = Callable[[int], None]


class Shape(NamedTuple):
    """Sizes of a network and its batch."""

    d: int
    hidden: int
    depth: int
    batch: int


def data(d: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((ROWS, d), dtype="float32")


def training(shape: Shape, device: str, comm: Any = None, threads: int | None = None) -> Run:
    """Draw rows, t and noise; noise the rows; forward, backward, Adam; read the loss every 100 steps."""
    net = MLP(shape.d, shape.hidden, shape.depth, schedule=SCHEDULE, rng=0, device=device)
    team = Team(threads)
    xp, adam, ranks = net.xp, Adam(net.parameters), Ranks(comm, net, shape.batch, np.random.default_rng(0), 0, team)
    x, taken = xp.asarray(data(shape.d)), 0

    def step() -> None:
        nonlocal taken
        with team:
            rng = ranks.rng(taken)
            u = rng.random((2, ranks.rows))
            x0 = x.take((ROWS * u[0]).astype(int), axis=0)
            t = draw_times(u[1], SCHEDULE.T, 1)
            eps = standard_normal(rng, x0.shape, x0.dtype)
            loss, gradient = ranks.loss_and_gradient(net, SCHEDULE, x0, t, eps, "simple")
            with shared(team):
                adam.step(gradient, LR)
        taken += 1
        if taken % READ_EVERY == 0:
            float(loss)

    def run(n: int) -> None:
        with Team():        # as in `fit`
            for _ in range(n):
                step()
        synchronize(xp)
    return run


def sampling_step(shape: Shape, device: str) -> Run:
    """x_{t-1} from x_t, by the ancestral sampler."""
    net = MLP(shape.d, shape.hidden, shape.depth, schedule=SCHEDULE, rng=0, device=device)
    rng = generator(0, net.xp)
    x = rng.standard_normal((shape.batch, shape.d), dtype=net.dtype)

    def run(n: int) -> None:
        y = x
        for t in range(500, 500 - n, -1):
            t = 1 + t % SCHEDULE.T
            y = SCHEDULE.reverse_mean(y, t, net(y, t)) + 0.1 * standard_normal(rng, y.shape, y.dtype)
        synchronize(net.xp)
    return run


def sampling_run(shape: Shape, device: str, n: int = 2000) -> Run:
    """n samples, all 1000 steps."""
    net = MLP(shape.d, shape.hidden, shape.depth, schedule=SCHEDULE, rng=0, device=device)

    def run(times: int) -> None:
        for _ in range(times):
            sample(net, SCHEDULE, n, shape.d, rng=0)
        synchronize(net.xp)
    return run


def kernels(shape: Shape, device: str) -> Iterator[tuple[str, Callable[[], Any], float, float]]:
    """Name, call, floating-point operations of the product, bytes moved, for the parts of a step."""
    xp = device_module(device)
    rng = np.random.default_rng(0)

    def random(*size: int) -> Any:
        array = zeros(xp, size, "float32")
        array[...] = xp.asarray(rng.standard_normal(size, dtype="float32"))
        return array

    h, b = shape.hidden, shape.batch
    a, u, d, z = (random(max(h, b), min(h, b)) for _ in range(4))    # the longer side first, as in a step
    xp.negative(abs(a), out=a)      # g works in place: repeated, it would drive what is above 0 to infinity
    zero, one = zeros(xp, a.shape, a.dtype), zeros(xp, a.shape, a.dtype)
    one[...] = 1                    # where the slope of g is 1: d stays as it is
    W, p, m, dp, v = random(h, h), *(random(h * h) for _ in range(4))
    xp.abs(v, out=v)
    yield "A W", lambda: xp.matmul(d, W, out=z) if b > h else xp.matmul(W, d, out=z), 2 * h * h * b, 0
    yield "g", lambda: g(a, u), 0, 3 * a.nbytes
    yield "g'", lambda: g_backward(d, zero, one), 0, 4 * d.nbytes
    yield "Adam", lambda: adam_step(p, m, v, dp, 1e-9, 0.9, 0.999, 1e-8), 0, 7 * p.nbytes


def products(shape: Shape) -> list[int]:
    """Multiplications and additions in A W for one example, layer by layer."""
    (inputs, _), *_ = layer_shapes(shape.d, shape.hidden, shape.depth, 0, shape.d)
    return [2 * inputs * shape.hidden, *[2 * shape.hidden**2] * (shape.depth - 1), 2 * shape.hidden * shape.d]


def training_flops(shape: Shape) -> int:
    """A W, A^T dZ and, but for the first layer, dZ W^T."""
    first, *others = products(shape)
    return shape.batch * (2 * first + 3 * sum(others))


def sampling_flops(shape: Shape) -> int:
    _, *others = products(shape)
    return shape.batch * (2 * (shape.d + 1) * shape.hidden + sum(others))


def launches(shape: Shape) -> int:
    """Kernels that one training step starts on a GPU, counted on the tests' stand-in for CuPy."""
    from tests.support import strict_cupy
    before = sys.modules.get("cupy")
    sys.modules["cupy"] = strict_cupy.module()
    try:
        run = training(shape, "gpu")
        run(1)
        start = strict_cupy.COUNTS["launches"]
        run(1)
        return strict_cupy.COUNTS["launches"] - start
    finally:
        del sys.modules["cupy"]
        if before is not None:
            sys.modules["cupy"] = before
