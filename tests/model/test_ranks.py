"""Ranks: what they add up to, that they stay alike, and what ends them. Most of it on a communicator between threads."""

import copy
import functools
import itertools
import os
import re
import shutil
import subprocess
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import strict_cupy
from hypothesis import given
from hypothesis import strategies as st
from pytest import approx

import npddpm
from npddpm import DDPM, Schedule, data, diffusion, samplers
from npddpm.arrays.threads import Team
from npddpm.cli.main import main
from npddpm.model import ranks
from npddpm.model.ddpm import CHUNK
from npddpm.model.ranks import by_first, in_turns, slices, streams

S = Schedule([0.01, 0.9, 0.99])
MOONS = data.load("moons", 500)
SETTINGS = {"steps": 110, "batch_size": 24, "lr": 0.02, "rng": 3}


class Threads:
    """The communicator of one of several threads, as mpi4py has it."""

    def __init__(self, rank, size, barrier, slots):
        self.rank, self.size, self.barrier, self.slots = rank, size, barrier, slots

    def allgather(self, value):
        self.slots[self.rank] = copy.deepcopy(value)
        self.barrier.wait()
        values = copy.deepcopy(self.slots)
        self.barrier.wait()
        return values

    def bcast(self, value):
        return self.allgather(value)[0]

    def Allreduce(self, own, total):
        total[...] = sum(self.allgather(own))


def on_ranks(size, work, timeout=120):
    """work(comm) in `size` threads: what each returned, or raised. If one raises alone the others do not wait for ever."""
    barrier, slots, results = threading.Barrier(size, timeout=timeout), [None] * size, [None] * size

    def run(rank):
        try:
            results[rank] = work(Threads(rank, size, barrier, slots))
        except Exception as error:  # noqa: BLE001
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def trained(size, **changes):
    return on_ranks(size, lambda comm: DDPM(S, 16, 2, dtype="float64").fit(MOONS, **SETTINGS | changes, comm=comm))


def all_raise(size, kind, message, work):
    for error in on_ranks(size, work):
        assert isinstance(error, kind) and message in str(error), error


@pytest.fixture(scope="module")
def small():
    """Not to be changed."""
    return DDPM(S, 8, 1).fit(MOONS, 20, 16, rng=0)


@pytest.mark.parametrize("weighting", ["simple", "elbo"])
@pytest.mark.parametrize("shares", [[24], [12, 12], [7, 7, 6]])
def test_ranks_give_the_run_of_one_process_with_the_same_draws(by_hand, shares, weighting):
    settings = SETTINGS | {"batch_size": sum(shares), "weighting": weighting}
    net, average, losses, _ = by_hand(S, MOONS, **settings, shares=shares, dtype="float64")
    for model in trained(len(shares), **settings):
        assert model.net.parameters == approx(net.parameters, rel=1e-7, abs=1e-9) and model.losses == approx([np.mean(losses[:100])])
        assert model.average == approx(average, rel=1e-7, abs=1e-9)


def test_all_ranks_have_the_same_model_to_the_bit(content):
    assert len({content(model) for model in trained(3, rng=None)}) == 1       # which of them draws the seed does not matter


@pytest.mark.parametrize("step, change, kind, message", [
    (107, 1e-3, RuntimeError, "after step 200 rank 1 has other parameters than rank 0"),
    (7, np.nan, FloatingPointError, "the loss became nan at step 8")])
def test_ranks_that_are_no_longer_alike_end_in_the_same_step(step, change, kind, message):
    def work(comm):
        model = DDPM(S, 8, 1)
        for taken in model.training(MOONS, 300, 8, rng=0, comm=comm):
            if taken == step and comm.rank == 1:
                model.net.parameters[-1] += change

    all_raise(3, kind, message, work)


@pytest.mark.parametrize("stop", [1, 37, 100])
def test_a_resumed_run_of_as_many_ranks_is_the_uninterrupted_one_to_the_bit(tmp_path, content, stop):
    """Rank 0 alone saves: the checkpoint needs to know nothing of the others."""
    def interrupted(comm):
        model = DDPM(S, 16, 2, dtype="float64")
        assert [*itertools.islice(model.training(MOONS, **SETTINGS, comm=comm), stop)][-1] == stop
        if comm.rank == 0:
            model.save(tmp_path / "m.npz")

    def resumed(comm):
        return DDPM.load(tmp_path / "m.npz").fit(MOONS, **SETTINGS, resume=True, comm=comm)

    assert on_ranks(2, interrupted) == [None, None]
    whole = content(trained(2)[0])
    assert [content(model) for model in on_ranks(2, resumed)] == [whole] * 2
    for model in on_ranks(3, resumed):          # other draws, but it goes on
        assert model.step == 110 and content(model) != whole


@pytest.mark.parametrize("n", [9, 10, 95])
def test_samples_do_not_depend_on_the_number_of_ranks(monkeypatch, small, n):
    """Nor on their threads, of which machines may have other numbers."""
    monkeypatch.setitem(CHUNK, "cpu", 10)
    expected = small.sample(n, rng=5)
    for size in (1, 2, 3):
        assert all((x == expected).all() for x in on_ranks(size, lambda comm: small.sample(n, rng=5, threads=1 + comm.rank, comm=comm)))
    drawn = on_ranks(2, lambda comm: small.sample(n, comm=comm))
    assert (drawn[0] == drawn[1]).all() and (drawn[0] != expected).any()


def test_each_chunk_is_drawn_by_one_rank():
    done = []
    results = on_ranks(3, lambda comm: list(in_turns(comm, Team(1), 7, lambda i: done.append((i, comm.rank)) or i * i)))
    assert results == [[i * i for i in range(7)]] * 3 and sorted(done) == [(i, i // 2 % 3) for i in range(7)]


@pytest.mark.parametrize("bits", [np.random.PCG64, np.random.Philox, np.random.MT19937, np.random.SFC64])
def test_streams_of_every_kind_of_generator(bits):
    rng, other = np.random.Generator(bits(1)), np.random.Generator(bits(1))
    for twin in (rng, other):
        twin.random(3)
    stream, again = streams(rng, 3), streams(other, 3)
    drawn = [stream(i).random(4).tolist() for i in (0, 1, 2, 1)]
    assert drawn == [again(i).random(4).tolist() for i in (0, 1, 2, 1)] and drawn[1] == drawn[3]
    assert len({*map(tuple, drawn), tuple(rng.random(4))}) == 4
    if bits is not np.random.SFC64:
        twin = np.random.Generator(bits(1))
        twin.random(3)
        assert twin.random(4).tolist() == drawn[0]


@pytest.mark.parametrize("change, name", [
    ({"steps": 9}, "steps"), ({"lr": 0.5}, "lr"), ({"batch_size": 9}, "batch_size"), ({"weighting": "elbo"}, "weighting"),
    ({"x": MOONS[1:]}, "x"), ({"resume": True}, "resume"), ({"steps": None}, "steps")])
def test_arguments_that_differ_between_ranks_are_named(small, change, name):
    given = {"x": MOONS, "steps": 5, "batch_size": 8}
    all_raise(2, ValueError, f"{name} must be the same on all ranks, got ",
              lambda comm: copy.deepcopy(small).fit(**given | (change if comm.rank else {}), comm=comm))


def test_numbers_that_ranks_cannot_share(small):
    all_raise(2, ValueError, "n must be the same on all ranks, got ", lambda comm: small.sample(3 + comm.rank, rng=0, comm=comm))
    all_raise(3, ValueError, "batch_size must be at least the number of ranks, 3, got 2",
              lambda comm: DDPM(S, 8, 1).fit(MOONS, 5, 2, comm=comm))


def test_an_error_of_the_first_rank_is_an_error_of_all():
    all_raise(3, ValueError, "x must vary", lambda comm: DDPM(S, 8, 1).fit(np.ones((4, 2)), 5, 8, comm=comm))
    done = []
    assert on_ranks(3, lambda comm: by_first(comm, lambda: done.append(comm.rank) or "it")) == ["it"] * 3 and done == [0]


def test_on_the_gpu_the_sum_goes_through_the_host(monkeypatch):
    """Nothing else crosses. And each rank takes its own GPU, here one of two."""
    monkeypatch.setitem(sys.modules, "cupy", strict_cupy.module())
    crossed = []
    strict_cupy.USED.clear()

    def work(comm):
        model = DDPM(S, 8, 1)
        run = model.training(MOONS, 50, 8, rng=0, device="gpu", comm=comm)
        next(run)
        comm.barrier.wait()
        before = dict(strict_cupy.COUNTS)
        comm.barrier.wait()
        for _ in range(9):
            next(run)
        comm.barrier.wait()
        crossed.append({name: strict_cupy.COUNTS[name] - before[name] for name in ("to_host", "to_device")})
        return model.net.parameters._values

    first, *others = on_ranks(3, work)
    assert all((values == first).all() for values in others) and sorted(strict_cupy.USED) == [0, 0, 1]
    assert all(0 < n <= 27 for counts in crossed for n in counts.values())


# ---- the command line, on MPI itself

SMALL = ["--hidden", "8", "--depth", "1", "--T", "10", "--batch-size", "9"]
MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
IF_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}      # Open MPI wants to be asked twice,
OVERSUBSCRIBE = {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}           # and wants a core for each rank

# Rank 1 meets its end in step 150.
STRUCK = """
import os, sys, npddpm.cli.main as command
from npddpm import DDPM
command.SAVE_EVERY, training = 100, DDPM.training

def struck(self, *args, comm, **options):
    for step in training(self, *args, comm=comm, **options):
        if step == 150 and comm.rank == 1:
            if sys.argv[1] == "error":
                raise OSError("no such disk")
            os.kill(os.getpid(), int(sys.argv[1]))
        yield step

DDPM.training = struck
sys.exit(command.main(sys.argv[2:]))
"""


def mpiexec(*command, timeout=300, one_thread=True):
    env = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    env |= IF_ROOT | OVERSUBSCRIBE | ({"OPENBLAS_NUM_THREADS": "1"} if one_thread else {})
    return subprocess.run([MPIEXEC, "-n", "2", sys.executable, *command], env=env, capture_output=True, text=True,
                          check=False, timeout=timeout)


@functools.cache
def two_ranks_start():
    try:
        return mpiexec("-c", "from mpi4py import MPI; assert MPI.COMM_WORLD.size == 2", timeout=60).returncode == 0
    except (OSError, TypeError, subprocess.TimeoutExpired):
        return False


@pytest.fixture
def mpi(tmp_path, monkeypatch):
    if not two_ranks_start():
        pytest.skip("no mpi4py, or no mpiexec that goes with it")
    monkeypatch.chdir(tmp_path)
    return mpiexec


def test_two_processes(mpi):
    """They have the bits of two threads, one voice, and samples of one process."""
    done = mpi("-m", "npddpm", "train", "moons", *SMALL, "--steps", "120", "--seed", "3")
    assert (done.returncode, done.stdout.count("\n"), done.stderr.count("\n")) == (0, 2, 10), done
    assert "moons.npz; 2 ranks" in done.stdout and os.listdir() == ["moons.npz"]
    rows = data.split(data.load("moons"))[0]
    twin = on_ranks(2, lambda comm: DDPM(Schedule.linear(10), 8, 1).fit(rows, 120, 9, rng=3, comm=comm))[0]
    model = DDPM.load("moons.npz")
    assert (model.net.parameters == twin.net.parameters).all() and model.losses == twin.losses
    done = mpi("-m", "npddpm", "sample", "moons.npz", "-n", "5003", "--seed", "4")
    assert done.returncode == 0 and done.stdout == "wrote samples.npy: 5003 samples of 2 numbers\n"
    assert (np.load("samples.npy") == model.sample(5003, 4)).all()
    done = mpi("-m", "npddpm", "train", "moons", "--resume", "--steps", "121", one_thread=False)
    assert done.returncode == 0 and "set OPENBLAS_NUM_THREADS=1" in done.stdout
    done = mpi("-m", "npddpm", "train", "moons.csv")        # Open MPI adds lines of its own
    assert done.returncode == 2 and done.stderr.startswith("npddpm: cannot read moons.csv: No such file or directory\n")
    assert done.stderr.count("npddpm:") == 1


def test_a_signal_to_one_rank_ends_all_and_they_go_on_to_the_bits_of_a_whole_run(mpi, capsys):
    done = mpi("-c", STRUCK, "15", "train", "moons", *SMALL, "--steps", "220")
    assert done.returncode != 0 and "interrupted: moons.npz holds step 150; --resume goes on from there" in done.stdout
    shutil.copy("moons.npz", "part.npz")
    assert mpi("-m", "npddpm", "train", "moons", "--resume").returncode == 0
    assert mpi("-m", "npddpm", "train", "moons", *SMALL, "--steps", "220", "--out", "whole.npz").returncode == 0
    part, whole = DDPM.load("moons.npz"), DDPM.load("whole.npz")
    assert (part.average == whole.average).all() and part.losses == whole.losses
    assert main(["train", "moons", "--resume", "--out", "part.npz"]) == 0
    assert "1 rank instead of 2: from here on the draws are others" in capsys.readouterr().out
    assert (DDPM.load("part.npz").average != whole.average).any()


@pytest.mark.parametrize("end", ["error", "9"])
def test_a_rank_that_dies_ends_the_run_and_leaves_the_last_checkpoint(mpi, end):
    done = mpi("-c", STRUCK, end, "train", "moons", *SMALL, "--steps", "1000")
    assert done.returncode != 0 and os.listdir() == ["moons.npz"] and DDPM.load("moons.npz").step == 100
    assert done.stderr.count("npddpm: rank 1: no such disk\n") == done.stderr.count("npddpm:") == (end == "error")
    assert "Traceback" not in done.stderr


def test_the_section_of_the_readme(mpi):
    readme = (Path(npddpm.__file__).parent / "model/README.md").read_text(encoding="utf-8")
    code, = re.findall(r"^```py\n(# ranks.py\n.*?)^```", readme, re.MULTILINE | re.DOTALL)
    Path("ranks.py").write_text(code.replace("10_000", "20").replace("512", "16").replace("DDPM(", "DDPM(Schedule.linear(9), ")
                                .replace("import DDPM", "import DDPM, Schedule"))
    np.save("big.npy", MOONS)
    done = mpi("-m", "mpi4py", "ranks.py")
    assert done.returncode == 0, done.stderr
    assert (DDPM.load("big.npz").sample(20_000, 1) == np.load("y.npy")).all()


@pytest.mark.parametrize("name", ["PMI_SIZE", "OMPI_COMM_WORLD_SIZE"])
def test_processes_that_cannot_find_each_other(monkeypatch, capsys, name):
    monkeypatch.setenv(name, "2")
    for module, said in ((None, "several processes need mpi4py: pip install 'npddpm[mpi]'"),
                         (types.ModuleType("mpi4py"), "mpiexec started 2 processes, of which mpi4py sees 1")):
        if module:
            module.MPI = types.SimpleNamespace(COMM_WORLD=types.SimpleNamespace(size=1))
        monkeypatch.setitem(sys.modules, "mpi4py", module)
        assert main(["train", "moons"]) == 2
        assert said in capsys.readouterr().err


# ---- threads

@given(st.integers(1, 10_000), st.integers(1, 10**8))
def test_slices_are_a_batch_cut_into_equal_parts(rows, parameters):
    """A network keeps the arrays of one size; halves of an odd number of rows differ by one."""
    cut = slices(rows, parameters)
    assert [i for part in cut for i in range(rows)[part]] == [*range(rows)]
    lengths = [part.stop - part.start for part in cut]
    assert 1 <= len(cut) <= 8 and len({*lengths}) == 1 or len(cut) == 2 and lengths[1] == lengths[0] + 1
    if len(cut) > 1:
        assert rows * parameters >= 2**25 and min(lengths) >= 32 and (len(cut) == 2 or min(lengths) >= 256)
    elif rows >= 64:
        assert rows * parameters < 2**25


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("rows, lengths, weighting", [(152, [38] * 4, "elbo"), (67, [33, 34], None)])
def test_any_number_of_threads_trains_the_same_model_to_the_bit(monkeypatch, content, gated, rows, lengths, weighting):
    """And that of one slice but for rounding."""
    def trained(threads):
        return DDPM(S, 16, 2, gated=gated, dtype="float64").fit(MOONS, 30, rows, rng=0, weighting=weighting, threads=threads)

    whole = trained(1)
    monkeypatch.setattr(ranks, "WORK", 1)
    monkeypatch.setattr(ranks, "ROWS", 38)
    first, *others = map(trained, (1, 2, 3, 8, None))
    assert [part.stop - part.start for part in ranks.slices(rows, 1)] == lengths
    assert {content(model) for model in others} == {content(first)}
    assert first.net.parameters == approx(whole.net.parameters, rel=1e-6, abs=1e-9) and first._loss_sum == approx(whole._loss_sum)
    assert (first.net.parameters != whole.net.parameters).any()     # the slices were taken


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, ZeroDivisionError])
def test_what_ends_a_slice_ends_the_training_between_two_steps(monkeypatch, error):
    monkeypatch.setattr(ranks, "WORK", 1)
    plain, calls = diffusion.loss_and_gradient, itertools.count()

    def until_the_ninth(*args, **options):
        if next(calls) == 9:        # in the fifth step of two slices each
            raise error
        return plain(*args, **options)

    monkeypatch.setattr(diffusion, "loss_and_gradient", until_the_ninth)
    model = DDPM(S, 16, 2)
    with pytest.raises(error):
        model.fit(MOONS, 40, 64, rng=0, threads=2)
    assert model.step == 4 and not [thread for thread in threading.enumerate() if thread.name.startswith("npddpm")]
    monkeypatch.undo()
    assert (model.net.parameters == DDPM(S, 16, 2).fit(MOONS, 40, 64, rng=0).net.parameters).sum() == 0     # whole, of step 4


@pytest.mark.parametrize("options", [{}, {"steps": 2}, {"steps": 2, "eta": 0.5}, {"clip": (-1, 1)}], ids=str)
def test_any_number_of_threads_draws_the_same_samples(small, options):
    n = 2 * CHUNK["cpu"] + 7
    first, *others = (small.sample(n, rng=3, threads=threads, **options) for threads in (1, 2, 5, None))
    assert all((x == first).all() for x in others)
    rng = np.random.default_rng(0)
    given = {"x_T": rng.standard_normal((n, 2)), "noise": rng.standard_normal((S.T + 1, n, 2))}
    first, second = (small.sample(n, threads=threads, **given) for threads in (1, 3))
    assert (first == second).all() and (first[:10] == small.sample(10, x_T=given["x_T"][:10], noise=given["noise"][:, :10])).all()


def test_a_clip_that_is_a_function_is_called_by_one_thread(small):
    seen = set()
    small.sample(2 * CHUNK["cpu"], rng=0, steps=2, threads=2, clip=lambda x: (seen.add(threading.get_ident()), x)[1])
    assert seen == {threading.get_ident()}


def test_an_interrupt_ends_all_chunks_at_once(monkeypatch, small):
    meet, number = threading.Barrier(2, timeout=30), itertools.count()

    def trajectory(net, s, n, dim, rng, **options):
        first = next(number) == 0
        meet.wait()
        if first:
            raise KeyboardInterrupt
        while True:
            yield 1, np.zeros((n, dim))

    monkeypatch.setattr(samplers, "trajectory", trajectory)
    with pytest.raises(KeyboardInterrupt):
        small.sample(5 * CHUNK["cpu"], rng=0, threads=2)


def test_training_and_sampling_do_not_depend_on_the_threads_that_blas_has():
    """Nor on the thread of Python: the axes of 150 columns are other ones in the last digits where BLAS has two."""
    threadpoolctl = pytest.importorskip("threadpoolctl")
    x = np.random.default_rng(0).standard_normal((400, 150)) @ np.random.default_rng(1).standard_normal((150, 150))

    def result(*_):
        model = DDPM(S, 8, 1).fit(x, 3, 16, rng=0, threads=2)
        return model.sample(3, rng=0, steps=2, threads=2)

    expected = result()
    with threadpoolctl.threadpool_limits(2, user_api="blas"), ThreadPoolExecutor(3) as pool:
        assert all((found == expected).all() for found in [result(), *pool.map(result, range(3))])
