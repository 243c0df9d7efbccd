"""Threads of one process that share work out, while BLAS keeps to one thread in each.

BLAS's own threads wait for each other in every product, at full speed, and where another program runs they take the cores from
each other. Threads that do larger pieces meet a few times in a step, and sleep while they wait. threadpoolctl, of the extra
"cli", tells and sets how many threads BLAS has; without it there is one thread here, and BLAS has its own.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import Context, copy_context
from functools import cached_property
from queue import Empty, SimpleQueue
from typing import Any, TypeVar
from weakref import WeakSet

from .checks import check_count

T = TypeVar("T")


class Team:
    """Threads that do the pieces of some work. As a context it gives BLAS one thread, and in the end what it had before.

    Parameters
    ----------
    threads : int, optional
        With the caller's. By default as many as BLAS has: what the machine offers, or OPENBLAS_NUM_THREADS says.

    Attributes
    ----------
    threads : int
    stopped : bool
        Whether a piece has failed, or the caller was interrupted: the others may end at once, since nobody waits for their results.

    Raises
    ------
    ValueError
        If `threads` is less than 1 or more than 1,024, or more than 1 and threadpoolctl is not installed.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads: int = BLAS.threads() if threads is None else check_count("threads", threads, most=1024)
        if self.threads > 1 and not BLAS.libraries:
            raise ValueError(f"threads must be 1 without threadpoolctl, got {threads}: pip install 'npddpm[cli]'")
        self.stopped = False
        self._helpers: list[threading.Thread] = []
        self._pieces: SimpleQueue[Any] = SimpleQueue()
        self._done: SimpleQueue[tuple[int, Any, BaseException | None]] = SimpleQueue()

    def __enter__(self) -> None:
        BLAS.limit(self)

    def __exit__(self, *_: object) -> None:
        BLAS.restore(self)

    def map(self, work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """[work(item) for item in items], each done by the next thread that is free.

        After an error, which is raised, pieces that have not begun are left out; those in hand come to their end.
        """
        if self.threads == 1 or len(items) < 2:
            return [work(item) for item in items]
        self._hire(min(self.threads, len(items)) - 1)
        for number, item in enumerate(items):
            self._pieces.put((number, copy_context(), work, item))      # NumPy's errstate belongs to the context
        try:
            with contextlib.suppress(Empty):
                while True:
                    self._done.put(self._attempt(*self._pieces.get_nowait()))
            done = sorted((self._done.get() for _ in items), key=lambda piece: piece[0])
        except BaseException:       # of the caller alone: a signal
            self.stopped = True
            raise
        for _, _, error in done:
            if error is not None:
                raise error
        self.stopped = False
        return [result for _, result, _ in done]

    def _hire(self, n: int) -> None:
        """Start threads until there are n, or as many as the system has room for."""
        while len(self._helpers) < n:
            helper = threading.Thread(target=self._help, name="npddpm", daemon=True)
            try:
                helper.start()
            except RuntimeError:
                return
            self._helpers.append(helper)

    def _help(self) -> None:
        for piece in iter(self._pieces.get, None):
            self._done.put(self._attempt(*piece))

    def _attempt(self, number: int, context: Context, work: Callable[[Any], Any], item: Any) -> tuple[int, Any, BaseException | None]:
        """A piece of work: its number, its result and its error."""
        try:
            return number, None if self.stopped else context.run(work, item), None
        except BaseException as error:  # noqa: BLE001, raised again by the thread that called `map`
            self.stopped = True
            return number, None, error

    def during(self, steps: Iterator[T]) -> Iterator[T]:
        """The steps of some work; once it ends, however it does, so do the threads."""
        try:
            yield from steps
        finally:
            self.stopped = True
            for _ in self._helpers:
                self._pieces.put(None)
            for helper in self._helpers:
                helper.join()
            self._helpers, self.stopped = [], False


class Blas:
    """The threads of BLAS, which are the same for all teams of a process: the first to come notes their number, the last restores it.

    A team that an interrupt has kept from leaving is forgotten once nothing refers to it; what the first has noted stays.
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
            return max([1, *(threads for _, threads in self._before or self._now())])

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
