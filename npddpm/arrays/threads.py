"""Threads of one process that share work out, while BLAS keeps to one thread in each.

BLAS's own threads wait for each other in every product, at full speed, and where another program runs they take the cores from
each other. Threads that do larger pieces meet a few times in a step, and sleep while they wait. threadpoolctl, of the extra
"cli", tells and sets how many threads BLAS has; without it there is one thread here, and BLAS has its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import Context, copy_context
from queue import Empty, SimpleQueue
from typing import Any, ClassVar, TypeVar

from .checks import check_count

T = TypeVar("T")


class Team:
    """Threads that do the pieces of some work. As a context it gives BLAS one thread, and in the end what it had before.

    Parameters
    ----------
    threads : int, optional
        With the caller's. By default as many as BLAS has: what the machine offers, or OPENBLAS_NUM_THREADS says.

    Raises
    ------
    ValueError
        If `threads` is less than 1, or more and threadpoolctl is not installed.
    """

    # BLAS is one for all teams of the process: the first to enter notes what it had, the last to leave restores it.
    _lock, _inside = threading.Lock(), 0
    _before: ClassVar[list[tuple[Any, int]]] = []

    def __init__(self, threads: int | None = None) -> None:
        try:
            from threadpoolctl import ThreadpoolController
        except ImportError:
            if threads is not None and check_count("threads", threads) > 1:
                raise ValueError(f"threads must be 1 without threadpoolctl, got {threads}: pip install 'npddpm[cli]'") from None
            self._blas = []
        else:
            self._blas = [library for library in ThreadpoolController().lib_controllers if library.user_api == "blas"]
        with Team._lock:
            before = [n for _, n in Team._before] or [library.num_threads for library in self._blas]
        self.threads = max([1, *before]) if threads is None else check_count("threads", threads)
        self._helpers: list[threading.Thread] = []
        self._pieces: SimpleQueue[Any] = SimpleQueue()
        self._done: SimpleQueue[tuple[int, Any, BaseException | None]] = SimpleQueue()

    def __enter__(self) -> None:
        with Team._lock:
            Team._inside += 1
            Team._before = Team._before or [(library, library.num_threads) for library in self._blas]
            for library in self._blas:
                library.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        with Team._lock:
            Team._inside -= 1
            if Team._inside == 0:
                for library, threads in Team._before:
                    library.set_num_threads(threads)
                Team._before = []

    def map(self, work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """[work(item) for item in items], each done by the next thread that is free; an error is raised once all have ended."""
        if self.threads == 1 or len(items) < 2:
            return [work(item) for item in items]
        while len(self._helpers) < min(self.threads, len(items)) - 1:
            self._helpers.append(threading.Thread(target=self._help, daemon=True))
            self._helpers[-1].start()
        for number, item in enumerate(items):
            self._pieces.put((number, copy_context(), work, item))      # NumPy's errstate belongs to the context
        try:
            while True:
                self._done.put(attempt(*self._pieces.get_nowait()))
        except Empty:
            done = sorted((self._done.get() for _ in items), key=lambda piece: piece[0])
        for _, _, error in done:
            if error is not None:
                raise error
        return [result for _, result, _ in done]

    def _help(self) -> None:
        for piece in iter(self._pieces.get, None):
            self._done.put(attempt(*piece))

    def during(self, steps: Iterator[T]) -> Iterator[T]:
        """The steps of some work; once it ends, however it does, so do the threads."""
        try:
            yield from steps
        finally:
            for _ in self._helpers:
                self._pieces.put(None)
            for helper in self._helpers:
                helper.join()
            self._helpers = []


def attempt(number: int, context: Context, work: Callable[[Any], Any], item: Any) -> tuple[int, Any, BaseException | None]:
    """A piece of work: its number, its result and its error."""
    try:
        return number, context.run(work, item), None
    except BaseException as error:  # noqa: BLE001, raised again by the thread that called `map`
        return number, None, error
