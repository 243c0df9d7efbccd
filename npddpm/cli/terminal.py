"""The standard streams and signals of a command: none of them costs a run."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ..model.ranks import all_end

LOST: dict[str, Exception] = {}     # standard streams that took no more, and why


def say(line: str, stream: str = "stdout") -> None:
    """Print a line. That nobody reads it any more, or that it finds no room, costs no run."""
    try:
        print(line, file=getattr(sys, stream), flush=True)
    except (OSError, ValueError) as error:
        LOST[stream] = error
        silence(stream)


def raise_if_lost() -> None:
    """Where what is printed is the result, that nobody could read it is an error."""
    if "stdout" in LOST:
        raise LOST["stdout"]


def silence(stream: str) -> None:
    """Send what is still to come from a standard stream nowhere, that which it holds back for the exit too."""
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), getattr(sys, stream).fileno())


def open_streams() -> None:
    """Open the standard streams that are closed: the next file that is opened would take their place."""
    LOST.clear()
    for stream, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, stream) is None:
            setattr(sys, stream, open(os.devnull, mode))  # noqa: SIM115
    for out in (sys.stdout, sys.stderr):
        if hasattr(out, "reconfigure"):
            out.reconfigure(errors="backslashreplace")


def progress(counts: Iterable[int], total: int, unit: str, first: int = 0,
             note: Callable[[], str] = str) -> Iterator[int]:
    """Pass rising counts on, with a bar on a terminal (if tqdm is there), else a line every tenth of the way."""
    start, shown, bar = time.monotonic(), first, None
    with contextlib.suppress(ImportError, OSError, ValueError):
        if sys.stderr.isatty():
            from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]
            bar = tqdm(total=total, initial=first, unit=unit)
    for count in counts:
        if bar is not None:
            try:
                bar.set_postfix_str(note(), refresh=False)
                bar.update(count - bar.n)
            except OSError:                 # the terminal has gone
                silence("stderr")
        elif count == total or count - shown >= total / 10:
            rate, shown = (count - first) / max(time.monotonic() - start, 1e-3), count
            parts = [note(), f"{rate:.0f} {unit}s/s", f"{(total - count) / rate:.0f} s left"]
            say(f"{unit} {count}/{total}: {', '.join(filter(None, parts))}", "stderr")
        yield count
    if bar is not None:
        with contextlib.suppress(OSError):
            bar.close()


@contextmanager
def handled(handler: Callable[[int, Any], None], *names: str) -> Iterator[None]:
    """Within the block `handler` answers the signals; but if SIGHUP is ignored, as under nohup, it stays so."""
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in names if hasattr(signal, name)):
            if signal.getsignal(number) != signal.SIG_IGN or number == signal.SIGINT:
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)


def interrupt(number: int, _: Any) -> None:
    raise KeyboardInterrupt(number)


def is_first(comm: Any) -> bool:
    return comm is None or comm.rank == 0


@contextmanager
def quiet(silent: bool) -> Iterator[None]:
    """In the block nothing is printed, if so wanted."""
    with open(os.devnull, "w") as nowhere:
        out, err = (nowhere, nowhere) if silent else (sys.stdout, sys.stderr)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            yield


def failed(comm: Any, line: str, code: int) -> int:
    """Print why the command ends: rank 0 does where all ranks end, else the one that failed, and ends the others."""
    alone = comm is not None and not all_end()
    if alone or is_first(comm):
        say(f"npddpm: {f'rank {comm.rank}: ' if alone else ''}{line}", "stderr")
    if alone:
        time.sleep(0.1)     # in which mpiexec passes the line on
        comm.Abort(code)
    return code
