"""Many threads or processes, one training: they share every batch, and their gradients are added up.

The loss is a mean over the B rows of a batch. So its gradient is the mean of the gradients of slices, each with the
weight of its n_r rows:

    grad L = sum_r (n_r / B) grad L_r,      sum_r n_r = B

**Threads.** How a batch is cut into slices depends on it and on the network alone, and the gradients are added in the order of the
slices: so a result does not depend on how many threads there are, to the bit.

**Processes.** A step is one Allreduce of the gradient. Everything else, Adam and the average too, every rank does for itself with the
same numbers, so that all keep the same model to the bit. `comm` is a communicator of mpi4py, such as MPI.COMM_WORLD,
or any object with its rank, size, Allreduce, allgather and bcast; None stands for a process alone.
"""

from __future__ import annotations

import copy
import math
import os
import time
import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import numpy as np

from .. import diffusion
from ..arrays.backend import elementwise, generator, shared, to_host
from ..arrays.checks import shown
from ..arrays.declared import trusted
from ..arrays.layout import zeros
from ..arrays.threads import Team

GRACE = 2   # seconds in which the other ranks may end as well
MOST_RANKS = 2**20                          # streams that a step has
WORK = 2**25        # rows times parameters, from which on a step is shared out: two milliseconds, so that waking threads pays
FEW_ROWS = 64       # a smaller batch is one slice: its products would be slow
ROWS = 256          # in a slice, once there are more than two
MOST_SLICES = 8     # each has a gradient of its own
AHEAD = 2           # chunks for each thread before results are yielded, or exchanged between ranks


@elementwise
def weighted_sum(xp: Any, total: Any, shares: list[float], *others: Any) -> None:
    """total <- sum_r shares_r grad_r, in this order; total is the first of the gradients."""
    total *= shares[0]
    for share, other in zip(shares[1:], others):
        total += share * other


class Ranks:
    """The draws and the gradient of a training by all threads and ranks.

    Parameters
    ----------
    comm : communicator or None
    net : MLP
    batch_size : int
        Rows of a batch, those of all ranks together.
    rng : Generator
        Of PCG64. A process alone draws from it. Ranks leave it as it is: in step k rank r has a stream of its own,
        1 + r + 2^20 k jumps ahead, so that nothing but the number of the step has to be known to go on.
    step : int
        Steps taken before.
    team : Team
        The threads of this rank.

    Attributes
    ----------
    rows : int
        The share of this rank in a batch.
    slices : list of slices
        Of these rows, a piece of work each.
    """

    def __init__(self, comm: Any, net: Any, batch_size: int, rng: np.random.Generator, step: int, team: Team) -> None:
        self.comm, self.xp, self.team, self._on_device = comm, net.xp, team, None
        self._rank: int = 0 if comm is None else comm.rank
        size: int = 1 if comm is None else comm.size
        self.rows = batch_size // size + (self._rank < batch_size % size)
        self._share = self.rows / batch_size
        self.slices = slices(self.rows, len(net.parameters)) if net.xp is np else [slice(None)]
        self._own = zeros(net.xp, (len(net.parameters) + 1,), net.dtype)    # the gradient and the loss
        self._gradients = [self._own[:-1], *(zeros(np, net.parameters.shape, net.dtype) for _ in self.slices[1:])]
        self._sum = np.empty(self._own.shape, net.dtype)
        self._rng: Any = rng
        self._on_device = None if net.xp is np else generator(self.rng(step), net.xp)
        self.check_alike(net.parameters, step)

    def rng(self, step: int) -> Any:
        """The generator for the draws of a step. On the GPU it is the same one in every step."""
        if self._on_device is not None:
            return self._on_device
        if self.comm is None:
            return self._rng
        return np.random.Generator(self._rng.bit_generator.jumped(1 + self._rank + MOST_RANKS * step))

    def loss_and_gradient(self, net: Any, s: Any, x0: Any, t: Any, eps: Any, weighting: Any) -> tuple[Any, Any]:
        """Those of the whole batch, from the rows of this rank."""
        def work(piece: tuple[slice, Any]) -> Any:
            rows, out = piece
            return diffusion.loss_and_gradient(net, s, x0[rows], t[rows], eps[rows], weighting, out=out)[0]
        with trusted():
            losses = self.team.map(work, [*zip(self.slices, self._gradients)])
        if len(losses) == 1:
            return self._over_ranks(losses[0])
        shares = [(rows.stop - rows.start) / self.rows for rows in self.slices]
        with shared(self.team):
            weighted_sum(self._gradients[0], shares, *self._gradients[1:])
        return self._over_ranks(sum(share * loss for share, loss in zip(shares, losses)))

    def _over_ranks(self, loss: Any) -> tuple[Any, Any]:
        if self.comm is None:
            return loss, self._own[:-1]
        self._own[-1] = loss
        self._own *= self._share
        self.comm.Allreduce(to_host(self._own), self._sum)
        return float(self._sum[-1]), self.xp.asarray(self._sum[:-1])

    def check_alike(self, parameters: Any, step: int) -> None:
        """Raise RuntimeError if the parameters of two ranks differ in a bit."""
        if self.comm is not None:
            sums = self.comm.allgather(zlib.crc32(to_host(parameters).data))
            if len(set(sums)) > 1:
                rank = next(r for r, s in enumerate(sums) if s != sums[0])
                raise RuntimeError(f"after step {step} rank {rank} has other parameters than rank 0: "
                                   "all need the same processor and NumPy, and threadpoolctl or none of them")


def check_comm(comm: Any, batch_size: int | None = None, **values: Any) -> None:
    """Raise TypeError if `comm` is no communicator, ValueError if the arguments differ between ranks or a rank has no row."""
    if comm is None:
        return
    if not hasattr(comm, "Allreduce"):
        raise TypeError(f"comm must be a communicator of mpi4py, such as MPI.COMM_WORLD, got {shown(comm)}")
    values["batch_size"] = batch_size
    for rank, others in enumerate(comm.allgather(values)):
        for name, value in values.items():
            if others[name] != value:
                raise ValueError(f"{name} must be the same on all ranks, got {shown(value)} on rank {comm.rank} and "
                                 f"{shown(others[name])} on rank {rank}")
    if batch_size is not None and batch_size < comm.size:
        raise ValueError(f"batch_size must be at least the number of ranks, {comm.size}, got {batch_size}")


def by_first(comm: Any, work: Callable[[], Any]) -> Any:
    """What rank 0 makes of `work()`, a result or an error, on every rank; the others leave it alone."""
    if comm is None:
        return work()
    result, error = None, None
    if comm.rank == 0:
        try:
            result = work()
        except Exception as raised:  # noqa: BLE001, raised again below, by all
            error = raised
    result, error = comm.bcast((result, error))
    if error is not None:
        raise error
    return result


def slices(rows: int, parameters: int) -> list[slice]:
    """A batch in one to eight pieces of one size, since a network keeps the arrays of one; two of odd numbers of rows differ by one."""
    most = 1 if rows < FEW_ROWS or rows * parameters < WORK else min(max(2, rows // ROWS), MOST_SLICES)
    n = next((n for n in range(most, 1, -1) if rows % n == 0), min(most, 2))
    return [slice(rows * i // n, rows * (i + 1) // n) for i in range(n)]


def in_turns(comm: Any, team: Team, n: int, work: Callable[[int], Any]) -> Iterator[Any]:
    """work(0) ... work(n - 1) in this order and on every rank, each done by one thread of one of them."""
    size, rank = (1, 0) if comm is None else (comm.size, comm.rank)
    threads = team.threads if comm is None else min(comm.allgather(team.threads))
    share = min(AHEAD * threads, math.ceil(n / size))
    for first in range(0, n, size * share):
        with team:
            done = team.map(work, range(first + rank * share, n)[:share])
        yield from done if comm is None else chain.from_iterable(comm.allgather(done))


def streams(rng: Any, n: int) -> Callable[[int], np.random.Generator]:
    """Generators of n streams by their number i: i jumps ahead of `rng`, which is left where the next would begin."""
    if not hasattr(getattr(rng, "bit_generator", None), "jumped"):      # the GPU's, and NumPy's SFC64
        rng = np.random.default_rng(int(rng.integers(2**31)))
    start = copy.deepcopy(rng.bit_generator)
    rng.bit_generator.state = start.jumped(n).state
    return lambda i: np.random.Generator(start.jumped(i) if i else copy.deepcopy(start))


# ---------------------------------------------------------------- of a command that mpiexec started

def world() -> Any:
    """All processes that mpiexec started, as a communicator; None if there is one, or nobody said how many.

    Raises
    ------
    ValueError
        If mpi4py is missing, or belongs to another MPI than mpiexec, so that its processes would not find each other.
    """
    started = max(int(size) if (size := os.environ.get(name, "")).isdecimal() else 1 for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE"))
    if started == 1:
        return None
    try:
        from mpi4py import MPI
    except ImportError:
        raise ValueError("several processes need mpi4py: pip install 'npddpm[mpi]'") from None
    if MPI.COMM_WORLD.size != started:
        raise ValueError(f"mpiexec started {started} processes, of which mpi4py sees {MPI.COMM_WORLD.size}: "
                         "it belongs to another MPI than the one that mpi4py loads")
    return MPI.COMM_WORLD.Dup()


def all_end() -> bool:
    """Whether all ranks come here within two seconds; if not, one has failed that the others wait for."""
    from mpi4py import MPI
    here, start = MPI.COMM_WORLD.Ibarrier(), time.monotonic()     # of a communicator on which no other call can be pending
    while not (together := here.Test()) and time.monotonic() < start + GRACE:
        time.sleep(0.01)
    return bool(together)


def signalled(comm: Any, came: list[int]) -> int:
    """A signal that came to one of the ranks, the same on all, or 0."""
    first = came[0] if came else 0
    return first if comm is None else max(comm.allgather(first))
