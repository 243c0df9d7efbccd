"""Files: written whole or not at all, at nobody's cost, and read with one kind of complaint."""

from __future__ import annotations

import contextlib
import filecmp
import itertools
import math
import os
import re
import secrets
import shutil
import stat
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..arrays.checks import check_path

try:
    import fcntl
except ImportError:     # Windows: files are whole there too, but of two runs that write at the same moment one can lose its file
    fcntl = None        # type: ignore[assignment,unused-ignore]

DAY = 86_400.0          # seconds
Stamp = tuple[int, int, int, int]


@contextmanager
def write_whole(path: str | os.PathLike[str], place: Callable[[Path, Path], None] = os.replace) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`, and give it that name when the block ends well.

    Renaming is atomic: whoever opens `path` finds the old content or the new, also after a crash.

    Raises
    ------
    TypeError
        If `path` is no str or Path.
    OSError
        If the file cannot be written, or what is there is write-protected or no regular file.
    """
    check_path(path)
    with explained(path):
        target = follow(path)
        before = regular(target)
        temporary, file = temporary_beside(target)
        try:
            with file:
                if before and os.name == "posix":
                    keep_owner(temporary, before)
                yield file
                file.flush()
                os.fsync(file.fileno())
                if not fcntl:
                    file.close()
                with locked(target.parent):
                    regular(target)
                    place(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


def keep_owner(temporary: Path, before: os.stat_result) -> None:
    """Owner, group and permissions as before, as far as one may: who could not read the old file cannot read this one."""
    with contextlib.suppress(OSError):
        os.chown(temporary, before.st_uid, before.st_gid)
    now = temporary.stat()
    if now.st_uid == before.st_uid:
        temporary.chmod(before.st_mode & (0o777 if now.st_gid == before.st_gid else 0o707))


class Outputs:
    """The files of one run or one model: it replaces those that it wrote itself, and puts aside all others.

    But for those with the same content, to the byte: a command that is run twice leaves one file.

    Attributes
    ----------
    aside : Path or None
        Where the file that the last write found in its place is now.
    """

    def __init__(self) -> None:
        self.aside: Path | None = None
        self._own: dict[Path, Stamp] = {}

    def write(self, path: str | os.PathLike[str]) -> AbstractContextManager[BinaryIO]:
        """`write_whole`, but a file that is not one's own gets another name first."""
        self.aside = None
        return write_whole(path, self._place)

    def _place(self, temporary: Path, target: Path) -> None:
        new = stamp(temporary.stat())
        if target.exists() and self._own.get(target) != stamp(target.stat()) and not same_bytes(temporary, target):
            self.aside = put_aside(target)
        os.replace(temporary, target)
        self._own[target] = new

    def adopt(self, path: str | os.PathLike[str], file: BinaryIO) -> None:
        """Take the file that was read from `path` for one's own."""
        self._own[follow(path)] = stamp(os.fstat(file.fileno()))

    def lost(self, path: str | os.PathLike[str]) -> bool:
        """Whether another file stands where one's own was."""
        with explained(path):
            target = follow(path)
            return target in self._own and target.exists() and self._own[target] != stamp(target.stat())


def check_output(path: Path, suffixes: Sequence[str] = (), size: int = 0, **inputs: Any) -> None:
    """Raise OSError or ValueError now if `path` could not be written later, after hours of work.

    It will have `size` bytes. Nor must it be one of the inputs, or have another suffix than these, if there are any.
    """
    with explained(path):
        target = follow(path)
        regular(target)
        temporary, file = temporary_beside(target)
        file.close()
        temporary.unlink()
        free = shutil.disk_usage(target.parent).free
        if 0 < free < size:     # some file systems say 0 and mean that they do not know
            raise OSError(f"it will have {size:,} bytes, and there is room for {free:,}")
    for name, other in inputs.items():
        with contextlib.suppress(OSError, TypeError):   # the data may be no file
            if os.path.samefile(target, other):
                raise ValueError(f"writing {path} would overwrite the {name}; name another file")
    if suffixes and path.suffix.lower() not in suffixes:
        raise ValueError(f"cannot write {path}: name a {' or '.join(suffixes)} file")


@contextmanager
def explained(path: str | os.PathLike[str], doing: str = "write") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(f"cannot {doing} {path}: {error.strerror or error}") from None


def follow(path: str | os.PathLike[str]) -> Path:
    """The path with no symbolic link in it, so that a link stays one."""
    return Path(os.path.realpath(path))


def regular(target: Path) -> os.stat_result | None:
    """The state of a file, or None if there is none; what is write-protected, or no regular file, must not be replaced."""
    try:
        status = os.lstat(target)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is a folder" if stat.S_ISDIR(status.st_mode) else "it is no regular file")
    if not status.st_mode & stat.S_IWUSR:
        raise OSError("it is write-protected; name another file, or make it writable")
    return status


def stamp(status: os.stat_result) -> Stamp:
    """What tells a file from any other, and from itself before somebody wrote to it."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def same_bytes(one: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:         # one may not read it
        return False


def free_names(target: Path) -> Iterator[Path]:
    """path.1, path.2 ...: those of no file."""
    names = (target.with_name(f"{target.stem}.{i}{target.suffix}") for i in itertools.count(1))
    return (name for name in names if not os.path.lexists(name))


def put_aside(target: Path) -> Path:
    """Give a file another name; until it is replaced it has both."""
    for free in free_names(target):
        try:
            os.link(target, free)
        except FileExistsError:
            continue
        except OSError:             # a file system without links
            os.rename(target, free)
        return free
    raise AssertionError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """While the block runs no other process and no other thread is in such a block for this folder."""
    with contextlib.ExitStack() as stack:
        if fcntl:
            with contextlib.suppress(OSError):          # a file system without locks
                handle = os.open(folder, os.O_RDONLY)
                stack.callback(os.close, handle)
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def temporary_beside(target: Path) -> tuple[Path, BinaryIO]:
    """Create a file that nobody else has or can foresee, and remove those of runs that were killed.

    It is locked as long as it is open: one that can be locked has lost its run. On Windows nothing is locked, but what is
    open cannot be removed; there, one that is closed, and a day old, has lost its run.
    """
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    with locked(target.parent):
        names: list[str] = []
        with contextlib.suppress(PermissionError):      # of a folder that may be written to, but not read
            names = os.listdir(target.parent)
        for name in names:
            if re.fullmatch(rf"\.{re.escape(target.name)}\.[0-9a-f]{{16}}\.tmp", name):
                with contextlib.suppress(OSError):
                    other = target.with_name(name)
                    regular(other)
                    if fcntl:
                        with open(other, "r+b") as left:
                            fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    elif time.time() - other.stat().st_mtime < DAY:
                        continue
                    other.unlink()
        file = open(temporary, "xb")  # noqa: SIM115, closed by the caller
        if fcntl:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return temporary, file


@contextmanager
def open_to_read(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file; whatever its content provokes inside the block becomes one ValueError that names it."""
    check_path(path)
    with explained(path, "read"), open(path, "rb") as file:
        try:
            if not file.seekable():
                raise OSError("it is a pipe, which cannot be read twice: write it to a file first")
            yield file
        except Exception as error:  # noqa: BLE001, one wrong bit leads the zip and npy readers to any class
            reason = f"it has no {error}" if isinstance(error, KeyError) else \
                "it is damaged, or not whole" if isinstance(error, (zipfile.BadZipFile, zlib.error, EOFError)) else \
                "it holds objects (pickles): save numbers, such as x.astype(float)" if "allow_pickle" in str(error) else \
                getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise ValueError(f"cannot read {path}: {reason}") from None


def magic(file: BinaryIO) -> bytes:
    """How the file begins; ValueError unless as a NumPy file, since `np.load` takes anything else for pickles."""
    start = file.read(6)
    file.seek(0)
    if not start.startswith((b"\x93NUMPY", b"PK")):
        raise ValueError("it is no NumPy file (.npy or .npz)")
    return start


def load_arrays(file: BinaryIO) -> dict[str, Any]:
    """The arrays of an .npz file that `np.savez` wrote, in no more memory than the file is long."""
    if not magic(file).startswith(b"PK"):
        raise ValueError("it is no npddpm checkpoint")
    with zipfile.ZipFile(file) as content:
        members = content.infolist()
        names = [member.filename.removesuffix(".npy") for member in members]
        if len(set(names)) < len(names):
            raise ValueError(f"it holds an array twice: {', '.join(names):.200}")
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("it is compressed, which a checkpoint is not")
        if sum(member.file_size for member in members) > os.fstat(file.fileno()).st_size:
            raise ValueError("its arrays are longer than the file")
        for member in members:
            with content.open(member) as part:
                first = np.lib.format.read_magic(part) == (1, 0)
                read_header = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
                shape, _, dtype = read_header(part)
                if dtype.hasobject:
                    raise ValueError(f"its {member.filename} holds pickled objects")
                if part.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
                    raise ValueError(f"its {member.filename} has not the size that its header tells")
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)
