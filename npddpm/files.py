"""Files: written whole or not at all, and read with one kind of complaint."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np


@contextmanager
def write_whole(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`, and give it that name when the block ends well.

    Renaming is atomic: whoever opens `path` finds the old content or the new, also after a crash.
    """
    target = Path(path).resolve()  # through a symbolic link, so that the link stays one
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise OSError now if `path` could not be written later, after hours of work."""
    target = Path(path).resolve()
    if target.is_dir():
        raise OSError(f"cannot write {path}: it is a folder")
    probe = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        open(probe, "wb").close()
        probe.unlink()
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from None


@contextmanager
def open_to_read(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file; whatever its content provokes inside the block becomes one ValueError that names it."""
    try:
        with open(path, "rb") as file:
            try:
                yield file
            except Exception as error:  # noqa: BLE001, one wrong bit leads the zip and npy readers to any class
                reason = f"it has no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
                raise ValueError(f"cannot read {path}: {reason}") from None
    except OSError as error:
        raise OSError(f"cannot read {path}: {error.strerror or error}") from None


def load_numpy(file: BinaryIO) -> Any:
    """``np.load`` without pickles, for which it would take anything that is no .npy or .npz file."""
    start = file.read(6)
    file.seek(0)
    if not start.startswith((b"\x93NUMPY", b"PK")):
        raise ValueError("it is no NumPy file (.npy or .npz)")
    return np.load(file, allow_pickle=False)
