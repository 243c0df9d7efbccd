"""Threads of one process that share work out, while BLAS keeps to one thread in each.

BLAS's own threads spin, that is, keep a core busy while they wait for each other in every product; where another program runs they
take the cores from each other. Threads that do larger pieces meet a few times in a step, and sleep while they wait. threadpoolctl, of the extra
"cli", tells and sets how many threads BLAS has; without it there is one thread here, and BLAS has its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import copy_context
from functools import cached_property
from typing import Any, TypeVar
from weakref import WeakSet

from .checks import check_count

T = TypeVar("T")
MOST_THREADS = 1024


class Team:
    """The caller and threads that do the pieces of some work. As a context it gives BLAS one thread, and in the end what it had before.

    Parameters
    ----------
    threads : int, optional
        By default as many as BLAS has: what the machine offers, or OPENBLAS_NUM_THREADS says.

    Attributes
    ----------
    threads : int
    stopped : bool
        Whether a piece has failed, or the caller was interrupted: the others may end at once, since nobody wants their results.

    Raises
    ------
    ValueError
        If `threads` is less than 1 or more than 1,024, or more than 1 and threadpoolctl is not installed.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads: int = BLAS.threads() if threads is None else check_count("threads", threads, most=MOST_THREADS)
        if self.threads > 1 and not BLAS.libraries:
            raise ValueError(f"threads must be 1 without threadpoolctl, or with a BLAS that it does not know, got {threads}: "
                             "pip install 'npddpm[cli]'")
        self.stopped = False
        # The caller is one of them; another starts with its first work.
        self._pool = ThreadPoolExecutor(max(1, self.threads - 1), thread_name_prefix="npddpm")

    def __enter__(self) -> None:
        BLAS.limit(self)

    def __exit__(self, *_: object) -> None:
        BLAS.restore(self)

    def map(self, work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """[work(item) for item in items], by all threads. An error leaves out what has not begun; what has comes to its end."""
        if self.threads == 1 or len(items) < 2:
            return [work(item) for item in items]
        self.stopped = False
        results: list[Any] = [None] * len(items)
        left, one_at_a_time = iter(range(len(items))), threading.Lock()

        def take_part() -> None:
            try:
                while not self.stopped:
                    with one_at_a_time:
                        i = next(left, None)
                    if i is None:
                        break
                    results[i] = work(items[i])
            except BaseException:       # of a piece, or a signal to the caller
                self.stopped = True
                raise

        # NumPy's errstate belongs to the context.
        others = [self._pool.submit(copy_context().run, take_part) for _ in range(min(self.threads, len(items)) - 1)]
        try:
            take_part()
            for other in others:
                other.result()
        except BaseException:
            self.stopped = True
            wait(others)
            raise
        return results

    def during(self, steps: Iterator[T]) -> Iterator[T]:
        """The steps of some work; once it ends, however it does, so do the threads."""
        try:
            yield from steps
        finally:
            self.stopped = True
            self._pool.shutdown(cancel_futures=True)


class Blas:
    """The threads of BLAS, which are the same for all teams of a process: the first to come notes their number, the last restores it.

    If an interrupt prevents `__exit__`, the set of those inside drops the team when it is freed; what the first has noted stays.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), WeakSet[Team]()
        self._before: list[tuple[Any, int]] = []

    @cached_property
    def libraries(self) -> list[Any]:
        """Those that threadpoolctl finds."""
        try:
            from threadpoolctl import ThreadpoolController
        except ImportError:
            return []
        return [library for library in ThreadpoolController().lib_controllers if library.user_api == "blas"]

    def threads(self) -> int:
        with self._lock:
            return max((threads for _, threads in self._before or self._now()), default=1)

    def limit(self, team: Team) -> None:
        with self._lock:
            self._before = self._before or self._now()
            if not self._inside:
                self._set([(library, 1) for library, _ in self._before])
            self._inside.add(team)

    def restore(self, team: Team) -> None:
        with self._lock:
            self._inside.discard(team)
            if not self._inside:
                self._set(self._before)
                self._before = []

    def _now(self) -> list[tuple[Any, int]]:
        return [(library, library.num_threads) for library in self.libraries]

    def _set(self, wanted: list[tuple[Any, int]]) -> None:
        """From version 3.8 on threadpoolctl lets one thread of Python alone set them, until that is cleared."""
        for library, threads in wanted:
            clear = getattr(library, "clear_controlling_thread", lambda force: None)
            clear(force=True)
            library.set_num_threads(threads)
            clear(force=True)


BLAS = Blas()
