"""Threads that share work out: each piece once, errors and contexts as in one thread, and BLAS as it was before."""

import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import threadpoolctl
from hypothesis import given
from hypothesis import strategies as st

from npddpm.arrays import threads
from npddpm.arrays.backend import BLOCK, SHARE, shared
from npddpm.arrays.threads import Team
from npddpm.optim import adam_step


@pytest.fixture(autouse=True)
def nothing_is_left():
    """Of any test: no thread, and the threads that BLAS had."""
    before = Team().threads
    yield
    assert Team().threads == before and not threads.BLAS._inside and not threads.BLAS._before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("npddpm")]



@given(st.integers(1, 5), st.integers(0, 12))
def test_each_piece_is_done_once_and_results_have_the_order_of_the_items(size, n):
    team, done = Team(size), []
    for _ in team.during(iter([0])):
        assert team.map(lambda i: done.append(i) or -i, range(n)) == [-i for i in range(n)]
        assert sorted(done) == [*range(n)]
        assert team.map(str, range(n)) == [*map(str, range(n))]     # and again


def test_several_threads_take_part():
    team, meet = Team(3), threading.Barrier(3, timeout=30)
    for _ in team.during(iter([0])):
        assert len(set(team.map(lambda _: (meet.wait(), threading.get_ident())[1], range(3)))) == 3


@pytest.mark.parametrize("error", [ValueError("it"), KeyboardInterrupt(), MemoryError()])
def test_after_an_error_the_pieces_in_hand_end_and_no_other_begins(error):
    team, meet, ended = Team(2), threading.Barrier(2, timeout=30), []

    def work(i):
        if i < 2:
            meet.wait()
        if i == 0:
            raise error
        while i == 1 and not team.stopped:
            pass
        ended.append(i)

    for _ in team.during(iter([0])):
        with pytest.raises(type(error)):
            team.map(work, range(6))
        assert ended == [1] and team.map(abs, [-1, -2]) == [1, 2]


def test_a_signal_while_the_caller_waits_ends_the_others(monkeypatch):
    team, begun = Team(2), threading.Event()

    def work(i):
        begun.set()
        while not team.stopped:
            pass

    def interrupt():
        begun.wait(30)
        time.sleep(0.1)     # until the caller has handed out all pieces
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        next(team.during(team.map(work, range(20)) for _ in range(1)))


def test_threads_end_with_the_steps_also_if_these_are_left_or_fail():
    def steps(team):
        while True:
            yield team.map(abs, range(4))

    for leave in (lambda run: run.close(), lambda run: pytest.raises(KeyError, run.throw, KeyError("it"))):
        team = Team(3)
        run = team.during(steps(team))
        next(run)
        helpers = [thread for thread in threading.enumerate() if thread.name.startswith("npddpm")]
        assert 1 <= len(helpers) <= 3
        leave(run)
        assert not any(helper.is_alive() for helper in helpers)


def test_numpys_error_state_is_that_of_the_caller():
    team = Team(2)
    meet = threading.Barrier(2, timeout=30)

    def divide(_):
        meet.wait()
        return np.ones(1) / 0

    for _ in team.during(iter([0])):
        with np.errstate(divide="ignore"):
            assert np.isinf(team.map(divide, range(2))).all()
        with np.errstate(divide="raise"), pytest.raises(FloatingPointError):
            team.map(divide, range(2))


def of_blas():
    return {library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"}


def elsewhere(work):
    """In another thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


@pytest.fixture
def three():
    """BLAS has three threads."""
    with threadpoolctl.threadpool_limits(3, user_api="blas"):
        yield
        assert of_blas() == {3}


def test_blas_has_one_thread_inside_and_afterwards_what_it_had(three):
    team = Team()
    assert team.threads == 3 and Team(2).threads == 2
    with pytest.raises(KeyError), team:
        assert of_blas() == {1} and Team().threads == 3
        raise KeyError


def test_teams_that_overlap_restore_it_together(three):
    """As two trainings at once do, in whatever threads of Python."""
    team, other = Team(2), Team(2)
    team.__enter__()
    elsewhere(other.__enter__)
    elsewhere(team.__exit__)
    assert of_blas() == {1}
    other.__exit__()


def test_any_thread_of_python_can_set_it(three):
    def inside():
        with Team(2):
            return of_blas()

    assert inside() == elsewhere(inside) == inside() == {1}
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        assert elsewhere(lambda: [of_blas(), inside()]) == [{2}, {1}]


def test_an_interrupt_before_a_team_has_left_does_no_lasting_harm(three):
    Team(2).__enter__()
    assert of_blas() == {1}
    with Team() as _:
        assert Team().threads == 3


@pytest.mark.parametrize("wanted", [0, -1, 1.5, "2", True, 1025])
def test_a_number_of_threads_is_an_int_that_can_be(wanted):
    with pytest.raises(ValueError, match="threads must be"):
        Team(wanted)


def test_without_threadpoolctl_there_is_one_thread(monkeypatch):
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    monkeypatch.setattr(threads, "BLAS", threads.Blas())
    assert Team().threads == Team(1).threads == 1
    with pytest.raises(ValueError, match=r"threads must be 1 without threadpoolctl, .* got 2: pip install 'npddpm\[cli\]'"):
        Team(2)


@pytest.mark.parametrize("size", [BLOCK, BLOCK + 1, 3 * BLOCK, 5 * BLOCK + 17])
def test_a_long_pass_is_the_same_to_the_bit_on_any_number_of_threads(size):
    rng, results = np.random.default_rng(0), []
    given = rng.random((4, size), dtype=np.float32)
    for number in (1, 2, 3):
        team, arrays = Team(number), given.copy()
        for _ in team.during(iter([0])):
            with shared(team):
                adam_step(*arrays, 1e-3, 0.9, 0.999, 1e-8)
        results.append(arrays)
    assert (results[0] != given).any(1).sum() == 3 and all((result == results[0]).all() for result in results)
    assert SHARE.get()[0] == 1
